#include "worker/diffusion/trajectory/trajectory.h"

#include "common/file.h"
#include "common/rng.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/fake_denoiser.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLOATS = 6, STEPS = 25, SEGMENT = 5, SLOTS = 60, ROUNDS = 40, PROMPTS = 7 };
static const npo_latent_shape shape = {2, 3, 1};
static npo_schedule *schedule;
static int32_t grid[STEPS];

static int setup(void **state)
{
    const npo_schedule_config config = {.train_steps = 1000,
                                        .beta_start = 0.00085,
                                        .beta_end = 0.012,
                                        .betas = NPO_BETAS_SCALED_LINEAR};
    return npo_schedule_new(&config, &schedule, NULL) ||
           npo_schedule_grid(schedule, STEPS, grid, NULL);
}

static int teardown(void **state)
{
    npo_schedule_free(schedule);
    return 0;
}

static npo_trajectory_options options_of(double w, npo_starts starts, bool stagger)
{
    return (npo_trajectory_options){.schedule = schedule,
                                    .solver_steps = STEPS,
                                    .segment_steps = SEGMENT,
                                    .w = w,
                                    .starts = starts,
                                    .stagger = stagger,
                                    .seed = 99,
                                    .prompt_count = PROMPTS};
}

/* A pool with the slots first, first + stride, ... and what moves it. */
typedef struct {
    npo_trajectory_options options;
    npo_trajectory *trajectory;
    npo_pool pool;
    npo_segment segment;
    fake_denoiser fake;
} world;

static void world_init(world *w, npo_trajectory_options options, int64_t first, int64_t stride,
                       int64_t count, int64_t rows_max)
{
    int64_t slots[SLOTS];
    npo_error error = {0};
    for (int64_t i = 0; i < count; i++)
        slots[i] = first + stride * i;
    w->options = options;
    assert_int_equal(npo_trajectory_new(&options, shape, rows_max, &w->trajectory, &error), NPO_OK);
    assert_int_equal(
        npo_pool_init(&w->pool, shape, count, slots, npo_trajectory_has_branch(&options)), NPO_OK);
    assert_int_equal(npo_segment_init(&w->segment, shape, count), NPO_OK);
    fake_denoiser_init(&w->fake, FLOATS);
}

static void world_fini(world *w)
{
    npo_trajectory_free(w->trajectory);
    npo_pool_fini(&w->pool);
    npo_segment_fini(&w->segment);
}

static void run_round(world *w)
{
    npo_error error = {0};
    int64_t n = w->pool.count;
    assert_int_equal(npo_trajectory_generate(w->trajectory, &w->fake.base, &w->pool, 0, n, &error),
                     NPO_OK);
    assert_int_equal(
        npo_trajectory_truncate(w->trajectory, &w->fake.base, &w->pool, 0, n, &w->segment, &error),
        NPO_OK);
}

/* ---- one trajectory, written down in f64 as the method describes it ---- */

typedef struct {
    int64_t slot;
    int lap, index, segments, prompt;
    double x[FLOATS], cut[FLOATS], target[FLOATS];
    int t_cut;
} model;

static double mixture(double w, double x, double t, int prompt)
{
    double c = fake_denoiser_value(x, t, prompt), u = fake_denoiser_value(x, t, NPO_PROMPT_EMPTY);
    return c + w * (c - u);
}

/* One DDIM step of all values from grid index `index`, by way of the predicted x0 and eps. */
static void model_step(const model *m, double w, int index, double *x)
{
    double bar = npo_schedule_alpha_bar(schedule, grid[index]);
    double next = npo_schedule_alpha_bar(schedule, index > 0 ? grid[index - 1] : 0);
    for (int k = 0; k < FLOATS; k++) {
        double eps = mixture(w, x[k], grid[index], m->prompt);
        double x0 = (x[k] - sqrt(1 - bar) * eps) / sqrt(bar);
        x[k] = sqrt(next) * x0 + sqrt(1 - next) * eps;
    }
}

