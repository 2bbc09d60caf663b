/* Seconds a step of the demo network on this machine, measured as bench/peer_torch.py measures
 * PyTorch's: random inputs, the published shapes, the median over repeats behind two warm-ups.
 *
 *   train-step     forward and backward of the mean squared error, clip, AdamW, EMA
 *   self-npo-step  one optimizer step of Self-NPO: a whole segment of solver steps for every sample
 * of the batch, the target at the cut, re-noising, then the training step and the offset's norms
 *   forward        one evaluation of the network
 *
 * Prints one number, or with --json one line that also has the memory that was planned and the most
 * there was. */
#include "common/clock.h"
#include "common/memory.h"
#include "common/options.h"
#include "common/rng.h"
#include "worker/diffusion/trajectory/trajectory.h"
#include "worker/model/folder.h"
#include "worker/train/budget.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SOLVER_STEPS = 25,
    SEGMENT_STEPS = 5,
    TRAIN_TIMESTEPS = 1000,
    WARM_UPS = 2,
    REPEATS_MAX = 1000
};

typedef struct {
    int64_t batch, threads, repeat, warm_ups, context_len, memory;
    const char *isa;
    bool bf16, adamw8bit, json;
} settings;

#define ROW(name, type, member, argument, help, min, max)                                          \
    {                                                                                              \
        name, 0, type, NPO_OPTION_FLAG_ONLY, offsetof(settings, member), argument, help, min, max  \
    }
static const npo_option options[] = {
    ROW("batch", NPO_OPTION_INT, batch, "N", "samples a step (64)", 1, 4096),
    ROW("threads", NPO_OPTION_INT, threads, "N", "CPU threads (2)", 1, 1024),
    ROW("repeat", NPO_OPTION_INT, repeat, "N", "steps measured (8)", 1, REPEATS_MAX),
    ROW("warm-ups", NPO_OPTION_INT, warm_ups, "N", "steps before them (2)", 0, REPEATS_MAX),
    ROW("context-len", NPO_OPTION_INT, context_len, "N", "tokens of a prompt (16)", 1, 4096),
    ROW("memory", NPO_OPTION_BYTES, memory, "BYTES", "may be used (what the machine has)", 0, 1e15),
    ROW("bf16", NPO_OPTION_BOOL, bf16, NULL, "compute in bf16", 0, 0),
    ROW("adamw8bit", NPO_OPTION_BOOL, adamw8bit, NULL, "the optimizer's state in 8 bits", 0, 0),
    ROW("json", NPO_OPTION_BOOL, json, NULL, "print seconds and memory", 0, 0),
    ROW("isa", NPO_OPTION_STRING, isa, "NAME", "avx512, avx2 or portable (the best)", 0, 0),
};

static const npo_options_spec spec = {
    .program = "bench-train-step",
    .usage = "[OPTION...] train-step|self-npo-step|forward MODEL_DIR",
    .text = "Prints the median seconds of one optimizer step of MODEL_DIR's network.",
    .example = "bench-train-step train-step models/fashion --threads 2",
    .options = options,
    .count = sizeof(options) / sizeof(*options),
    .rest_max = 2,
};

/* Everything a step needs; zeroed, then filled by bench_open. */
typedef struct {
    settings set;
    npo_backend *backend;
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params; /* forward */
    npo_weight_view *base;
    npo_network *network;
    npo_schedule *schedule;
    float *rows; /* batch + 1 text embeddings, the last for the empty prompt */
    npo_prompts prompts;
    npo_trainer *trainer;
    size_t planned; /* bytes */
    npo_plan_info plan;
    npo_network_denoiser *denoiser; /* runs the trainer's EMA */
    npo_trajectory_options trajectory_options;
    npo_trajectory *trajectory;
    npo_pool start, pool;
    npo_segment segment;
    npo_batch batch;
    int64_t *slots; /* 0 .. batch-1 */
} bench;

static void gaussians(uint32_t stream, size_t n, float *ret)
{
    const npo_rng rng = npo_rng_stream(0, NPO_RNG_NOISE, stream, 0);
    npo_rng_gaussians(&rng, n, ret);
}

