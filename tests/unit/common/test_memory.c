#include "tests/unit/cmocka.h"

#include "common/memory.h"

#include <string.h>
#include <sys/mman.h>

static void test_memory_counts_what_is_touched(void **state)
{
    enum { BYTES = 64 << 20 };
    size_t before = npo_memory_resident();
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    memset(memory, 1, BYTES);
    size_t with = npo_memory_resident();
    assert_true(before > 0);
    assert_true(with >= before + BYTES * 3 / 4);
    assert_int_equal(memory[BYTES - 1], 1);
    assert_int_equal(munmap(memory, BYTES), 0);
    assert_true(npo_memory_resident() < with);
    assert_true(npo_memory_peak() >= before + BYTES * 3 / 4);
}

static void test_memory_of_the_machine_is_known(void **state)
{
    assert_true(npo_memory_available() > 0);
}

static void test_memory_now_counts_from_the_limit(void **state)
{
    size_t resident = npo_memory_resident();
    npo_memory limited = npo_memory_now(1 << 20, 0), machine = npo_memory_now(0, 0);
    assert_int_equal(limited.given, 1 << 20);
    assert_true(machine.given > resident / 2 && machine.used > resident / 2);
    assert_int_equal(npo_memory_now(0, SIZE_MAX).used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_counts_what_is_touched),
        cmocka_unit_test(test_memory_of_the_machine_is_known),
        cmocka_unit_test(test_memory_now_counts_from_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
