#include "worker/tasks/training/fit.h"

#include "common/crash.h"
#include "worker/train/budget.h"
#include "worker/train/metrics.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)NPO_JOB_LORA_ATTENTION == (int)NPO_LORA_ATTENTION &&
                  (int)NPO_JOB_LORA_LINEAR == (int)NPO_LORA_LINEAR &&
                  (int)NPO_JOB_LORA_ALL == (int)NPO_LORA_ALL,
              "targets of the job file are numbered as those of a LoRA are");

npo_train_hyper npo_fit_hyper(const npo_job *job)
{
    const npo_job_train *train = &job->train;
    return (npo_train_hyper){
        .lr = train->lr,
        .weight_decay = train->weight_decay,
        .beta1 = train->beta1,
        .beta2 = train->beta2,
        .eps = train->eps,
        .clip = train->clip,
        .ema_decay = train->ema_decay,
        .warmup_steps = train->warmup_steps,
        .lr_schedule = (npo_lr_kind)train->lr_schedule,
        .steps = train->steps,
    };
}

static npo_lora_options lora_of(const npo_job *job)
{
    return (npo_lora_options){.rank = job->train.lora.rank,
                              .alpha = job->train.lora.alpha,
                              .targets = (npo_lora_targets)job->train.lora.targets};
}

/* ---- checkpoints ---- */

static npo_err hash_hyper(const npo_job *job, npo_hash *ret_hash)
{
    const npo_job_train *train = &job->train;
    npo_buf buf = NPO_BUF_INIT;
    npo_buf_printf(&buf,
                   "{\"batch\":%lld,\"beta1\":%.17g,\"beta2\":%.17g,\"clip\":%.17g,\"compute\":%d,"
                   "\"ema_decay\":%.17g,\"eps\":%.17g,\"loss\":%d,\"lr\":%.17g,\"lr_schedule\":%d,"
                   "\"lora\":[%lld,%.17g,%d],\"optimizer\":%d,\"seed\":%lld,\"warmup_steps\":%lld,"
                   "\"weight_decay\":%.17g}",
                   (long long)train->batch, train->beta1, train->beta2, train->clip, train->compute,
                   train->ema_decay, train->eps, train->loss, train->lr, train->lr_schedule,
                   (long long)train->lora.rank, train->lora.alpha, train->lora.targets,
                   train->optimizer, (long long)job->seed, (long long)train->warmup_steps,
                   train->weight_decay);
    npo_err err = npo_buf_err(&buf);
    if (err == NPO_OK)
        *ret_hash = npo_hash_bytes(buf.data, buf.len);
    npo_buf_fini(&buf);
    return err;
}

npo_err npo_fit_meta(npo_context *ctx, int64_t micro_batch, int64_t step,
                     npo_checkpoint_meta *ret_meta)
{
    npo_checkpoint_meta meta = {.step = step,
                                .cursor = step * ctx->task->spec->train.batch,
                                .lora = lora_of(ctx->task->spec)};
    npo_err err = hash_hyper(ctx->task->spec, &meta.hyper);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "checkpoint");
    snprintf(meta.numeric_class, sizeof meta.numeric_class, "npo-%s %s ranks-%d micro-batch-%lld",
             NPO_VERSION, npo_backend_class(npo_loaded_backend(ctx->cache)), ctx->task->world,
             (long long)micro_batch);
    *ret_meta = meta;
    return NPO_OK;
}

npo_err npo_fit_check_step(npo_context *ctx, const npo_checkpoint_meta *meta, int64_t first_step)
{
    if (meta->step != first_step)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "the checkpoint is of step %lld, expected step %lld, where the task goes "
            "on",
            (long long)meta->step, (long long)first_step);
    return NPO_OK;
}

static npo_checkpoint_sets trainer_sets(npo_trainer *trainer)
{
    return (npo_checkpoint_sets){npo_trainer_student(trainer), npo_trainer_ema(trainer),
                                 npo_trainer_moments(trainer)};
}

