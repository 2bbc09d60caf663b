#include "ctl/text/progress.h"

#include "ctl/text/format.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *state;
    npo_exit exit;
} endings[] = {
    {"done", NPO_EXIT_OK}, {"failed", NPO_EXIT_FAILED}, {"cancelled", NPO_EXIT_CANCELLED}};
enum { ENDINGS = sizeof endings / sizeof *endings };

/* ---- reading ---- */

static void count_tasks(const cJSON *counts, npo_job_view *view)
{
    for (const cJSON *item = counts ? counts->child : NULL; item; item = item->next)
        if (cJSON_IsNumber(item))
            view->tasks_all += (int64_t)item->valuedouble;
    view->tasks_done = npo_json_int(counts, "done", 0);
    view->tasks_running = npo_json_int(counts, "running", 0);
    view->tasks_failed = npo_json_int(counts, "failed", 0);
}

void npo_job_view_read(const cJSON *job, npo_job_view *ret_view)
{
    *ret_view = (npo_job_view){
        .id = npo_json_int(job, "id", 0),
        .priority = npo_json_int(job, "priority", 0),
        .workers = npo_json_int(job, "workers", 0),
        .step = npo_json_int(job, "step", 0),
        .steps = npo_json_int(job, "steps", 0),
        .round = npo_json_int(job, "round", 0),
        .rounds = npo_json_int(job, "rounds", 0),
        .name = npo_json_string(job, "name", ""),
        .recipe = npo_json_string(job, "recipe", ""),
        .state = npo_json_string(job, "state", ""),
        .reason = npo_json_string(job, "reason", ""),
        .phase = npo_json_string(job, "phase", ""),
        .error = npo_json_string(job, "error", ""),
        .loss = npo_json_number(job, "loss", NAN),
        .samples_per_s = npo_json_number(job, "samples_per_s", NAN),
        .eta_s = npo_json_number(job, "eta_s", NAN),
        .submitted_ms = npo_json_int(job, "submitted_ms", 0),
        .started_ms = npo_json_int(job, "started_ms", 0),
        .ended_ms = npo_json_int(job, "ended_ms", 0),
    };
    count_tasks(cJSON_GetObjectItemCaseSensitive(job, "tasks"), ret_view);
}

static int ending_of(const npo_job_view *view)
{
    for (int i = 0; i < ENDINGS; i++)
        if (strcmp(view->state, endings[i].state) == 0)
            return i;
    return -1;
}

bool npo_job_view_is_over(const npo_job_view *view)
{
    return ending_of(view) >= 0;
}

npo_exit npo_job_view_exit(const npo_job_view *view)
{
    int ending = ending_of(view);
    return ending < 0 ? NPO_EXIT_FAILED : endings[ending].exit;
}

double npo_job_view_seconds(const npo_job_view *view, int64_t now_ms)
{
    if (view->started_ms <= 0)
        return NAN;
    int64_t end_ms = view->ended_ms > 0 ? view->ended_ms : now_ms;
    return end_ms > view->started_ms ? (double)(end_ms - view->started_ms) / 1000.0 : 0;
}

/* ---- parts ---- */

static bool is_running(const npo_job_view *view)
{
    return strcmp(view->state, "running") == 0;
}

/* People count rounds from 1; npod names the round in hand from 0. */
static int64_t round_in_hand(const npo_job_view *view)
{
    return view->round + 1 < view->rounds ? view->round + 1 : view->rounds;
}

/* Behind the last step of a running job only tasks tell how far it is: an export, an evaluation. */
static bool counts_steps(const npo_job_view *view)
{
    return view->steps > 0 &&
           (view->step < view->steps || !is_running(view) || view->tasks_all == 0);
}

void npo_progress_short(const npo_job_view *view, npo_buf *ret_buf)
{
    if (counts_steps(view))
        npo_buf_printf(ret_buf, "%lld/%lld", (long long)view->step, (long long)view->steps);
    else
        npo_buf_printf(ret_buf, "%lld/%lld", (long long)view->tasks_done,
                       (long long)view->tasks_all);
}

static void add_part(npo_buf *buf, const char *separator, const char *name, const char *value,
                     const char *unit)
{
    if (strcmp(value, "-") != 0)
        npo_buf_printf(buf, "%s%s%s%s", separator, name, value, unit);
}

static void add_rates(const npo_job_view *view, const char *separator, npo_buf *buf)
{
    char text[NPO_FORMAT_SIZE];
    npo_format_loss(view->loss, text);
    add_part(buf, separator, "loss ", text, "");
    npo_format_rate(view->samples_per_s, text);
    add_part(buf, separator, "", text, "");
    npo_format_duration(view->eta_s, text);
    add_part(buf, separator, "", text, " left");
}

