/* self-npo-w<W>.safetensors: three optimizer steps of the training method with every draw given.
 * `i.x_start`, `i.start_index` -> `i.x_cut`, `i.t_cut`, `i.x0_target`; `i.t`, `i.noise` -> `i.x_t`,
 * `i.x0_pred`, `i.loss`, `i.grad_norm`; then of some parameters the clipped gradient, the student
 * and the EMA after the step.
 *
 * AdamW's first steps are nearly lr * sign(g): where rounding decides a sign, two correct programs
 * part by 2 lr, and the gradient of the next step is taken at another point. With some seeds this
 * moves the third gradient by more than the tolerance: PyTorch with one thread then misses what
 * PyTorch with two threads wrote. How far it goes is measured here: the steps are repeated from
 * weights moved by one unit in the last place, and what comes out of a step may miss the reference
 * by the tolerance, or by CASE_SPREAD_FACTOR times what that repetition moves it. */
#include "tests/reference/case_pipeline.h"

#include "kernels/vec.h"
#include "worker/diffusion/trajectory/trajectory.h"
#include "worker/train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 3, SAMPLES = 4, KEPT_MAX = 16, REPETITIONS = 4 };

/* Where g is small next to the tensor's largest, only a bound of this many learning rates a step
 * holds for the student. */
#define LARGE_GRADIENT      1e-2
#define SMALL_GRADIENT_STEP 2.1

static const npo_train_hyper hyper = {.lr = 1e-3,
                                      .weight_decay = 1e-3,
                                      .beta1 = 0.9,
                                      .beta2 = 0.999,
                                      .eps = 1e-8,
                                      .clip = 1,
                                      .ema_decay = 0.999,
                                      .steps = STEPS};

typedef struct {
    npo_backend *backend; /* borrowed */
    case_pipeline pipeline;
    npo_safetensors *file;
    double w;
    npo_trajectory *trajectory;
    npo_network_denoiser *target;
    npo_trainer *trainer;
    npo_pool pool;
    npo_segment segment;
    npo_batch batch;
    npo_train_result result;              /* of the last step */
    const npo_param_info *kept[KEPT_MAX]; /* parameters of which the file keeps the state */
    size_t kept_count;
    /* One line of output each. */
    case_worst generated, trained[STEPS], grads[STEPS], fed, large[STEPS], small;
} self_npo_case;

static npo_err find(const self_npo_case *c, int step, const char *name,
                    const npo_tensor **ret_tensor, npo_error *error)
{
    char full[NPO_PARAM_NAME_MAX + 32];
    snprintf(full, sizeof full, "%d.%s", step, name);
    return case_find(c->file, full, ret_tensor, error);
}

static npo_err read_integers(const self_npo_case *c, int step, const char *name,
                             int32_t *ret_values, npo_error *error)
{
    const npo_tensor *tensor = NULL;
    int64_t values[SAMPLES];
    NPO_TRY(find(c, step, name, &tensor, error));
    if (tensor->count != SAMPLES || tensor->dtype != NPO_TENSOR_I64)
        return npo_error_set(error, NPO_E_SHAPE, "'%s' is not [%d] of I64", tensor->name, SAMPLES);
    npo_tensor_read_i64(tensor, 0, SAMPLES, values);
    for (int i = 0; i < SAMPLES; i++)
        ret_values[i] = (int32_t)values[i];
    return NPO_OK;
}

/* ---- loading ---- */

static npo_err make_trajectory(self_npo_case *c, npo_error *error)
{
    static const int64_t slots[SAMPLES] = {0, 1, 2, 3};
    /* Rows are placed by hand below, in the middle of a lap, so that nothing is drawn; with w < -1
     * the weakened steps are those of the branch. */
    const npo_trajectory_options options = {.schedule = c->pipeline.schedule,
                                            .solver_steps = 25,
                                            .segment_steps = 5,
                                            .w = c->w,
                                            .starts = NPO_STARTS_NOISE,
                                            .prompt_count = c->pipeline.prompts.count};
    NPO_TRY(npo_trajectory_new(&options, c->pipeline.latent, SAMPLES, &c->trajectory, error));
    NPO_TRY(npo_pool_init(&c->pool, c->pipeline.latent, SAMPLES, slots,
                          npo_trajectory_has_branch(&options)));
    return npo_segment_init(&c->segment, c->pipeline.latent, SAMPLES);
}

