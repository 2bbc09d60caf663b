#include "ctl/job/follow.h"

#include "common/clock.h"
#include "ctl/text/progress.h"
#include "ctl/text/terminal.h"

#include <stdio.h>
#include <string.h>

enum { PAINT_MS = 300, POLL_MS = 500, LINE_MS = 10000, KEY_SIZE = 160 };

typedef struct {
    npo_session *session;
    int64_t job;
    bool quiet, terminal;
    npo_terminal_block block;
    char key[KEY_SIZE]; /* state, round and phase of the last line */
    int64_t line_ms;    /* monotonic; of the last line */
} follower;

npo_exit npo_follow_get(npo_session *session, int64_t job, npo_answer *ret_answer)
{
    return npo_session_ask(session, NPO_MESSAGE_JOB, npo_session_job_body(job), ret_answer);
}

static npo_exit paint(follower *follow, const npo_job_view *view)
{
    npo_answer workers = {0};
    npo_buf text = NPO_BUF_INIT;
    npo_exit code =
        npo_session_ask(follow->session, NPO_MESSAGE_WORKERS, cJSON_CreateObject(), &workers);
    if (code)
        return code;
    npo_progress_block(view, cJSON_GetObjectItemCaseSensitive(workers.json, "workers"),
                       npo_terminal_width(), npo_clock_wall_ms(), &text);
    if (npo_buf_err(&text) == NPO_OK)
        npo_terminal_paint(&follow->block, text.data);
    npo_buf_fini(&text);
    npo_answer_fini(&workers);
    return NPO_EXIT_OK;
}

/* A line when something changed, or when nothing was said for a while. */
static void print_line(follower *follow, const npo_job_view *view)
{
    char key[KEY_SIZE];
    npo_buf text = NPO_BUF_INIT;
    int64_t now_ms = npo_clock_ms();
    snprintf(key, sizeof key, "%s %lld %s %s", view->state, (long long)view->round, view->phase,
             view->reason);
    if (strcmp(key, follow->key) == 0 && now_ms - follow->line_ms < LINE_MS)
        return;
    memcpy(follow->key, key, sizeof key);
    follow->line_ms = now_ms;
    npo_progress_line(view, &text);
    npo_buf_str(&text, "\n");
    npo_terminal_print(&text);
    npo_buf_fini(&text);
}

static npo_exit look(follower *follow, bool *ret_over)
{
    npo_answer answer = {0};
    npo_job_view view;
    npo_exit code = npo_follow_get(follow->session, follow->job, &answer);
    if (code)
        return code;
    npo_job_view_read(cJSON_GetObjectItemCaseSensitive(answer.json, "job"), &view);
    *ret_over = npo_job_view_is_over(&view);
    bool painted = follow->terminal && !follow->quiet;
    bool failed = *ret_over && npo_job_view_exit(&view) == NPO_EXIT_FAILED;
    if (painted)
        code = paint(follow, &view);
    else if (failed)
        npo_exit_with(NPO_EXIT_FAILED, "job %lld failed: %s", (long long)follow->job,
                      *view.error ? view.error : "no reason given");
    else if (!follow->quiet)
        print_line(follow, &view);
    if (*ret_over && !code)
        code = npo_job_view_exit(&view);
    npo_answer_fini(&answer);
    return code;
}

npo_exit npo_follow(npo_session *session, int64_t job, bool quiet)
{
    follower follow = {
        .session = session, .job = job, .quiet = quiet, .terminal = npo_terminal_is()};
    bool over = false;
    npo_exit code = NPO_EXIT_OK;
    while (!code && !over) {
        code = look(&follow, &over);
        if (!code && !over && !npo_session_sleep(session, follow.terminal ? PAINT_MS : POLL_MS))
            code = NPO_EXIT_INTERRUPTED;
    }
    if (code == NPO_EXIT_INTERRUPTED)
        fprintf(stderr,
                "npoctl: job %lld goes on; 'npoctl watch %lld' looks again, 'npoctl cancel "
                "%lld' stops it\n",
                (long long)job, (long long)job, (long long)job);
    return code;
}
