#include "worker/eval/results.h"

#include "common/json.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/eval/cells.h"
#include "worker/eval/json_out.h"
#include "worker/eval/summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_cells_reference_is_plain_of_same_scale_and_seed(void **state)
{
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &cells[0].key), -1);
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &cells[1].key), 0);
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &cells[3].key), 1);
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &cells[6].key), 4);
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &cells[9].key), 8);
    npo_cell_key alone = {NPO_METHOD_SELF_NPO, 9, 1, 1};
    assert_int_equal(npo_cells_reference(cells, CELL_COUNT, &alone), -1);
}

static void test_cells_best_by_seed(void **state)
{
    assert_int_equal(npo_cells_best(cells, CELL_COUNT, NPO_METHOD_PLAIN, 1), 1);
    assert_int_equal(npo_cells_best(cells, CELL_COUNT, NPO_METHOD_SELF_NPO, 1), 3);
    assert_int_equal(npo_cells_best(cells, CELL_COUNT, NPO_METHOD_SELF_NPO, 2), 9);
    assert_int_equal(npo_cells_best(cells, CELL_COUNT, NPO_METHOD_SELF_NPO, 3), -1);
    /* No guidance is plain guidance at scale 1. */
    assert_int_equal(npo_cells_best(cells, 1, NPO_METHOD_PLAIN, 1), 0);
}

static void test_cells_seeds_in_order(void **state)
{
    int64_t seeds[4];
    assert_int_equal(npo_cells_seeds(cells, CELL_COUNT, seeds, 4), 2);
    assert_int_equal(seeds[0], 1);
    assert_int_equal(seeds[1], 2);
    assert_int_equal(npo_cells_seeds(cells, CELL_COUNT, seeds, 1), 1);
}

static void test_method_and_cell_names(void **state)
{
    assert_string_equal(npo_method_name(NPO_METHOD_NONE), "none");
    assert_string_equal(npo_method_name(NPO_METHOD_PLAIN), "plain");
    assert_string_equal(npo_method_name(NPO_METHOD_SELF_NPO), "self-npo");
    char text[64];
    npo_cell_key_format(&cells[2].key, text, sizeof text);
    assert_string_equal(text, "self-npo 2 beta 0.5");
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("'%s' is missing in %s", part, text);
}

static void test_results_json_holds_all(void **state)
{
    npo_offset_block blocks[] = {{"conv_in", 0.25}, {"zero", NAN}};
    npo_results results = {.title = "a \"t\"\n",
                           .real_samples = 100,
                           .settings = "{\"x\": 1}",
                           .cells = cells,
                           .cell_count = CELL_COUNT,
                           .offset_total = 0.5,
                           .blocks = blocks,
                           .block_count = 2};
    npo_buf buf = NPO_BUF_INIT;
    npo_results_json(&results, &buf);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    cJSON *json = NULL;
    assert_int_equal(npo_json_parse(buf.data, buf.len, "metrics", &json, NULL), NPO_OK);
    assert_string_equal(npo_json_string(json, "title", ""), "a \"t\"\n");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "cells")), CELL_COUNT);
    cJSON_Delete(json);
    assert_has(buf.data, "{\"format\": \"npo-metrics-1\",");
    assert_has(buf.data, "\"real_samples\": 100,\n \"settings\": {\"x\": 1},");
    assert_has(buf.data,
               "\"offset\": {\"total\": 0.5, \"blocks\": {\"conv_in\": 0.25, \"zero\": null}}");
    assert_has(
        buf.data,
        "{\"method\": \"none\", \"scale\": 1, \"beta\": null, \"seed\": 1, \"samples\": 10, "
        "\"frechet\": 20, \"accuracy\": 0.5, \"confidence\": 0.25, \"wins\": 0, \"ties\": 0, "
        "\"losses\": 0, \"win_rate\": null}");
    assert_has(
        buf.data,
        "{\"method\": \"self-npo\", \"scale\": 2, \"beta\": 0.5, \"seed\": 1, \"samples\": 10, "
        "\"frechet\": 7.5, \"accuracy\": 0.5, \"confidence\": 0.25, \"wins\": 5, \"ties\": 1, "
        "\"losses\": 4, \"win_rate\": 0.55}");
    assert_has(buf.data,
               "\"best\": [\n  {\"seed\": 1, \"plain\": {\"scale\": 2, \"frechet\": 8}, "
               "\"self_npo\": {\"scale\": 2, \"beta\": 1, \"frechet\": 7}, \"change\": -0.125}");
    npo_buf_fini(&buf);
}

static void test_json_out_numbers(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},           {-3, "-3"},        {9007199254740992.0, "9007199254740992"},
                 {0.1, "0.1"},       {1e300, "1e+300"}, {1.0 / 3, "0.333333333333"},
                 {INFINITY, "null"}, {NAN, "null"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_buf buf = NPO_BUF_INIT;
        npo_json_out_number(&buf, cases[i].value);
        assert_string_equal(buf.data, cases[i].text);
        npo_buf_fini(&buf);
    }
}

static void test_summary_groups_seeds(void **state)
{
    npo_summary *groups;
    size_t count;
    assert_int_equal(npo_summary_make(cells, CELL_COUNT, &groups, &count), NPO_OK);
    assert_int_equal(count, 7);
    const npo_summary *g = npo_summary_find(groups, count, NPO_METHOD_SELF_NPO, 2, 1);
    assert_int_equal(g->seeds, 2);
    assert_int_equal(g->samples, 20);
    assert_true(g->frechet.mean == 9 && g->frechet.low == 7 && g->frechet.high == 11);
    /* 8.25 with beta 0.5 is better on the mean of both seeds than 9 with beta 1. */
    g = npo_summary_best(groups, count, NPO_METHOD_SELF_NPO, 2);
    assert_true(g->beta == 0.5 && g->frechet.mean == 8.25);
    g = npo_summary_best(groups, count, NPO_METHOD_PLAIN, NAN);
    assert_true(g->scale == 2 && g->frechet.mean == 9);
    assert_null(npo_summary_best(groups, count, NPO_METHOD_SELF_NPO, 7));
    assert_null(npo_summary_find(groups, count, NPO_METHOD_PLAIN, 7, 0));
    free(groups);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells_reference_is_plain_of_same_scale_and_seed),
        cmocka_unit_test(test_cells_best_by_seed),
        cmocka_unit_test(test_cells_seeds_in_order),
        cmocka_unit_test(test_method_and_cell_names),
        cmocka_unit_test(test_results_json_holds_all),
        cmocka_unit_test(test_json_out_numbers),
        cmocka_unit_test(test_summary_groups_seeds),
    };
    return cmocka_run_group_tests_name("results", tests, NULL, NULL);
}