static npo_err make_trainer(self_npo_case *c, const case_env *env, npo_error *error)
{
    const npo_trainer_options options = {.backend = env->backend,
                                         .layout = c->pipeline.layout,
                                         .config = &c->pipeline.config,
                                         .shape = c->pipeline.shape,
                                         .prompts = &c->pipeline.prompts,
                                         .micro_batch = SAMPLES,
                                         .loss = NPO_LOSS_PSEUDO_HUBER,
                                         .huber_c = 1e-3,
                                         .hyper = hyper};
    NPO_TRY(npo_trainer_new(&options, &c->trainer, error));
    npo_trainer_begin(c->trainer, c->pipeline.params);
    NPO_TRY(npo_batch_init(&c->batch, SAMPLES, npo_latent_floats(c->pipeline.latent)));
    return npo_network_denoiser_new(c->pipeline.network, npo_trainer_ema(c->trainer),
                                    &c->pipeline.prompts, SAMPLES, &c->target, error);
}

static npo_err find_kept(self_npo_case *c, npo_error *error)
{
    static const char prefix[] = "0.clipped_grad.";
    for (size_t i = 0; i < npo_safetensors_count(c->file); i++) {
        const char *name = npo_safetensors_at(c->file, i)->name;
        if (strncmp(name, prefix, sizeof prefix - 1) != 0)
            continue;
        const npo_param_info *info = npo_layout_find(c->pipeline.layout, name + sizeof prefix - 1);
        if (!info || c->kept_count == KEPT_MAX)
            return npo_error_set(error, NPO_E_NOT_FOUND, "'%s' is not a tensor of the network",
                                 name);
        c->kept[c->kept_count++] = info;
    }
    return NPO_OK;
}

/* Moves every weight by one unit in the last place, up or down as an xorshift of the seed says. */
static void perturb(npo_params *params, uint32_t seed)
{
    float *values = npo_params_edit(params);
    size_t count = npo_layout_floats(npo_params_layout(params));
    for (size_t i = 0; i < count; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        values[i] = nextafterf(values[i], seed & 1 ? INFINITY : -INFINITY);
    }
}

/* seed: of the perturbation, 0: none. */
static npo_err load(self_npo_case *c, const case_env *env, uint32_t seed, npo_error *error)
{
    const npo_tensor *x = NULL;
    c->backend = env->backend;
    if (sscanf(env->file, "self-npo-w%lf", &c->w) != 1)
        return npo_error_set(error, NPO_E_FORMAT, "'%s': no weight in the name", env->file);
    NPO_TRY(case_open(env, env->file, &c->file, error));
    NPO_TRY(find(c, 0, "x_start", &x, error));
    NPO_TRY(case_pipeline_init(&c->pipeline, env, x, error));
    if (seed)
        perturb(c->pipeline.params, seed);
    NPO_TRY(find_kept(c, error));
    NPO_TRY(make_trajectory(c, error));
    return make_trainer(c, env, error);
}

static void unload(self_npo_case *c)
{
    npo_trainer_free(c->trainer);
    npo_trajectory_free(c->trajectory);
    npo_network_denoiser_free(c->target);
    npo_pool_fini(&c->pool);
    npo_segment_fini(&c->segment);
    npo_batch_fini(&c->batch);
    case_pipeline_fini(&c->pipeline);
    npo_safetensors_close(c->file);
}

/* ---- one step ---- */

