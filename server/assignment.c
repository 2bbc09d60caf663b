#include "server/state.h"

#include <string.h>

/* Inputs of a rank. Errors: NPO_E_CORRUPT with the hash of one that is not there. */
static npo_err add_inputs(npo_server *server, int64_t task, int rank, npo_buf *json,
                          char ret_hash[NPO_HASH_TEXT_SIZE])
{
    int count = 0;
    npo_err err = NPO_OK;
    npo_query *rows = npo_ask(server->store, NPO_SQL_TASK_INPUTS, npo_int(task), npo_int(rank));
    npo_buf_str(json, "\"inputs\":[");
    while (npo_query_next(rows)) {
        const char *hash = npo_query_text(rows, 1);
        if (!hash || npo_query_is_null(rows, 2)) {
            memset(ret_hash, 0, NPO_HASH_TEXT_SIZE);
            if (hash)
                memcpy(ret_hash, hash, NPO_HASH_TEXT_SIZE - 1);
            npo_query_end(rows);
            err = NPO_E_CORRUPT;
            break;
        }
        npo_buf_str(json, count++ ? ",{\"name\":" : "{\"name\":");
        npo_json_add_text(json, npo_query_text(rows, 0));
        npo_buf_str(json, ",\"hash\":\"");
        npo_buf_str(json, hash);
        npo_json_add_field(json, "\",\"size\":", npo_query_int(rows, 2));
        npo_buf_str(json, "}");
    }
    npo_buf_str(json, "]");
    return err;
}

/* The job file is large and the same for every task of a job: kept with the job while it is active.
 */
static void add_spec(npo_server *server, int64_t job_id, npo_buf *json)
{
    npo_job_record *job = npo_job_by_id(server, job_id);
    if (job) {
        npo_buf_str(json, npo_job_spec(server, job));
        return;
    }
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_SPEC, npo_int(job_id));
    if (!npo_query_next(row)) {
        npo_buf_str(json, "{}");
        return;
    }
    npo_buf_str(json, npo_query_text(row, 0));
    npo_query_end(row);
}

npo_err npo_assignment_write(npo_server *server, const npo_task_record *known, int64_t task_id,
                             int64_t attempt, int rank, npo_buf *ret_json,
                             char ret_hash[NPO_HASH_TEXT_SIZE])
{
    npo_task_record task;
    if (known && known->id == task_id)
        task = *known;
    else if (!npo_task_load(server, task_id, &task))
        return NPO_E_NOT_FOUND;
    const npo_job_record *job = npo_job_by_id(server, task.job);
    npo_json_add_field(ret_json, "{\"assignment\":{\"task\":", task.id);
    npo_json_add_field(ret_json, ",\"attempt\":", attempt);
    npo_json_add_field(ret_json, ",\"rank\":", rank);
    npo_json_add_field(ret_json, ",\"world\":", task.world);
    npo_json_add_field(ret_json, ",\"job\":", task.job);
    npo_buf_str(ret_json, ",\"kind\":\"");
    npo_buf_str(ret_json, task.kind);
    npo_json_add_field(ret_json, "\",\"round\":", task.round);
    npo_json_add_field(ret_json, ",\"shard\":", task.shard);
    npo_json_add_field(ret_json, ",\"shards\":", task.shards);
    npo_json_add_field(ret_json, ",\"generation\":", attempt);
    npo_json_add_field(ret_json, ",\"time_limit_s\":", job ? job->time_limit_s : 0);
    npo_buf_str(ret_json, ",");
    NPO_TRY(add_inputs(server, task.id, rank, ret_json, ret_hash));
    npo_buf_str(ret_json, ",\"params\":");
    npo_buf_str(ret_json, task.params);
    npo_buf_str(ret_json, ",\"spec\":");
    add_spec(server, task.job, ret_json);
    npo_buf_str(ret_json, "}}");
    return npo_buf_err(ret_json);
}
