#include "tests/unit/cmocka.h"

#include "ctl/text/metrics.h"

static void test_metrics_print_cells_and_best(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_error error = {0};
    cJSON *json = cJSON_Parse(
        "{\"format\": \"npo-metrics-1\", \"cells\": ["
        "{\"method\": \"none\", \"scale\": 1, \"beta\": null, \"seed\": 0, \"samples\": 500, "
        "\"frechet\": 27.72, \"accuracy\": 0.731, \"confidence\": 0.7, \"win_rate\": null},"
        "{\"method\": \"self-npo\", \"scale\": 2, \"beta\": 0.5, \"seed\": 0, \"samples\": 500, "
        "\"frechet\": 8.3, \"accuracy\": 0.942, \"confidence\": 0.91, \"win_rate\": 0.55}],"
        "\"best\": [{\"seed\": 0, \"plain\": {\"scale\": 2, \"frechet\": 9.0}, \"self_npo\": "
        "{\"scale\": 2, \"beta\": 0.5, \"frechet\": 8.3}, \"change\": -0.0778}]}");
    assert_int_equal(npo_metrics_print(json, 0, &buf, &error), NPO_OK);
    assert_string_equal(
        buf.data,
        "METHOD    SCALE  BETA  SEED  SAMPLES  DISTANCE  ACCURACY  CONFIDENCE   WINS\n"
        "none          1           0      500     27.72     0.731       0.700\n"
        "self-npo      2   0.5     0      500      8.30     0.942       0.910  0.550\n"
        "\n"
        "seed 0: best distance 9.00 at scale 2 with plain guidance, 8.30 at scale 2 with Self-NPO "
        "(beta 0.5): -7.8 %\n");
    npo_buf_fini(&buf);
    cJSON_Delete(json);
}

static void test_metrics_refuse_another_format(void **state)
{
    static const struct {
        const char *text;
        npo_err code;
        const char *sentence;
    } rows[] = {
        {"{\"format\": \"npo-metrics-2\", \"cells\": []}", NPO_E_VERSION,
         "metrics.json: found format 'npo-metrics-2', expected 'npo-metrics-1'"},
        {"[]", NPO_E_VERSION, "metrics.json: found format '', expected 'npo-metrics-1'"},
        {"{\"format\": \"npo-metrics-1\"}", NPO_E_FORMAT, "metrics.json: missing key 'cells'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_buf buf = NPO_BUF_INIT;
        npo_error error = {0};
        cJSON *json = cJSON_Parse(rows[i].text);
        assert_int_equal(npo_metrics_print(json, 0, &buf, &error), rows[i].code);
        assert_string_equal(error.text, rows[i].sentence);
        npo_buf_fini(&buf);
        cJSON_Delete(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_print_cells_and_best),
        cmocka_unit_test(test_metrics_refuse_another_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