static npo_err open_model(bench *b, const char *dir, npo_error *error)
{
    const npo_backend_options backend = {
        .device = "cpu", .threads = (int)b->set.threads, .isa = b->set.isa};
    npo_schedule_config schedule;
    NPO_TRY(npo_backend_new(&backend, &b->backend, error));
    NPO_TRY(npo_folder_open(dir, &b->folder, error));
    NPO_TRY(npo_folder_unet(&b->folder, b->backend, &b->config, &b->layout, error));
    NPO_TRY(npo_folder_view_unet(&b->folder, b->layout, &b->base, error));
    NPO_TRY(npo_schedule_config_load(b->folder.scheduler_config, &schedule, error));
    return npo_schedule_new(&schedule, &b->schedule, error);
}

static npo_err open_prompts(bench *b)
{
    const size_t floats = (size_t)(b->set.context_len * npo_unet_config_context(&b->config)) +
                          (size_t)npo_unet_config_added(&b->config);
    const size_t rows = (size_t)b->set.batch + 1;
    b->rows = calloc(rows * floats + 1, sizeof(float));
    if (!b->rows)
        return NPO_E_NOMEM;
    gaussians(1, rows * floats, b->rows);
    b->prompts = (npo_prompts){.rows = b->rows,
                               .count = b->set.batch,
                               .empty = b->rows + (rows - 1) * floats,
                               .floats = floats};
    return NPO_OK;
}

static npo_compute compute_of(const bench *b)
{
    return b->set.bf16 ? NPO_COMPUTE_BF16 : NPO_COMPUTE_F32;
}

/* The network alone, with weights of its own. */
static npo_err open_forward(bench *b, npo_error *error)
{
    const size_t used = npo_memory_resident();
    NPO_TRY(npo_network_prepare(b->network, b->set.batch, &b->plan, error));
    NPO_TRY(npo_params_new(b->layout, &b->params));
    NPO_TRY(npo_folder_load_unet(&b->folder, b->params, error));
    b->planned = used + npo_layout_floats(b->layout) * sizeof(float) + b->plan.arena_bytes +
                 b->plan.private_bytes;
    return NPO_OK;
}

static npo_err open_trainer(bench *b, const npo_network_shape *shape, npo_error *error)
{
    npo_trainer_options trainer = {
        .backend = b->backend,
        .layout = b->layout,
        .config = &b->config,
        .shape = *shape,
        .prompts = &b->prompts,
        .micro_batch = b->set.batch,
        .loss = NPO_LOSS_MSE,
        .huber_c = 1e-3,
        .compute = compute_of(b),
        .optimizer = b->set.adamw8bit ? NPO_OPTIMIZER_ADAMW8BIT : NPO_OPTIMIZER_ADAMW,
        .hyper = {.lr = 1e-4,
                  .weight_decay = 1e-3,
                  .beta1 = 0.9,
                  .beta2 = 0.999,
                  .eps = 1e-8,
                  .clip = 1,
                  .ema_decay = 0.999,
                  .lr_schedule = NPO_LR_CONSTANT,
                  .steps = REPEATS_MAX + WARM_UPS},
    };
    npo_budget budget;
    NPO_TRY(npo_budget_plan((size_t)b->set.memory, &trainer, &budget, error));
    NPO_TRY(npo_trainer_new(&trainer, &b->trainer, error));
    b->plan = *npo_trainer_plan(b->trainer);
    b->planned = npo_budget_total(&budget, &b->plan);
    NPO_TRY(npo_folder_load_unet(&b->folder, npo_trainer_student(b->trainer), error));
    npo_trainer_begin(b->trainer, npo_trainer_student(b->trainer));
    return NPO_OK;
}

/* Without stagger, the second segment of a lap takes every step of a segment for every slot: it is
 * that one which is measured, from the same start each time. */
static npo_err open_trajectory(bench *b, npo_latent_shape shape, const npo_params *target,
                               npo_error *error)
{
    const int64_t n = b->set.batch;
    b->trajectory_options = (npo_trajectory_options){.schedule = b->schedule,
                                                     .solver_steps = SOLVER_STEPS,
                                                     .segment_steps = SEGMENT_STEPS,
                                                     .w = -1,
                                                     .starts = NPO_STARTS_NOISE,
                                                     .prompt_count = n};
    NPO_TRY(npo_network_denoiser_new(b->network, target, &b->prompts, n, &b->denoiser, error));
    NPO_TRY(npo_trajectory_new(&b->trajectory_options, shape, n, &b->trajectory, error));
    NPO_TRY(npo_pool_init(&b->start, shape, n, b->slots, false));
    NPO_TRY(npo_pool_init(&b->pool, shape, n, b->slots, false));
    return npo_segment_init(&b->segment, shape, n);
}

