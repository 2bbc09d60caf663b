#include "worker/train/step.h"

#include "common/crash.h"
#include "kernels/vec.h"
#include "worker/model/networks/unet.h"
#include "worker/train/objective.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLIP_EPSILON 1e-6 /* torch.nn.utils.clip_grad_norm_ */

struct npo_trainer {
    npo_trainer_options options;
    npo_objective objective;
    npo_params *student, *ema, *grads;
    npo_moments *moments;
    size_t floats;         /* of a set's flat buffer */
    size_t sample_floats;  /* of x */
    size_t context_floats; /* of a prompt, 0: the network attends to none */
    size_t added_floats;   /* of a prompt, 0: the network has no added conditioning */
    int64_t step;
};

/* ---- learning rate ---- */

static double decay_constant(double part)
{
    return 1;
}

static double decay_cosine(double part)
{
    return (1 + cos(M_PI * part)) / 2;
}

static double decay_linear(double part)
{
    return 1 - part;
}

static double (*const decays[])(double) = {
    [NPO_LR_CONSTANT] = decay_constant,
    [NPO_LR_COSINE] = decay_cosine,
    [NPO_LR_LINEAR] = decay_linear,
};

double npo_train_lr(const npo_train_hyper *hyper, int64_t step)
{
    if (step < hyper->warmup_steps)
        return hyper->lr * (double)(step + 1) / (double)hyper->warmup_steps;
    int64_t rest = hyper->steps - hyper->warmup_steps;
    double part = rest > 0 ? (double)(step - hyper->warmup_steps) / (double)rest : 0;
    return hyper->lr * decays[hyper->lr_schedule](part < 1 ? part : 1);
}

/* ---- the trainer ---- */

static npo_err check_options(const npo_trainer_options *options, npo_error *error)
{
    const npo_unet_config *config = options->config;
    size_t row = (size_t)npo_unet_config_context(config) * (size_t)options->shape.context_len +
                 (size_t)npo_unet_config_added(config);
    if (options->micro_batch < 1)
        return npo_error_set(error, NPO_E_RANGE, "micro-batch of %lld samples, expected 1 or more",
                             (long long)options->micro_batch);
    if (config->in_channels != config->out_channels)
        return npo_error_set(error, NPO_E_SHAPE,
                             "network: %lld output channels, expected %lld as it has inputs",
                             (long long)config->out_channels, (long long)config->in_channels);
    if (row && options->prompts->floats != row)
        return npo_error_set(error, NPO_E_SHAPE,
                             "text embeddings have %zu values a prompt, the network expects %zu",
                             options->prompts->floats, row);
    return NPO_OK;
}

static npo_err alloc_sets(npo_trainer *trainer)
{
    npo_params **const sets[] = {&trainer->student, &trainer->ema, &trainer->grads};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        NPO_TRY(npo_params_new(trainer->options.layout, sets[i]));
    if (trainer->options.base) {
        npo_params_set_base(trainer->student, trainer->options.base);
        npo_params_set_base(trainer->ema, trainer->options.base);
    }
    return npo_moments_new(trainer->options.layout, trainer->options.optimizer, &trainer->moments);
}

npo_err npo_trainer_new(const npo_trainer_options *options, npo_trainer **ret_trainer,
                        npo_error *error)
{
    NPO_TRY(check_options(options, error));
    npo_trainer *trainer = calloc(1, sizeof *trainer);
    if (!trainer)
        return npo_error_set(error, NPO_E_NOMEM, "trainer: out of memory");
    trainer->options = *options;
    npo_layout_ref(options->layout);
    trainer->sample_floats = (size_t)options->shape.height * (size_t)options->shape.width *
                             (size_t)options->config->in_channels;
    trainer->context_floats =
        (size_t)npo_unet_config_context(options->config) * (size_t)options->shape.context_len;
    trainer->added_floats = (size_t)npo_unet_config_added(options->config);
    npo_err err = npo_objective_init(&trainer->objective, options, error);
    if (err)
        goto out;
    err = alloc_sets(trainer);
    if (err) {
        npo_error_set(error, err,
                      "trainer: no memory for three sets of %zu parameters and the optimizer",
                      npo_layout_floats(options->layout));
        goto out;
    }
    trainer->floats = npo_layout_floats(options->layout);
    *ret_trainer = trainer;
    return NPO_OK;
out:
    npo_trainer_free(trainer);
    return err;
}

