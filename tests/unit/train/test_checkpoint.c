#include "tests/unit/train/support.h"

#include "common/file.h"
#include "worker/model/files/safetensors.h"
#include "worker/train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static small_unet unet;
static char dir[64], path[128], other[128];

static int setup(void **state)
{
    strcpy(dir, "/tmp/npo-checkpoint-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    snprintf(other, sizeof other, "%s/b.safetensors", dir);
    small_unet_init(&unet, 1);
    return 0;
}

static int teardown(void **state)
{
    small_unet_fini(&unet);
    return npo_file_remove(dir, NULL) == NPO_OK ? 0 : -1;
}

static npo_checkpoint_sets sets_of(npo_trainer *trainer)
{
    return (npo_checkpoint_sets){npo_trainer_student(trainer), npo_trainer_ema(trainer),
                                 npo_trainer_moments(trainer)};
}

static void train(npo_trainer *trainer, int64_t steps)
{
    for (int64_t i = 0; i < steps; i++) {
        npo_batch batch;
        npo_train_result result;
        small_batch(&batch, 2 * npo_trainer_step_count(trainer), 2);
        assert_int_equal(npo_trainer_step(trainer, &batch, &result, NULL), NPO_OK);
        npo_batch_fini(&batch);
    }
}

static npo_checkpoint_meta meta_of(npo_trainer *trainer)
{
    npo_checkpoint_meta meta = {.step = npo_trainer_step_count(trainer),
                                .cursor = 1234567890123,
                                .hyper = npo_hash_bytes("hyper", 5)};
    strcpy(meta.numeric_class, "cpu \"avx512\"");
    return meta;
}

static void save(npo_trainer *trainer, const char *to)
{
    npo_error error = {0};
    npo_checkpoint_sets sets = sets_of(trainer);
    npo_checkpoint_meta meta = meta_of(trainer);
    if (npo_checkpoint_save(to, &sets, &meta, &error))
        fail_msg("%s", error.text);
}

/* Three steps, a file, three more: the same bytes as six steps. */
static void check_resume(npo_optimizer_kind kind)
{
    npo_trainer *straight = small_trainer_of(&unet, NULL, 2, kind);
    npo_trainer *first = small_trainer_of(&unet, NULL, 2, kind);
    npo_trainer *second = small_trainer_of(&unet, NULL, 2, kind);
    train(straight, 6);
    train(first, 3);
    save(first, path);
    npo_checkpoint_sets sets = sets_of(second);
    npo_checkpoint_meta meta, saved = meta_of(first);
    npo_error error = {0};
    assert_int_equal(npo_checkpoint_load(path, &sets, &meta, &error), NPO_OK);
    assert_int_equal(meta.step, 3);
    assert_int_equal(meta.optimizer, kind);
    assert_int_equal(meta.cursor, saved.cursor);
    assert_true(npo_hash_equal(&meta.hyper, &saved.hyper));
    assert_string_equal(meta.numeric_class, saved.numeric_class);
    npo_trainer_set_step_count(second, meta.step);
    assert_same_state(first, second);
    train(second, 3);
    assert_same_state(straight, second);
    save(straight, path);
    save(second, other);
    npo_hash a, b;
    uint64_t size;
    assert_int_equal(npo_hash_file(path, &a, &size, NULL), NPO_OK);
    assert_int_equal(npo_hash_file(other, &b, &size, NULL), NPO_OK);
    assert_true(npo_hash_equal(&a, &b));
    npo_trainer_free(straight);
    npo_trainer_free(first);
    npo_trainer_free(second);
}

static void test_checkpoint_resumes_bit_for_bit(void **state)
{
    check_resume(NPO_OPTIMIZER_ADAMW);
    check_resume(NPO_OPTIMIZER_ADAMW8BIT);
}

static void test_checkpoint_reads_some_of_the_sets(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 2);
    npo_params *ema = NULL;
    npo_checkpoint_meta meta;
    npo_error error = {0};
    train(trainer, 1);
    save(trainer, path);
    assert_int_equal(npo_params_new(unet.layout, &ema), NPO_OK);
    const npo_checkpoint_sets sets = {.ema = ema};
    assert_int_equal(npo_checkpoint_load(path, &sets, &meta, &error), NPO_OK);
    assert_same_set(ema, npo_trainer_ema(trainer));
    npo_checkpoint_meta again;
    assert_int_equal(npo_checkpoint_read_meta(path, &again, &error), NPO_OK);
    assert_int_equal(again.step, 1);
    npo_params_free(ema);
    npo_trainer_free(trainer);
}

/* ---- files that are not right ---- */

enum { KEYS = 7, LAST_KEY = KEYS - 1 };

/* A right checkpoint's tensors and metadata, to be spoilt one thing at a time. */
typedef struct {
    npo_safetensors *file;
    npo_tensor_source *tensors;
    float **data;
    size_t count;
    npo_tensor_metadata metadata[KEYS];
} parts;