static void fill_batch(bench *b)
{
    const size_t floats = (size_t)b->batch.n * b->batch.sample_floats;
    const npo_rng rng = npo_rng_stream(0, NPO_RNG_TIMESTEP, 0, 0);
    gaussians(2, floats, b->batch.x);
    gaussians(3, floats, b->batch.target);
    for (int64_t i = 0; i < b->batch.n; i++) {
        b->batch.t[i] = (float)npo_rng_below(&rng, (uint32_t)i, TRAIN_TIMESTEPS);
        b->batch.ca[i] = 0;
        b->batch.cb[i] = 1;
        b->batch.prompt[i] = (int32_t)i;
    }
}

static npo_err bench_open(bench *b, const char *dir, bool trains, npo_error *error)
{
    NPO_TRY(open_model(b, dir, error));
    if (b->config.sample_height == 0 || b->config.in_channels != b->config.out_channels)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "cannot measure '%s': expected a sample_size and as many channels out "
                             "as in",
                             dir);
    const npo_network_shape shape = {b->config.sample_height, b->config.sample_width,
                                     b->set.context_len};
    const npo_latent_shape latent = {shape.height, shape.width, b->config.in_channels};
    b->slots = calloc((size_t)b->set.batch, sizeof(*b->slots));
    if (!b->slots)
        return NPO_E_NOMEM;
    for (int64_t i = 0; i < b->set.batch; i++)
        b->slots[i] = i;
    NPO_TRY(npo_network_new(b->backend, b->layout, &b->config, &shape, &b->network, error));
    npo_network_set_plan(b->network, (npo_network_plan){.compute = compute_of(b)});
    NPO_TRY(open_prompts(b));
    NPO_TRY(trains ? open_trainer(b, &shape, error) : open_forward(b, error));
    NPO_TRY(npo_batch_init(&b->batch, b->set.batch, npo_latent_floats(latent)));
    NPO_TRY(open_trajectory(b, latent, trains ? npo_trainer_ema(b->trainer) : b->params, error));
    fill_batch(b);
    return NPO_OK;
}

static void bench_close(bench *b)
{
    npo_batch_fini(&b->batch);
    npo_segment_fini(&b->segment);
    npo_pool_fini(&b->pool);
    npo_pool_fini(&b->start);
    npo_trajectory_free(b->trajectory);
    npo_network_denoiser_free(b->denoiser);
    npo_trainer_free(b->trainer);
    npo_network_free(b->network);
    npo_schedule_free(b->schedule);
    npo_params_free(b->params);
    npo_weight_view_close(b->base);
    npo_layout_unref(b->layout);
    npo_folder_fini(&b->folder);
    npo_backend_free(b->backend);
    free(b->rows);
    free(b->slots);
}

static npo_err step_train(bench *b, npo_error *error)
{
    npo_train_result result;
    return npo_trainer_step(b->trainer, &b->batch, &result, error);
}

static void pool_restore(npo_pool *to, const npo_pool *from)
{
    const size_t n = (size_t)from->count;
    memcpy(to->index, from->index, n * sizeof(*to->index));
    memcpy(to->lap, from->lap, n * sizeof(*to->lap));
    memcpy(to->segments, from->segments, n * sizeof(*to->segments));
    memcpy(to->prompt, from->prompt, n * sizeof(*to->prompt));
    memcpy(to->x, from->x, n * npo_latent_floats(from->shape) * sizeof(*to->x));
}

static npo_err step_self_npo(bench *b, npo_error *error)
{
    const npo_denoiser *target = npo_network_denoiser_get(b->denoiser);
    const int64_t n = b->set.batch;
    const npo_batch_draws draws = {.schedule = b->schedule,
                                   .step = npo_trainer_step_count(b->trainer)};
    if (npo_trainer_step_count(b->trainer) == 0)
        NPO_TRY(npo_trajectory_generate(b->trajectory, target, &b->start, 0, n, error));
    pool_restore(&b->pool, &b->start);
    npo_network_denoiser_use(b->denoiser, npo_trainer_ema(b->trainer));
    NPO_TRY(npo_trajectory_generate(b->trajectory, target, &b->pool, 0, n, error));
    NPO_TRY(npo_trajectory_truncate(b->trajectory, target, &b->pool, 0, n, &b->segment, error));
    NPO_TRY(npo_batch_renoise(&b->batch, &draws, &b->segment, b->slots, error));
    NPO_TRY(step_train(b, error));
    npo_offset_norms norms;
    const npo_offset_base base = npo_offset_base_in(b->base);
    return npo_trainer_offset(b->trainer, &base, &norms, error);
}