static npo_err compare_latents(self_npo_case *c, int step, const char *name, const float *values,
                               case_worst *worst, npo_error *error)
{
    const npo_tensor *expected = NULL;
    npo_latent_shape latent = c->pipeline.latent;
    const npo_shape shape = {NPO_F32, 4, {SAMPLES, latent.height, latent.width, latent.channels}};
    NPO_TRY(find(c, step, name, &expected, error));
    return case_compare_tensor(worst, expected, &shape, values, error);
}

static npo_err compare_scalar(self_npo_case *c, int step, const char *name, double value,
                              case_worst *worst, npo_error *error)
{
    const npo_tensor *expected = NULL;
    float reference = 0, computed = (float)value;
    NPO_TRY(find(c, step, name, &expected, error));
    npo_tensor_read_f32(expected, 0, 1, &reference);
    case_compare(worst, expected->name, &computed, &reference, 1);
    return NPO_OK;
}

static npo_err generate(self_npo_case *c, int step, npo_error *error)
{
    static const int32_t prompts[SAMPLES] = {0, 2, 0, 2};
    const npo_denoiser *target = npo_network_denoiser_get(c->target);
    const npo_tensor *x_start = NULL;
    int32_t t_cut[SAMPLES];
    NPO_TRY(find(c, step, "x_start", &x_start, error));
    NPO_TRY(case_read_into(x_start, c->pool.x, error));
    NPO_TRY(read_integers(c, step, "start_index", c->pool.index, error));
    NPO_TRY(read_integers(c, step, "t_cut", t_cut, error));
    for (int i = 0; i < SAMPLES; i++) {
        c->pool.prompt[i] = prompts[i];
        c->pool.segments[i] = 1;
    }
    NPO_TRY(npo_trajectory_generate(c->trajectory, target, &c->pool, 0, SAMPLES, error));
    NPO_TRY(
        npo_trajectory_truncate(c->trajectory, target, &c->pool, 0, SAMPLES, &c->segment, error));
    for (int i = 0; i < SAMPLES; i++)
        if (c->segment.t_cut[i] != t_cut[i])
            return npo_error_set(error, NPO_E_RANGE,
                                 "sample %d was cut at timestep %d, expected %d", i,
                                 c->segment.t_cut[i], t_cut[i]);
    NPO_TRY(compare_latents(c, step, "x_cut", c->segment.x_cut, &c->generated, error));
    return compare_latents(c, step, "x0_target", c->segment.x0_target, &c->generated, error);
}

/* The step leaves its gradients as they were averaged; the reference keeps them clipped. */
static void clip_grads(self_npo_case *c)
{
    npo_params *grads = npo_trainer_edit_grads(c->trainer);
    double factor = hyper.clip / (c->result.grad_norm + 1e-6);
    if (factor < 1)
        npo_vec_scale(c->backend, npo_layout_floats(npo_params_layout(grads)), (float)factor,
                      npo_params_edit(grads));
}

static npo_err train(self_npo_case *c, int step, npo_error *error)
{
    static const int64_t rows[SAMPLES] = {0, 1, 2, 3};
    const npo_tensor *noise = NULL;
    case_worst *worst = &c->trained[step];
    float *draws = NULL;
    int32_t t[SAMPLES];
    NPO_TRY(find(c, step, "noise", &noise, error));
    NPO_TRY(read_integers(c, step, "t", t, error));
    NPO_TRY(case_read(noise, &draws, error));
    npo_err err = npo_batch_renoise_given(&c->batch, c->pipeline.schedule, &c->segment, rows, t,
                                          draws, error);
    free(draws);
    if (err)
        return err;
    NPO_TRY(npo_trainer_step(c->trainer, &c->batch, &c->result, error));
    clip_grads(c);
    NPO_TRY(compare_latents(c, step, "x_t", c->batch.x, worst, error));
    NPO_TRY(compare_latents(c, step, "x0_pred", npo_trainer_prediction(c->trainer), worst, error));
    NPO_TRY(compare_scalar(c, step, "loss", c->result.loss, worst, error));
    return compare_scalar(c, step, "grad_norm", c->result.grad_norm, worst, error);
}

