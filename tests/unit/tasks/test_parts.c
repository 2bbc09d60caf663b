/* The smaller parts of worker/tasks: slots, plan, files of features, random weights, identity,
 * cells. */
#include "tests/unit/tasks/one_task.h"
#include "worker/tasks/evaluation/report_cells.h"
#include "worker/tasks/loaded/identity.h"
#include "worker/tasks/training/slots.h"
#include "worker/train/checkpoint.h"
#include "worker/train/random_weights.h"

#include <math.h>
#include <unistd.h>

static const char self_npo[] =
    "{'recipe':'self-npo','model':'m','round_steps':3,'prompts':['a'],'workers':2,"
    "'train':{'steps':9,'batch':4}}";

static void test_slots_of_a_rank(void **state)
{
    one_task t;
    npo_slots slots;
    one_task_init(&t, "train", self_npo, "{'first_step':3,'steps':3}", "");
    assert_int_equal(npo_slots_init(&t.ctx, 1, 2, &slots), NPO_OK);
    const int64_t expected[] = {2, 3, 6, 7, 10, 11};
    assert_int_equal(slots.count, 6);
    assert_int_equal(slots.local, 2);
    assert_int_equal(slots.micro_batch, 2);
    assert_memory_equal(slots.slots, expected, sizeof expected);
    assert_int_equal(npo_slots_row(&slots, 3), 0);
    assert_int_equal(npo_slots_row(&slots, 5), 4);
    int64_t used[6];
    npo_slots_used(&slots, used);
    assert_memory_equal(used, expected, sizeof expected);
    npo_slots_fini(&slots);
    one_task_fini(&t);
}

static void test_slots_of_a_part_of_a_round(void **state)
{
    /* Steps 2 and 3 of rounds of three: the last row, then the first. */
    one_task t;
    npo_slots slots;
    one_task_init(&t, "train", self_npo, "{'first_step':2,'steps':2}", "");
    assert_int_equal(npo_slots_init(&t.ctx, 0, 2, &slots), NPO_OK);
    assert_int_equal(npo_slots_row(&slots, 2), 4);
    assert_int_equal(npo_slots_row(&slots, 3), 0);
    const int64_t expected[] = {0, 1, 8, 9};
    int64_t used[4];
    npo_slots_used(&slots, used);
    assert_memory_equal(used, expected, sizeof expected);
    npo_slots_fini(&slots);
    assert_int_equal(npo_slots_init(&t.ctx, 0, 3, &slots), NPO_E_USAGE);
    assert_non_null(strstr(t.error.text, "a batch of 4 cannot be shared by 3 ranks"));
    one_task_fini(&t);
}

static void test_plan_lists_cells(void **state)
{
    one_task t;
    npo_plan plan;
    one_task_init(&t, "evaluate",
                  "{'recipe':'evaluate','model':'m','negative':'n','prompts':['a'],"
                  "'sample':{'batch':4},'evaluate':{'classifier':'c','data':'d','samples':10,"
                  "'scales':[1,2],'betas':[0.5,1],'seeds':[3,4]}}",
                  "{}", "");
    assert_int_equal(npo_plan_make(&t.ctx, &plan), NPO_OK);
    const npo_cell_key expected[] = {
        {NPO_METHOD_NONE, 1, 0, 3},       {NPO_METHOD_PLAIN, 2, 0, 3},
        {NPO_METHOD_SELF_NPO, 2, 0.5, 3}, {NPO_METHOD_SELF_NPO, 2, 1, 3},
        {NPO_METHOD_NONE, 1, 0, 4},       {NPO_METHOD_PLAIN, 2, 0, 4},
        {NPO_METHOD_SELF_NPO, 2, 0.5, 4}, {NPO_METHOD_SELF_NPO, 2, 1, 4},
    };
    assert_int_equal(plan.count, 8);
    for (size_t i = 0; i < 8; i++)
        assert_true(npo_cell_key_equal(&plan.cells[i], &expected[i]));
    assert_int_equal(plan.units, 3);
    npo_plan_fini(&plan);
    cJSON *many = cJSON_CreateArray();
    for (int i = 0; i < 5000; i++)
        cJSON_AddItemToArray(many, cJSON_CreateNumber(i + 2));
    t.job.evaluate.scales = many;
    assert_int_equal(npo_plan_make(&t.ctx, &plan), NPO_E_LIMIT);
    assert_non_null(strstr(t.error.text, "5000 scales"));
    cJSON_Delete(many);
    one_task_fini(&t);
}

