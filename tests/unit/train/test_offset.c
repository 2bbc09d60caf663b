#include "tests/unit/cmocka.h"
#include "worker/train/offset.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static npo_backend *backend;

static int setup(void **state)
{
    const npo_backend_options options = {.device = "cpu", .threads = 1};
    return npo_backend_new(&options, &backend, NULL);
}

static int teardown(void **state)
{
    npo_backend_free(backend);
    return 0;
}

typedef struct {
    npo_layout *layout;
    npo_params *base, *student, *scratch;
} sets;

static void sets_init(sets *s, const char *const *names, size_t count)
{
    assert_int_equal(npo_layout_new(&s->layout), NPO_OK);
    for (size_t i = 0; i < count; i++) {
        const int64_t dims[] = {4};
        size_t index;
        assert_int_equal(npo_layout_add(s->layout, names[i], 1, dims, &index, NULL), NPO_OK);
    }
    assert_int_equal(npo_params_new(s->layout, &s->base), NPO_OK);
    assert_int_equal(npo_params_new(s->layout, &s->student), NPO_OK);
    assert_int_equal(npo_params_new(s->layout, &s->scratch), NPO_OK);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < 4; k++) {
            size_t at = npo_layout_at(s->layout, i)->offset + k;
            npo_params_edit(s->base)[at] = 2;
            npo_params_edit(s->student)[at] = 2 + (float)i;
        }
}

static void sets_fini(sets *s)
{
    npo_params_free(s->base);
    npo_params_free(s->student);
    npo_params_free(s->scratch);
    npo_layout_unref(s->layout);
}

static void measure(const sets *s, npo_offset_norms *ret_norms)
{
    npo_offset_base base = npo_offset_base_of(s->base);
    assert_int_equal(npo_offset_measure(backend, s->student, &base, s->scratch, ret_norms, NULL),
                     NPO_OK);
}

/* Tensor i has moved by i from values of 2. */
static void test_offset_is_relative_by_block(void **state)
{
    static const char *const names[] = {"conv_in.weight",
                                        "conv_in.bias",
                                        "down_blocks.0.resnets.0.conv1.weight",
                                        "down_blocks.11.resnets.0.conv1.weight",
                                        "mid_block.attentions.0.proj_in.bias",
                                        "down_blocks.0.resnets.1.conv1.weight"};
    sets s;
    npo_offset_norms norms;
    sets_init(&s, names, 6);
    measure(&s, &norms);
    static const struct {
        const char *name;
        double squares, tensors; /* sum of i^2, number of tensors */
    } expected[] = {{"conv_in", 1, 2},
                    {"down_blocks.0", 4 + 25, 2},
                    {"down_blocks.11", 9, 1},
                    {"mid_block", 16, 1}};
    assert_int_equal(norms.count, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(norms.blocks[i].name, expected[i].name);
        double relative = sqrt(expected[i].squares / (4 * expected[i].tensors));
        assert_true(fabs(norms.blocks[i].relative - relative) < 1e-7);
    }
    assert_true(fabs(norms.total - sqrt(55.0 / 24)) < 1e-7);
    sets_fini(&s);
}

/* Not zero: that would read as a block that stays where it was. */
static void test_offset_from_zeros_is_no_number(void **state)
{
    static const char *const names[] = {"conv_in.weight"};
    sets s;
    npo_offset_norms norms;
    sets_init(&s, names, 1);
    memset(npo_params_edit(s.base), 0, 4 * sizeof(float));
    measure(&s, &norms);
    assert_true(isnan(norms.blocks[0].relative) && isnan(norms.total));
    npo_params_copy(s.student, s.base);
    measure(&s, &norms);
    assert_true(norms.blocks[0].relative == 0 && norms.total == 0);
    sets_fini(&s);
}

/* More blocks than there is room for are counted together; the total keeps all. */
static void test_offset_counts_many_blocks_together(void **state)
{
    enum { COUNT = NPO_OFFSET_BLOCKS_MAX + 5 };
    static char storage[COUNT][80];
    const char *names[COUNT];
    for (int i = 0; i < COUNT; i++) {
        snprintf(storage[i], sizeof storage[i], "a_block_with_quite_a_long_name_%d.weight", i);
        if (i < 3)
            snprintf(storage[i], sizeof storage[i], "b%d.weight", i);
        names[i] = storage[i];
    }
    sets s;
    npo_offset_norms norms;
    sets_init(&s, names, COUNT);
    measure(&s, &norms);
    assert_true(norms.count <= NPO_OFFSET_BLOCKS_MAX);
    double squares = 0;
    for (int i = 0; i < COUNT; i++)
        squares += i * i;
    assert_true(fabs(norms.total - sqrt(squares / (4.0 * COUNT))) < 1e-6);
    sets_fini(&s);
    for (int i = 0; i < COUNT; i++)
        snprintf(storage[i], sizeof storage[i], "b%d.weight", i);
    sets_init(&s, names, COUNT);
    measure(&s, &norms);
    assert_int_equal(norms.count, NPO_OFFSET_BLOCKS_MAX);
    assert_string_equal(norms.blocks[NPO_OFFSET_BLOCKS_MAX - 1].name, "rest");
    assert_true(fabs(norms.total - sqrt(squares / (4.0 * COUNT))) < 1e-6);
    sets_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offset_is_relative_by_block),
        cmocka_unit_test(test_offset_from_zeros_is_no_number),
        cmocka_unit_test(test_offset_counts_many_blocks_together),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