void npo_progress_line(const npo_job_view *view, npo_buf *ret_buf)
{
    npo_buf_printf(ret_buf, "job %lld %s", (long long)view->id, view->state);
    const char *why = *view->error ? view->error : view->reason;
    if (!is_running(view)) {
        if (*why)
            npo_buf_str(ret_buf, ": ");
        npo_text_clean(ret_buf, why, 0);
        return;
    }
    npo_buf_str(ret_buf, ":");
    if (view->rounds > 0)
        npo_buf_printf(ret_buf, " round %lld/%lld,", (long long)round_in_hand(view),
                       (long long)view->rounds);
    npo_buf_printf(ret_buf, " %s, %s ", *view->phase ? view->phase : "waiting for a task",
                   counts_steps(view) ? "step" : "task");
    npo_progress_short(view, ret_buf);
    if (*view->reason)
        npo_buf_printf(ret_buf, ", %s", view->reason);
    else
        add_rates(view, ", ", ret_buf);
}

/* ---- block ---- */

static void add_line(npo_buf *buf, const npo_buf *line, size_t width)
{
    npo_text_clean(buf, line->data ? line->data : "", width);
    npo_buf_str(buf, "\n");
}

static void add_head(const npo_job_view *view, size_t width, int64_t now_ms, npo_buf *buf)
{
    npo_buf line = NPO_BUF_INIT;
    char elapsed[NPO_FORMAT_SIZE];
    npo_format_duration(npo_job_view_seconds(view, now_ms), elapsed);
    npo_buf_printf(&line, "job %lld  %s  %s  %s", (long long)view->id, view->name, view->recipe,
                   view->state);
    add_part(&line, "  ", "", elapsed, "");
    if (*view->reason && !*view->error)
        npo_buf_printf(&line, "  (%s)", view->reason);
    add_line(buf, &line, width);
    npo_buf_fini(&line);
}

static void add_bar(const npo_job_view *view, size_t width, npo_buf *buf)
{
    enum { BAR_MAX = 40 };
    npo_buf line = NPO_BUF_INIT, bar = NPO_BUF_INIT;
    bool steps = counts_steps(view);
    double done = (double)(steps ? view->step : view->tasks_done);
    double all = (double)(steps ? view->steps : view->tasks_all);
    npo_text_bar(&bar, done, all, width > BAR_MAX + 40 || width == 0 ? BAR_MAX : width / 3);
    npo_buf_printf(&line, "%s %s ", bar.data ? bar.data : "", steps ? "step" : "task");
    npo_progress_short(view, &line);
    if (view->rounds > 0)
        npo_buf_printf(&line, "  round %lld/%lld", (long long)round_in_hand(view),
                       (long long)view->rounds);
    if (*view->phase && is_running(view))
        npo_buf_printf(&line, "  %s", view->phase);
    add_line(buf, &line, width);
    npo_buf_clear(&line);
    add_rates(view, "  ", &line);
    if (line.len > 0)
        add_line(buf, &line, width);
    npo_buf_fini(&line);
    npo_buf_fini(&bar);
}

static void add_workers(const npo_job_view *view, const cJSON *workers, size_t width, npo_buf *buf)
{
    enum { SHOWN_MAX = 8 };
    int shown = 0, more = 0;
    npo_buf line = NPO_BUF_INIT;
    for (const cJSON *item = workers ? workers->child : NULL; item; item = item->next) {
        int64_t task = npo_json_int(item, "task", 0);
        if (npo_json_int(item, "job", 0) != view->id || ++shown > SHOWN_MAX) {
            more += shown > SHOWN_MAX;
            continue;
        }
        npo_buf_clear(&line);
        npo_buf_printf(&line, "  %-16s %s", npo_json_string(item, "name", "?"),
                       npo_json_string(item, "state", "?"));
        if (task > 0)
            npo_buf_printf(&line, "  task %lld", (long long)task);
        add_line(buf, &line, width);
    }
    if (more > 0)
        npo_buf_printf(buf, "  and %d more workers\n", more);
    npo_buf_fini(&line);
}

void npo_progress_block(const npo_job_view *view, const cJSON *workers, size_t width,
                        int64_t now_ms, npo_buf *ret_buf)
{
    add_head(view, width, now_ms, ret_buf);
    add_bar(view, width, ret_buf);
    add_workers(view, workers, width, ret_buf);
    if (*view->error) {
        npo_text_clean(ret_buf, view->error, width);
        npo_buf_str(ret_buf, "\n");
    }
}
