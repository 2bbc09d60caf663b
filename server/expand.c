#include "server/expand.h"

#include "common/bounds.h"
#include "common/crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the rounds stand while they are laid out. Indices are -1 before the first such task. */
typedef struct {
    const npo_job *job;
    npo_expansion *out;
    npo_err err;
    const char *from_checkpoint; /* NULL: not continuing */
    const cJSON *from_pools;
    int ranks;
    int64_t round, first_step, steps;
    int64_t train_last, train_before; /* train of the last round and of the one before */
    int64_t generate_first;           /* generate of shard 0 in this round */
    int64_t truncate_first;           /* truncate of shard 0 in the last round */
} layout;

/* ---- building blocks ---- */

static npo_expand_task *add_task(layout *at, const char *kind)
{
    npo_expansion *out = at->out;
    if (at->err)
        return NULL;
    if (out->count >= NPO_TASKS_PER_JOB_MAX) {
        at->err = NPO_E_LIMIT;
        return NULL;
    }
    if (out->count == out->cap) {
        size_t cap = out->cap ? out->cap * 2 : 64;
        npo_expand_task *tasks = realloc(out->tasks, cap * sizeof *tasks);
        if (!tasks) {
            at->err = NPO_E_NOMEM;
            return NULL;
        }
        out->tasks = tasks;
        out->cap = cap;
    }
    npo_expand_task *task = &out->tasks[out->count++];
    *task = (npo_expand_task){
        .kind = kind, .round = at->round, .shards = 1, .world = 1, .params = "{}"};
    return task;
}

/* hash NULL: output `output` of task source. Neither: there is no such input. */
static void add_input(layout *at, npo_expand_task *task, const char *name, const char *hash,
                      int64_t source, const char *output, int rank)
{
    if (!task || (!hash && source < 0))
        return;
    if (task->input_count == task->input_cap) {
        size_t cap = task->input_cap ? task->input_cap * 2 : 4;
        npo_expand_input *inputs = realloc(task->inputs, cap * sizeof *inputs);
        if (!inputs) {
            at->err = NPO_E_NOMEM;
            return;
        }
        task->inputs = inputs;
        task->input_cap = cap;
    }
    npo_expand_input *input = &task->inputs[task->input_count++];
    *input = (npo_expand_input){.hash = hash, .source = hash ? -1 : source, .rank = rank};
    snprintf(input->name, sizeof input->name, "%s", name);
    if (!hash)
        snprintf(input->output, sizeof input->output, "%s", output);
}

static void add_ref(layout *at, npo_expand_task *task, const char *name, const npo_job_ref *ref)
{
    add_input(at, task, name, ref->artifact, -1, NULL, -1);
}

/* The newest network: train's if there was one, else what the job continues from, else none (the
 * base model is the network then). */
static void add_checkpoint(layout *at, npo_expand_task *task, int64_t train)
{
    const char *from = train < 0 ? at->from_checkpoint : NULL;
    add_input(at, task, "checkpoint", from, train, "checkpoint", -1);
}

/* name "pool" and part 3 give "pool.3". */
static void add_part(layout *at, npo_expand_task *task, const char *name, int part,
                     const char *hash, int64_t source, const char *output, int rank)
{
    char full[NPO_EXPAND_NAME_SIZE];
    snprintf(full, sizeof full, "%s.%d", name, part);
    add_input(at, task, full, hash, source, output ? output : full, rank);
}

static void add_from_pools(layout *at, npo_expand_task *task)
{
    int part = 0;
    const cJSON *pool;
    cJSON_ArrayForEach(pool, at->from_pools)
        add_part(at, task, "pool", part++, cJSON_GetStringValue(pool), -1, NULL, -1);
}

/* Prompts come from the job file or else with the data; images of the data start trajectories. */
static void add_prompts(layout *at, npo_expand_task *task, bool wants_images)
{
    if (wants_images || !at->job->prompts)
        add_ref(at, task, "data", &at->job->data);
}

static void set_step_params(layout *at, npo_expand_task *task, const char *more)
{
    if (task)
        snprintf(task->params, sizeof task->params, "{%s\"first_step\":%lld,\"steps\":%lld}", more,
                 (long long)at->first_step, (long long)at->steps);
}

/* ---- tasks of a round ---- */

static int64_t target_train(const layout *at)
{
    return at->job->staleness > 0 ? at->train_before : at->train_last;
}