static void model_begin(model *m, uint64_t seed)
{
    float noise[FLOATS];
    npo_rng x_T = npo_rng_stream(seed, NPO_RNG_X_T, (uint32_t)m->slot, (uint32_t)m->lap);
    npo_rng prompt = npo_rng_stream(seed, NPO_RNG_PROMPT, (uint32_t)m->slot, (uint32_t)m->lap);
    npo_rng_gaussians(&x_T, FLOATS, noise);
    for (int k = 0; k < FLOATS; k++)
        m->x[k] = (double)noise[k];
    m->prompt = (int)npo_rng_below(&prompt, 0, PROMPTS);
    m->index = STEPS - 1;
    m->segments = 0;
}

static void model_round(model *m, const npo_trajectory_options *o)
{
    bool branches = o->w < -1;
    double rolling = branches ? 0 : o->w;
    if (m->lap < 0 || m->index < 0) {
        m->lap++;
        model_begin(m, o->seed);
    }
    if (o->stagger && m->lap == 0 && m->segments == 0)
        for (; m->index > STEPS - 1 - m->slot % STEPS; m->index--)
            model_step(m, rolling, m->index, m->x);
    int steps = SEGMENT;
    if (m->segments == 0) {
        npo_rng first =
            npo_rng_stream(o->seed, NPO_RNG_FIRST_SEGMENT, (uint32_t)m->slot, (uint32_t)m->lap);
        steps = 1 + (int)npo_rng_below(&first, 0, SEGMENT);
    }
    memcpy(m->cut, m->x, sizeof m->cut);
    for (int i = 0; i < steps && m->index >= 0; i++, m->index--) {
        model_step(m, o->w, m->index, m->cut);
        model_step(m, rolling, m->index, m->x);
    }
    m->segments++;
    m->t_cut = m->index >= 0 ? grid[m->index] : 0;
    double bar = npo_schedule_alpha_bar(schedule, m->t_cut);
    for (int k = 0; k < FLOATS; k++)
        m->target[k] =
            (m->cut[k] - sqrt(1 - bar) * mixture(o->w, m->cut[k], m->t_cut, m->prompt)) / sqrt(bar);
}

static void compare_with_model(double w, bool stagger)
{
    world rolled;
    model models[SLOTS];
    world_init(&rolled, options_of(w, NPO_STARTS_NOISE, stagger), 0, 1, SLOTS, SLOTS);
    for (int i = 0; i < SLOTS; i++)
        models[i] = (model){.slot = i, .lap = -1};
    for (int round = 0; round < 14; round++) {
        run_round(&rolled);
        for (int i = 0; i < SLOTS; i++) {
            model *m = &models[i];
            model_round(m, &rolled.options);
            assert_int_equal(rolled.segment.slot[i], i);
            assert_int_equal(rolled.segment.lap[i], m->lap);
            assert_int_equal(rolled.segment.prompt[i], m->prompt);
            assert_int_equal(rolled.segment.t_cut[i], m->t_cut);
            assert_int_equal(rolled.pool.index[i], m->index);
            for (int k = 0; k < FLOATS; k++) {
                double scale = 1 + fabs(m->cut[k]) + fabs(m->target[k]) + fabs(m->x[k]);
                float x = rolled.pool.x[i * FLOATS + k], cut = rolled.segment.x_cut[i * FLOATS + k];
                float target = rolled.segment.x0_target[i * FLOATS + k];
                assert_true(fabs((double)x - m->x[k]) < 1e-3 * scale);
                assert_true(fabs((double)cut - m->cut[k]) < 1e-3 * scale);
                assert_true(fabs((double)target - m->target[k]) < 1e-3 * scale);
            }
        }
    }
    world_fini(&rolled);
}

static void test_trajectory_rolls_as_the_method_says(void **state)
{
    compare_with_model(-1, true);
    compare_with_model(-1, false);
    compare_with_model(-0.5, true);
    compare_with_model(0, false);
}

static void test_trajectory_branches_as_the_method_says(void **state)
{
    compare_with_model(-1.5, true);
    compare_with_model(-2, false);
}

/* ---- properties ---- */

