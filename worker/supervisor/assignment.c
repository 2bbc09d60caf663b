#include "worker/supervisor/assignment.h"

#include "common/bounds.h"
#include "common/file.h"
#include "worker/supervisor/io/fence.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t task, attempt, rank, world, job, round, shard, shards, time_limit_s;
    const char *kind;
    const cJSON *spec, *inputs, *params;
} fields;

#define WHOLE(key, min, max)                                                                       \
    {                                                                                              \
#key, NPO_JSON_INT, offsetof(fields, key), true, min, max, NULL                            \
    }

static const npo_json_field table[] = {
    WHOLE(task, 1, 9007199254740991.0),
    WHOLE(attempt, 1, 2147483647.0),
    WHOLE(rank, 0, NPO_GANG_MAX - 1),
    WHOLE(world, 1, NPO_GANG_MAX),
    WHOLE(job, 1, 9007199254740991.0),
    WHOLE(round, 0, 9007199254740991.0),
    WHOLE(shard, 0, NPO_GANG_MAX),
    WHOLE(shards, 1, NPO_GANG_MAX),
    {"time_limit_s", NPO_JSON_INT, offsetof(fields, time_limit_s), false, 0, 1e9, NULL},
    {"kind", NPO_JSON_STRING, offsetof(fields, kind), true, 0, NPO_NAME_MAX, NULL},
    {"spec", NPO_JSON_OBJECT, offsetof(fields, spec), true, 0, 0, NULL},
    {"inputs", NPO_JSON_ARRAY, offsetof(fields, inputs), true, 0, 0, NULL},
    {"params", NPO_JSON_OBJECT, offsetof(fields, params), true, 0, 0, NULL},
};

static npo_err check_shares(const fields *row, npo_error *error)
{
    if (row->rank < row->world && row->shard < row->shards)
        return NPO_OK;
    return npo_error_set(
        error, NPO_E_FORMAT,
        "assignment: rank %lld of %lld, shard %lld of %lld, expected less than all",
        (long long)row->rank, (long long)row->world, (long long)row->shard, (long long)row->shards);
}

static npo_err make_dirs(npo_assignment *assignment, const char *tasks_dir, npo_error *error)
{
    if (asprintf(&assignment->dir, "%s/%llu", tasks_dir, (unsigned long long)assignment->ticket) <
        0)
        assignment->dir = NULL;
    if (assignment->dir)
        assignment->out_dir = npo_file_join(assignment->dir, "out");
    if (!assignment->out_dir)
        return npo_error_set(error, NPO_E_NOMEM, "cannot take a task: out of memory");
    NPO_TRY(npo_file_remove(assignment->dir, error));
    return npo_file_make_dirs(assignment->out_dir, error);
}

npo_err npo_assignment_init(const cJSON *message, uint64_t ticket, const char *tasks_dir,
                            npo_assignment *ret_assignment, npo_error *error)
{
    fields row = {0};
    NPO_TRY(npo_json_read(message, "assignment", table, sizeof table / sizeof table[0], true, &row,
                          error));
    NPO_TRY(check_shares(&row, error));
    npo_assignment assignment = {
        .fence = {row.task, (int)row.attempt, (int)row.rank},
        .job = row.job,
        .time_limit_s = row.time_limit_s,
        .ticket = ticket,
        .json = cJSON_Duplicate(message, 1),
        .outputs = cJSON_CreateArray(),
        .phase = "",
    };
    npo_err err = assignment.json && assignment.outputs
                      ? make_dirs(&assignment, tasks_dir, error)
                      : npo_error_set(error, NPO_E_NOMEM, "cannot take a task: out of memory");
    if (err) {
        npo_assignment_fini(&assignment);
        return err;
    }
    assignment.kind = npo_json_string(assignment.json, "kind", "");
    *ret_assignment = assignment;
    return NPO_OK;
}

void npo_assignment_fini(npo_assignment *assignment)
{
    /* A folder that stays is removed when the next worker of this state folder starts. */
    if (assignment->dir)
        (void)!npo_file_remove(assignment->dir, NULL);
    cJSON_Delete(assignment->json);
    cJSON_Delete(assignment->outputs);
    cJSON_Delete(assignment->result);
    cJSON_Delete(assignment->loss);
    cJSON_Delete(assignment->samples_per_s);
    free(assignment->dir);
    free(assignment->out_dir);
    *assignment = (npo_assignment){0};
}

static npo_transfer_fence with_worker(const npo_fence *fence, int64_t worker)
{
    return (npo_transfer_fence){worker, fence->task, fence->attempt, fence->rank};
}

npo_transfer_fence npo_assignment_fence(const npo_assignment *assignment, int64_t worker)
{
    return with_worker(&assignment->fence, worker);
}

/* ---- inputs ---- */

static npo_err read_input(const cJSON *item, npo_mover_input *ret_input, npo_error *error)
{
    struct {
        const char *name, *hash;
    } row = {0};
    static const npo_json_field input_table[] = {
        {"name", NPO_JSON_STRING, 0, true, 0, NPO_NAME_MAX, NULL},
        {"hash", NPO_JSON_STRING, sizeof(char *), true, 0, 0, NULL},
    };
    NPO_TRY(npo_json_read(item, "assignment.inputs", input_table, 2, true, &row, error));
    if (npo_hash_parse(row.hash, &ret_input->hash))
        return npo_error_set(error, NPO_E_FORMAT, "input '%s': '%.40s' is no hash", row.name,
                             row.hash);
    ret_input->name = strdup(row.name);
    return ret_input->name
               ? NPO_OK
               : npo_error_set(error, NPO_E_NOMEM, "cannot fetch inputs: out of memory");
}