static npo_features sample_features(int64_t count, int64_t first)
{
    npo_features f;
    assert_int_equal(npo_features_init(&f, (npo_latent_shape){2, 3, 1}, count, 1), NPO_OK);
    for (int64_t i = 0; i < count; i++) {
        f.cell[i] = (int32_t)((first + i) / 4);
        f.sample[i] = (first + i) % 4;
        for (int d = 0; d < NPO_FEATURES_DIMS; d++)
            f.features[i * NPO_FEATURES_DIMS + d] = (float)((i * 7 + d * 3 + first) % 11);
        /* Samples of the second cell are always sure of class 0, those of the first never. */
        f.logits[i * NPO_FEATURES_CLASSES] = f.cell[i] ? 3.0f : -3.0f;
    }
    f.picture_sample[0] = first;
    f.pictures[5] = 0.5f;
    f.offset = strdup("{\"total\":0.25,\"blocks\":{}}");
    return f;
}

static void test_features_round_trip(void **state)
{
    npo_features f = sample_features(3, 1), g;
    const char *path = job_path("features.safetensors");
    assert_int_equal(npo_features_save(&f, path, NULL), NPO_OK);
    assert_int_equal(npo_features_load(path, &g, NULL), NPO_OK);
    assert_int_equal(g.count, 3);
    assert_int_equal(g.picture_count, 1);
    assert_int_equal(g.shape.width, 3);
    assert_memory_equal(g.sample, f.sample, 3 * sizeof *f.sample);
    assert_memory_equal(g.features, f.features, 3 * NPO_FEATURES_DIMS * sizeof *f.features);
    assert_memory_equal(g.pictures, f.pictures, 6 * sizeof *f.pictures);
    assert_string_equal(g.offset, f.offset);
    npo_features_fini(&f);
    npo_features_fini(&g);
}

static void expect_features(const npo_tensor_source *tensors, size_t count,
                            const npo_tensor_metadata *metadata, size_t metadata_count, npo_err err,
                            const char *part)
{
    npo_features f;
    npo_error error = {0};
    const char *path = job_path("bad.safetensors");
    assert_int_equal(npo_safetensors_write(path, tensors, count, metadata, metadata_count, NULL),
                     NPO_OK);
    assert_int_equal(npo_features_load(path, &f, &error), err);
    if (!strstr(error.text, part))
        fail_msg("'%s' lacks '%s'", error.text, part);
}

static void test_features_refuses_other_files(void **state)
{
    float x[2 * 128] = {0};
    int32_t cell[2] = {0};
    npo_tensor_source tensors[] = {
        {"cell", NPO_TENSOR_I32, 1, {2}, cell},
        {"pictures", NPO_TENSOR_F32, 4, {1, 1, 1, 1}, x},
        {"features", NPO_TENSOR_F32, 2, {2, 127}, x},
        {"sample", NPO_TENSOR_I64, 1, {2}, x},
    };
    npo_tensor_metadata good[] = {{"npo", "features"}, {"version", "1"}};
    npo_tensor_metadata other[] = {{"npo", "pool"}, {"version", "1"}};
    npo_tensor_metadata newer[] = {{"npo", "features"}, {"version", "2"}};
    expect_features(tensors, 4, other, 2, NPO_E_FORMAT, "is no file of features");
    expect_features(tensors, 4, newer, 2, NPO_E_VERSION, "version 2, expected 1");
    expect_features(tensors, 4, good, 1, NPO_E_VERSION, "version none");
    expect_features(tensors, 1, good, 2, NPO_E_FORMAT, "lacks");
    expect_features(tensors, 4, good, 2, NPO_E_SHAPE, "'features'");
    expect_features(tensors, 2, good, 2, NPO_E_SHAPE, "'sample'");
}