static void parts_open(parts *p)
{
    static const char *const keys[KEYS] = {"npo",   "version",       "step",     "cursor",
                                           "hyper", "numeric_class", "optimizer"};
    npo_error error = {0};
    assert_int_equal(npo_safetensors_open(path, &p->file, &error), NPO_OK);
    p->count = npo_safetensors_count(p->file);
    p->tensors = calloc(p->count + 1, sizeof *p->tensors);
    p->data = calloc(p->count, sizeof *p->data);
    assert_true(p->tensors && p->data);
    for (size_t i = 0; i < p->count; i++) {
        const npo_tensor *tensor = npo_safetensors_at(p->file, i);
        p->data[i] = malloc(tensor->bytes);
        memcpy(p->data[i], tensor->data, tensor->bytes);
        p->tensors[i] =
            (npo_tensor_source){tensor->name, tensor->dtype, tensor->ndim, {0}, p->data[i]};
        memcpy(p->tensors[i].dims, tensor->dims, sizeof tensor->dims);
    }
    for (int i = 0; i < KEYS; i++)
        p->metadata[i] = (npo_tensor_metadata){keys[i], npo_safetensors_metadata(p->file, keys[i])};
}

static void parts_close(parts *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->data[i]);
    free(p->data);
    free(p->tensors);
    npo_safetensors_close(p->file);
}

static size_t tensor_index(const parts *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->tensors[i].name, name) == 0)
            return i;
    fail_msg("no tensor '%s'", name);
    return 0;
}

static npo_optimizer_kind optimizer; /* of the file at hand */
static size_t keys = KEYS;           /* of its metadata */

/* Loads what the parts say; on failure nothing of the sets may have changed. */
static npo_err load_parts(const parts *p, size_t count, npo_error *error)
{
    npo_trainer *trainer = small_trainer_of(&unet, NULL, 2, optimizer),
                *untouched = small_trainer_of(&unet, NULL, 2, optimizer);
    npo_checkpoint_meta meta = {.step = 77};
    npo_checkpoint_sets sets = sets_of(trainer);
    assert_int_equal(npo_safetensors_write(other, p->tensors, count, p->metadata, keys, error),
                     NPO_OK);
    npo_err err = npo_checkpoint_load(other, &sets, &meta, error);
    if (err) {
        assert_int_equal(meta.step, 77);
        assert_same_state(trainer, untouched);
        assert_non_null(strstr(error->text, other));
    }
    npo_trainer_free(trainer);
    npo_trainer_free(untouched);
    return err;
}

static void make_right_file(npo_optimizer_kind kind)
{
    npo_trainer *trainer = small_trainer_of(&unet, NULL, 2, optimizer = kind);
    train(trainer, 1);
    save(trainer, path);
    npo_trainer_free(trainer);
}

static void test_checkpoint_load_refuses_wrong_metadata(void **state)
{
    static const struct {
        int key;
        const char *value;
        npo_err expected;
    } rows[] = {
        {0, "pool", NPO_E_FORMAT},  {1, "0", NPO_E_VERSION},
        {2, "three", NPO_E_FORMAT}, {2, "-1", NPO_E_FORMAT},
        {2, "", NPO_E_FORMAT},      {2, "99999999999999999999", NPO_E_FORMAT},
        {3, "1.5", NPO_E_FORMAT},   {4, "abc", NPO_E_FORMAT},
        {6, "sgd", NPO_E_FORMAT},   {1, "3", NPO_E_VERSION},
    };
    make_right_file(NPO_OPTIMIZER_ADAMW);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        parts p;
        npo_error error = {0};
        parts_open(&p);
        p.metadata[rows[i].key].value = rows[i].value;
        assert_int_equal(load_parts(&p, p.count, &error), rows[i].expected);
        npo_checkpoint_meta meta;
        assert_int_equal(npo_checkpoint_read_meta(other, &meta, &error), rows[i].expected);
        parts_close(&p);
    }
    char text[NPO_CHECKPOINT_CLASS_MAX + 1];
    memset(text, 'c', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    parts p;
    npo_error error = {0};
    parts_open(&p);
    p.metadata[5].value = text;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_FORMAT);
    p.metadata[5].key = "unknown";
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_FORMAT);
    parts_close(&p);
}