/* Every slot passes every grid index with its cuts when laps are many, and t = 0 at the end of
 * each. */
static void test_trajectory_cuts_fall_on_every_grid_index(void **state)
{
    for (int stagger = 0; stagger < 2; stagger++) {
        int cuts[STEPS + 1] = {0};
        world w;
        world_init(&w, options_of(-1, NPO_STARTS_NOISE, stagger), 0, 1, SLOTS, SLOTS);
        for (int round = 0; round < ROUNDS; round++) {
            run_round(&w);
            for (int i = 0; i < SLOTS; i++)
                cuts[w.pool.index[i] + 1]++;
        }
        for (int index = -1; index < STEPS - 1; index++)
            assert_true(cuts[index + 1] > 0);
        assert_int_equal(cuts[STEPS], 0); /* a segment has one step at least */
        world_fini(&w);
    }
}

static void test_trajectory_stagger_fills_the_first_round(void **state)
{
    world w;
    bool seen[STEPS + 1] = {false};
    world_init(&w, options_of(-1, NPO_STARTS_NOISE, true), 0, 1, SLOTS, SLOTS);
    run_round(&w);
    for (int i = 0; i < SLOTS; i++) {
        int start = STEPS - 1 - i % STEPS;
        npo_rng first = npo_rng_stream(99, NPO_RNG_FIRST_SEGMENT, (uint32_t)i, 0);
        int steps = 1 + (int)npo_rng_below(&first, 0, SEGMENT);
        int expected = start - steps < -1 ? -1 : start - steps;
        assert_int_equal(w.pool.index[i], expected);
        assert_int_equal(w.pool.lap[i], 0);
        seen[expected + 1] = true;
    }
    int levels = 0;
    for (int k = 0; k <= STEPS; k++)
        levels += seen[k];
    assert_true(levels > 20);
    world_fini(&w);
}

/* Segments of 1 to 5 steps, then 5 each; the prompt stays for a lap; a new lap has fresh noise. */
static void test_trajectory_laps_begin_and_end(void **state)
{
    world w;
    int32_t index[SLOTS], lap[SLOTS], prompt[SLOTS], prompts_seen = 0;
    int laps_ended = 0;
    world_init(&w, options_of(-1, NPO_STARTS_NOISE, false), 0, 1, SLOTS, SLOTS);
    run_round(&w);
    for (int round = 1; round < ROUNDS; round++) {
        memcpy(index, w.pool.index, sizeof index);
        memcpy(lap, w.pool.lap, sizeof lap);
        memcpy(prompt, w.pool.prompt, sizeof prompt);
        run_round(&w);
        for (int i = 0; i < SLOTS; i++) {
            bool arrived = index[i] == NPO_POOL_ARRIVED;
            int from = arrived ? STEPS - 1 : index[i], steps = from - w.pool.index[i];
            assert_int_equal(w.pool.lap[i], lap[i] + arrived);
            assert_int_equal(w.segment.t_cut[i], w.pool.index[i] >= 0 ? grid[w.pool.index[i]] : 0);
            laps_ended += arrived;
            if (arrived) {
                assert_true(steps >= 1 && steps <= SEGMENT);
                assert_int_equal(w.pool.segments[i], 1);
                prompts_seen |= 1 << w.pool.prompt[i];
            } else {
                assert_int_equal(steps, from >= SEGMENT - 1 ? SEGMENT : from + 1);
                assert_int_equal(w.pool.prompt[i], prompt[i]);
            }
        }
    }
    assert_true(laps_ended > SLOTS * 5);
    assert_int_equal(prompts_seen, (1 << PROMPTS) - 1);
    world_fini(&w);
}

/* A training sample costs at most 6 evaluations, none of them conditional at w = -1; 11 with a
 * branch, where the mixture of two predictions is one evaluation. */