static void add_generate(layout *at, int shard)
{
    npo_expand_task *task = add_task(at, "generate");
    if (!task)
        return;
    task->shard = shard;
    task->shards = at->ranks;
    set_step_params(at, task, "");
    add_ref(at, task, "model", &at->job->model);
    add_checkpoint(at, task, target_train(at));
    if (at->truncate_first >= 0)
        add_input(at, task, "pool", NULL, at->truncate_first + shard, "pool", -1);
    else
        add_from_pools(at, task);
    add_prompts(at, task, at->job->generate.starts == NPO_STARTS_LATENTS);
}

static void add_truncate(layout *at, int shard)
{
    npo_expand_task *task = add_task(at, "truncate");
    if (!task)
        return;
    task->shard = shard;
    task->shards = at->ranks;
    set_step_params(at, task, "");
    add_ref(at, task, "model", &at->job->model);
    add_checkpoint(at, task, target_train(at));
    add_input(at, task, "pool", NULL, at->generate_first + shard, "pool", -1);
    add_prompts(at, task, false);
}

static npo_expand_task *add_train(layout *at, const char *more_params)
{
    npo_expand_task *task = add_task(at, "train");
    if (!task)
        return NULL;
    task->shards = at->ranks;
    task->world = at->ranks;
    task->step_end = at->first_step + at->steps;
    set_step_params(at, task, more_params);
    add_ref(at, task, "model", &at->job->model);
    add_checkpoint(at, task, at->train_last);
    return task;
}

static void add_staged_round(layout *at)
{
    at->generate_first = (int64_t)at->out->count;
    for (int k = 0; k < at->ranks; k++)
        add_generate(at, k);
    int64_t truncate_first = (int64_t)at->out->count;
    for (int k = 0; k < at->ranks; k++)
        add_truncate(at, k);
    at->truncate_first = truncate_first;
    npo_expand_task *train = add_train(at, "");
    for (int k = 0; k < at->ranks; k++)
        add_part(at, train, "segment", k, NULL, truncate_first + k, "segment", k);
    add_prompts(at, train, false);
}

static void add_fused_round(layout *at)
{
    npo_expand_task *train = add_train(at, "\"fused\":true,");
    if (at->train_last < 0)
        add_from_pools(at, train);
    for (int k = 0; k < at->ranks && at->train_last >= 0; k++)
        add_part(at, train, "pool", k, NULL, at->train_last, NULL, k);
    add_prompts(at, train, at->job->generate.starts == NPO_STARTS_LATENTS);
}

static void add_data_round(layout *at)
{
    npo_expand_task *train = add_train(at, "");
    if (train)
        add_ref(at, train, "data", &at->job->data);
}

static void add_preview(layout *at)
{
    npo_expand_task *task = add_task(at, "sample");
    if (!task)
        return;
    snprintf(task->params, sizeof task->params, "{\"preview\":true,\"step\":%lld}",
             (long long)(at->first_step + at->steps));
    add_ref(at, task, "model", &at->job->model);
    add_checkpoint(at, task, at->train_last);
    add_prompts(at, task, false);
}

static void add_round(layout *at)
{
    const npo_job *job = at->job;
    int64_t train_before = at->train_last;
    if (job->recipe != NPO_RECIPE_SELF_NPO)
        add_data_round(at);
    else if (job->pipeline == NPO_PIPELINE_FUSED)
        add_fused_round(at);
    else
        add_staged_round(at);
    at->train_before = train_before;
    at->train_last = (int64_t)at->out->count - 1;
    if (job->preview_rounds > 0 && job->recipe != NPO_RECIPE_CLASSIFIER &&
        (at->round + 1) % job->preview_rounds == 0)
        add_preview(at);
}

static void add_rounds(layout *at)
{
    const npo_job *job = at->job;
    int64_t per_round = job->round_steps, step = at->out->step;
    for (at->round = (step + per_round - 1) / per_round; step < job->train.steps && !at->err;
         at->round++) {
        at->first_step = step;
        at->steps = job->train.steps - step < per_round ? job->train.steps - step : per_round;
        add_round(at);
        step += at->steps;
    }
    at->out->rounds = at->round;
    at->round--; /* what follows belongs to the last round */
}

/* ---- single tasks ---- */

static int64_t add_export(layout *at)
{
    const npo_job *job = at->job;
    npo_expand_task *task = add_task(at, "export");
    if (!task)
        return -1;
    if (job->train.steps > 0 && job->recipe != NPO_RECIPE_EXPORT)
        snprintf(task->params, sizeof task->params, "{\"step\":%lld}", (long long)job->train.steps);
    add_ref(at, task, "model", &job->model);
    add_checkpoint(at, task, at->train_last);
    if (job->recipe == NPO_RECIPE_EXPORT) {
        add_ref(at, task, "negative", &job->negative);
        add_ref(at, task, "positive", &job->positive);
    }
    return (int64_t)at->out->count - 1;
}

