#include "server/expand.h"
#include "server/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* An assignment carries the job file and must fit into a reply with all else. */
    SPEC_BYTES_MAX = NPO_REPLY_BYTES_MAX - (128 << 10),
    POOLS_MAX = NPO_GANG_MAX
};

typedef struct {
    const char *key;
    const cJSON *spec, *from;
    /* made on the way */
    cJSON *json; /* the job file with `from` filled in; owned */
    char *text;  /* canonical; owned */
    npo_job job; /* borrows from json */
    npo_expansion expansion;
    int64_t id;
} submit_request;

static void submission_fini(submit_request *submission)
{
    cJSON_Delete(submission->json);
    free(submission->text);
    npo_expansion_fini(&submission->expansion);
}

/* ---- from ---- */

static npo_err no_checkpoint(npo_server *server, npo_request *request, int64_t job, int64_t step)
{
    npo_buf steps = NPO_BUF_INIT;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_CHECKPOINTS, npo_int(job), npo_int(8));
    for (int i = 0; npo_query_next(rows); i++)
        npo_buf_printf(&steps, "%s %lld", i ? "," : "", (long long)npo_query_int(rows, 0));
    npo_err err;
    if (steps.len > 0 && step >= 0)
        err = npo_error_set(&request->error, NPO_E_NOT_FOUND,
                            "from: job %lld has no checkpoint at step %lld, the newest are at%s",
                            (long long)job, (long long)step, steps.data);
    else
        err = npo_error_set(&request->error, NPO_E_NOT_FOUND, "from: job %lld has no checkpoint",
                            (long long)job);
    npo_buf_fini(&steps);
    return err;
}

static bool add_pools(npo_server *server, cJSON *from, int64_t job, int64_t round)
{
    cJSON *pools = cJSON_AddArrayToObject(from, "pools");
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_POOLS, npo_int(job), npo_int(round));
    for (int i = 0; i < POOLS_MAX && pools && npo_query_next(rows); i++)
        if (!cJSON_AddItemToArray(pools, cJSON_CreateString(npo_query_text(rows, 1))))
            pools = NULL;
    npo_query_end(rows);
    return pools != NULL;
}

/* Puts {"job", "step", "checkpoint", "pools"} into the job file. */
static npo_err resolve_from(npo_server *server, npo_request *request, submit_request *submission)
{
    cJSON_DeleteItemFromObjectCaseSensitive(submission->json, "from");
    if (!submission->from || cJSON_IsNull(submission->from))
        return NPO_OK;
    int64_t job = npo_json_int(submission->from, "job", 0);
    int64_t step = npo_json_int(submission->from, "step", -1);
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_OUTPUT_FIND, npo_int(job),
                             npo_text("checkpoint"), npo_int(step));
    if (!npo_query_next(row))
        return no_checkpoint(server, request, job, step);
    cJSON *from = cJSON_CreateObject();
    int64_t round = npo_query_int(row, 4);
    bool is_whole = cJSON_AddNumberToObject(from, "job", (double)job) &&
                    cJSON_AddNumberToObject(from, "step", (double)npo_query_int(row, 3)) &&
                    cJSON_AddStringToObject(from, "checkpoint", npo_query_text(row, 0));
    npo_query_end(row);
    if (!is_whole || !add_pools(server, from, job, round) ||
        !cJSON_AddItemToObject(submission->json, "from", from)) {
        cJSON_Delete(from);
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot read 'from'");
    }
    return NPO_OK;
}

/* ---- checks ---- */

static const cJSON *find_path(const cJSON *json, const char *path)
{
    char part[64];
    for (const char *dot; json && (dot = strchr(path, '.')); path = dot + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        json = cJSON_GetObjectItemCaseSensitive(json, part);
    }
    return json ? cJSON_GetObjectItemCaseSensitive(json, path) : NULL;
}

static const char *artifact_of(const cJSON *json, const char *path)
{
    return npo_json_string(find_path(json, path), "artifact", NULL);
}

static npo_err check_artifact(npo_server *server, npo_request *request, const char *where,
                              const char *hash)
{
    if (npo_hash_is_text(hash) && npo_artifact_find(server, hash).is_there)
        return NPO_OK;
    return npo_error_set(&request->error, NPO_E_NOT_FOUND,
                         "%s: artifact '%.40s' is not here: import it first", where, hash);
}

static npo_err check_artifacts(npo_server *server, npo_request *request, const cJSON *json)
{
    for (const char *const *path = npo_job_path_keys(); *path; path++) {
        const cJSON *item = find_path(json, *path);
        if (!item || cJSON_IsNull(item))
            continue;
        const char *hash = artifact_of(json, *path);
        if (!hash)
            return npo_error_set(&request->error, NPO_E_TYPE,
                                 "%s: expected {\"artifact\": HASH}: npod reads no paths of the "
                                 "submitter's, npoctl imports them",
                                 *path);
        NPO_TRY(check_artifact(server, request, *path, hash));
    }
    return NPO_OK;
}

