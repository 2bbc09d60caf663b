#include "proto/job.h"

#include "common/bounds.h"
#include "proto/job_keys.h"
#include "proto/job_plan.h"
#include "proto/job_preset.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LIST_MAX = 64, PROMPT_BYTES_MAX = 4096, LABELS_MAX = 32 };

#define INT_EXACT_MAX 9007199254740992.0 /* 2^53 */

/* ---- tables ---- */

static npo_err read_recipe(const cJSON *json, int *ret_recipe, npo_error *error)
{
    const npo_json_field field = {
        .key = "recipe", .type = NPO_JSON_ENUM, .required = true, .choices = npo_job_recipes};
    return npo_json_read(json, "", &field, 1, true, ret_recipe, error);
}

static npo_err read_preset(const cJSON *json, int *ret_preset, npo_error *error)
{
    const npo_json_field field = {
        .key = "preset", .type = NPO_JSON_ENUM, .choices = npo_job_presets};
    return npo_json_read(json, "", &field, 1, true, ret_preset, error);
}

/* Keys that the recipe would ignore, and keys that it needs. object may be NULL. */
static npo_err check_keys(const npo_job_section *section, const cJSON *object,
                          const npo_job_reader *reader, npo_error *error)
{
    npo_recipe recipe = (npo_recipe)reader->recipe;
    const char *dot = *section->name ? "." : "";
    for (size_t i = 0; i < section->count; i++) {
        const npo_job_row *row = &section->rows[i];
        bool given = cJSON_GetObjectItemCaseSensitive(object, row->field.key) != NULL;
        if (given && !(row->recipes & 1u << recipe))
            return npo_error_set(error, NPO_E_USAGE, "key '%s%s%s' has no meaning in recipe '%s'",
                                 section->name, dot, row->field.key, npo_job_recipes[recipe]);
        bool preset = reader->job.preset && npo_job_preset_gives(section->name, row->field.key);
        if (!given && !preset && row->required & 1u << recipe)
            return npo_error_set(error, NPO_E_USAGE, "missing key '%s%s%s': recipe '%s' needs it",
                                 section->name, dot, row->field.key, npo_job_recipes[recipe]);
    }
    return NPO_OK;
}

static npo_err read_section(const npo_job_section *section, const cJSON *object,
                            npo_job_reader *reader, npo_error *error)
{
    npo_json_field fields[NPO_JOB_ROWS_MAX];
    for (size_t i = 0; i < section->count; i++)
        fields[i] = section->rows[i].field;
    return npo_json_read(object, section->name, fields, section->count, false, reader, error);
}

static npo_err read_sections(const cJSON *json, npo_job_reader *reader, npo_error *error)
{
    NPO_TRY(read_section(&npo_job_sections[0], json, reader, error));
    NPO_TRY(check_keys(&npo_job_sections[0], json, reader, error));
    for (int i = 1; i < NPO_JOB_SECTIONS; i++) {
        const npo_job_section *section = &npo_job_sections[i];
        const cJSON *object = *(const cJSON **)((char *)reader + section->offset);
        if (!object)
            continue;
        NPO_TRY(read_section(section, object, reader, error));
        NPO_TRY(check_keys(section, object, reader, error));
    }
    return NPO_OK;
}

/* ---- references ---- */

static npo_err bad_value(const char *key, const cJSON *item, const char *expected, npo_error *error)
{
    char *found = cJSON_PrintUnformatted(item);
    npo_err err = npo_error_set(error, NPO_E_TYPE, "%s: found %.60s, expected %s", key,
                                found ? found : "?", expected);
    cJSON_free(found);
    return err;
}

static npo_err read_ref(const char *key, const cJSON *item, npo_job_ref *ret_ref, npo_error *error)
{
    static const npo_json_field fields[] = {
        {"path", NPO_JSON_STRING, offsetof(npo_job_ref, path)},
        {"artifact", NPO_JSON_STRING, offsetof(npo_job_ref, artifact)},
    };
    npo_job_ref ref = {0};
    npo_hash hash;
    if (cJSON_IsString(item))
        ref.path = item->valuestring;
    else if (cJSON_IsObject(item))
        NPO_TRY(npo_json_read(item, key, fields, 2, false, &ref, error));
    if ((ref.path != NULL) == (ref.artifact != NULL) || (ref.path && !*ref.path))
        return bad_value(key, item, "a path or {\"artifact\": HASH}", error);
    if (ref.artifact && npo_hash_parse(ref.artifact, &hash))
        return npo_error_set(error, NPO_E_USAGE,
                             "%s.artifact: found '%.60s', expected 32 hex digits", key,
                             ref.artifact);
    *ret_ref = ref;
    return NPO_OK;
}