static void add_evaluation(layout *at, int64_t export)
{
    const npo_job *job = at->job;
    const npo_job_ref *data = job->evaluate.data.artifact ? &job->evaluate.data : &job->data;
    int64_t first = (int64_t)at->out->count;
    for (int k = 0; k < at->ranks; k++) {
        npo_expand_task *task = add_task(at, "evaluate");
        if (!task)
            return;
        task->shard = k;
        task->shards = at->ranks;
        add_ref(at, task, "model", &job->model);
        add_input(at, task, "negative", export < 0 ? job->negative.artifact : NULL, export, "model",
                  -1);
        add_ref(at, task, "classifier", &job->evaluate.classifier);
        add_ref(at, task, "data", data);
    }
    npo_expand_task *report = add_task(at, "report");
    for (int k = 0; k < at->ranks; k++)
        add_part(at, report, "features", k, NULL, first + k, NULL, -1);
    if (!report)
        return;
    add_ref(at, report, "classifier", &job->evaluate.classifier);
    add_ref(at, report, "data", data);
}

static void add_sample(layout *at)
{
    npo_expand_task *task = add_task(at, "sample");
    if (!task)
        return;
    add_ref(at, task, "model", &at->job->model);
    add_ref(at, task, "negative", &at->job->negative);
    add_prompts(at, task, false);
}

/* ---- recipes ---- */

static void lay_out_training(layout *at)
{
    add_rounds(at);
    int64_t export = add_export(at);
    if (at->job->has_evaluate)
        add_evaluation(at, export);
}

static void lay_out_sample(layout *at)
{
    add_sample(at);
}

static void lay_out_evaluate(layout *at)
{
    add_evaluation(at, -1);
}

static void lay_out_export(layout *at)
{
    add_export(at);
}

static const struct {
    void (*lay_out)(layout *at);
    bool trains;
    bool is_single; /* one rank whatever `workers` says */
} recipes[NPO_RECIPE_COUNT] = {
    [NPO_RECIPE_SELF_NPO] = {lay_out_training, true, false},
    [NPO_RECIPE_DIFFUSION] = {lay_out_training, true, false},
    [NPO_RECIPE_CLASSIFIER] = {lay_out_training, true, true},
    [NPO_RECIPE_SAMPLE] = {lay_out_sample, false, true},
    [NPO_RECIPE_EVALUATE] = {lay_out_evaluate, false, false},
    [NPO_RECIPE_EXPORT] = {lay_out_export, false, true},
};

static npo_err explain(const layout *at, npo_error *error)
{
    if (at->err == NPO_E_LIMIT)
        return npo_error_set(error, NPO_E_LIMIT,
                             "the job has more than %d tasks: raise 'round_steps' or lower 'steps'",
                             (int)NPO_TASKS_PER_JOB_MAX);
    return npo_error_set(error, at->err, "cannot lay out the job's tasks");
}

npo_err npo_expand(const npo_job *job, npo_expansion *ret_expansion, npo_error *error)
{
    npo_expansion out = {0};
    bool trains = recipes[job->recipe].trains;
    out.workers = recipes[job->recipe].is_single ? 1 : (int)job->workers;
    layout at = {.job = job,
                 .out = &out,
                 .ranks = out.workers,
                 .from_checkpoint = npo_json_string(job->from, "checkpoint", NULL),
                 .from_pools = cJSON_GetObjectItemCaseSensitive(job->from, "pools"),
                 .train_last = -1,
                 .train_before = -1,
                 .generate_first = -1,
                 .truncate_first = -1};
    if (trains)
        out.step = npo_json_int(job->from, "step", 0);
    if (trains && out.step >= job->train.steps)
        return npo_error_set(error, NPO_E_USAGE,
                             "train.steps: found %lld, expected more than the %lld steps that the "
                             "job it continues has done",
                             (long long)job->train.steps, (long long)out.step);
    recipes[job->recipe].lay_out(&at);
    npo_crash_point("expand");
    if (at.err) {
        npo_expansion_fini(&out);
        return explain(&at, error);
    }
    *ret_expansion = out;
    return NPO_OK;
}

void npo_expansion_fini(npo_expansion *expansion)
{
    for (size_t i = 0; i < expansion->count; i++)
        free(expansion->tasks[i].inputs);
    free(expansion->tasks);
    *expansion = (npo_expansion){0};
}