static void test_report_refuses_pictures_of_two_shapes(void **state)
{
    npo_features a = sample_features(3, 0), b;
    char in[1200];
    assert_int_equal(npo_features_init(&b, (npo_latent_shape){1, 1, 1}, 1, 1), NPO_OK);
    assert_int_equal(npo_features_save(&a, job_path("a.safetensors"), NULL), NPO_OK);
    assert_int_equal(npo_features_save(&b, job_path("b.safetensors"), NULL), NPO_OK);
    snprintf(in, sizeof in, "features.0=%s features.1=%s", job_path("a.safetensors"),
             job_path("b.safetensors"));
    expect_failure("report",
                   "{'recipe':'evaluate','model':'m','negative':'n','prompts':['a'],"
                   "'evaluate':{'classifier':'c','data':'d'}}",
                   "{}", in, NPO_E_SHAPE, "b.safetensors' has pictures of another shape");
    npo_features_fini(&a);
    npo_features_fini(&b);
}

static void check_cells(one_task *t, npo_features *files, size_t count, npo_err err,
                        const char *part)
{
    npo_cell_key keys[] = {{NPO_METHOD_NONE, 1, 0, 0}, {NPO_METHOD_PLAIN, 2, 0, 0}};
    npo_plan plan = {keys, 2, 4, 4, 1};
    npo_report_cells cells;
    npo_gaussian real;
    float x[8 * NPO_FEATURES_DIMS];
    for (int i = 0; i < 8 * NPO_FEATURES_DIMS; i++)
        x[i] = (float)(i * i % 13);
    assert_int_equal(npo_gaussian_fit(x, 8, NPO_FEATURES_DIMS, &real), NPO_OK);
    assert_int_equal(npo_report_cells_make(&t->ctx, &plan, files, count, &real, 1, &cells), err);
    npo_gaussian_fini(&real);
    if (err != NPO_OK) {
        if (!strstr(t->error.text, part))
            fail_msg("'%s' lacks '%s'", t->error.text, part);
        return;
    }
    assert_true(cells.cells[0].scores.accuracy == 0 && cells.cells[1].scores.accuracy == 1);
    assert_int_equal(cells.cells[1].wins.wins, 4); /* against no guidance, sample by sample */
    assert_int_equal(cells.cells[0].wins.ties, 0);
    assert_true(cells.cells[0].frechet > 0);
    npo_report_cells_fini(&cells);
}

static void test_report_cells_needs_each_sample_once(void **state)
{
    one_task t;
    one_task_init(&t, "report", self_npo, "{}", "");
    npo_features files[] = {sample_features(3, 0), sample_features(5, 3)};
    check_cells(&t, files, 2, NPO_OK, "");
    check_cells(&t, files, 1, NPO_E_FORMAT, "sample 3 of cell 0 stands in none of the 1 files");
    files[1].sample[0] = 0;
    check_cells(&t, files, 2, NPO_E_FORMAT, "sample 0 of cell 0 stands twice");
    files[1].sample[0] = 4;
    check_cells(&t, files, 2, NPO_E_FORMAT, "expected 2 cells of 4 samples");
    files[1].sample[0] = 3;
    files[1].logits[0] = NAN;
    check_cells(&t, files, 2, NPO_E_DIVERGED, "no guidance");
    files[1].logits[0] = 0;
    files[0].features[0] = INFINITY;
    check_cells(&t, files, 2, NPO_E_DIVERGED, "no guidance");
    npo_features_fini(&files[0]);
    npo_features_fini(&files[1]);
    one_task_fini(&t);
}

static npo_params *random_set(npo_layout *layout, uint64_t seed)
{
    npo_params *params = NULL;
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    assert_int_equal(npo_random_weights(params, seed, NULL), NPO_OK);
    return params;
}

static npo_layout *layout_of(const char *const *names, int64_t (*dims)[4], const int *ndims,
                             size_t count)
{
    npo_layout *layout = NULL;
    size_t index;
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(npo_layout_add(layout, names[i], ndims[i], dims[i], &index, NULL), NPO_OK);
    return layout;
}

