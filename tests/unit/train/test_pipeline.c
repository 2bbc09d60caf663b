/* Generate, truncate and train together, in one process (fused) and with a file between any two
 * phases (staged, round_steps 1, staleness 0): the same bytes. */
#include "tests/unit/train/support.h"

#include "common/file.h"
#include "worker/diffusion/trajectory/trajectory.h"
#include "worker/train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 8, MICRO = 4, STEPS = 6 };

static small_unet unet;
static npo_schedule *schedule;
static char dir[64], pool_path[128], segment_path[128], checkpoint_path[128];

static int setup(void **state)
{
    const npo_schedule_config config = {.train_steps = 1000,
                                        .beta_start = 0.00085,
                                        .beta_end = 0.012,
                                        .betas = NPO_BETAS_SCALED_LINEAR};
    strcpy(dir, "/tmp/npo-pipeline-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(pool_path, sizeof pool_path, "%s/pool", dir);
    snprintf(segment_path, sizeof segment_path, "%s/segment", dir);
    snprintf(checkpoint_path, sizeof checkpoint_path, "%s/checkpoint", dir);
    small_unet_init(&unet, 1);
    return npo_schedule_new(&config, &schedule, NULL);
}

static int teardown(void **state)
{
    npo_schedule_free(schedule);
    small_unet_fini(&unet);
    return npo_file_remove(dir, NULL) == NPO_OK ? 0 : -1;
}

static npo_trajectory_options options_of(double w)
{
    return (npo_trajectory_options){.schedule = schedule,
                                    .solver_steps = 25,
                                    .segment_steps = 5,
                                    .w = w,
                                    .starts = NPO_STARTS_NOISE,
                                    .stagger = true,
                                    .seed = 3,
                                    .prompt_count = SMALL_PROMPTS};
}

static const int64_t slots[BATCH] = {0, 1, 2, 3, 4, 5, 6, 7};

/* The phases. Each makes what it needs anew, as a task in another process would. */

static void generate(double w, const npo_params *ema, npo_pool *pool, npo_segment *segment,
                     bool advance)
{
    npo_trajectory_options options = options_of(w);
    npo_trajectory *trajectory = NULL;
    npo_network *network = NULL;
    npo_network_denoiser *denoiser = NULL;
    npo_error error = {0};
    assert_int_equal(
        npo_network_new(unet.backend, unet.layout, &unet.config, &unet.shape, &network, &error),
        NPO_OK);
    assert_int_equal(
        npo_network_denoiser_new(network, ema, &unet.prompts, MICRO, &denoiser, &error), NPO_OK);
    assert_int_equal(npo_trajectory_new(&options, unet.latent, BATCH, &trajectory, &error), NPO_OK);
    const npo_denoiser *target = npo_network_denoiser_get(denoiser);
    npo_err err =
        advance ? npo_trajectory_generate(trajectory, target, pool, 0, BATCH, &error)
                : npo_trajectory_truncate(trajectory, target, pool, 0, BATCH, segment, &error);
    if (err)
        fail_msg("%s", error.text);
    npo_trajectory_free(trajectory);
    npo_network_denoiser_free(denoiser);
    npo_network_free(network);
}

static void train(npo_trainer *trainer, const npo_segment *segment)
{
    npo_batch batch;
    npo_train_result result;
    npo_error error = {0};
    const npo_batch_draws draws = {schedule, 3, npo_trainer_step_count(trainer), 0};
    int64_t rows[BATCH];
    for (int i = 0; i < BATCH; i++)
        rows[i] = npo_segment_find(segment, i);
    assert_int_equal(npo_batch_init(&batch, BATCH, SMALL_FLOATS), NPO_OK);
    assert_int_equal(npo_batch_renoise(&batch, &draws, segment, rows, &error), NPO_OK);
    npo_err err = npo_trainer_step(trainer, &batch, &result, &error);
    if (err)
        fail_msg("%s", error.text);
    npo_batch_fini(&batch);
}

static npo_checkpoint_sets sets_of(npo_trainer *trainer)
{
    return (npo_checkpoint_sets){npo_trainer_student(trainer), npo_trainer_ema(trainer),
                                 npo_trainer_moments(trainer)};
}

static npo_trainer *run_fused(double w)
{
    npo_trajectory_options options = options_of(w);
    npo_trainer *trainer = small_trainer(&unet, NULL, MICRO);
    npo_pool pool;
    npo_segment segment;
    bool branch = npo_trajectory_has_branch(&options);
    assert_int_equal(npo_pool_init(&pool, unet.latent, BATCH, slots, branch), NPO_OK);
    assert_int_equal(npo_segment_init(&segment, unet.latent, BATCH), NPO_OK);
    for (int step = 0; step < STEPS; step++) {
        generate(w, npo_trainer_ema(trainer), &pool, &segment, true);
        generate(w, npo_trainer_ema(trainer), &pool, &segment, false);
        train(trainer, &segment);
    }
    npo_pool_fini(&pool);
    npo_segment_fini(&segment);
    return trainer;
}

static npo_trainer *load_trainer(void)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, MICRO);
    npo_checkpoint_sets sets = sets_of(trainer);
    npo_checkpoint_meta meta;
    assert_int_equal(npo_checkpoint_load(checkpoint_path, &sets, &meta, NULL), NPO_OK);
    npo_trainer_set_step_count(trainer, meta.step);
    return trainer;
}

static void save_trainer(npo_trainer *trainer)
{
    npo_checkpoint_sets sets = sets_of(trainer);
    const npo_checkpoint_meta meta = {.step = npo_trainer_step_count(trainer)};
    assert_int_equal(npo_checkpoint_save(checkpoint_path, &sets, &meta, NULL), NPO_OK);
}

static npo_trainer *run_staged(double w)
{
    npo_trajectory_options options = options_of(w);
    npo_trainer *trainer = small_trainer(&unet, NULL, MICRO);
    npo_pool pool;
    npo_segment segment;
    bool branch = npo_trajectory_has_branch(&options);
    assert_int_equal(npo_pool_init(&pool, unet.latent, BATCH, slots, branch), NPO_OK);
    for (int step = 0; step < STEPS; step++) {
        generate(w, npo_trainer_ema(trainer), &pool, NULL, true);
        assert_int_equal(npo_pool_save(&pool, pool_path, NULL), NPO_OK);
        npo_pool_fini(&pool);
        assert_int_equal(npo_pool_load(pool_path, unet.latent, &pool, NULL), NPO_OK);
        assert_int_equal(npo_segment_init(&segment, unet.latent, BATCH), NPO_OK);
        generate(w, npo_trainer_ema(trainer), &pool, &segment, false);
        assert_int_equal(npo_segment_save(&segment, segment_path, NULL), NPO_OK);
        npo_segment_fini(&segment);
        assert_int_equal(npo_segment_load(segment_path, unet.latent, &segment, NULL), NPO_OK);
        train(trainer, &segment);
        npo_segment_fini(&segment);
        save_trainer(trainer);
        npo_trainer_free(trainer);
        trainer = load_trainer();
    }
    npo_pool_fini(&pool);
    return trainer;
}

static void test_pipeline_fused_equals_staged(void **state)
{
    static const double weights[] = {-1, -5};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        npo_trainer *fused = run_fused(weights[i]), *staged = run_staged(weights[i]);
        assert_int_equal(npo_trainer_step_count(fused), STEPS);
        assert_same_state(fused, staged);
        assert_memory_not_equal(npo_params_data(npo_trainer_student(fused)),
                                npo_params_data(unet.params), 256);
        npo_trainer_free(fused);
        npo_trainer_free(staged);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline_fused_equals_staged),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
