/* One task in this process, with inputs and settings of the test's choice. */
#ifndef NPO_TESTS_UNIT_TASKS_ONE_TASK_H
#define NPO_TESTS_UNIT_TASKS_ONE_TASK_H

#include "tests/unit/tasks/job_text.h"
#include "worker/tasks/context.h"

/* Everything a task needs; lives from one_task_init to one_task_fini. */
typedef struct {
    cJSON *spec, *params;
    npo_job job;
    npo_task_input inputs[16];
    npo_task task;
    local_process process;
    npo_task_services services;
    npo_task_cache *cache;
    npo_error error;
    npo_context ctx;         /* for calling what is internal to worker/tasks */
    char dir[256], out[300]; /* outputs are published in dir, written in out */
} one_task;

static inline npo_task_cache *one_cache(void)
{
    npo_backend *backend = NULL;
    npo_task_cache *cache = NULL;
    npo_backend_options options = {.device = "cpu", .threads = 1};
    assert_int_equal(npo_backend_new(&options, &backend, NULL), NPO_OK);
    assert_int_equal(npo_task_cache_new(backend, &cache), NPO_OK);
    return cache;
}

/* spec, params: JSON with ' for ". inputs: "name=path" separated by spaces. */
static inline void one_task_init(one_task *t, const char *kind, const char *spec,
                                 const char *params, const char *inputs)
{
    static int number;
    *t = (one_task){.spec = job_json(spec, ""), .params = job_json(params, "")};
    npo_error error = {0};
    if (npo_job_read(t->spec, &t->job, &error) != NPO_OK)
        fail_msg("%s", error.text);
    snprintf(t->dir, sizeof t->dir, "%s", job_path("one-%d", number++));
    snprintf(t->out, sizeof t->out, "%s/out", t->dir);
    assert_int_equal(npo_file_make_dirs(t->out, NULL), NPO_OK);
    t->process.folder = t->dir;
    t->process.out_dir = t->out;
    t->services = local_services(&t->process);
    t->cache = one_cache();
    t->task = (npo_task){.task = 1,
                         .job = 1,
                         .attempt = 1,
                         .world = 1,
                         .shards = 1,
                         .kind = kind,
                         .params = t->params,
                         .spec = &t->job,
                         .inputs = t->inputs,
                         .out_dir = t->out};
    char *list = strdup(inputs), *rest = list, *item;
    while ((item = strsep(&rest, " "))) {
        char *path = strchr(item, '=');
        if (!path)
            continue;
        *path = 0;
        t->inputs[t->task.input_count++] = (npo_task_input){strdup(item), strdup(path + 1)};
    }
    free(list);
    t->ctx = (npo_context){&t->task, t->cache, &t->services, &t->error, 0};
}

static inline void one_task_fini(one_task *t)
{
    for (size_t i = 0; i < t->task.input_count; i++) {
        free((char *)t->inputs[i].name);
        free((char *)t->inputs[i].path);
    }
    npo_buf_fini(&t->process.metrics);
    npo_buf_fini(&t->process.log);
    npo_task_cache_free(t->cache);
    cJSON_Delete(t->spec);
    cJSON_Delete(t->params);
}

static inline npo_err one_task_run(one_task *t)
{
    return npo_task_run(&t->task, t->cache, &t->services, &t->error);
}

/* Runs a task that must fail with this code and a sentence that has `part`. */
static inline void expect_failure(const char *kind, const char *spec, const char *params,
                                  const char *inputs, npo_err code, const char *part)
{
    one_task t;
    one_task_init(&t, kind, spec, params, inputs);
    npo_err err = one_task_run(&t);
    if (err != code || !strstr(t.error.text, part))
        fail_msg("%s: found %s: %s, expected %s: ..%s..", kind, npo_err_name(err), t.error.text,
                 npo_err_name(code), part);
    one_task_fini(&t);
}

#endif