static void test_random_weights_are_torch_like(void **state)
{
    const char *names[] = {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "fc.weight"};
    int64_t dims[][4] = {{64, 32, 3, 3}, {64}, {64}, {64}, {50, 400}};
    const int ndims[] = {4, 1, 1, 1, 2};
    npo_layout *layout = layout_of(names, dims, ndims, 5);
    npo_params *a = random_set(layout, 1), *b = random_set(layout, 1), *c = random_set(layout, 2);
    const double bounds[] = {1 / sqrt(32 * 9), 1 / sqrt(32 * 9), 0, 0, 1 / sqrt(400)};
    const double centres[] = {0, 0, 1, 0, 0};
    for (size_t i = 0; i < 5; i++) {
        const npo_param_info *info = npo_layout_find(layout, names[i]);
        const float *x = npo_params_data(a) + info->offset;
        double sum = 0, squares = 0;
        for (size_t j = 0; j < info->count; j++) {
            assert_true(fabs(x[j] - centres[i]) <= bounds[i]);
            sum += x[j] - centres[i];
            squares += (x[j] - centres[i]) * (x[j] - centres[i]);
        }
        double n = (double)info->count, deviation = bounds[i] / sqrt(3);
        assert_true(fabs(sum / n) <= 4 * deviation / sqrt(n));
        assert_true(fabs(sqrt(squares / n) - deviation) <= 4 * deviation / sqrt(n));
    }
    size_t bytes = npo_layout_floats(layout) * sizeof(float);
    assert_memory_equal(npo_params_data(a), npo_params_data(b), bytes);
    assert_memory_not_equal(npo_params_data(a), npo_params_data(c), bytes);
    npo_params_free(a);
    npo_params_free(b);
    npo_params_free(c);
    npo_layout_unref(layout);
}

static void test_random_weights_refuses_unknown_tensors(void **state)
{
    const char *names[] = {"lonely.bias", "table"};
    int64_t dims[][4] = {{4}, {4, 4}};
    const int ndims[] = {1, 2};
    for (size_t i = 0; i < 2; i++) {
        npo_layout *layout = layout_of(&names[i], &dims[i], &ndims[i], 1);
        npo_params *params = NULL;
        npo_error error = {0};
        assert_int_equal(npo_params_new(layout, &params), NPO_OK);
        assert_int_equal(npo_random_weights(params, 1, &error), NPO_E_UNSUPPORTED);
        assert_non_null(strstr(error.text, names[i]));
        npo_params_free(params);
        npo_layout_unref(layout);
    }
}

static npo_hash identity(const char *path)
{
    npo_hash hash;
    npo_error error = {0};
    if (npo_identity_of(path, &hash, &error) != NPO_OK)
        fail_msg("%s", error.text);
    return hash;
}

static void test_identity_follows_files(void **state)
{
    const char *dir = job_path("identity"), *file = job_path("identity/sub/a");
    assert_int_equal(npo_file_make_dirs(job_path("identity/sub"), NULL), NPO_OK);
    assert_int_equal(npo_file_write(file, "a", 1, 0644, NULL), NPO_OK);
    npo_hash one = identity(dir), file_one = identity(file), again = identity(dir);
    assert_true(npo_hash_equal(&one, &again));
    assert_int_equal(npo_file_write(file, "b", 1, 0644, NULL), NPO_OK);
    npo_hash two = identity(dir), file_two = identity(file);
    assert_false(npo_hash_equal(&one, &two));
    assert_false(npo_hash_equal(&file_one, &file_two));
    npo_error error = {0};
    assert_int_equal(npo_identity_of(job_path("nothing"), &one, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "nothing"));
}