void npo_trainer_free(npo_trainer *trainer)
{
    if (!trainer)
        return;
    npo_objective_fini(&trainer->objective);
    npo_params_free(trainer->student);
    npo_params_free(trainer->ema);
    npo_moments_free(trainer->moments);
    npo_params_free(trainer->grads);
    npo_layout_unref(trainer->options.layout);
    free(trainer);
}

static void zero(npo_params *set, size_t floats)
{
    memset(npo_params_edit(set), 0, floats * sizeof(float));
}

void npo_trainer_begin(npo_trainer *trainer, const npo_params *base)
{
    if (base != trainer->student)
        npo_params_copy(trainer->student, base);
    npo_params_copy(trainer->ema, base);
    npo_moments_clear(trainer->moments);
    trainer->step = 0;
}

size_t npo_trainer_set_bytes(const npo_trainer_options *options)
{
    enum { SETS = 3 }; /* student, EMA, gradients */
    return SETS * npo_layout_floats(options->layout) * sizeof(float) +
           npo_moments_bytes(options->layout, options->optimizer);
}

const npo_plan_info *npo_trainer_plan(const npo_trainer *trainer)
{
    return &trainer->objective.info;
}

npo_params *npo_trainer_student(npo_trainer *trainer)
{
    return trainer->student;
}

npo_params *npo_trainer_ema(npo_trainer *trainer)
{
    return trainer->ema;
}

npo_moments *npo_trainer_moments(npo_trainer *trainer)
{
    return trainer->moments;
}

const npo_params *npo_trainer_grads(npo_trainer *trainer)
{
    return trainer->grads;
}

npo_params *npo_trainer_edit_grads(npo_trainer *trainer)
{
    return trainer->grads;
}

int64_t npo_trainer_step_count(const npo_trainer *trainer)
{
    return trainer->step;
}

void npo_trainer_set_step_count(npo_trainer *trainer, int64_t step)
{
    trainer->step = step;
}

void npo_trainer_set_hyper(npo_trainer *trainer, const npo_train_hyper *hyper)
{
    trainer->options.hyper = *hyper;
}

const float *npo_trainer_prediction(const npo_trainer *trainer)
{
    return trainer->objective.prediction;
}

/* ---- gradients ---- */

static void feed_prompt(npo_trainer *trainer, size_t index, const float *row)
{
    npo_objective *objective = &trainer->objective;
    const npo_unet_config *config = trainer->options.config;
    if (trainer->context_floats)
        memcpy(objective->context + index * trainer->context_floats, row,
               trainer->context_floats * sizeof *row);
    if (trainer->added_floats)
        npo_unet_split_added(config, row + trainer->context_floats,
                             objective->pooled + index * (size_t)config->pooled_channels,
                             objective->time_ids + index * NPO_UNET_TIME_IDS);
}

static void feed(npo_trainer *trainer, const npo_batch *batch, int64_t first)
{
    npo_objective *objective = &trainer->objective;
    size_t n = (size_t)trainer->options.micro_batch, at = (size_t)first;
    size_t values = n * trainer->sample_floats, offset = at * trainer->sample_floats;
    memcpy(objective->x, batch->x + offset, values * sizeof(float));
    memcpy(objective->target, batch->target + offset, values * sizeof(float));
    memcpy(objective->t, batch->t + at, n * sizeof(float));
    memcpy(objective->ca, batch->ca + at, n * sizeof(float));
    memcpy(objective->cb, batch->cb + at, n * sizeof(float));
    for (size_t i = 0; trainer->context_floats + trainer->added_floats && i < n; i++)
        feed_prompt(trainer, i, npo_prompts_row(trainer->options.prompts, batch->prompt[at + i]));
}

static npo_err accumulate(npo_trainer *trainer, const npo_batch *batch, double *ret_loss,
                          npo_error *error)
{
    int64_t micro_batch = trainer->options.micro_batch, parts = batch->n / micro_batch;
    double loss = 0;
    zero(trainer->grads, trainer->floats);
    for (int64_t i = 0; i < parts; i++) {
        feed(trainer, batch, i * micro_batch);
        NPO_TRY(npo_graph_forward(trainer->objective.graph, trainer->student, error));
        loss += (double)*trainer->objective.loss / (double)parts;
        NPO_TRY(npo_graph_backward(trainer->objective.graph, trainer->student, 1.0f / (float)parts,
                                   trainer->grads, error));
    }
    *ret_loss = loss;
    return NPO_OK;
}

