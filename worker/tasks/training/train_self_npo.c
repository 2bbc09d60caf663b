#include "worker/tasks/kinds.h"
#include "worker/tasks/training/fit.h"
#include "worker/tasks/training/roll.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    npo_context *ctx;
    npo_setup setup;
    npo_slots slots;
    npo_fit fit;
    npo_segment segment;
    int64_t *rows; /* [slots.local], of the segment, of one step */
} self_npo;

/* Fits the student to the cuts of one step. */
static npo_err fit_rows(self_npo *s)
{
    NPO_TRY(npo_batch_renoise(&s->fit.batch, &s->fit.draws, &s->segment, s->rows, s->ctx->error));
    return npo_fit_step(&s->fit);
}

/* ---- staged: the cuts were made by truncate ---- */

static npo_err load_segment(self_npo *s)
{
    char name[32];
    const char *path = NULL;
    snprintf(name, sizeof name, "segment.%d", s->ctx->task->rank);
    NPO_TRY(npo_context_input(s->ctx, name, &path));
    return npo_segment_load(path, s->setup.model->latent, &s->segment, s->ctx->error);
}

static npo_err check_prompt(const self_npo *s, int64_t row)
{
    if (s->segment.prompt[row] < (int64_t)s->setup.prompt_count)
        return NPO_OK;
    return npo_error_set(s->ctx->error, NPO_E_RANGE,
                         "the cut of slot %lld has prompt %d, expected less than the job's %zu",
                         (long long)s->segment.slot[row], s->segment.prompt[row],
                         s->setup.prompt_count);
}

static npo_err find_rows(self_npo *s, int64_t step)
{
    int64_t first = npo_slots_row(&s->slots, step);
    for (int64_t i = 0; i < s->slots.local; i++) {
        int64_t slot = s->slots.slots[first + i];
        s->rows[i] = npo_segment_find(&s->segment, slot);
        if (s->rows[i] < 0)
            return npo_error_set(s->ctx->error, NPO_E_NOT_FOUND,
                                 "the segment of rank %d has no cut of slot %lld, which step %lld "
                                 "needs",
                                 s->ctx->task->rank, (long long)slot, (long long)step);
        NPO_TRY(check_prompt(s, s->rows[i]));
    }
    return NPO_OK;
}

static npo_err train_staged(self_npo *s)
{
    NPO_TRY(load_segment(s));
    for (int64_t i = 0; i < s->slots.steps; i++) {
        NPO_TRY(find_rows(s, s->slots.first_step + i));
        NPO_TRY(fit_rows(s));
    }
    return npo_fit_finish(&s->fit);
}

/* ---- fused: every step generates and cuts with the average as it is then ---- */

static npo_err step_fused(self_npo *s, npo_roll *roll, npo_pool *pool, int64_t step)
{
    int64_t first = npo_slots_row(&s->slots, step);
    NPO_TRY(npo_roll_generate(roll, pool, first, s->slots.local));
    NPO_TRY(npo_roll_truncate(roll, pool, first, s->slots.local, &s->segment));
    for (int64_t i = 0; i < s->slots.local; i++)
        s->rows[i] = first + i;
    return fit_rows(s);
}

static npo_err save_pool(self_npo *s, const npo_pool *pool)
{
    char name[32], file[64], *path = NULL;
    snprintf(name, sizeof name, "pool.%d", s->ctx->task->rank);
    snprintf(file, sizeof file, "%s.safetensors", name);
    NPO_TRY(npo_context_out(s->ctx, file, &path));
    npo_err err = npo_pool_save(pool, path, s->ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(s->ctx, name, file) : err;
}

static npo_err run_fused(self_npo *s, npo_roll *roll, npo_pool *pool)
{
    npo_err err = npo_segment_init(&s->segment, s->setup.model->latent, s->slots.count);
    if (err != NPO_OK)
        return npo_context_fail(s->ctx, err, "segment");
    for (int64_t i = 0; i < s->slots.steps; i++)
        NPO_TRY(step_fused(s, roll, pool, s->slots.first_step + i));
    npo_roll_report(roll, "train");
    NPO_TRY(npo_fit_finish(&s->fit));
    return save_pool(s, pool);
}

static npo_err train_fused(self_npo *s)
{
    npo_roll roll = {0};
    npo_pool pool = {0};
    NPO_TRY(npo_roll_init(&roll, s->ctx, &s->setup, s->slots.micro_batch,
                          npo_trainer_ema(s->fit.trainer)));
    npo_err err = npo_roll_pool(&roll, &s->slots, &pool);
    if (err == NPO_OK)
        err = run_fused(s, &roll, &pool);
    npo_pool_fini(&pool);
    npo_roll_fini(&roll);
    return err;
}

/* ---- both ---- */

static npo_err begin(self_npo *s)
{
    npo_context *ctx = s->ctx;
    bool fused = npo_json_bool(ctx->task->params, "fused", false);
    NPO_TRY(npo_setup_open(ctx, fused && npo_roll_needs_data(ctx->task->spec), &s->setup));
    NPO_TRY(npo_slots_init(ctx, ctx->task->rank, ctx->task->world, &s->slots));
    if (!npo_model_has_weights(s->setup.model))
        return npo_error_set(ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights, expected a trained model to start from",
                             s->setup.model->folder.root);
    s->rows = calloc((size_t)s->slots.local, sizeof *s->rows);
    if (!s->rows)
        return npo_context_fail(ctx, NPO_E_NOMEM, "rows");
    return npo_fit_init(&s->fit, ctx, &s->setup, &s->slots, NULL);
}

npo_err npo_kind_train_self_npo(npo_context *ctx)
{
    self_npo s = {.ctx = ctx};
    npo_err err = begin(&s);
    if (err == NPO_OK)
        err = npo_json_bool(ctx->task->params, "fused", false) ? train_fused(&s) : train_staged(&s);
    npo_fit_fini(&s.fit);
    npo_segment_fini(&s.segment);
    free(s.rows);
    npo_slots_fini(&s.slots);
    npo_setup_fini(&s.setup);
    return err;
}