static void test_cache_keeps_what_has_not_changed(void **state)
{
    npo_task_cache *cache = one_cache();
    npo_model *a = NULL, *b = NULL;
    const npo_params *weights = NULL, *blend = NULL, *base = NULL;
    npo_error error = {0};
    assert_int_equal(npo_loaded_model(cache, model_path("tiny"), &a, &error), NPO_OK);
    assert_int_equal(npo_model_need_base(a, &base, &error), NPO_OK);
    assert_int_equal(npo_loaded_model(cache, model_path("tiny"), &b, &error), NPO_OK);
    assert_ptr_equal(a, b);
    assert_int_equal(
        npo_loaded_weights(cache, model_path("other"), NPO_LOADED_FOLDER, &weights, &error),
        NPO_OK);
    uint64_t version = npo_params_version(weights);
    assert_int_equal(
        npo_loaded_weights(cache, model_path("other"), NPO_LOADED_FOLDER, &weights, &error),
        NPO_OK);
    assert_int_equal(npo_params_version(weights), version); /* not read again */
    size_t bytes = npo_layout_floats(a->layout) * sizeof(float);
    assert_int_equal(npo_loaded_blend(cache, base, weights, 1, &blend, &error), NPO_OK);
    assert_memory_equal(npo_params_data(blend), npo_params_data(weights), bytes);
    assert_int_equal(npo_loaded_blend(cache, base, weights, 0, &blend, &error), NPO_OK);
    assert_memory_equal(npo_params_data(blend), npo_params_data(base), bytes);
    npo_loaded_trim(cache); /* the model stays, its weights are read again */
    assert_null(a->base);
    assert_int_equal(npo_loaded_model(cache, model_path("tiny"), &b, &error), NPO_OK);
    assert_ptr_equal(a, b);
    assert_int_equal(npo_model_need_base(a, &base, &error), NPO_OK);
    assert_non_null(base);
    /* A folder is no checkpoint, and what failed to load is not kept. */
    for (int i = 0; i < 2; i++)
        assert_int_not_equal(
            npo_loaded_weights(cache, model_path("large"), NPO_LOADED_EMA, &weights, &error),
            NPO_OK);
    assert_int_equal(npo_loaded_model(cache, model_path("large"), &a, &error), NPO_OK);
    assert_int_equal(a->config.sample_height, 28);
    npo_task_cache_free(cache);
}

/* A network is planned once a size, and anew for another one. */
static void test_model_takes_sizes(void **state)
{
    npo_task_cache *cache = one_cache();
    npo_backend *backend = npo_loaded_backend(cache);
    npo_model *model = NULL;
    npo_error error = {0};
    assert_int_equal(npo_loaded_model(cache, model_path("vae"), &model, &error), NPO_OK);
    assert_null(model->network);
    assert_int_equal(npo_model_set_size(model, backend, 0, 0, &error), NPO_OK);
    assert_int_equal(model->latent.height, 16);
    assert_int_equal(model->image.width, 64);
    assert_int_equal(model->image.channels, 3);
    npo_network *network = model->network;
    assert_int_equal(npo_model_set_size(model, backend, 64, 0, &error), NPO_OK);
    assert_ptr_equal(model->network, network);
    assert_int_equal(npo_model_set_size(model, backend, 32, 48, &error), NPO_OK);
    assert_true(model->latent.height == 8 && model->latent.width == 12);
    assert_int_equal(npo_network_sample_floats(model->network), 8 * 12 * 4);
    assert_int_equal(npo_model_set_size(model, backend, 32, 47, &error), NPO_E_SHAPE);
    assert_true(model->latent.width == 12 && model->network);
    npo_task_cache_free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_of_a_rank),
        cmocka_unit_test(test_slots_of_a_part_of_a_round),
        cmocka_unit_test(test_plan_lists_cells),
        cmocka_unit_test(test_features_round_trip),
        cmocka_unit_test(test_features_refuses_other_files),
        cmocka_unit_test(test_report_refuses_pictures_of_two_shapes),
        cmocka_unit_test(test_report_cells_needs_each_sample_once),
        cmocka_unit_test(test_random_weights_are_torch_like),
        cmocka_unit_test(test_random_weights_refuses_unknown_tensors),
        cmocka_unit_test(test_identity_follows_files),
        cmocka_unit_test(test_cache_keeps_what_has_not_changed),
        cmocka_unit_test(test_model_takes_sizes),
    };
    return cmocka_run_group_tests_name("parts", tests, job_dir_setup, job_dir_teardown);
}