static void test_trajectory_counts_evaluations(void **state)
{
    world w;
    world_init(&w, options_of(-1, NPO_STARTS_NOISE, false), 0, 1, SLOTS, SLOTS);
    for (int round = 0; round < ROUNDS; round++) {
        fake_denoiser_init(&w.fake, FLOATS);
        run_round(&w);
        assert_int_equal(w.fake.conditional, 0);
        assert_true(w.fake.unconditional <= 6 * SLOTS && w.fake.calls <= 6);
    }
    world_fini(&w);
    world_init(&w, options_of(-5, NPO_STARTS_NOISE, false), 0, 1, SLOTS, SLOTS);
    for (int round = 0; round < ROUNDS; round++) {
        fake_denoiser_init(&w.fake, FLOATS);
        run_round(&w);
        /* weakened: one of each; rolling: conditional only */
        int64_t weakened = w.fake.unconditional, rolling = w.fake.conditional - weakened;
        assert_true(weakened <= 6 * SLOTS && rolling <= 5 * SLOTS);
        assert_true(w.fake.conditional <= 11 * SLOTS);
    }
    world_fini(&w);
    world_init(&w, options_of(-1, NPO_STARTS_FULL, false), 0, 1, SLOTS, SLOTS);
    run_round(&w);
    assert_int_equal(w.fake.conditional, 0);
    assert_int_equal(w.fake.unconditional, 26 * SLOTS);
    world_fini(&w);
}

static void assert_same_segments(const npo_segment *a, int64_t a_row, const npo_segment *b,
                                 int64_t b_row)
{
    assert_int_equal(a->slot[a_row], b->slot[b_row]);
    assert_int_equal(a->lap[a_row], b->lap[b_row]);
    assert_int_equal(a->prompt[a_row], b->prompt[b_row]);
    assert_int_equal(a->t_cut[a_row], b->t_cut[b_row]);
    assert_memory_equal(a->x_cut + a_row * FLOATS, b->x_cut + b_row * FLOATS,
                        FLOATS * sizeof *a->x_cut);
    assert_memory_equal(a->x0_target + a_row * FLOATS, b->x0_target + b_row * FLOATS,
                        FLOATS * sizeof *a->x0_target);
}

/* The same slots, as one pool, as three interleaved pools, and in small pieces: the same bits. */
static void test_trajectory_does_not_depend_on_the_split(void **state)
{
    static const double weights[] = {-1, -5};
    for (size_t k = 0; k < sizeof weights / sizeof *weights; k++) {
        npo_trajectory_options options = options_of(weights[k], NPO_STARTS_NOISE, true);
        world whole, parts[3];
        npo_error error = {0};
        world_init(&whole, options, 0, 1, SLOTS, SLOTS);
        for (int p = 0; p < 3; p++)
            world_init(&parts[p], options, p, 3, SLOTS / 3, 1 + 3 * p);
        for (int round = 0; round < 12; round++) {
            run_round(&whole);
            run_round(&parts[0]);
            run_round(&parts[1]);
            world *w = &parts[2]; /* rows by hand, the last first */
            for (int64_t row = w->pool.count - 1; row >= 0; row--) {
                assert_int_equal(
                    npo_trajectory_generate(w->trajectory, &w->fake.base, &w->pool, row, 1, &error),
                    NPO_OK);
                assert_int_equal(npo_trajectory_truncate(w->trajectory, &w->fake.base, &w->pool,
                                                         row, 1, &w->segment, &error),
                                 NPO_OK);
            }
            for (int slot = 0; slot < SLOTS; slot++)
                assert_same_segments(&whole.segment, slot, &parts[slot % 3].segment, slot / 3);
        }
        world_fini(&whole);
        for (int p = 0; p < 3; p++)
            world_fini(&parts[p]);
    }
}