/* Every reference: its key, the JSON it is read from and the member it goes to. */
static const struct {
    const char *key;
    size_t item, ref; /* offsets within npo_job_reader */
} refs[] = {
    {"model", offsetof(npo_job_reader, model), offsetof(npo_job_reader, job.model)},
    {"negative", offsetof(npo_job_reader, negative), offsetof(npo_job_reader, job.negative)},
    {"positive", offsetof(npo_job_reader, positive), offsetof(npo_job_reader, job.positive)},
    {"data", offsetof(npo_job_reader, data), offsetof(npo_job_reader, job.data)},
    {"evaluate.classifier", offsetof(npo_job_reader, classifier),
     offsetof(npo_job_reader, job.evaluate.classifier)},
    {"evaluate.data", offsetof(npo_job_reader, evaluate_data),
     offsetof(npo_job_reader, job.evaluate.data)},
};
enum { REFS = sizeof refs / sizeof *refs };

static npo_err read_refs(npo_job_reader *reader, npo_error *error)
{
    for (int i = 0; i < REFS; i++) {
        const cJSON *item = *(const cJSON **)((char *)reader + refs[i].item);
        if (item)
            NPO_TRY(
                read_ref(refs[i].key, item, (npo_job_ref *)((char *)reader + refs[i].ref), error));
    }
    return NPO_OK;
}

static bool is_given(const npo_job_ref *ref)
{
    return ref->path || ref->artifact;
}

/* ---- lists ---- */

typedef struct {
    const char *key;
    const cJSON *list;
    double min, max;
    bool whole;
    const char *expected; /* of one item */
} number_list;

static npo_err check_numbers(const number_list *numbers, npo_error *error)
{
    int count = 0;
    char key[64];
    for (const cJSON *item = numbers->list->child; item; item = item->next, count++) {
        double value = item->valuedouble;
        snprintf(key, sizeof key, "%s[%d]", numbers->key, count);
        if (!cJSON_IsNumber(item) || !isfinite(value) || value < numbers->min ||
            value > numbers->max || (numbers->whole && value != floor(value)))
            return bad_value(key, item, numbers->expected, error);
        for (const cJSON *other = numbers->list->child; other != item; other = other->next)
            if (other->valuedouble == value)
                return npo_error_set(error, NPO_E_USAGE, "%s: %.10g stands twice", numbers->key,
                                     value);
    }
    if (count < 1 || count > LIST_MAX)
        return npo_error_set(error, NPO_E_USAGE, "%s: found %d entries, expected 1 to %d",
                             numbers->key, count, LIST_MAX);
    return NPO_OK;
}

static npo_err check_lists(const npo_job *job, npo_error *error)
{
    const char *whole = "a whole number of at least 0";
    const number_list lists[] = {
        {"evaluate.scales", job->evaluate.scales, 1e-3, 1000, false, "a number from 0.001 to 1000"},
        {"evaluate.betas", job->evaluate.betas, -10, 10, false, "a number from -10 to 10"},
        {"evaluate.seeds", job->evaluate.seeds, 0, INT_EXACT_MAX, true, whole},
        {"after", job->after, 1, INT_EXACT_MAX, true, "a job id"},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (lists[i].list)
            NPO_TRY(check_numbers(&lists[i], error));
    return NPO_OK;
}

static npo_err check_prompt(const char *key, const cJSON *item, npo_error *error)
{
    if (!cJSON_IsString(item))
        return bad_value(key, item, "a string", error);
    if (strlen(item->valuestring) > PROMPT_BYTES_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "%s: found %zu bytes, expected at most %d", key,
                             strlen(item->valuestring), PROMPT_BYTES_MAX);
    return NPO_OK;
}

static npo_err check_prompt_list(const char *name, const cJSON *list, npo_error *error)
{
    int i = 0;
    char key[48];
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next) {
        snprintf(key, sizeof key, "%s[%d]", name, i++);
        NPO_TRY(check_prompt(key, item, error));
    }
    return NPO_OK;
}

static npo_err check_prompts(const npo_job *job, npo_error *error)
{
    NPO_TRY(check_prompt_list("prompts", job->prompts, error));
    if (job->prompts && !job->prompts->child)
        return npo_error_set(error, NPO_E_USAGE, "prompts: found an empty list, expected prompts");
    return NPO_OK;
}

/* ---- small objects ---- */