static const float *kept_grad(const self_npo_case *c, size_t i)
{
    return npo_params_data(npo_trainer_grads(c->trainer)) + c->kept[i]->offset;
}

/* ---- parameters after a step ---- */

/* "clipped_grad.NAME" etc. of one parameter at one step; malloc'ed [count]. */
static npo_err read_param(const self_npo_case *c, int step, const char *kind,
                          const npo_param_info *info, float **ret_values, npo_error *error)
{
    char name[NPO_PARAM_NAME_MAX + 16];
    const npo_tensor *tensor = NULL;
    snprintf(name, sizeof name, "%s.%s", kind, info->name);
    NPO_TRY(find(c, step, name, &tensor, error));
    float *values = malloc((tensor->count + 1) * sizeof *values);
    if (!values || tensor->count != info->count) {
        free(values);
        return npo_error_set(error, NPO_E_SHAPE, "'%s' has %zu values, expected %zu", tensor->name,
                             tensor->count, info->count);
    }
    npo_tensor_read_f32(tensor, 0, tensor->count, values);
    *ret_values = values;
    return NPO_OK;
}

static void keep_worst(case_worst *worst, const char *name, double error)
{
    if (*worst->tensor && error <= worst->error)
        return;
    worst->error = error;
    snprintf(worst->tensor, sizeof worst->tensor, "%s", name);
}

/* Splits the comparison by the size of the gradient, which must have been large at every step so
 * far. bound: of the small ones' difference; 0: those are not compared. */
static void compare_moved(case_worst *large_worst, case_worst *small_worst, const char *name,
                          const float *values, const float *expected, const bool *is_large,
                          size_t count, double bound)
{
    double largest = 0, large = 0, small = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)values[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        if (is_large[i])
            large = fmax(large, difference);
        else
            small = fmax(small, difference);
    }
    keep_worst(large_worst, name, large / largest);
    if (bound > 0)
        keep_worst(small_worst, name, small / bound);
}

static void mark_large(bool *is_large, const float *grad, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)grad[i]));
    for (size_t i = 0; i < count; i++)
        is_large[i] &= fabs((double)grad[i]) > LARGE_GRADIENT * largest;
}

/* AdamW and EMA on one tensor, fed the reference's gradients. */
typedef struct {
    float *student, *ema, *exp_avg, *exp_avg_sq;
    bool *is_large;
} fed_param;

static npo_err fed_init(fed_param *fed, const npo_params *base, const npo_param_info *info)
{
    float *memory = calloc(4 * info->count, sizeof *memory);
    fed->student = memory;
    fed->is_large = malloc(info->count * sizeof *fed->is_large);
    if (!memory || !fed->is_large)
        return NPO_E_NOMEM;
    fed->ema = memory + info->count;
    fed->exp_avg = memory + 2 * info->count;
    fed->exp_avg_sq = memory + 3 * info->count;
    memcpy(fed->student, npo_params_data(base) + info->offset, info->count * sizeof *memory);
    memcpy(fed->ema, npo_params_data(base) + info->offset, info->count * sizeof *memory);
    for (size_t i = 0; i < info->count; i++)
        fed->is_large[i] = true;
    return NPO_OK;
}

static void fed_fini(fed_param *fed)
{
    free(fed->student);
    free(fed->is_large);
}

static void fed_step(npo_backend *backend, fed_param *fed, size_t count, int step,
                     const float *grad)
{
    const npo_adamw adamw = {.lr = (float)hyper.lr,
                             .beta1 = (float)hyper.beta1,
                             .beta2 = (float)hyper.beta2,
                             .eps = (float)hyper.eps,
                             .weight_decay = (float)hyper.weight_decay,
                             .step = step + 1};
    npo_vec_adamw(backend, count, adamw, grad, fed->student, fed->exp_avg, fed->exp_avg_sq);
    npo_vec_lerp(backend, count, (float)(1 - hyper.ema_decay), fed->student, fed->ema);
}

