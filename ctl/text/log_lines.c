#include "ctl/text/log_lines.h"

#include "ctl/text/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTEMPTS_SHOWN = 8, LINE_FULL = 64 << 10 };

/* ---- cursors ---- */

void npo_log_cursors_fini(npo_log_cursors *cursors)
{
    free(cursors->items);
    *cursors = (npo_log_cursors){0};
}

static int compare(const void *a, const void *b)
{
    const npo_log_cursor *x = a, *y = b;
    if (x->task != y->task)
        return x->task < y->task ? -1 : 1;
    if (x->attempt != y->attempt)
        return x->attempt < y->attempt ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static npo_log_cursor *find(const npo_log_cursors *cursors, const npo_log_cursor *key,
                            size_t sorted)
{
    return sorted ? bsearch(key, cursors->items, sorted, sizeof *key, compare) : NULL;
}

static npo_err add(npo_log_cursors *cursors, const npo_log_cursor *cursor)
{
    if (cursors->count == cursors->cap) {
        size_t cap = cursors->cap ? 2 * cursors->cap : 64;
        npo_log_cursor *items = realloc(cursors->items, cap * sizeof *items);
        if (!items)
            return NPO_E_NOMEM;
        cursors->items = items;
        cursors->cap = cap;
    }
    cursors->items[cursors->count++] = *cursor;
    return NPO_OK;
}

static bool is_over(const char *state)
{
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

/* sorted: how many cursors were there before this update. */
static npo_err update_task(npo_log_cursors *cursors, const cJSON *task, int64_t ranks,
                           size_t sorted)
{
    npo_log_cursor at = {.task = npo_json_int(task, "id", 0),
                         .round = npo_json_int(task, "round", 0),
                         .shard = npo_json_int(task, "shard", 0)};
    int64_t attempt = npo_json_int(task, "attempt", 0);
    const char *state = npo_json_string(task, "state", "");
    bool running = strcmp(state, "running") == 0;
    snprintf(at.kind, sizeof at.kind, "%s", npo_json_string(task, "kind", "?"));
    at.attempt = attempt > ATTEMPTS_SHOWN ? attempt - ATTEMPTS_SHOWN + 1 : 1;
    for (; at.attempt <= attempt; at.attempt++) {
        at.ended = at.attempt < attempt || is_over(state) || !running;
        for (at.rank = 0; at.rank < ranks; at.rank++) {
            npo_log_cursor *known = find(cursors, &at, sorted);
            if (known)
                known->ended = at.ended;
            else if (add(cursors, &at))
                return NPO_E_NOMEM;
        }
    }
    return NPO_OK;
}

npo_err npo_log_cursors_update(npo_log_cursors *cursors, const cJSON *job_answer, int64_t only_task,
                               bool all_ranks)
{
    const cJSON *tasks = cJSON_GetObjectItemCaseSensitive(job_answer, "tasks");
    const cJSON *job = cJSON_GetObjectItemCaseSensitive(job_answer, "job");
    int64_t workers = npo_json_int(job, "workers", 1);
    size_t sorted = cursors->count;
    for (const cJSON *task = tasks ? tasks->child : NULL; task; task = task->next) {
        bool gang = strcmp(npo_json_string(task, "kind", ""), "train") == 0;
        if (only_task > 0 && npo_json_int(task, "id", 0) != only_task)
            continue;
        NPO_TRY(update_task(cursors, task, gang && all_ranks ? workers : 1, sorted));
    }
    if (cursors->count > sorted)
        qsort(cursors->items, cursors->count, sizeof *cursors->items, compare);
    return NPO_OK;
}

/* ---- lines ---- */

static void add_line(const npo_log_cursor *cursor, const char *line, size_t len, bool with_task,
                     npo_buf *buf)
{
    if (with_task)
        npo_buf_printf(buf, "task %lld %s %lld.%lld: ", (long long)cursor->task, cursor->kind,
                       (long long)cursor->round,
                       (long long)(cursor->rank > 0 ? cursor->rank : cursor->shard));
    for (size_t i = 0; i < len; i++) {
        bool control = ((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7f;
        npo_buf_add(buf, control ? " " : line + i, 1);
    }
    npo_buf_str(buf, "\n");
}

size_t npo_log_lines(const npo_log_cursor *cursor, const void *bytes, size_t len, bool is_last,
                     bool with_task, npo_buf *ret_buf)
{
    const char *text = bytes;
    size_t used = 0;
    while (used < len) {
        const char *end = memchr(text + used, '\n', len - used);
        size_t line = end ? (size_t)(end - text) - used : len - used;
        /* A line that is longer than what is read at once is printed in pieces. */
        if (!end && !is_last && !(used == 0 && line >= LINE_FULL))
            break;
        add_line(cursor, text + used, line, with_task, ret_buf);
        used += line + (end != NULL);
    }
    return used;
}

void npo_log_event(const cJSON *event, npo_buf *ret_buf)
{
    char time[NPO_FORMAT_SIZE];
    int64_t task = npo_json_int(event, "task", 0);
    npo_format_time(npo_json_int(event, "time_ms", 0), time);
    npo_buf_printf(ret_buf, "%s  %s", time, npo_json_string(event, "kind", "?"));
    if (task > 0)
        npo_buf_printf(ret_buf, "  task %lld", (long long)task);
    const char *text = npo_json_string(event, "text", "");
    npo_buf_str(ret_buf, *text ? "  " : "");
    npo_text_clean(ret_buf, text, 0);
    npo_buf_str(ret_buf, "\n");
}
