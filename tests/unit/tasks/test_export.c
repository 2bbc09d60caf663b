/* Every form of an export against sd15-tiny's negative network, which torch made from its LoRA. */
#include "tests/unit/tasks/one_task.h"

#include "worker/model/files/half.h"
#include "worker/model/files/lora.h"
#include "worker/model/folder.h"

#include <math.h>
#include <unistd.h>

#define GOLDEN     NPO_GOLDEN_DIR "/sd15-tiny"
#define BASE_UNET  GOLDEN "/unet/diffusion_pytorch_model.safetensors"
#define NEGATIVE   GOLDEN "/negative-unet.safetensors"
#define LORA       GOLDEN "/negative-lora-peft.safetensors"
#define LORA_KOHYA GOLDEN "/negative-lora-kohya.safetensors"
#define UNET_FILE  "model/unet/diffusion_pytorch_model.safetensors"

static const char export_job[] =
    "{'recipe': 'export', 'model': 'm', 'negative': 'n', 'export': %s}";
static const char merge_job[] =
    "{'recipe': 'export', 'model': 'm', 'negative': 'n', 'positive': 'p', 'export': %s}";

static const char *job_text(const char *format, const char *export)
{
    static char text[512];
    snprintf(text, sizeof text, format, export);
    return text;
}