/* The checkpoint is known to be there. */
static npo_err check_pools(npo_server *server, npo_request *request, const cJSON *from)
{
    const cJSON *pool;
    cJSON_ArrayForEach(pool, cJSON_GetObjectItemCaseSensitive(from, "pools"))
    {
        NPO_TRY(check_artifact(server, request, "from", cJSON_GetStringValue(pool)));
    }
    return NPO_OK;
}

static npo_err check_after(npo_server *server, npo_request *request, const cJSON *after)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, after)
    {
        if (npo_job_find_state(server, (int64_t)item->valuedouble) == NPO_JOB_STATE_COUNT)
            return npo_error_set(&request->error, NPO_E_NOT_FOUND, "after: there is no job %lld",
                                 (long long)item->valuedouble);
    }
    return NPO_OK;
}

static npo_err check(npo_server *server, npo_request *request, submit_request *submission)
{
    submission->json = cJSON_Duplicate(submission->spec, 1);
    if (!submission->json)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot read the job file");
    NPO_TRY(resolve_from(server, request, submission));
    submission->text = npo_json_canonical(submission->json);
    if (!submission->text)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot read the job file");
    if (strlen(submission->text) > SPEC_BYTES_MAX)
        return npo_error_set(&request->error, NPO_E_LIMIT,
                             "the job file has %zu bytes, at most %d are allowed",
                             strlen(submission->text), (int)SPEC_BYTES_MAX);
    NPO_TRY(npo_job_read(submission->json, &submission->job, &request->error));
    NPO_TRY(check_artifacts(server, request, submission->json));
    NPO_TRY(check_pools(server, request, submission->job.from));
    NPO_TRY(check_after(server, request, submission->job.after));
    if (server->jobs.count >= NPO_JOBS_ACTIVE_MAX)
        return npo_error_set(&request->error, NPO_E_LIMIT,
                             "%d jobs are not over yet, that is the most",
                             (int)NPO_JOBS_ACTIVE_MAX);
    return npo_expand(&submission->job, &submission->expansion, &request->error);
}

/* ---- writing ---- */

static void insert_job(npo_server *server, submit_request *submission)
{
    const npo_job *job = &submission->job;
    char *constraints = job->constraints ? cJSON_PrintUnformatted(job->constraints) : NULL;
    if (job->constraints && !constraints)
        npo_state_fail(server, NPO_E_NOMEM, "cannot submit a job");
    bool trains = submission->expansion.rounds > 0;
    npo_run(server->store, NPO_SQL_JOB_INSERT, npo_text(submission->key), npo_text(job->name),
            npo_text(npo_job_recipe_name(job->recipe)), npo_text(submission->text),
            npo_text(constraints), npo_int(job->priority), npo_int(submission->expansion.workers),
            npo_int(job->retries), npo_int(job->time_limit_s), npo_int(job->any_class),
            npo_int((int64_t)submission->expansion.count), npo_int(trains ? job->train.steps : 0),
            npo_int(submission->expansion.rounds), npo_int(submission->expansion.step),
            npo_int(server->last_event + 1), npo_int(server->now.wall_ms));
    submission->id = npo_store_last_id(server->store);
    free(constraints);
}

static void insert_artifacts(npo_server *server, const submit_request *submission)
{
    for (const char *const *path = npo_job_path_keys(); *path; path++) {
        const char *hash = artifact_of(submission->json, *path);
        if (hash)
            npo_run(server->store, NPO_SQL_JOB_ARTIFACT_INSERT, npo_int(submission->id),
                    npo_text(hash));
    }
    const cJSON *pool;
    const char *checkpoint = npo_json_string(submission->job.from, "checkpoint", NULL);
    if (checkpoint)
        npo_run(server->store, NPO_SQL_JOB_ARTIFACT_INSERT, npo_int(submission->id),
                npo_text(checkpoint));
    cJSON_ArrayForEach(pool, cJSON_GetObjectItemCaseSensitive(submission->job.from, "pools"))
        npo_run(server->store, NPO_SQL_JOB_ARTIFACT_INSERT, npo_int(submission->id),
                npo_text(cJSON_GetStringValue(pool)));
}

static bool is_first_use(const npo_expand_task *task, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (task->inputs[i].source == task->inputs[index].source)
            return false;
    return task->inputs[index].source >= 0;
}

static int64_t count_sources(const npo_expand_task *task)
{
    int64_t count = 0;
    for (size_t i = 0; i < task->input_count; i++)
        count += is_first_use(task, i);
    return count;
}

