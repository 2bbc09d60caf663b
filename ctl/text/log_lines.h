/* Where `npoctl logs` stands in the streams of a job's tasks, and the lines it makes of their
 * bytes. Pure: tested without npod. */
#ifndef NPO_CTL_TEXT_LOG_LINES_H
#define NPO_CTL_TEXT_LOG_LINES_H

#include "common/buf.h"
#include "common/json.h"

typedef struct {
    int64_t task, attempt, rank;
    int64_t offset; /* bytes read so far */
    char kind[16];
    int64_t round, shard;
    bool ended;    /* nothing will be added to it any more */
    bool finished; /* and all of it was read */
} npo_log_cursor;

typedef struct {
    npo_log_cursor *items; /* by task, attempt, rank; owned */
    size_t count, cap;
} npo_log_cursors;

void npo_log_cursors_fini(npo_log_cursors *cursors);
/* Takes in the tasks of a reply to `job`: new attempts get cursors, ended ones are marked.
 * only_task: 0 for all. all_ranks: every rank of a gang, else rank 0. Errors: NPO_E_NOMEM. */
npo_err npo_log_cursors_update(npo_log_cursors *cursors, const cJSON *job_answer, int64_t only_task,
                               bool all_ranks) NPO_MUST_CHECK;
/* Appends the whole lines of bytes, with_task: behind "task 12 train 3.0: ". A line that is not yet
 * ended is left for later unless is_last, or unless it fills all of bytes. Returns the bytes used.
 */
size_t npo_log_lines(const npo_log_cursor *cursor, const void *bytes, size_t len, bool is_last,
                     bool with_task, npo_buf *ret_buf);
/* One line of an event: time, kind, task, text. */
void npo_log_event(const cJSON *event, npo_buf *ret_buf);

#endif