static void test_checkpoint_load_refuses_wrong_tensors(void **state)
{
    npo_error error = {0};
    parts p;
    make_right_file(NPO_OPTIMIZER_ADAMW);
    parts_open(&p);
    assert_int_equal(load_parts(&p, p.count, &error), NPO_OK);
    size_t at = tensor_index(&p, "exp_avg_sq.conv_in.bias");
    p.data[at][0] = -1e-9f;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_RANGE);
    p.data[at][0] = INFINITY;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "exp_avg_sq.conv_in.bias"));
    p.data[at][0] = 0;
    at = tensor_index(&p, "ema.conv_in.weight");
    p.data[at][5] = NAN;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_RANGE);
    p.data[at][5] = 0;
    p.tensors[at].dims[0] /= 2;
    p.tensors[at].dims[1] *= 2;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_SHAPE);
    p.tensors[at].dims[0] *= 2;
    p.tensors[at].dims[1] /= 2;
    p.tensors[at].dtype = NPO_TENSOR_F16;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_TYPE);
    p.tensors[at].dtype = NPO_TENSOR_F32;
    p.tensors[p.count] = (npo_tensor_source){"ema.extra", NPO_TENSOR_F32, 1, {1}, p.data[0]};
    assert_int_equal(load_parts(&p, p.count + 1, &error), NPO_E_FORMAT);
    p.tensors[at] = p.tensors[p.count - 1];
    assert_int_equal(load_parts(&p, p.count - 1, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "ema.conv_in.weight"));
    parts_close(&p);
}

static void test_checkpoint_load_refuses_wrong_8bit_state(void **state)
{
    npo_error error = {0};
    parts p;
    make_right_file(NPO_OPTIMIZER_ADAMW8BIT);
    parts_open(&p);
    assert_int_equal(load_parts(&p, p.count, &error), NPO_OK);
    size_t at = 0;
    while (!strstr(p.tensors[at].name, "exp_avg_absmax."))
        at++;
    p.data[at][0] = -1;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_RANGE);
    p.data[at][0] = 0;
    p.tensors[at].dims[0]--;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_SHAPE);
    p.tensors[at].dims[0]++;
    optimizer = NPO_OPTIMIZER_ADAMW;
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_STATE);
    assert_non_null(strstr(error.text, "'adamw8bit', expected that of 'adamw'"));
    p.metadata[LAST_KEY].value = "adamw";
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_TYPE);
    parts_close(&p);
}

/* Version 1 had no optimizer's name. */
static void test_checkpoint_load_reads_version_1(void **state)
{
    npo_error error = {0};
    parts p;
    make_right_file(NPO_OPTIMIZER_ADAMW);
    parts_open(&p);
    keys = LAST_KEY;
    p.metadata[1].value = "1";
    assert_int_equal(load_parts(&p, p.count, &error), NPO_OK);
    p.metadata[1].value = "2";
    assert_int_equal(load_parts(&p, p.count, &error), NPO_E_FORMAT);
    keys = KEYS;
    parts_close(&p);
}

/* Cut off anywhere, the file is refused. */
static void test_checkpoint_load_refuses_a_truncated_file(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_error error = {0};
    make_right_file(NPO_OPTIMIZER_ADAMW);
    assert_int_equal(npo_file_read(path, 64 << 20, &buf, &error), NPO_OK);
    npo_trainer *trainer = small_trainer(&unet, NULL, 2);
    npo_checkpoint_sets sets = sets_of(trainer);
    npo_checkpoint_meta meta;
    for (int i = 0; i < 16; i++) {
        size_t len = i < 8 ? (size_t)i * 3 : buf.len - 1 - (size_t)(i - 8) * (buf.len / 8);
        assert_int_equal(npo_file_write(other, buf.data, len, 0600, &error), NPO_OK);
        assert_int_equal(npo_checkpoint_load(other, &sets, &meta, &error), NPO_E_FORMAT);
    }
    npo_trainer_free(trainer);
    npo_buf_fini(&buf);
    assert_int_equal(npo_file_remove(other, &error), NPO_OK);
    assert_int_equal(npo_checkpoint_read_meta(other, &meta, &error), NPO_E_NOT_FOUND);
}

static void test_checkpoint_save_reports_a_path_that_cannot_be(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 2);
    npo_checkpoint_sets sets = sets_of(trainer);
    npo_checkpoint_meta meta = meta_of(trainer);
    npo_error error = {0};
    assert_int_not_equal(npo_checkpoint_save("/dev/null/x", &sets, &meta, &error), NPO_OK);
    assert_non_null(strstr(error.text, "/dev/null/x"));
    npo_trainer_free(trainer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoint_resumes_bit_for_bit),
        cmocka_unit_test(test_checkpoint_reads_some_of_the_sets),
        cmocka_unit_test(test_checkpoint_load_refuses_wrong_metadata),
        cmocka_unit_test(test_checkpoint_load_refuses_wrong_tensors),
        cmocka_unit_test(test_checkpoint_load_refuses_wrong_8bit_state),
        cmocka_unit_test(test_checkpoint_load_reads_version_1),
        cmocka_unit_test(test_checkpoint_load_refuses_a_truncated_file),
        cmocka_unit_test(test_checkpoint_save_reports_a_path_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