static void insert_inputs(npo_server *server, const npo_expand_task *task, int64_t id,
                          const int64_t *ids)
{
    for (size_t i = 0; i < task->input_count; i++) {
        const npo_expand_input *input = &task->inputs[i];
        bool is_made = input->source >= 0;
        npo_run(server->store, NPO_SQL_TASK_INPUT_INSERT, npo_int(id), npo_int((int64_t)i),
                npo_text(input->name), npo_int(input->rank),
                is_made ? npo_int(ids[input->source]) : npo_text(NULL),
                npo_text(is_made ? input->output : NULL), npo_text(input->hash));
        if (is_first_use(task, i))
            npo_run(server->store, NPO_SQL_TASK_DEP_INSERT, npo_int(ids[input->source]),
                    npo_int(id));
    }
}

static void insert_tasks(npo_server *server, const submit_request *submission)
{
    size_t count = submission->expansion.count;
    int64_t *ids = calloc(count + 1, sizeof *ids);
    if (!ids) {
        npo_state_fail(server, NPO_E_NOMEM, "cannot submit a job");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const npo_expand_task *task = &submission->expansion.tasks[i];
        int64_t waiting = count_sources(task);
        npo_run(server->store, NPO_SQL_TASK_INSERT, npo_int(submission->id), npo_text(task->kind),
                npo_int(task->round), npo_int(task->shard), npo_int(task->shards),
                npo_int(task->world), npo_int(task->step_end), npo_text(task->params),
                npo_int(waiting > 0 ? NPO_TASK_WAITING : NPO_TASK_READY), npo_int(waiting));
        ids[i] = npo_store_last_id(server->store);
        insert_inputs(server, task, ids[i], ids);
    }
    free(ids);
}

/* Jobs that are done already need not be waited for. */
static void insert_after(npo_server *server, const submit_request *submission)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, submission->job.after)
    {
        int64_t needs = (int64_t)item->valuedouble;
        if (npo_job_find_state(server, needs) != NPO_JOB_DONE)
            npo_run(server->store, NPO_SQL_JOB_AFTER_INSERT, npo_int(submission->id),
                    npo_int(needs));
    }
}

static npo_err mirror(npo_server *server, npo_request *request, int64_t id)
{
    npo_job_record *job = NULL;
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_GET, npo_int(id));
    if (!npo_query_next(row))
        return npo_store_err(server->store, &request->error);
    npo_err err = npo_job_record_read(row, &job);
    npo_query_end(row);
    if (!err)
        err = npo_job_load_after(server, job);
    if (!err)
        err = npo_map_put(&server->jobs, id, job);
    if (err) {
        npo_job_record_free(job);
        return npo_error_set(&request->error, err, "cannot submit a job");
    }
    npo_job_recount(server, job);
    npo_queue_add(server, job);
    return NPO_OK;
}

static npo_err answer(npo_request *request, int64_t id, bool existing, int64_t tasks)
{
    npo_buf_printf(&request->reply->json, "{\"job\":%lld,\"existing\":%s,\"tasks\":%lld}",
                   (long long)id, existing ? "true" : "false", (long long)tasks);
    return npo_buf_err(&request->reply->json);
}

static npo_err submit(npo_server *server, npo_request *request, submit_request *submission)
{
    NPO_TRY(check(server, request, submission));
    insert_job(server, submission);
    insert_artifacts(server, submission);
    insert_tasks(server, submission);
    insert_after(server, submission);
    npo_run(server->store, NPO_SQL_PIN_DELETE_BOOT, npo_int((int64_t)request->frame->boot));
    npo_event_add(server, submission->id, 0, "job.submitted", submission->job.name);
    NPO_TRY(mirror(server, request, submission->id));
    return answer(request, submission->id, false, (int64_t)submission->expansion.count);
}

npo_err npo_handle_submit(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"key", NPO_JSON_STRING, offsetof(submit_request, key), true, 0, NPO_NAME_MAX, NULL},
        {"spec", NPO_JSON_OBJECT, offsetof(submit_request, spec), true, 0, 0, NULL},
        {"from", NPO_JSON_ANY, offsetof(submit_request, from), false, 0, 0, NULL},
    };
    submit_request submission = {0};
    NPO_TRY(npo_request_fields(request, fields, &submission));
    if (!*submission.key)
        return npo_error_set(&request->error, NPO_E_USAGE, "key: found \"\", expected a key");
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_FIND_KEY, npo_text(submission.key));
    if (npo_query_next(row)) {
        int64_t id = npo_query_int(row, 0), tasks = npo_query_int(row, 1);
        npo_query_end(row);
        return answer(request, id, true, tasks);
    }
    npo_err err = submit(server, request, &submission);
    submission_fini(&submission);
    return err;
}
