#include "tests/unit/model/support.h"

#include "worker/model/files/single_name.h"

typedef struct {
    char *name, *place;
    int ndim;
    int64_t dims[NPO_PARAM_DIMS_MAX];
} table_row;

/* Lines of name, tab, shape as 320x4x3x3, tab, single-file name; '#' begins a comment. */
static bool read_row(FILE *file, char *line, size_t size, table_row *ret_row)
{
    do {
        if (!fgets(line, (int)size, file))
            return false;
    } while (*line == '#');
    *ret_row = (table_row){.name = strtok(line, "\t")};
    char *shape = strtok(NULL, "\t"), *rest = NULL;
    ret_row->place = strtok(NULL, "\t\n");
    for (char *dim = strtok_r(shape, "x", &rest); dim; dim = strtok_r(NULL, "x", &rest))
        ret_row->dims[ret_row->ndim++] = atoll(dim);
    return true;
}

static npo_layout *table_layout(const char *path)
{
    char line[1024];
    table_row row;
    size_t index;
    npo_layout *layout;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_ok(npo_layout_new(&layout));
    while (read_row(file, line, sizeof line, &row))
        assert_ok(npo_layout_add(layout, row.name, row.ndim, row.dims, &index, &error));
    fclose(file);
    return layout;
}

static void format_place(const npo_single_place *place, char *text, size_t size)
{
    size_t len = (size_t)snprintf(text, size, "%s", place->name);
    if (place->third)
        len += (size_t)snprintf(text + len, size - len, "[%d]", place->third - 1);
    if (place->transposed)
        snprintf(text + len, size - len, "^T");
}

/* Every line's third column from its first; `prefix` of the table stands for the part's. */
static void check_table(const char *path, npo_single_part part, const char *prefix, size_t lines)
{
    char line[1024], found[512], expected[512];
    table_row row;
    npo_layout *layout = table_layout(path);
    npo_single_names names = npo_single_names_of(part, layout);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (read_row(file, line, sizeof line, &row)) {
        npo_single_place place;
        if (!npo_single_place_of(&names, row.name, &place))
            print_error("no place for '%s'\n", row.name);
        else
            format_place(&place, found, sizeof found);
        assert_int_equal(strncmp(row.place, prefix, strlen(prefix)), 0);
        snprintf(expected, sizeof expected, "%s%s", npo_single_prefix(part),
                 row.place + strlen(prefix));
        assert_string_equal(found, expected);
        lines--;
    }
    assert_int_equal(lines, 0);
    fclose(file);
    npo_layout_unref(layout);
}

static void test_single_name_of_every_published_tensor(void **state)
{
    static const char text[] = "cond_stage_model.transformer.";
    check_table(GOLDEN("full-size/sd15-unet.tsv"), NPO_SINGLE_UNET, "model.diffusion_model.", 686);
    check_table(GOLDEN("full-size/sdxl-unet.tsv"), NPO_SINGLE_UNET, "model.diffusion_model.", 1680);
    check_table(GOLDEN("full-size/vae.tsv"), NPO_SINGLE_VAE, "first_stage_model.", 248);
    check_table(GOLDEN("full-size/text-l.tsv"), NPO_SINGLE_TEXT, text, 196);
    check_table(GOLDEN("full-size/text-l.tsv"), NPO_SINGLE_TEXT_XL, text, 196);
    check_table(GOLDEN("full-size/text-bigg.tsv"), NPO_SINGLE_TEXT_2,
                "conditioner.embedders.1.model.", 517);
}

static void test_single_name_refuses_what_has_no_place(void **state)
{
    static const char *const strange[] = {
        "",
        "conv_i",
        "conv_in",
        "down_blocks.resnets.0.conv1.weight",
        "down_blocks.-1.resnets.0.conv1.weight",
        "down_blocks.1000.resnets.0.conv1.weight",
        "down_blocks.99999999999999999999.resnets.0.conv1.weight",
        "down_blocks.0.motion_modules.0.weight",
        "text_model.final_layer_norm.weight",
    };
    npo_single_names names = {.part = NPO_SINGLE_UNET, .levels = 4, .layers = 2};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        npo_single_place place;
        assert_false(npo_single_place_of(&names, strange[i], &place));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_name_of_every_published_tensor),
        cmocka_unit_test(test_single_name_refuses_what_has_no_place),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
