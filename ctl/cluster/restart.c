#include "ctl/cluster/restart.h"

void npo_restart_started(npo_restart *restart, int64_t now_ms)
{
    restart->started_ms = now_ms;
}

void npo_restart_ended(npo_restart *restart, int64_t now_ms)
{
    if (now_ms - restart->started_ms >= NPO_RESTART_GOOD_MS)
        restart->ends = 0;
    if (++restart->ends > NPO_RESTARTS_MAX) {
        restart->given_up = true;
        return;
    }
    int64_t wait_ms = (int64_t)NPO_RESTART_BASE_MS << (restart->ends - 1);
    restart->due_ms = now_ms + (wait_ms < NPO_RESTART_MAX_MS ? wait_ms : NPO_RESTART_MAX_MS);
}