typedef struct {
    const char *device;
    const cJSON *label;
} constraint_keys;

static npo_err check_constraints(const npo_job *job, npo_error *error)
{
    static const npo_json_field fields[] = {
        {"device", NPO_JSON_STRING, offsetof(constraint_keys, device), false, 0, NPO_NAME_MAX},
        {"label", NPO_JSON_OBJECT, offsetof(constraint_keys, label)},
    };
    constraint_keys found = {0};
    if (!job->constraints)
        return NPO_OK;
    NPO_TRY(npo_json_read(job->constraints, "constraints", fields, 2, false, &found, error));
    int count = 0;
    for (const cJSON *item = found.label ? found.label->child : NULL; item; item = item->next) {
        if (!cJSON_IsString(item))
            return bad_value("constraints.label", item, "strings", error);
        if (++count > LABELS_MAX)
            return npo_error_set(error, NPO_E_LIMIT, "constraints.label: more than %d labels",
                                 LABELS_MAX);
    }
    return NPO_OK;
}

static npo_err check_hash(const char *key, const cJSON *item, npo_error *error)
{
    npo_hash hash;
    const char *text = cJSON_GetStringValue(item);
    if (!text || npo_hash_parse(text, &hash))
        return bad_value(key, item, "32 hex digits", error);
    return NPO_OK;
}

static npo_err check_from_step(const npo_job *job, int64_t step, npo_error *error)
{
    /* Elsewhere a round is no more than a place to checkpoint. */
    if (job->recipe == NPO_RECIPE_SELF_NPO && step % job->round_steps != 0)
        return npo_error_set(
            error, NPO_E_USAGE,
            "cannot continue from step %lld: it is not a whole number of rounds of "
            "%lld steps",
            (long long)step, (long long)job->round_steps);
    if (step >= job->train.steps)
        return npo_error_set(error, NPO_E_USAGE,
                             "train.steps: found %lld, expected more than %lld: the job continues "
                             "from there",
                             (long long)job->train.steps, (long long)step);
    return NPO_OK;
}

typedef struct {
    int64_t job, step;
    const cJSON *checkpoint, *pools;
} from_keys;

static npo_err check_from(const npo_job *job, npo_error *error)
{
    static const npo_json_field fields[] = {
        {"job", NPO_JSON_INT, offsetof(from_keys, job), true, 1, INT_EXACT_MAX},
        {"step", NPO_JSON_INT, offsetof(from_keys, step), true, 0, INT_EXACT_MAX},
        {"checkpoint", NPO_JSON_ANY, offsetof(from_keys, checkpoint), true},
        {"pools", NPO_JSON_ARRAY, offsetof(from_keys, pools)},
    };
    from_keys found = {0};
    if (!job->from)
        return NPO_OK;
    NPO_TRY(npo_json_read(job->from, "from", fields, 4, false, &found, error));
    NPO_TRY(check_hash("from.checkpoint", found.checkpoint, error));
    for (const cJSON *item = found.pools ? found.pools->child : NULL; item; item = item->next)
        NPO_TRY(check_hash("from.pools", item, error));
    return npo_job_is_training(job) ? check_from_step(job, found.step, error) : NPO_OK;
}

/* ---- keys against each other ---- */

