#include "tests/unit/cmocka.h"

#include "kernels/params.h"

#include <stdio.h>
#include <string.h>

static npo_layout *layout;

static int setup(void **state)
{
    layout = NULL;
    return npo_layout_new(&layout);
}

static int teardown(void **state)
{
    npo_layout_unref(layout);
    return 0;
}

static size_t add(const char *name, int ndim, const int64_t *dims)
{
    size_t index = SIZE_MAX;
    npo_error error = {0};
    if (npo_layout_add(layout, name, ndim, dims, &index, &error))
        fail_msg("%s", error.text);
    return index;
}

static void test_layout_places_tensors_on_64_bytes(void **state)
{
    assert_int_equal(add("a", 2, (int64_t[]){3, 5}), 0);
    assert_int_equal(add("b", 1, (int64_t[]){16}), 1);
    assert_int_equal(add("c", 4, (int64_t[]){1, 2, 3, 4}), 2);
    assert_int_equal(npo_layout_count(layout), 3);
    assert_int_equal(npo_layout_at(layout, 0)->offset, 0);
    assert_int_equal(npo_layout_at(layout, 1)->offset, 16);
    assert_int_equal(npo_layout_at(layout, 2)->offset, 32);
    assert_int_equal(npo_layout_at(layout, 2)->count, 24);
    assert_int_equal(npo_layout_floats(layout), 64);
}

static void test_layout_finds_by_name_among_many(void **state)
{
    char name[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "block.%d.weight", i);
        assert_int_equal(add(name, 1, (int64_t[]){i + 1}), i);
    }
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "block.%d.weight", i);
        const npo_param_info *info = npo_layout_find(layout, name);
        assert_non_null(info);
        assert_int_equal(info->count, i + 1);
        assert_ptr_equal(info, npo_layout_at(layout, (size_t)i));
    }
    assert_null(npo_layout_find(layout, "block.1000.weight"));
}

static void test_layout_add_again_wants_the_same_shape(void **state)
{
    size_t index;
    npo_error error = {0};
    add("w", 2, (int64_t[]){3, 5});
    assert_int_equal(add("w", 2, (int64_t[]){3, 5}), 0);
    assert_int_equal(npo_layout_add(layout, "w", 2, (int64_t[]){5, 3}, &index, &error),
                     NPO_E_SHAPE);
    assert_string_equal(error.text, "parameter 'w': shape [5,3], expected [3,5]");
    assert_int_equal(npo_layout_add(layout, "w", 1, (int64_t[]){3}, &index, &error), NPO_E_SHAPE);
    assert_int_equal(npo_layout_count(layout), 1);
}

static void test_layout_refuses_bad_shapes_and_names(void **state)
{
    static const struct {
        int ndim;
        int64_t dims[5];
    } bad[] = {
        {0, {0}},
        {5, {1, 1, 1, 1, 1}},
        {2, {3, 0}},
        {2, {-1, 4}},
        {3, {1 << 30, 1 << 30, 1 << 30}},
        {2, {INT64_MAX, 2}},
    };
    size_t index;
    npo_error error = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(npo_layout_add(layout, "x", bad[i].ndim, bad[i].dims, &index, &error),
                         NPO_E_SHAPE);
    char name[NPO_PARAM_NAME_MAX + 1];
    memset(name, 'n', sizeof name);
    name[NPO_PARAM_NAME_MAX] = '\0';
    assert_int_equal(npo_layout_add(layout, name, 1, (int64_t[]){1}, &index, &error), NPO_E_LIMIT);
    name[NPO_PARAM_NAME_MAX - 1] = '\0';
    assert_int_equal(npo_layout_add(layout, name, 1, (int64_t[]){1}, &index, NULL), NPO_OK);
    assert_int_equal(npo_layout_count(layout), 1);
}

static void test_layout_is_frozen_by_a_set(void **state)
{
    size_t index;
    npo_error error = {0};
    npo_params *params;
    add("w", 1, (int64_t[]){4});
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    assert_int_equal(npo_layout_add(layout, "v", 1, (int64_t[]){4}, &index, &error), NPO_E_STATE);
    assert_string_equal(error.text, "parameter 'v': new name in a layout that sets exist of");
    assert_int_equal(npo_layout_add(layout, "w", 1, (int64_t[]){4}, &index, &error), NPO_OK);
    npo_params_free(params);
}

static void test_params_start_as_zeros_and_keep_their_layout(void **state)
{
    npo_params *params;
    add("w", 1, (int64_t[]){5});
    add("v", 1, (int64_t[]){3});
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    assert_ptr_equal(npo_params_layout(params), layout);
    assert_int_equal((uintptr_t)npo_params_data(params) % 64, 0);
    for (size_t i = 0; i < npo_layout_floats(layout); i++)
        assert_true(npo_params_data(params)[i] == 0);
    npo_layout_ref(layout);
    npo_layout_unref(layout);
    npo_params_free(params);
}

static void test_params_versions_differ_over_sets_and_edits(void **state)
{
    npo_params *a, *b;
    add("w", 1, (int64_t[]){5});
    assert_int_equal(npo_params_new(layout, &a), NPO_OK);
    assert_int_equal(npo_params_new(layout, &b), NPO_OK);
    uint64_t first = npo_params_version(a);
    assert_true(first != npo_params_version(b));
    npo_params_edit(a)[2] = 7;
    uint64_t second = npo_params_version(a);
    assert_true(second != first && second != npo_params_version(b));
    npo_params_copy(b, a);
    assert_true(npo_params_data(b)[2] == 7);
    assert_true(npo_params_version(b) != second);
    assert_int_equal(npo_params_version(a), second);
    npo_params_free(a);
    npo_params_free(b);
    npo_params_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_layout_places_tensors_on_64_bytes),
        TEST(test_layout_finds_by_name_among_many),
        TEST(test_layout_add_again_wants_the_same_shape),
        TEST(test_layout_refuses_bad_shapes_and_names),
        TEST(test_layout_is_frozen_by_a_set),
        TEST(test_params_start_as_zeros_and_keep_their_layout),
        TEST(test_params_versions_differ_over_sets_and_edits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
