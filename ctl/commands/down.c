#include "ctl/cluster/state.h"
#include "ctl/command.h"

#include "common/clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 20, ORDERLY_MS = 40000, KILLED_MS = 5000 };

/* Until nobody owns the folder; false after ms. */
static bool wait_gone(const char *state, int64_t ms)
{
    int64_t end_ms = npo_clock_ms() + ms;
    pid_t pid = 1;
    while (npo_state_owner(state, &pid, NULL) == NPO_OK && pid != 0) {
        if (npo_clock_ms() > end_ms)
            return false;
        poll(NULL, 0, LOOK_MS);
    }
    return true;
}

static npo_exit stop(const char *state, pid_t pid)
{
    if (kill(pid, SIGTERM) < 0 && errno != ESRCH)
        return npo_exit_with(NPO_EXIT_REFUSED, "cannot stop process %ld: %s", (long)pid,
                             strerror(errno));
    if (!wait_gone(state, ORDERLY_MS)) {
        kill(pid, SIGKILL);
        if (!wait_gone(state, KILLED_MS))
            return npo_exit_with(NPO_EXIT_FAILED, "process %ld does not end", (long)pid);
    }
    printf("stopped\n");
    return NPO_EXIT_OK;
}

static npo_exit run_down(const npo_call *call)
{
    const npo_common_values *values = call->values;
    npo_error error = {0};
    char *state = NULL;
    pid_t pid = 0;
    npo_err err = npo_state_path(values->state, &state, &error);
    if (!err)
        err = npo_state_owner(state, &pid, &error);
    npo_exit code = err ? npo_exit_local(&error) : NPO_EXIT_OK;
    if (!err && pid == 0)
        printf("nothing runs in '%s'\n", state);
    else if (!err)
        code = stop(state, pid);
    free(state);
    return code;
}

const npo_command npo_command_down = {
    .name = "down",
    .summary = "stop what `npoctl up` runs",
    .usage = "[OPTION...]",
    .text = "Stops the workers, then npod, of the state folder, and returns when they have ended. "
            "Jobs stay\n"
            "and go on at the next `npoctl up`.",
    .example = "npoctl down",
    .values_size = sizeof(npo_common_values),
    .run = run_down,
};