static npo_err check_name(const npo_job *job, npo_error *error)
{
    for (const char *at = job->name; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return npo_error_set(error, NPO_E_USAGE, "name: found a control character");
    return NPO_OK;
}

static npo_err check_workers(const npo_job *job, npo_error *error)
{
    const unsigned parallel = NPO_FOR_DENOISER | NPO_FOR_EVALUATE;
    if (job->workers > 1 && !(parallel & 1u << job->recipe))
        return npo_error_set(error, NPO_E_USAGE,
                             "workers: found %lld, expected 1: recipe '%s' runs on one worker",
                             (long long)job->workers, npo_job_recipes[job->recipe]);
    return NPO_OK;
}

static npo_err check_batch(const npo_job *job, npo_error *error)
{
    const npo_job_train *train = &job->train;
    if (!npo_job_is_training(job))
        return NPO_OK;
    if (train->batch % job->workers != 0)
        return npo_error_set(error, NPO_E_USAGE,
                             "train.batch: found %lld, expected a multiple of workers, %lld",
                             (long long)train->batch, (long long)job->workers);
    int64_t rank_batch = train->batch / job->workers;
    if (train->micro_batch > 0 && rank_batch % train->micro_batch != 0)
        return npo_error_set(
            error, NPO_E_USAGE,
            "train.micro_batch: found %lld, expected a divisor of batch / workers, "
            "%lld",
            (long long)train->micro_batch, (long long)rank_batch);
    return NPO_OK;
}

static npo_err check_schedule(const npo_job *job, npo_error *error)
{
    const npo_job_train *train = &job->train;
    if (npo_job_is_training(job) && train->lr_schedule != NPO_LR_CONSTANT &&
        train->warmup_steps >= train->steps)
        return npo_error_set(error, NPO_E_USAGE,
                             "train.warmup_steps: found %lld, expected less than steps, %lld",
                             (long long)train->warmup_steps, (long long)train->steps);
    return NPO_OK;
}

static npo_err check_lora(const npo_job *job, npo_error *error)
{
    if (job->init_random && job->train.lora.rank)
        return npo_error_set(error, NPO_E_USAGE,
                             "train.lora: found it with init_random, expected a trained model to "
                             "stand beside");
    return NPO_OK;
}

static npo_err check_pipeline(const npo_job *job, npo_error *error)
{
    if (job->recipe == NPO_RECIPE_SELF_NPO && job->pipeline == NPO_PIPELINE_FUSED &&
        job->staleness != 0)
        return npo_error_set(error, NPO_E_USAGE,
                             "staleness: found %lld, expected 0: pipeline 'fused' has no rounds "
                             "that could overlap",
                             (long long)job->staleness);
    return NPO_OK;
}

static npo_err check_starts(const npo_job *job, npo_error *error)
{
    const npo_job_generate *generate = &job->generate;
    if (job->recipe != NPO_RECIPE_SELF_NPO)
        return NPO_OK;
    if (generate->segment_steps > generate->solver_steps)
        return npo_error_set(error, NPO_E_USAGE,
                             "generate.segment_steps: found %lld, expected at most solver_steps, "
                             "%lld",
                             (long long)generate->segment_steps, (long long)generate->solver_steps);
    if (generate->starts == NPO_STARTS_LATENTS && !is_given(&job->data))
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'data': generate.starts 'latents' begins at its images");
    if (!job->prompts && !is_given(&job->data))
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'prompts': without 'data' there are no captions either");
    return NPO_OK;
}

static npo_err check_sample(const npo_job *job, npo_error *error)
{
    if (job->sample.interval_start >= job->sample.interval_end)
        return npo_error_set(error, NPO_E_USAGE,
                             "sample.interval_start: found %.10g, expected less than interval_end, "
                             "%.10g",
                             job->sample.interval_start, job->sample.interval_end);
    return NPO_OK;
}

static npo_err check_negative_prompt(const npo_job *job, npo_error *error)
{
    const cJSON *negative = job->sample.negative_prompt;
    int count = cJSON_GetArraySize(negative), prompts = cJSON_GetArraySize(job->prompts);
    if (!negative)
        return NPO_OK;
    if (!cJSON_IsString(negative) && !cJSON_IsArray(negative))
        return bad_value("sample.negative_prompt", negative, "a text or a list of texts", error);
    if (cJSON_IsString(negative))
        return check_prompt("sample.negative_prompt", negative, error);
    if (count != prompts)
        return npo_error_set(error, NPO_E_USAGE,
                             "sample.negative_prompt: found %d entries, expected as many as "
                             "prompts, %d",
                             count, prompts);
    return check_prompt_list("sample.negative_prompt", negative, error);
}

static npo_err check_seeds(const npo_job *job, npo_error *error)
{
    const cJSON *seeds = job->sample.seeds;
    int count = cJSON_GetArraySize(seeds), prompts = cJSON_GetArraySize(job->prompts), i = 0;
    char key[32];
    if (seeds && count != prompts)
        return npo_error_set(error, NPO_E_USAGE,
                             "sample.seeds: found %d entries, expected as many as prompts, %d",
                             count, prompts);
    for (const cJSON *item = seeds ? seeds->child : NULL; item; item = item->next) {
        double value = item->valuedouble;
        snprintf(key, sizeof key, "sample.seeds[%d]", i++);
        if (!cJSON_IsNumber(item) || !(value >= 0 && value <= INT_EXACT_MAX) ||
            value != floor(value))
            return bad_value(key, item, "a whole number of at least 0", error);
    }
    return NPO_OK;
}

static npo_err check_sampler(const npo_job *job, npo_error *error)
{
    bool ddim = job->sample.sampler == NPO_JOB_SAMPLER_DDIM;
    if (job->sample.karras && ddim)
        return npo_error_set(
            error, NPO_E_USAGE,
            "sample.karras: found true, expected false: sampler 'ddim' has no such "
            "noise levels");
    if (job->sample.spacing == NPO_JOB_SPACING_METHOD && !ddim)
        return npo_error_set(error, NPO_E_USAGE,
                             "sample.spacing: found 'method', expected another one: only sampler "
                             "'ddim' runs on the method's grid");
    return NPO_OK;
}

static npo_err check_evaluate(const npo_job *job, npo_error *error)
{
    if (!job->has_evaluate)
        return NPO_OK;
    if (!is_given(&job->evaluate.data))
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'evaluate.data': the job has no 'data' of its own that "
                             "could be compared with");
    return NPO_OK;
}

