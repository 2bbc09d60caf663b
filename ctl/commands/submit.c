#include "ctl/job/follow.h"
#include "ctl/job/job_file.h"
#include "ctl/job/submission.h"
#include "ctl/text/print.h"
#include "proto/job_plan.h"

#include <stdio.h>

typedef struct {
    npo_common_values common;
    npo_option_list sets;
    const char *from, *key;
    bool dry_run, wait, id_only, json, help_job;
} submit_values;

/* ---- --dry-run ---- */

static npo_exit print_plan_json(const npo_job *job, const npo_job_plan *plan)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", job->name);
    cJSON_AddStringToObject(json, "recipe", npo_job_recipe_name(job->recipe));
    cJSON_AddNumberToObject(json, "workers", (double)job->workers);
    cJSON_AddNumberToObject(json, "first_step", (double)plan->first_step);
    cJSON_AddNumberToObject(json, "steps", (double)plan->steps);
    cJSON_AddNumberToObject(json, "rounds", (double)plan->rounds);
    cJSON_AddNumberToObject(json, "tasks", (double)plan->tasks);
    cJSON *kinds = cJSON_AddArrayToObject(json, "kinds");
    for (size_t i = 0; i < plan->row_count; i++) {
        cJSON *kind = cJSON_CreateObject();
        cJSON_AddStringToObject(kind, "kind", plan->rows[i].kind);
        cJSON_AddNumberToObject(kind, "tasks", (double)plan->rows[i].tasks);
        cJSON_AddNumberToObject(kind, "ranks", (double)plan->rows[i].ranks);
        cJSON_AddItemToArray(kinds, kind);
    }
    npo_exit code = npo_print_json(json);
    cJSON_Delete(json);
    return code;
}

static npo_exit print_plan_table(const npo_job_plan *plan)
{
    static const npo_table_column columns[] = {{"KIND", false}, {"TASKS", true}, {"RANKS", true}};
    npo_table *table = npo_table_new(columns, NPO_ARRAY_COUNT(columns));
    for (size_t i = 0; table && i < plan->row_count; i++) {
        char tasks[24], ranks[24];
        npo_print_id(plan->rows[i].tasks, tasks);
        npo_print_id(plan->rows[i].ranks, ranks);
        npo_table_add(table, (const char *[]){plan->rows[i].kind, tasks, ranks});
    }
    return npo_print_table(table, "no tasks");
}

static void print_preset(const npo_job *job)
{
    const npo_job_train *train = &job->train;
    printf(
        "preset %s: %lld steps of %lld samples, lr %g, weight decay %g, %s; w_gen %g, starts %s; "
        "guidance %g\n",
        npo_job_preset_name(job), (long long)train->steps, (long long)train->batch, train->lr,
        train->weight_decay, npo_optimizer_name((npo_optimizer_kind)train->optimizer),
        job->generate.w_gen, npo_job_starts_name(job), job->sample.guidance_scale);
}

static npo_exit print_plan(const npo_job *job)
{
    npo_job_plan plan;
    npo_job_plan_make(job, &plan);
    printf("job '%s', recipe %s, on %lld worker%s\n", job->name, npo_job_recipe_name(job->recipe),
           (long long)job->workers, job->workers == 1 ? "" : "s");
    if (job->preset)
        print_preset(job);
    if (plan.rounds > 0)
        printf("steps %lld to %lld in %lld rounds of %lld\n", (long long)plan.first_step,
               (long long)plan.steps, (long long)plan.rounds, (long long)job->round_steps);
    npo_exit code = print_plan_table(&plan);
    printf("%lld task%s in all; nothing was sent\n", (long long)plan.tasks,
           plan.tasks == 1 ? "" : "s");
    return code;
}

/* As npod will fill it in; which checkpoint is npod's to find. */
static bool pretend_from(cJSON *spec, int64_t job, int64_t step)
{
    cJSON *from = npo_submission_from(job, step < 0 ? 0 : step);
    bool good =
        from && cJSON_AddStringToObject(from, "checkpoint", "00000000000000000000000000000000");
    if (good && cJSON_AddItemToObject(spec, "from", from))
        return true;
    cJSON_Delete(from);
    return false;
}

static npo_exit dry_run(cJSON *spec, const submit_values *values, const npo_submission *submission)
{
    npo_job job;
    npo_job_plan plan;
    npo_error error = {0};
    if (submission->from_job > 0 &&
        !pretend_from(spec, submission->from_job, submission->from_step))
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    if (npo_job_file_check(spec, &job, &error))
        return npo_exit_local(&error);
    if (submission->from_job > 0 && submission->from_step < 0 && !values->json)
        printf("counted from step 0: npod knows the last checkpoint of job %lld\n",
               (long long)submission->from_job);
    npo_job_plan_make(&job, &plan);
    return values->json ? print_plan_json(&job, &plan) : print_plan(&job);
}