static npo_err average_over_ranks(npo_trainer *trainer, double *loss, npo_error *error)
{
    npo_comm *comm = trainer->options.comm;
    if (!comm || npo_comm_world(comm) == 1)
        return NPO_OK;
    npo_crash_point("train.allreduce");
    float part = 1.0f / (float)npo_comm_world(comm), shared_loss = (float)*loss;
    float *grads = npo_params_edit(trainer->grads);
    NPO_TRY(npo_comm_allreduce_sum(comm, &shared_loss, 1, error));
    NPO_TRY(npo_comm_allreduce_sum(comm, grads, trainer->floats, error));
    npo_vec_scale(trainer->options.backend, trainer->floats, part, grads);
    *loss = (double)(shared_loss * part);
    return NPO_OK;
}

npo_err npo_trainer_gradients(npo_trainer *trainer, const npo_batch *batch,
                              npo_train_result *ret_result, npo_error *error)
{
    if (batch->n < 1 || batch->n % trainer->options.micro_batch != 0)
        return npo_error_set(error, NPO_E_SHAPE,
                             "batch of %lld samples, expected a multiple of the micro-batch, %lld",
                             (long long)batch->n, (long long)trainer->options.micro_batch);
    if (batch->sample_floats != trainer->sample_floats)
        return npo_error_set(error, NPO_E_SHAPE, "batch of %zu values a sample, expected %zu",
                             batch->sample_floats, trainer->sample_floats);
    npo_train_result result = {.lr = npo_train_lr(&trainer->options.hyper, trainer->step)};
    NPO_TRY(accumulate(trainer, batch, &result.loss, error));
    NPO_TRY(average_over_ranks(trainer, &result.loss, error));
    result.grad_norm =
        npo_vec_norm(trainer->options.backend, trainer->floats, npo_params_data(trainer->grads));
    *ret_result = result;
    return NPO_OK;
}

/* ---- update ---- */

void npo_trainer_update(npo_trainer *trainer, double grad_norm, double lr)
{
    const npo_train_hyper *hyper = &trainer->options.hyper;
    double factor = hyper->clip > 0 ? hyper->clip / (grad_norm + CLIP_EPSILON) : 1;
    trainer->step++;
    const npo_update update = {
        .adamw = {.lr = (float)lr,
                  .beta1 = (float)hyper->beta1,
                  .beta2 = (float)hyper->beta2,
                  .eps = (float)hyper->eps,
                  .weight_decay = (float)hyper->weight_decay,
                  .step = trainer->step},
        .grad_scale = factor < 1 ? (float)factor : 1,
        .ema_weight = (float)(1 - hyper->ema_decay),
        .grad = npo_params_data(trainer->grads),
        .param = npo_params_edit(trainer->student),
        .ema = npo_params_edit(trainer->ema),
    };
    npo_moments_update(trainer->moments, trainer->options.backend, &update);
}

npo_err npo_trainer_step(npo_trainer *trainer, const npo_batch *batch, npo_train_result *ret_result,
                         npo_error *error)
{
    npo_train_result result;
    NPO_TRY(npo_trainer_gradients(trainer, batch, &result, error));
    /* Averaging carries a value that is not finite to every rank, so all of them stop here. */
    if (!isfinite(result.loss) || !isfinite(result.grad_norm))
        return npo_error_set(
            error, NPO_E_DIVERGED,
            "optimizer step %lld: loss %g, gradient norm %g, expected finite numbers",
            (long long)trainer->step + 1, result.loss, result.grad_norm);
    npo_trainer_update(trainer, result.grad_norm, result.lr);
    *ret_result = result;
    return NPO_OK;
}

npo_err npo_trainer_offset(npo_trainer *trainer, const npo_offset_base *base,
                           npo_offset_norms *ret_norms, npo_error *error)
{
    return npo_offset_measure(trainer->options.backend, trainer->student, base, trainer->grads,
                              ret_norms, error);
}
