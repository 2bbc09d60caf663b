#include "common/json.h"
#include "tests/unit/cmocka.h"
#include "worker/train/metrics.h"

#include <math.h>
#include <string.h>

static void test_metrics_line_has_every_key_in_order(void **state)
{
    const npo_train_result result = {.loss = 0.0123, .grad_norm = 0.5, .lr = 1e-4};
    npo_offset_norms norms = {.count = 2, .total = 0.001};
    strcpy(norms.blocks[0].name, "conv_in");
    norms.blocks[0].relative = 0.002;
    strcpy(norms.blocks[1].name, "down_blocks.0");
    norms.blocks[1].relative = 3e-9;
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_metrics_line(&buf, 12, &result, 140.25, &norms), NPO_OK);
    assert_string_equal(buf.data,
                        "{\"step\": 12, \"loss\": 0.0123, \"grad_norm\": 0.5, \"lr\": 0.0001, "
                        "\"samples_per_s\": 140.25, \"offset\": {\"total\": 0.001, "
                        "\"conv_in\": 0.002, \"down_blocks.0\": 3e-09}}");
    cJSON *json = cJSON_Parse(buf.data);
    assert_non_null(json);
    cJSON_Delete(json);
    npo_buf_fini(&buf);
}

static void test_metrics_line_without_offset_and_with_nan(void **state)
{
    const npo_train_result result = {.loss = NAN, .grad_norm = INFINITY, .lr = 0};
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_metrics_line(&buf, 1, &result, 0, NULL), NPO_OK);
    assert_string_equal(buf.data, "{\"step\": 1, \"loss\": null, \"grad_norm\": null, \"lr\": 0, "
                                  "\"samples_per_s\": 0}");
    npo_buf_fini(&buf);
}

static void test_metrics_line_reports_a_full_buffer(void **state)
{
    const npo_train_result result = {.loss = 1};
    npo_buf buf;
    npo_buf_init(&buf, 20);
    assert_int_equal(npo_metrics_line(&buf, 1, &result, 0, NULL), NPO_E_LIMIT);
    npo_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_line_has_every_key_in_order),
        cmocka_unit_test(test_metrics_line_without_offset_and_with_nan),
        cmocka_unit_test(test_metrics_line_reports_a_full_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
