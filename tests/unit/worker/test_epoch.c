#include "worker/supervisor/epoch.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>

static char dir[64], *path;

static int setup(void **state)
{
    strcpy(dir, "/tmp/npo-epoch-XXXXXX");
    path = mkdtemp(dir) ? npo_file_join(dir, "epoch") : NULL;
    return path ? 0 : -1;
}

static int teardown(void **state)
{
    free(path);
    return npo_file_remove(dir, NULL);
}

static void test_epoch_outlives_the_process(void **state)
{
    uint64_t epoch = 7;
    assert_int_equal(npo_epoch_load(path, &epoch, NULL), NPO_OK);
    assert_int_equal(epoch, 0);
    assert_int_equal(npo_epoch_save(path, 3, NULL), NPO_OK);
    assert_int_equal(npo_epoch_save(path, UINT64_MAX, NULL), NPO_OK);
    assert_int_equal(npo_epoch_load(path, &epoch, NULL), NPO_OK);
    assert_true(epoch == UINT64_MAX);
}

static void test_epoch_refuses_what_is_no_number(void **state)
{
    static const char *const texts[] = {
        "", "\n", "3", "-1\n", " 3\n", "3 \n", "3x\n", "3\n4\n", "18446744073709551616\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint64_t epoch;
        npo_error error = {0};
        assert_int_equal(npo_file_write(path, texts[i], strlen(texts[i]), 0644, NULL), NPO_OK);
        assert_int_equal(npo_epoch_load(path, &epoch, &error), NPO_E_FORMAT);
        assert_non_null(strstr(error.text, path));
    }
}

#define EPOCH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EPOCH_TEST(test_epoch_outlives_the_process),
        EPOCH_TEST(test_epoch_refuses_what_is_no_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