/* ---- the command ---- */

static npo_exit announce(const npo_answer *answer, const submit_values *values)
{
    int64_t job = npo_json_int(answer->json, "job", 0);
    long long tasks = (long long)npo_json_int(answer->json, "tasks", 0);
    bool existing = npo_json_bool(answer->json, "existing", false);
    if (values->json)
        return npo_print_json(answer->json);
    if (values->id_only)
        printf("%lld\n", (long long)job);
    else if (existing)
        printf("job %lld is there already under this key\n", (long long)job);
    else
        printf("job %lld accepted: %lld task%s\n", (long long)job, tasks, tasks == 1 ? "" : "s");
    fflush(stdout);
    return NPO_EXIT_OK;
}

static npo_exit send(cJSON *spec, const submit_values *values, const npo_submission *submission)
{
    npo_session *session = NULL;
    npo_answer answer = {0};
    npo_exit code = npo_session_open(&values->common, &session);
    if (!code)
        code = npo_submission_send(session, spec, submission, &answer);
    if (!code)
        code = announce(&answer, values);
    if (!code && values->wait)
        code = npo_follow(session, npo_json_int(answer.json, "job", 0),
                          values->json || values->id_only);
    npo_answer_fini(&answer);
    npo_session_close(session);
    return code;
}

static npo_err load(const char *path, const submit_values *values, cJSON **ret_spec,
                    npo_error *error)
{
    cJSON *spec = NULL;
    npo_job job;
    NPO_TRY(npo_job_file_load(path, &values->sets, &spec, error));
    npo_err err = NPO_OK;
    if (cJSON_HasObjectItem(spec, "from"))
        err = npo_error_set(error, NPO_E_USAGE,
                            "key 'from' is not for job files: use --from JOB[@STEP]");
    if (!err)
        err = npo_job_file_check(spec, &job, error);
    if (err) {
        npo_error_prefix(error, err, "job file '%s'", path);
        cJSON_Delete(spec);
        return err;
    }
    *ret_spec = spec;
    return NPO_OK;
}

static npo_exit run_submit(const npo_call *call)
{
    const submit_values *values = call->values;
    npo_submission submission = {.key = values->key};
    npo_error error = {0};
    cJSON *spec = NULL;
    npo_exit code = NPO_EXIT_OK;
    if (values->help_job) {
        npo_job_print_keys(stdout);
        return NPO_EXIT_OK;
    }
    if (call->rest_count == 0)
        return npo_exit_with(NPO_EXIT_USAGE, "missing argument: npoctl submit FILE");
    if (values->from)
        code = npo_command_parse_job(values->from, &submission.from_job, &submission.from_step);
    if (!code && load(call->rest[0], values, &spec, &error))
        code = npo_exit_local(&error);
    if (!code)
        code =
            values->dry_run ? dry_run(spec, values, &submission) : send(spec, values, &submission);
    cJSON_Delete(spec);
    return code;
}

#define ORDER(name, type, member, argument, help)                                                  \
    {                                                                                              \
        name, 0, NPO_OPTION_##type, NPO_OPTION_FLAG_ONLY, offsetof(submit_values, member),         \
            argument, help, 0, 0                                                                   \
    }
static const npo_option options[] = {
    ORDER("set", LIST, sets, "KEY=VALUE", "change a value of the job file: train.lr=3e-5"),
    ORDER("from", STRING, from, "JOB[@STEP]", "go on from a checkpoint (the last one)"),
    ORDER("key", STRING, key, "TEXT", "the same key finds the same job again"),
    ORDER("dry-run", BOOL, dry_run, NULL, "check the job, show its tasks, send nothing"),
    ORDER("wait", BOOL, wait, NULL, "show progress until the end, exit with the job's code"),
    ORDER("id-only", BOOL, id_only, NULL, "print the job's number only"),
    ORDER("json", BOOL, json, NULL, "print npod's answer (or the plan) as JSON"),
    ORDER("help-job", BOOL, help_job, NULL, "print every key of a job file and leave"),
};

const npo_command npo_command_submit = {
    .name = "submit",
    .summary = "hand in a job file",
    .usage = "[OPTION...] FILE",
    .text =
        "Checks a job file (docs/job-file.md), stores the files it names with npod, and hands it "
        "in. FILE\n"
        "\"-\" is standard input. Without --wait it returns as soon as npod has accepted the job.",
    .example = "npoctl submit models/fashion/self-npo.json --set train.steps=100 --wait",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .values_size = sizeof(submit_values),
    .rest_max = 1,
    .run = run_submit,
};