/* Written and read back between generate and truncate and between rounds: the same bits. */
static void test_trajectory_continues_from_a_file_bit_for_bit(void **state)
{
    static const double weights[] = {-1, -5};
    char path[] = "/tmp/npo-trajectory-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (size_t k = 0; k < sizeof weights / sizeof *weights; k++) {
        npo_trajectory_options options = options_of(weights[k], NPO_STARTS_NOISE, true);
        world straight, stored;
        npo_error error = {0};
        world_init(&straight, options, 0, 1, SLOTS, SLOTS);
        world_init(&stored, options, 0, 1, SLOTS, SLOTS);
        for (int round = 0; round < 12; round++) {
            run_round(&straight);
            for (int phase = 0; phase < 2; phase++) {
                npo_pool back;
                assert_int_equal(npo_pool_save(&stored.pool, path, &error), NPO_OK);
                assert_int_equal(npo_pool_load(path, shape, &back, &error), NPO_OK);
                npo_pool_fini(&stored.pool);
                stored.pool = back;
                assert_int_equal(phase == 0
                                     ? npo_trajectory_generate(stored.trajectory, &stored.fake.base,
                                                               &stored.pool, 0, SLOTS, &error)
                                     : npo_trajectory_truncate(stored.trajectory, &stored.fake.base,
                                                               &stored.pool, 0, SLOTS,
                                                               &stored.segment, &error),
                                 NPO_OK);
            }
            for (int i = 0; i < SLOTS; i++)
                assert_same_segments(&straight.segment, i, &stored.segment, i);
        }
        world_fini(&straight);
        world_fini(&stored);
    }
    assert_int_equal(npo_file_remove(path, NULL), NPO_OK);
}

/* ---- other starts ---- */

enum { IMAGES = 5 };

static npo_err get_image(void *self, int64_t index, float *ret_x, int32_t *ret_prompt,
                         npo_error *error)
{
    if (self)
        return npo_error_set(error, NPO_E_IO, "image %lld is gone", (long long)index);
    for (int k = 0; k < FLOATS; k++)
        ret_x[k] = (float)index + (float)k / 10;
    *ret_prompt = (int32_t)index + 100;
    return NPO_OK;
}

static void test_trajectory_latents_start_from_images(void **state)
{
    const npo_latent_source source = {.count = IMAGES, .get = get_image};
    npo_trajectory_options options = options_of(-5, NPO_STARTS_LATENTS, false);
    options.latents = &source;
    options.prompt_count = IMAGES + 100; /* get_image numbers them from 100 */
    assert_false(npo_trajectory_has_branch(&options));
    world w;
    bool starts[STEPS] = {false}, images[IMAGES] = {false};
    world_init(&w, options, 0, 1, SLOTS, SLOTS);
    for (int round = 0; round < 10; round++) {
        run_round(&w);
        assert_true(w.fake.unconditional <= 6 * SLOTS * (round + 1));
        for (int i = 0; i < SLOTS; i++) {
            npo_rng which = npo_rng_stream(99, NPO_RNG_START_LATENT, (uint32_t)i, (uint32_t)round);
            npo_rng where = npo_rng_stream(99, NPO_RNG_START_INDEX, (uint32_t)i, (uint32_t)round);
            npo_rng x_T = npo_rng_stream(99, NPO_RNG_X_T, (uint32_t)i, (uint32_t)round);
            int64_t image = (int64_t)npo_rng_below(&which, 0, IMAGES);
            int start = (int)npo_rng_below(&where, 0, STEPS);
            float noise[FLOATS];
            npo_rng_gaussians(&x_T, FLOATS, noise);
            model m = {.prompt = (int)image + 100};
            double bar = npo_schedule_alpha_bar(schedule, grid[start]);
            for (int k = 0; k < FLOATS; k++)
                m.x[k] = sqrt(bar) * ((double)image + k / 10.0) + sqrt(1 - bar) * (double)noise[k];
            int index = start;
            for (int s = 0; s < SEGMENT && index >= 0; s++, index--)
                model_step(&m, -5, index, m.x);
            assert_int_equal(w.segment.lap[i], round);
            assert_int_equal(w.segment.prompt[i], m.prompt);
            assert_int_equal(w.segment.t_cut[i], index >= 0 ? grid[index] : 0);
            for (int k = 0; k < FLOATS; k++)
                assert_true(fabs((double)w.segment.x_cut[i * FLOATS + k] - m.x[k]) <
                            1e-3 * (1 + fabs(m.x[k])));
            starts[start] = images[image] = true;
        }
    }
    for (int k = 0; k < STEPS; k++)
        assert_true(starts[k]);
    for (int k = 0; k < IMAGES; k++)
        assert_true(images[k]);
    world_fini(&w);
}