static npo_err load_state(npo_fit *fit, const char *path)
{
    npo_context *ctx = fit->ctx;
    npo_checkpoint_sets sets = trainer_sets(fit->trainer);
    npo_checkpoint_meta meta, own;
    NPO_TRY(npo_checkpoint_load(path, &sets, &meta, ctx->error));
    NPO_TRY(npo_fit_check_step(ctx, &meta, fit->slots->first_step));
    NPO_TRY(npo_fit_meta(ctx, fit->slots->micro_batch, meta.step, &own));
    if (!npo_hash_equal(&meta.hyper, &own.hyper))
        npo_context_log(ctx,
                        "goes on from step %lld with other hyper-parameters than the "
                        "checkpoint's",
                        (long long)meta.step);
    if (strcmp(meta.numeric_class, own.numeric_class) != 0)
        npo_context_log(ctx,
                        "goes on from a checkpoint of numeric class '%s' with '%s': the bytes "
                        "differ from those of an unbroken run",
                        meta.numeric_class, own.numeric_class);
    npo_trainer_set_step_count(fit->trainer, meta.step);
    return NPO_OK;
}

static npo_err begin_lora(npo_fit *fit)
{
    npo_context *ctx = fit->ctx;
    npo_params *first = NULL;
    npo_err err = npo_params_new(fit->setup->model->lora_layout, &first);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "LoRA");
    npo_lora_begin(first, (uint64_t)ctx->task->spec->seed);
    npo_trainer_begin(fit->trainer, first);
    npo_params_free(first);
    return NPO_OK;
}

static npo_err begin_state(npo_fit *fit, const npo_params *begin)
{
    const char *path = npo_task_input_path(fit->ctx->task, "checkpoint");
    if (path)
        return load_state(fit, path);
    npo_checkpoint_meta none = {0};
    NPO_TRY(npo_fit_check_step(fit->ctx, &none, fit->slots->first_step));
    if (fit->ctx->task->spec->train.lora.rank)
        return begin_lora(fit);
    if (!begin) {
        npo_params *student = npo_trainer_student(fit->trainer);
        NPO_TRY(npo_folder_load_unet(&fit->setup->model->folder, student, fit->ctx->error));
        begin = student;
    }
    npo_trainer_begin(fit->trainer, begin);
    return NPO_OK;
}

static npo_err new_trainer(npo_fit *fit)
{
    npo_context *ctx = fit->ctx;
    const npo_job *job = ctx->task->spec;
    npo_model *model = fit->setup->model;
    const npo_lora_options lora = lora_of(job);
    npo_loaded_trim(ctx->cache);
    if (lora.rank)
        NPO_TRY(npo_model_set_lora(model, &lora, ctx->error));
    npo_trainer_options options = {
        .backend = npo_loaded_backend(ctx->cache),
        .layout = job->train.lora.rank ? model->lora_layout : model->layout,
        .base = job->train.lora.rank ? model->base : NULL,
        .config = &model->config,
        .shape = model->shape,
        .prompts = &model->prompts,
        .comm = fit->gang.comm,
        .micro_batch = fit->slots->micro_batch,
        .loss = (npo_loss_kind)job->train.loss,
        .huber_c = job->train.huber_c,
        .optimizer = (npo_optimizer_kind)job->train.optimizer,
        .compute = (npo_compute)job->train.compute,
        .hyper = npo_fit_hyper(job),
    };
    npo_budget budget;
    char text[NPO_BUDGET_TEXT_MAX];
    NPO_TRY(npo_budget_plan(npo_loaded_memory(ctx->cache), &options, &budget, ctx->error));
    NPO_TRY(npo_trainer_new(&options, &fit->trainer, ctx->error));
    npo_context_log(ctx, "%s", npo_budget_format(&budget, npo_trainer_plan(fit->trainer), text));
    return NPO_OK;
}