npo_err npo_assignment_inputs(const npo_assignment *assignment, npo_mover_input **ret_inputs,
                              size_t *ret_count, npo_error *error)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(assignment->json, "inputs");
    size_t count = (size_t)cJSON_GetArraySize(list), at = 0;
    if (count > NPO_ASSIGNMENT_INPUTS_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "%zu inputs, at most %d are allowed", count,
                             (int)NPO_ASSIGNMENT_INPUTS_MAX);
    npo_mover_input *inputs = calloc(count + 1, sizeof *inputs);
    npo_err err =
        inputs ? NPO_OK : npo_error_set(error, NPO_E_NOMEM, "cannot fetch inputs: out of memory");
    for (const cJSON *item = list->child; !err && item; item = item->next)
        err = read_input(item, &inputs[at++], error);
    if (err) {
        npo_mover_inputs_free(inputs, count);
        return err;
    }
    *ret_inputs = inputs;
    *ret_count = count;
    return NPO_OK;
}

static bool add_paths(cJSON *order, const npo_mover_input *inputs, size_t count)
{
    cJSON *paths = cJSON_AddArrayToObject(order, "paths");
    for (size_t i = 0; paths && i < count; i++) {
        cJSON *item = cJSON_CreateObject();
        if (!cJSON_AddStringToObject(item, "name", inputs[i].name) ||
            !cJSON_AddStringToObject(item, "path", inputs[i].path)) {
            cJSON_Delete(item);
            return false;
        }
        cJSON_AddItemToArray(paths, item);
    }
    return paths != NULL;
}

cJSON *npo_assignment_order(const npo_assignment *assignment, const npo_mover_input *inputs,
                            size_t count)
{
    cJSON *order = cJSON_CreateObject();
    if (cJSON_AddStringToObject(order, "order", "task") &&
        cJSON_AddNumberToObject(order, "ticket", (double)assignment->ticket) &&
        cJSON_AddStringToObject(order, "out_dir", assignment->out_dir) &&
        cJSON_AddItemToObject(order, "assignment", cJSON_Duplicate(assignment->json, 1)) &&
        add_paths(order, inputs, count))
        return order;
    cJSON_Delete(order);
    return NULL;
}

/* ---- what it brings ---- */

npo_err npo_assignment_add_output(npo_assignment *assignment, const char *name,
                                  const npo_artifact *artifact)
{
    char hash[NPO_HASH_TEXT_SIZE];
    cJSON *item = cJSON_CreateObject();
    if (cJSON_GetArraySize(assignment->outputs) >= NPO_ASSIGNMENT_OUTPUTS_MAX) {
        cJSON_Delete(item);
        return NPO_E_LIMIT;
    }
    npo_hash_format(&artifact->hash, hash);
    if (cJSON_AddStringToObject(item, "name", name) &&
        cJSON_AddStringToObject(item, "hash", hash) &&
        cJSON_AddNumberToObject(item, "size", (double)artifact->size) &&
        cJSON_AddItemToArray(assignment->outputs, item))
        return NPO_OK;
    cJSON_Delete(item);
    return NPO_E_NOMEM;
}

static void replace_number(cJSON **number, const cJSON *message, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(message, key);
    cJSON_Delete(*number);
    *number = cJSON_IsNumber(item) ? cJSON_CreateNumber(item->valuedouble) : NULL;
}

void npo_assignment_set_progress(npo_assignment *assignment, const cJSON *message)
{
    assignment->step = npo_json_int(message, "step", 0);
    assignment->steps = npo_json_int(message, "steps", 0);
    snprintf(assignment->phase, sizeof assignment->phase, "%s",
             npo_json_string(message, "phase", ""));
    replace_number(&assignment->loss, message, "loss");
    replace_number(&assignment->samples_per_s, message, "samples_per_s");
}

/* ---- messages ---- */

static bool add_number_or_null(cJSON *body, const char *key, const cJSON *number)
{
    return number ? cJSON_AddNumberToObject(body, key, number->valuedouble) != NULL
                  : cJSON_AddNullToObject(body, key) != NULL;
}

cJSON *npo_assignment_status(const npo_assignment *assignment)
{
    cJSON *body = cJSON_CreateObject();
    npo_transfer_fence fence = with_worker(&assignment->fence, 0);
    if (npo_fence_add(body, &fence) &&
        cJSON_AddNumberToObject(body, "step", (double)assignment->step) &&
        cJSON_AddNumberToObject(body, "steps", (double)assignment->steps) &&
        cJSON_AddStringToObject(body, "phase", assignment->phase) &&
        add_number_or_null(body, "loss", assignment->loss) &&
        add_number_or_null(body, "samples_per_s", assignment->samples_per_s))
        return body;
    cJSON_Delete(body);
    return NULL;
}

cJSON *npo_assignment_done(const npo_assignment *assignment, int64_t worker)
{
    npo_transfer_fence fence = with_worker(&assignment->fence, worker);
    cJSON *body = npo_fence_body(&fence);
    cJSON *result =
        assignment->result ? cJSON_Duplicate(assignment->result, 1) : cJSON_CreateObject();
    if (body && cJSON_AddItemToObject(body, "outputs", cJSON_Duplicate(assignment->outputs, 1)) &&
        cJSON_AddItemToObject(body, "result", result))
        return body;
    cJSON_Delete(body);
    return NULL;
}

cJSON *npo_assignment_fail(const npo_fence *task, int64_t worker, const npo_task_failure *failure)
{
    npo_transfer_fence fence = with_worker(task, worker);
    cJSON *body = npo_fence_body(&fence);
    if (body && cJSON_AddStringToObject(body, "code", npo_err_name(failure->code)) &&
        cJSON_AddStringToObject(body, "text", failure->text) &&
        cJSON_AddBoolToObject(body, "retry", failure->retry))
        return body;
    cJSON_Delete(body);
    return NULL;
}
