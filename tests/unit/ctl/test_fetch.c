#include "tests/unit/cmocka.h"

#include "ctl/job/fetch.h"
#include "ctl/job/made_job.h"

static void test_fetch_knows_internal_outputs(void **state)
{
    static const char *const internal[] = {"pool",      "pool.3",     "segment",
                                           "segment.0", "checkpoint", "features.1"};
    static const char *const results[] = {"model", "preview-20.png",   "metrics.json", "images",
                                          "pools", "checkpoints.json", "grid.png"};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(internal); i++)
        assert_true(npo_fetch_is_internal(internal[i]));
    for (size_t i = 0; i < NPO_ARRAY_COUNT(results); i++)
        assert_false(npo_fetch_is_internal(results[i]));
}

static void test_fetch_refuses_names_that_leave_the_folder(void **state)
{
    static const char *const bad[] = {"", ".", "..", ".bashrc", "a/b", "/etc/passwd", "../x"};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(bad); i++)
        assert_false(npo_fetch_is_safe(bad[i]));
    assert_true(npo_fetch_is_safe("preview-20.png"));
}

static void test_made_job_numbers(void **state)
{
    static const char *const bad[] = {"1,", ",1", "1,,2", "one", "1 2", "1;2"};
    cJSON *list = npo_made_job_numbers("1,1.5,2e0");
    assert_int_equal(cJSON_GetArraySize(list), 3);
    assert_true(cJSON_GetArrayItem(list, 1)->valuedouble == 1.5);
    cJSON_Delete(list);
    for (size_t i = 0; i < NPO_ARRAY_COUNT(bad); i++)
        assert_null(npo_made_job_numbers(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fetch_knows_internal_outputs),
        cmocka_unit_test(test_fetch_refuses_names_that_leave_the_folder),
        cmocka_unit_test(test_made_job_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