typedef struct {
    float *grad, *student, *ema;
} reference;

static npo_err read_reference(const self_npo_case *c, int step, const npo_param_info *info,
                              reference *ret, npo_error *error)
{
    NPO_TRY(read_param(c, step, "clipped_grad", info, &ret->grad, error));
    NPO_TRY(read_param(c, step, "student", info, &ret->student, error));
    return read_param(c, step, "ema", info, &ret->ema, error);
}

static npo_err compare_param(self_npo_case *c, const case_env *env, int step, size_t kept,
                             fed_param *fed, npo_error *error)
{
    const npo_param_info *info = c->kept[kept];
    reference ref = {0};
    npo_err err = read_reference(c, step, info, &ref, error);
    if (!err) {
        size_t count = info->count, at = info->offset;
        double bound = SMALL_GRADIENT_STEP * hyper.lr * (step + 1);
        case_compare(&c->grads[step], info->name, kept_grad(c, kept), ref.grad, count);
        fed_step(env->backend, fed, count, step, ref.grad);
        case_compare(&c->fed, info->name, fed->student, ref.student, count);
        case_compare(&c->fed, info->name, fed->ema, ref.ema, count);
        mark_large(fed->is_large, ref.grad, count);
        compare_moved(&c->large[step], &c->small, info->name,
                      npo_params_data(npo_trainer_student(c->trainer)) + at, ref.student,
                      fed->is_large, count, bound);
        compare_moved(&c->large[step], &c->small, info->name,
                      npo_params_data(npo_trainer_ema(c->trainer)) + at, ref.ema, fed->is_large,
                      count, bound * (1 - hyper.ema_decay));
    }
    free(ref.grad);
    free(ref.student);
    free(ref.ema);
    return err;
}

/* ---- how far rounding moves a step ---- */

/* What came out of a step, and the largest relative difference of a repetition's. */
typedef struct {
    float *grads[KEPT_MAX], *students[KEPT_MAX], *emas[KEPT_MAX];
    bool *is_large[KEPT_MAX]; /* as compare_moved */
    double outputs[2];        /* loss, gradient norm */
    case_worst grads_moved, outputs_moved, students_moved;
} snapshot;

static void read_outputs(const self_npo_case *c, double ret_outputs[2])
{
    ret_outputs[0] = c->result.loss;
    ret_outputs[1] = c->result.grad_norm;
}

/* A copy, NULL when out of memory. */
static void *copy(const void *data, size_t bytes)
{
    void *memory = malloc(bytes);
    return memory ? memcpy(memory, data, bytes) : NULL;
}

static npo_err take_snapshot(const self_npo_case *c, const fed_param *fed, snapshot *ret_snapshot)
{
    snapshot *s = ret_snapshot;
    const float *student = npo_params_data(npo_trainer_student(c->trainer));
    const float *ema = npo_params_data(npo_trainer_ema(c->trainer));
    read_outputs(c, s->outputs);
    for (size_t i = 0; i < c->kept_count; i++) {
        const npo_param_info *info = c->kept[i];
        size_t bytes = info->count * sizeof(float);
        s->grads[i] = copy(kept_grad(c, i), bytes);
        s->students[i] = copy(student + info->offset, bytes);
        s->emas[i] = copy(ema + info->offset, bytes);
        s->is_large[i] = copy(fed[i].is_large, info->count * sizeof *fed[i].is_large);
        if (!s->grads[i] || !s->students[i] || !s->emas[i] || !s->is_large[i])
            return NPO_E_NOMEM;
    }
    return NPO_OK;
}

static void drop_snapshot(snapshot *s)
{
    for (int i = 0; i < KEPT_MAX; i++) {
        free(s->grads[i]);
        free(s->students[i]);
        free(s->emas[i]);
        free(s->is_large[i]);
    }
}