static void test_trajectory_full_goes_to_the_end_every_time(void **state)
{
    world w;
    world_init(&w, options_of(-1, NPO_STARTS_FULL, true), 0, 1, SLOTS, SLOTS);
    for (int round = 0; round < 3; round++) {
        run_round(&w);
        for (int i = 0; i < SLOTS; i++) {
            model m = {.slot = i, .lap = round};
            model_begin(&m, 99);
            for (int index = STEPS - 1; index >= 0; index--)
                model_step(&m, -1, index, m.x);
            assert_int_equal(w.segment.lap[i], round);
            assert_int_equal(w.segment.t_cut[i], 0);
            for (int k = 0; k < FLOATS; k++)
                assert_true(fabs((double)w.segment.x_cut[i * FLOATS + k] - m.x[k]) <
                            1e-3 * (1 + fabs(m.x[k])));
        }
    }
    world_fini(&w);
}

/* ---- failures ---- */

static void test_trajectory_refuses_wrong_options(void **state)
{
    npo_trajectory_options rows[9];
    for (size_t i = 0; i < 9; i++)
        rows[i] = options_of(-1, NPO_STARTS_NOISE, true);
    rows[0].solver_steps = 0;
    rows[1].solver_steps = 1000;
    rows[2].segment_steps = 0;
    rows[3].segment_steps = STEPS + 1;
    rows[4].w = NAN;
    rows[5].prompt_count = 0;
    rows[6].starts = NPO_STARTS_LATENTS;
    rows[8].starts = NPO_STARTS_FULL;
    rows[8].prompt_count = 0;
    for (size_t i = 0; i < 9; i++) {
        npo_trajectory *trajectory = NULL;
        npo_error error = {0};
        int64_t rows_max = i == 7 ? 0 : 1;
        assert_int_equal(npo_trajectory_new(&rows[i], shape, rows_max, &trajectory, &error),
                         NPO_E_RANGE);
        assert_null(trajectory);
        assert_true(strlen(error.text) > 10);
    }
    npo_trajectory *trajectory = NULL;
    const npo_latent_shape huge = {INT64_C(1) << 20, INT64_C(1) << 20, 4};
    npo_trajectory_options options = options_of(-1, NPO_STARTS_NOISE, true);
    npo_err err = npo_trajectory_new(&options, huge, INT64_C(1) << 40, &trajectory, NULL);
    assert_true(err == NPO_E_RANGE || err == NPO_E_NOMEM);
    assert_null(trajectory);
}

static npo_err generate(world *w, npo_error *error)
{
    return npo_trajectory_generate(w->trajectory, &w->fake.base, &w->pool, 0, w->pool.count, error);
}

static npo_err truncate_all(world *w, npo_error *error)
{
    return npo_trajectory_truncate(w->trajectory, &w->fake.base, &w->pool, 0, w->pool.count,
                                   &w->segment, error);
}

static void test_trajectory_refuses_pools_of_other_settings(void **state)
{
    world w;
    npo_error error = {0};
    world_init(&w, options_of(-1, NPO_STARTS_NOISE, false), 3, 1, 4, 4);
    assert_int_equal(truncate_all(&w, &error), NPO_E_STATE);
    assert_non_null(strstr(error.text, "slot 3"));
    assert_int_equal(generate(&w, &error), NPO_OK);
    w.pool.index[1] = STEPS;
    assert_int_equal(generate(&w, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "slot 4"));
    w.pool.index[1] = 0;
    w.pool.prompt[2] = PROMPTS;
    assert_int_equal(generate(&w, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "slot 5"));
    w.pool.prompt[2] = 0;
    w.pool.shape.width++;
    assert_int_equal(generate(&w, &error), NPO_E_SHAPE);
    w.pool.shape.width--;
    world branching;
    world_init(&branching, options_of(-5, NPO_STARTS_NOISE, false), 3, 1, 4, 4);
    assert_int_equal(
        npo_trajectory_generate(branching.trajectory, &w.fake.base, &w.pool, 0, 4, &error),
        NPO_E_STATE);
    assert_int_equal(
        npo_trajectory_generate(w.trajectory, &w.fake.base, &branching.pool, 0, 4, &error),
        NPO_E_STATE);
    world_fini(&w);
    world_fini(&branching);
}

