#include "tests/unit/cmocka.h"

#include "kernels/graph/state.h"

#include <stdlib.h>
#include <string.h>

static void assert_disjoint(const npo_span *spans, size_t count, size_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(spans[i].offset % 64, 0);
        assert_true(spans[i].offset + spans[i].bytes <= bytes);
        for (size_t j = 0; j < i; j++) {
            bool together = spans[i].first <= spans[j].last && spans[j].first <= spans[i].last;
            bool overlap = spans[i].offset < spans[j].offset + spans[j].bytes &&
                           spans[j].offset < spans[i].offset + spans[i].bytes;
            assert_false(together && overlap);
        }
    }
}

static void test_arena_reuses_memory_of_spans_that_are_over(void **state)
{
    npo_span spans[] = {{640, 0, 1, 9}, {640, 2, 3, 9}, {64, 1, 2, 9}};
    size_t bytes = 0;
    assert_int_equal(npo_arena_pack(spans, 3, &bytes), NPO_OK);
    assert_disjoint(spans, 3, bytes);
    assert_int_equal(bytes, 704);
    assert_int_equal(spans[0].offset, spans[1].offset);
}

static void test_arena_takes_the_smallest_gap(void **state)
{
    /* Two gaps open at step 5, of 128 and of 64 bytes; the last span fits both. */
    npo_span spans[] = {{1024, 0, 9, 0}, {512, 0, 9, 0}, {128, 0, 4, 0},
                        {100, 0, 9, 0},  {64, 0, 4, 0},  {64, 5, 9, 0}};
    size_t bytes = 0;
    assert_int_equal(npo_arena_pack(spans, 6, &bytes), NPO_OK);
    assert_disjoint(spans, 6, bytes);
    assert_int_equal(bytes, 1024 + 512 + 128 + 128 + 64);
}

static void test_arena_never_overlaps_random_lifetimes(void **state)
{
    enum { COUNT = 300 };
    npo_span *spans = calloc(COUNT, sizeof *spans);
    srand(5);
    size_t sum = 0, bytes = 0;
    for (int i = 0; i < COUNT; i++) {
        int first = rand() % 200;
        spans[i] = (npo_span){
            .bytes = (size_t)(1 + rand() % 5000), .first = first, .last = first + rand() % 30};
        sum += spans[i].bytes;
    }
    assert_int_equal(npo_arena_pack(spans, COUNT, &bytes), NPO_OK);
    assert_disjoint(spans, COUNT, bytes);
    assert_true(bytes < sum / 3);
    free(spans);
}

static void test_arena_of_nothing_and_of_too_much(void **state)
{
    npo_span spans[] = {{SIZE_MAX / 2, 0, 0, 0}, {SIZE_MAX / 2, 0, 0, 0}};
    size_t bytes = 1;
    assert_int_equal(npo_arena_pack(NULL, 0, &bytes), NPO_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(npo_arena_pack(spans, 2, &bytes), NPO_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_reuses_memory_of_spans_that_are_over),
        cmocka_unit_test(test_arena_takes_the_smallest_gap),
        cmocka_unit_test(test_arena_never_overlaps_random_lifetimes),
        cmocka_unit_test(test_arena_of_nothing_and_of_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