static void compare_snapshot(const self_npo_case *repetition, snapshot *first)
{
    double outputs[2];
    read_outputs(repetition, outputs);
    for (int i = 0; i < 2; i++) {
        float moved = (float)outputs[i], from = (float)first->outputs[i];
        case_compare(&first->outputs_moved, "outputs", &moved, &from, 1);
    }
    const float *student = npo_params_data(npo_trainer_student(repetition->trainer));
    const float *ema = npo_params_data(npo_trainer_ema(repetition->trainer));
    for (size_t i = 0; i < repetition->kept_count; i++) {
        const npo_param_info *info = repetition->kept[i];
        case_compare(&first->grads_moved, info->name, kept_grad(repetition, i), first->grads[i],
                     info->count);
        compare_moved(&first->students_moved, NULL, info->name, student + info->offset,
                      first->students[i], first->is_large[i], info->count, 0);
        compare_moved(&first->students_moved, NULL, info->name, ema + info->offset, first->emas[i],
                      first->is_large[i], info->count, 0);
    }
}

static npo_err repeat(const case_env *env, uint32_t seed, snapshot steps[STEPS], npo_error *error)
{
    self_npo_case c = {0};
    npo_err err = load(&c, env, seed, error);
    for (int step = 0; !err && step < STEPS; step++) {
        err = generate(&c, step, error);
        if (!err)
            err = train(&c, step, error);
        if (!err)
            compare_snapshot(&c, &steps[step]);
    }
    unload(&c);
    return err;
}

/* ---- the case ---- */

static npo_err run_steps(self_npo_case *c, const case_env *env, snapshot steps[STEPS],
                         npo_error *error)
{
    fed_param fed[KEPT_MAX] = {{0}};
    npo_err err = NPO_OK;
    for (size_t i = 0; !err && i < c->kept_count; i++)
        err = fed_init(&fed[i], c->pipeline.params, c->kept[i]);
    for (int step = 0; !err && step < STEPS; step++) {
        err = generate(c, step, error);
        if (!err)
            err = train(c, step, error);
        for (size_t i = 0; !err && i < c->kept_count; i++)
            err = compare_param(c, env, step, i, &fed[i], error);
        if (!err)
            err = take_snapshot(c, fed, &steps[step]);
    }
    for (size_t i = 0; i < c->kept_count; i++)
        fed_fini(&fed[i]);
    for (uint32_t seed = 1; !err && seed <= REPETITIONS; seed++)
        err = repeat(env, seed, steps, error);
    return err;
}

static void report(case_env *env, const self_npo_case *c, const snapshot steps[STEPS])
{
    case_moved trained[STEPS], grads[STEPS], students[STEPS];
    for (int step = 0; step < STEPS; step++) {
        trained[step] = (case_moved){c->trained[step], steps[step].outputs_moved.error};
        grads[step] = (case_moved){c->grads[step], steps[step].grads_moved.error};
        students[step] = (case_moved){c->large[step], steps[step].students_moved.error};
    }
    case_report(env, "-generate", &c->generated, CASE_OUTPUT_TOLERANCE);
    case_report_moved(env, "-train", trained, STEPS, CASE_OUTPUT_TOLERANCE);
    case_report_moved(env, "-clipped-grads", grads, STEPS, CASE_GRADIENT_TOLERANCE);
    case_report(env, "-adamw-given-grads", &c->fed, CASE_OUTPUT_TOLERANCE);
    case_report_moved(env, "-student-ema", students, STEPS, CASE_OUTPUT_TOLERANCE);
    case_report(env, "-student-ema-small-grads", &c->small, 1);
}

npo_err case_run_self_npo(case_env *env, npo_error *error)
{
    self_npo_case c = {0};
    snapshot steps[STEPS] = {0};
    npo_err err = load(&c, env, 0, error);
    if (!err)
        err = run_steps(&c, env, steps, error);
    if (!err)
        report(env, &c, steps);
    for (int step = 0; step < STEPS; step++)
        drop_snapshot(&steps[step]);
    unload(&c);
    return err;
}