static void test_trajectory_passes_errors_of_the_network_on(void **state)
{
    for (int64_t call = 1; call <= 17; call++) {
        world w;
        npo_error error = {0};
        world_init(&w, options_of(-5, NPO_STARTS_NOISE, false), 0, 1, 20, 20);
        w.fake.fail_at = call;
        npo_err err = generate(&w, &error);
        if (!err)
            err = truncate_all(&w, &error);
        assert_int_equal(err, NPO_E_LIBRARY);
        world_fini(&w);
    }
}

static void test_trajectory_passes_errors_of_the_data_on(void **state)
{
    int gone = 1;
    const npo_latent_source source = {.self = &gone, .count = IMAGES, .get = get_image};
    npo_trajectory_options options = options_of(-1, NPO_STARTS_LATENTS, false);
    options.latents = &source;
    world w;
    npo_error error = {0};
    world_init(&w, options, 0, 1, 4, 4);
    assert_int_equal(generate(&w, &error), NPO_E_IO);
    world_fini(&w);
}

static void test_trajectory_stops_on_divergence(void **state)
{
    world w;
    npo_error error = {0};
    npo_trajectory_options options = options_of(-1, NPO_STARTS_NOISE, false);
    options.rms_ratio_max = NPO_TRAJECTORY_RMS_RATIO_MAX;
    world_init(&w, options, 7, 1, 3, 3);
    assert_int_equal(generate(&w, &error), NPO_OK);
    for (int k = 0; k < FLOATS; k++)
        w.pool.x[FLOATS + k] = 6;
    assert_int_equal(truncate_all(&w, &error), NPO_E_DIVERGED);
    assert_non_null(strstr(error.text, "slot 8"));
    assert_non_null(strstr(error.text, "RMS 6"));
    for (int k = 0; k < FLOATS; k++)
        w.pool.x[FLOATS + k] = 4;
    assert_int_equal(truncate_all(&w, &error), NPO_OK);
    npo_trajectory_rms rms = npo_trajectory_measure(&w.segment);
    assert_int_equal(rms.worst_slot, 8);
    assert_true(fabs(rms.ratio_max - 4) < 1e-6 && rms.rms > 4 / sqrt(3) && rms.rms < 4);
    world_fini(&w);
    /* a value that is not finite stops also without a limit */
    world_init(&w, options_of(-1, NPO_STARTS_NOISE, false), 0, 1, 3, 3);
    w.fake.scale = NAN;
    assert_int_equal(generate(&w, &error), NPO_OK);
    assert_int_equal(truncate_all(&w, &error), NPO_E_DIVERGED);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectory_rolls_as_the_method_says),
        cmocka_unit_test(test_trajectory_branches_as_the_method_says),
        cmocka_unit_test(test_trajectory_cuts_fall_on_every_grid_index),
        cmocka_unit_test(test_trajectory_stagger_fills_the_first_round),
        cmocka_unit_test(test_trajectory_laps_begin_and_end),
        cmocka_unit_test(test_trajectory_counts_evaluations),
        cmocka_unit_test(test_trajectory_does_not_depend_on_the_split),
        cmocka_unit_test(test_trajectory_continues_from_a_file_bit_for_bit),
        cmocka_unit_test(test_trajectory_latents_start_from_images),
        cmocka_unit_test(test_trajectory_full_goes_to_the_end_every_time),
        cmocka_unit_test(test_trajectory_refuses_wrong_options),
        cmocka_unit_test(test_trajectory_refuses_pools_of_other_settings),
        cmocka_unit_test(test_trajectory_passes_errors_of_the_network_on),
        cmocka_unit_test(test_trajectory_passes_errors_of_the_data_on),
        cmocka_unit_test(test_trajectory_stops_on_divergence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