static npo_err step_forward(bench *b, npo_error *error)
{
    const npo_denoiser *network = npo_network_denoiser_get(b->denoiser);
    return network->predict(network->self, b->batch.n, b->batch.x, b->batch.t, b->batch.prompt,
                            b->batch.target, error);
}

typedef struct {
    const char *name;
    npo_err (*step)(bench *b, npo_error *error);
    bool trains;
} step_kind;

static const step_kind kinds[] = {{"train-step", step_train, true},
                                  {"self-npo-step", step_self_npo, true},
                                  {"forward", step_forward, false}};

static const step_kind *kind_find(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

static int compare_ns(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static npo_err measure(bench *b, const step_kind *kind, double *ret_seconds, npo_error *error)
{
    int64_t ns[REPEATS_MAX];
    const int64_t repeats = b->set.repeat;
    for (int64_t i = -b->set.warm_ups; i < repeats; i++) {
        const int64_t start = npo_clock_ns();
        NPO_TRY(kind->step(b, error));
        if (i >= 0)
            ns[i] = npo_clock_ns() - start;
    }
    qsort(ns, (size_t)repeats, sizeof(*ns), compare_ns);
    *ret_seconds = (double)(ns[(repeats - 1) / 2] + ns[repeats / 2]) / 2e9;
    return NPO_OK;
}

static void print_json(const bench *b, const step_kind *kind, double seconds)
{
    const double mib = 1 << 20, planned = (double)b->planned / mib;
    const double peak = (double)npo_memory_peak() / mib;
    printf("{\"bench\": \"%s\", \"compute\": \"%s\", \"optimizer\": \"%s\", \"seconds\": %.3f, "
           "\"planned_mib\": %.0f, \"peak_mib\": %.0f, \"ratio\": %.3f, \"arena_mib\": %.0f, "
           "\"blocks\": %d, \"computed_twice\": %d}\n",
           kind->name, b->set.bf16 ? "bf16" : "f32",
           !kind->trains      ? "none"
           : b->set.adamw8bit ? "adamw8bit"
                              : "adamw",
           seconds, planned, peak, peak / planned, (double)b->plan.arena_bytes / mib,
           b->plan.blocks, b->plan.recomputed_blocks);
}

static npo_err run(bench *b, char **rest, int rest_count, npo_error *error)
{
    double seconds = 0;
    const step_kind *kind = rest_count == 2 ? kind_find(rest[0]) : NULL;
    if (!kind)
        return npo_error_set(error, NPO_E_USAGE,
                             "expected 'train-step', 'self-npo-step' or 'forward', then a model "
                             "folder");
    NPO_TRY(bench_open(b, rest[1], kind->trains, error));
    NPO_TRY(measure(b, kind, &seconds, error));
    if (b->set.json)
        print_json(b, kind, seconds);
    else
        printf("%.6f\n", seconds);
    return NPO_OK;
}

int main(int argc, char **argv)
{
    bench b = {
        .set = {.batch = 64, .threads = 2, .repeat = 8, .warm_ups = WARM_UPS, .context_len = 16}};
    npo_options *read = NULL;
    npo_error error = {0};
    int rest_count = 0;
    npo_err err = npo_options_read(&spec, argc, argv, &b.set, &read, &error);
    if (err != NPO_OK)
        goto out;
    if (npo_options_answer(&spec, read, &b.set, stdout))
        goto out;
    char **rest = npo_options_rest(read, &rest_count);
    err = run(&b, rest, rest_count, &error);
out:
    if (err != NPO_OK)
        fprintf(stderr, "bench-train-step: %s\n", error.text[0] ? error.text : npo_err_text(err));
    bench_close(&b);
    npo_options_free(read);
    return err == NPO_OK ? 0 : err == NPO_E_USAGE ? 2 : 1;
}