static npo_err new_batch(npo_fit *fit)
{
    const npo_job *job = fit->ctx->task->spec;
    npo_err err = npo_batch_init(&fit->batch, fit->slots->local,
                                 npo_latent_floats(fit->setup->model->latent));
    if (err != NPO_OK)
        return npo_context_fail(fit->ctx, err, "batch");
    fit->draws = (npo_batch_draws){
        .schedule = fit->setup->model->schedule,
        .seed = (uint64_t)job->seed,
        .step = fit->slots->first_step,
        .empty_prompt_share = job->train.empty_prompt_share,
    };
    return NPO_OK;
}

npo_err npo_fit_init(npo_fit *fit, npo_context *ctx, const npo_setup *setup, const npo_slots *slots,
                     const npo_params *begin)
{
    *fit = (npo_fit){.ctx = ctx, .setup = setup, .slots = slots};
    npo_err err = new_batch(fit);
    if (err == NPO_OK)
        err = npo_gang_join(ctx, &fit->gang);
    if (err == NPO_OK)
        err = new_trainer(fit);
    if (err == NPO_OK)
        err = begin_state(fit, begin);
    if (err == NPO_OK && !begin && !ctx->task->spec->train.lora.rank)
        err = npo_folder_view_unet(&setup->model->folder, setup->model->layout, &fit->base,
                                   ctx->error);
    if (err != NPO_OK)
        npo_fit_fini(fit);
    else
        npo_context_start(ctx);
    return err;
}

void npo_fit_fini(npo_fit *fit)
{
    npo_trainer_free(fit->trainer);
    fit->trainer = NULL;
    npo_weight_view_close(fit->base);
    fit->base = NULL;
    npo_gang_leave(&fit->gang);
    npo_batch_fini(&fit->batch);
}

/* ---- steps ---- */

static npo_err report(npo_fit *fit, const npo_train_result *result)
{
    npo_context *ctx = fit->ctx;
    int64_t step = npo_trainer_step_count(fit->trainer);
    int64_t samples = (step - fit->slots->first_step) * ctx->task->spec->train.batch;
    double rate = npo_context_progress(ctx, "train", step, ctx->task->spec->train.steps,
                                       result->loss, samples);
    if (ctx->task->rank != 0)
        return NPO_OK;
    npo_offset_norms norms;
    npo_buf line = NPO_BUF_INIT;
    npo_offset_base base = npo_offset_base_in(fit->base);
    bool moved = fit->base || npo_params_base(npo_trainer_student(fit->trainer));
    if (moved)
        NPO_TRY(npo_trainer_offset(fit->trainer, &base, &norms, ctx->error));
    if (npo_metrics_line(&line, step, result, rate, moved ? &norms : NULL) == NPO_OK)
        npo_context_metrics(ctx, &line);
    npo_buf_fini(&line);
    return NPO_OK;
}

npo_err npo_fit_step(npo_fit *fit)
{
    npo_train_result result;
    NPO_TRY(npo_context_check(fit->ctx));
    NPO_TRY(npo_trainer_step(fit->trainer, &fit->batch, &result, fit->ctx->error));
    npo_crash_point("train.step");
    fit->draws.step++;
    return report(fit, &result);
}

npo_err npo_fit_finish(npo_fit *fit)
{
    npo_context *ctx = fit->ctx;
    /* Who leaves takes along what the others have not yet read. */
    NPO_TRY(npo_comm_barrier(fit->gang.comm, ctx->error));
    if (ctx->task->rank != 0)
        return NPO_OK;
    char *path = NULL;
    npo_checkpoint_meta meta;
    npo_checkpoint_sets sets = trainer_sets(fit->trainer);
    NPO_TRY(
        npo_fit_meta(ctx, fit->slots->micro_batch, npo_trainer_step_count(fit->trainer), &meta));
    NPO_TRY(npo_context_out(ctx, "checkpoint.safetensors", &path));
    npo_crash_point("checkpoint.write");
    npo_err err = npo_checkpoint_save(path, &sets, &meta, ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, "checkpoint", "checkpoint.safetensors") : err;
}