/* A pipeline folder below the test's that is the base with the golden negative UNet. */
static const char *negative_folder(void)
{
    const char *dir = job_path("negative");
    static const char *const parts[] = {"model_index.json", "scheduler", "text_encoder",
                                        "tokenizer"};
    if (npo_file_exists(dir))
        return dir;
    char from[512], to[512];
    snprintf(to, sizeof to, "%s/unet", dir);
    assert_int_equal(npo_file_make_dirs(to, NULL), NPO_OK);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(from, sizeof from, GOLDEN "/%s", parts[i]);
        snprintf(to, sizeof to, "%s/%s", dir, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/unet/config.json", dir);
    assert_int_equal(symlink(GOLDEN "/unet/config.json", to), 0);
    snprintf(to, sizeof to, "%s/unet/diffusion_pytorch_model.safetensors", dir);
    assert_int_equal(symlink(NEGATIVE, to), 0);
    return dir;
}

static npo_safetensors *open_tensors(const char *path)
{
    npo_safetensors *file = NULL;
    npo_error error = {0};
    if (npo_safetensors_open(path, &file, &error))
        fail_msg("%s", error.text);
    return file;
}

static float value(const npo_tensor *tensor, size_t i)
{
    float x;
    npo_tensor_read_f32(tensor, i, 1, &x);
    return x;
}

/* Each tensor of the file at path is base + scale (negative - base) (base left out where
 * `without_base`), to a share of the largest value around. */
static void check_tensors(const char *path, bool without_base, double scale, double tolerance)
{
    npo_safetensors *file = open_tensors(path), *base = open_tensors(BASE_UNET),
                    *negative = open_tensors(NEGATIVE);
    assert_int_equal(npo_safetensors_count(file), npo_safetensors_count(base));
    for (size_t i = 0; i < npo_safetensors_count(file); i++) {
        const npo_tensor *tensor = npo_safetensors_at(file, i);
        const npo_tensor *a = npo_safetensors_find(base, tensor->name);
        const npo_tensor *b = npo_safetensors_find(negative, tensor->name);
        assert_non_null(a);
        assert_int_equal(tensor->count, a->count);
        for (size_t k = 0; k < tensor->count; k++) {
            double x = (double)value(a, k), delta = (double)value(b, k) - x;
            double expected = (without_base ? 0 : x) + scale * delta;
            double room = tolerance * (fabs(x) + fabs(delta)) + 1e-8;
            if (!(fabs((double)value(tensor, k) - expected) <= room))
                fail_msg("'%s' [%zu] is %g, expected %g", tensor->name, k, (double)value(tensor, k),
                         expected);
        }
    }
    npo_safetensors_close(file);
    npo_safetensors_close(base);
    npo_safetensors_close(negative);
}

typedef struct {
    const char *format, *export, *negative, *positive;
} export_case;

static void start(one_task *t, const export_case *c)
{
    char inputs[2048];
    snprintf(inputs, sizeof inputs, "model=%s negative=%s %s%s", GOLDEN, c->negative,
             c->positive ? "positive=" : "", c->positive ? c->positive : "");
    one_task_init(t, "export", job_text(c->format, c->export), "{}", inputs);
}

static cJSON *run(one_task *t, const export_case *c)
{
    char path[512];
    cJSON *report = NULL;
    start(t, c);
    if (one_task_run(t))
        fail_msg("%s", t->error.text);
    snprintf(path, sizeof path, "%s/export.json", t->dir);
    assert_int_equal(npo_json_load(path, 1 << 20, &report, NULL), NPO_OK);
    return report;
}

static const char *output(const one_task *t, const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", t->dir, name);
    return path;
}

static void check_network(const export_case *c, double scale, double tolerance)
{
    one_task t;
    cJSON *report = run(&t, c);
    check_tensors(output(&t, UNET_FILE), false, scale, tolerance);
    assert_true(npo_file_exists(output(&t, "model/tokenizer/vocab.json")));
    cJSON_Delete(report);
    one_task_fini(&t);
}

static void test_export_networks(void **state)
{
    const char *folder = negative_folder();
    const struct {
        export_case c;
        double scale;
    } rows[] = {
        {{export_job, "{}", folder, NULL}, 1},
        {{export_job, "{}", LORA, NULL}, 1},
        {{export_job, "{'beta': 0.25}", folder, NULL}, 0.25},
        {{export_job, "{'beta': 0.25}", LORA_KOHYA, NULL}, 0.25},
        {{export_job, "{'form': 'one-network', 'w': 0.5}", folder, NULL}, -0.5},
        {{merge_job, "{'form': 'merge', 'alpha': 0.5, 'beta': 0.3}", folder, LORA}, 0.8},
        {{merge_job, "{'form': 'merge'}", LORA, folder}, 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_network(&rows[i].c, rows[i].scale, 3e-7);
}

/* At beta 1 every byte is the negative network's. */
static void test_export_negative_keeps_every_bit(void **state)
{
    one_task t;
    export_case c = {export_job, "{}", negative_folder(), NULL};
    cJSON *report = run(&t, &c);
    npo_safetensors *file = open_tensors(output(&t, UNET_FILE)), *golden = open_tensors(NEGATIVE);
    for (size_t i = 0; i < npo_safetensors_count(golden); i++) {
        const npo_tensor *a = npo_safetensors_at(golden, i);
        assert_memory_equal(npo_safetensors_find(file, a->name)->data, a->data, a->bytes);
    }
    assert_true(npo_json_number(report, "rounding", -1) < 1e-7);
    assert_true(npo_json_number(report, "lost", -1) == 0);
    npo_safetensors_close(file);
    npo_safetensors_close(golden);
    cJSON_Delete(report);
    one_task_fini(&t);
}

static void test_export_delta(void **state)
{
    one_task t;
    export_case c = {export_job, "{'form': 'delta', 'beta': 0.5}", negative_folder(), NULL};
    cJSON *report = run(&t, &c);
    check_tensors(output(&t, "model"), true, 0.5, 1e-7);
    cJSON_Delete(report);
    one_task_fini(&t);
}

static void test_export_delta_in_comfyui_names(void **state)
{
    one_task t;
    export_case c = {export_job, "{'form': 'delta', 'naming': 'comfyui'}", negative_folder(), NULL};
    cJSON *report = run(&t, &c);
    npo_safetensors *file = open_tensors(output(&t, "model")), *base = open_tensors(BASE_UNET);
    assert_int_equal(npo_safetensors_count(file), npo_safetensors_count(base));
    const npo_tensor *weight = npo_safetensors_find(
        file, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k.diff");
    assert_non_null(weight);
    assert_non_null(npo_safetensors_find(file, "lora_unet_conv_in.diff_b"));
    npo_safetensors_close(file);
    npo_safetensors_close(base);
    cJSON_Delete(report);
    one_task_fini(&t);
}

/* What rounding takes from an offset is said, and warned of. */
static void test_export_tells_what_rounding_loses(void **state)
{
    static const struct {
        const char *export;
        double rounding; /* about */
        bool warns;
    } rows[] = {
        {"{'form': 'delta', 'dtype': 'bf16'}", 2e-3, false},
        {"{'beta': 1e-4, 'dtype': 'bf16'}", 100, true}, /* the base is rounded too */
        {"{'beta': 1e-4, 'dtype': 'f32'}", 1e-3, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        one_task t;
        export_case c = {export_job, rows[i].export, negative_folder(), NULL};
        cJSON *report = run(&t, &c);
        double rounding = npo_json_number(report, "rounding", -1);
        if (!(rounding > rows[i].rounding / 5 && rounding < 5 * rows[i].rounding))
            fail_msg("%s: rounding %g", rows[i].export, rounding);
        assert_int_equal(strstr(t.process.log.data, "warning: rounding to BF16") != NULL,
                         rows[i].warns);
        if (rows[i].warns)
            assert_true(npo_json_number(report, "lost", 0) > 0);
        cJSON_Delete(report);
        one_task_fini(&t);
    }
}

/* Applied to the base, the LoRA gives the negative network. */
static void check_lora(const export_case *c, double tolerance)
{
    one_task t;
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params;
    npo_lora lora;
    cJSON *report = run(&t, c);
    assert_int_equal(npo_folder_open(GOLDEN, &folder, NULL), NPO_OK);
    assert_int_equal(npo_folder_unet(&folder, npo_loaded_backend(t.cache), &config, &layout, NULL),
                     NPO_OK);
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    assert_int_equal(npo_folder_load_unet(&folder, params, NULL), NPO_OK);
    assert_int_equal(npo_lora_load(output(&t, "model"), layout, &lora, &t.error), NPO_OK);
    npo_lora_apply(&lora, 1, params);
    npo_safetensors *golden = open_tensors(NEGATIVE);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        const npo_tensor *expected = npo_safetensors_find(golden, info->name);
        for (size_t k = 0; k < info->count; k++)
            if (!(fabsf(npo_params_data(params)[info->offset + k] - value(expected, k)) <=
                  (float)tolerance))
                fail_msg("'%s' [%zu] is off", info->name, k);
    }
    assert_true(npo_json_number(report, "error", 1) < tolerance);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(report, "layers")), lora.count);
    npo_safetensors_close(golden);
    npo_lora_fini(&lora);
    npo_params_free(params);
    npo_layout_unref(layout);
    npo_folder_fini(&folder);
    cJSON_Delete(report);
    one_task_fini(&t);
}

static void test_export_lora_recovers_a_lora(void **state)
{
    const char *folder = negative_folder();
    const struct {
        export_case c;
        double tolerance;
    } rows[] = {
        {{export_job, "{'form': 'lora', 'rank': 2}", folder, NULL}, 3e-6},
        {{export_job, "{'form': 'lora', 'rank': 500}", LORA, NULL}, 3e-6},
        {{export_job, "{'form': 'lora', 'energy': 1, 'naming': 'kohya'}", folder, NULL}, 3e-6},
        {{export_job, "{'form': 'lora', 'rank': 4, 'layers': 'attention'}", folder, NULL}, 3e-6},
        {{export_job, "{'form': 'lora', 'rank': 2, 'dtype': 'f16'}", folder, NULL}, 2e-3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_lora(&rows[i].c, rows[i].tolerance);
}

static void test_export_lora_tells_its_error(void **state)
{
    one_task t;
    export_case c = {export_job, "{'form': 'lora', 'rank': 1}", negative_folder(), NULL};
    cJSON *report = run(&t, &c);
    double error = npo_json_number(report, "error", 0), sum = 0;
    assert_true(error > 0.1 && error < 1);
    const cJSON *layers = cJSON_GetObjectItem(report, "layers"), *layer;
    cJSON_ArrayForEach(layer, layers) sum += npo_json_number(layer, "error", 0);
    assert_true(sum > 0);
    assert_non_null(strstr(t.process.log.data, "a LoRA of 128 layers: the error is "));
    cJSON_Delete(report);
    one_task_fini(&t);
}

static void expect_refusal(const export_case *c, npo_err code, const char *part)
{
    one_task t;
    start(&t, c);
    npo_err err = one_task_run(&t);
    if (err != code || !strstr(t.error.text, part))
        fail_msg("found %s: %s, expected %s: ..%s..", npo_err_name(err), t.error.text,
                 npo_err_name(code), part);
    assert_false(npo_file_exists(output(&t, "model")));
    assert_false(npo_file_exists(output(&t, "export.json")));
    one_task_fini(&t);
}

static void test_export_refuses_what_does_not_fit(void **state)
{
    const char *folder = negative_folder(), *other = model_path("tiny");
    const struct {
        export_case c;
        npo_err code;
        const char *part;
    } rows[] = {
        {{export_job, "{}", other, NULL}, NPO_E_SHAPE, "negative: cannot load "},
        {{merge_job, "{'form': 'merge'}", folder, other}, NPO_E_SHAPE, "positive: cannot load "},
        {{export_job, "{}", BASE_UNET, NULL}, NPO_E_USAGE, "found a UNet in diffusers names alone"},
        {{export_job, "{'form': 'lora', 'rank': 4}", GOLDEN, NULL},
         NPO_E_USAGE,
         "the negative network does not differ from the model"},
        {{export_job, "{'beta': 10, 'dtype': 'f16'}", job_path("huge.safetensors"), NULL},
         NPO_E_NOT_FOUND,
         "huge.safetensors"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refusal(&rows[i].c, rows[i].code, rows[i].part);
}

static void test_export_refuses_a_model_without_weights(void **state)
{
    one_task t;
    char inputs[1024];
    snprintf(inputs, sizeof inputs, "model=%s negative=%s", model_path("no-weights"),
             model_path("tiny"));
    one_task_init(&t, "export", job_text(export_job, "{'form': 'delta'}"), "{}", inputs);
    assert_int_equal(one_task_run(&t), NPO_E_NOT_FOUND);
    assert_non_null(strstr(t.error.text, "has no weights that an offset could be measured from"));
    one_task_fini(&t);
    one_task_init(&t, "export", job_text(export_job, "{}"), "{}", inputs);
    assert_int_equal(one_task_run(&t), NPO_OK);
    one_task_fini(&t);
}

static void test_export_refuses_a_lora_of_another_base(void **state)
{
    one_task t;
    char inputs[1024];
    snprintf(inputs, sizeof inputs, "model=%s negative=%s", model_path("tiny"), LORA);
    one_task_init(&t, "export", job_text(export_job, "{}"), "{}", inputs);
    assert_int_not_equal(one_task_run(&t), NPO_OK);
    assert_non_null(strstr(t.error.text, "negative: cannot load "));
    assert_non_null(strstr(t.error.text, "lora_"));
    one_task_fini(&t);
}

static void test_export_stops_when_cancelled(void **state)
{
    one_task t;
    export_case c = {export_job, "{'form': 'delta'}", negative_folder(), NULL};
    start(&t, &c);
    t.process.cancel_at = 100;
    assert_int_equal(one_task_run(&t), NPO_E_CANCELLED);
    assert_false(npo_file_exists(output(&t, "out/delta.safetensors")));
    one_task_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export_networks),
        cmocka_unit_test(test_export_negative_keeps_every_bit),
        cmocka_unit_test(test_export_delta),
        cmocka_unit_test(test_export_delta_in_comfyui_names),
        cmocka_unit_test(test_export_tells_what_rounding_loses),
        cmocka_unit_test(test_export_lora_recovers_a_lora),
        cmocka_unit_test(test_export_lora_tells_its_error),
        cmocka_unit_test(test_export_refuses_what_does_not_fit),
        cmocka_unit_test(test_export_refuses_a_model_without_weights),
        cmocka_unit_test(test_export_refuses_a_lora_of_another_base),
        cmocka_unit_test(test_export_stops_when_cancelled),
    };
    return cmocka_run_group_tests(tests, job_dir_setup, job_dir_teardown);
}