static npo_err check_tasks(const npo_job *job, npo_error *error)
{
    npo_job_plan plan;
    npo_job_plan_make(job, &plan);
    if (plan.tasks > NPO_TASKS_PER_JOB_MAX)
        return npo_error_set(error, NPO_E_LIMIT,
                             "the job would have %lld tasks, at most %d are allowed: raise "
                             "round_steps, now %lld",
                             (long long)plan.tasks, NPO_TASKS_PER_JOB_MAX,
                             (long long)job->round_steps);
    return NPO_OK;
}

static npo_err (*const checks[])(const npo_job *, npo_error *) = {
    check_name,        check_workers,         check_batch,  check_schedule, check_lora,
    check_pipeline,    check_starts,          check_sample, check_lists,    check_prompts,
    check_constraints, check_negative_prompt, check_seeds,  check_sampler,  check_from,
    check_evaluate,    npo_job_check_export,  check_tasks,
};

/* ---- all together ---- */

static void derive(npo_job_reader *reader)
{
    npo_job *job = &reader->job;
    const char *name = reader->name && *reader->name ? reader->name : npo_job_recipes[job->recipe];
    snprintf(job->name, sizeof job->name, "%s", name);
    job->has_evaluate = reader->evaluate != NULL;
    npo_job_preset_finish(job);
    if (job->train.lora.rank && job->train.lora.alpha == 0)
        job->train.lora.alpha = (double)job->train.lora.rank;
    if (job->has_evaluate && !is_given(&job->evaluate.data))
        job->evaluate.data = job->data;
}

npo_err npo_job_read(const cJSON *json, npo_job *ret_job, npo_error *error)
{
    int recipe = 0, preset = NPO_PRESET_NONE;
    npo_job_reader reader;
    NPO_TRY(read_recipe(json, &recipe, error));
    NPO_TRY(read_preset(json, &preset, error));
    npo_job_reader_init((npo_recipe)recipe, &reader);
    npo_job_preset_begin((npo_preset)preset, &reader.job);
    NPO_TRY(read_sections(json, &reader, error));
    NPO_TRY(read_refs(&reader, error));
    derive(&reader);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        NPO_TRY(checks[i](&reader.job, error));
    if (npo_job_is_training(&reader.job) && reader.job.train.micro_batch == 0)
        reader.job.train.micro_batch = reader.job.train.batch / reader.job.workers;
    *ret_job = reader.job;
    return NPO_OK;
}

const char *const *npo_job_path_keys(void)
{
    static const char *const keys[] = {
        "model", "negative", "positive", "data", "evaluate.classifier", "evaluate.data", NULL};
    static_assert(sizeof keys / sizeof *keys == REFS + 1, "one key per reference");
    return keys;
}

const char *npo_job_recipe_name(npo_recipe recipe)
{
    assert(recipe >= 0 && recipe < NPO_RECIPE_COUNT);
    return npo_job_recipes[recipe];
}

const char *npo_job_preset_name(const npo_job *job)
{
    return npo_job_presets[job->preset];
}

const char *npo_job_starts_name(const npo_job *job)
{
    return npo_job_starts[job->generate.starts];
}

const char *npo_job_lr_schedule_name(const npo_job *job)
{
    return npo_job_lr_schedules[job->train.lr_schedule];
}

const char *npo_lora_targets_name(int targets)
{
    return npo_job_lora_targets_names[targets];
}

const char *npo_optimizer_name(npo_optimizer_kind kind)
{
    return npo_job_optimizers[kind];
}

const char *npo_job_sampler_name(const npo_job *job)
{
    return npo_job_samplers[job->sample.sampler];
}

const char *npo_job_spacing_name(const npo_job *job)
{
    return npo_job_spacings[job->sample.spacing];
}

bool npo_job_is_training(const npo_job *job)
{
    return NPO_FOR_TRAINING & 1u << job->recipe;
}
