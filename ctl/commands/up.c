#include "ctl/cluster/cluster.h"
#include "ctl/cluster/process.h"
#include "ctl/cluster/state.h"
#include "ctl/command.h"
#include "proto/address.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    npo_common_values common;
    int64_t workers, threads; /* threads 0: cores / workers */
    int64_t memory;           /* bytes of each worker; 0: what the machine has */
    bool detach;
    const char *npod, *npoworker;
} up_values;

static const up_values defaults = {.workers = 1};

typedef struct {
    npo_cluster_options options;
    char *state, *npod, *npoworker;
    char address[NPO_ADDRESS_SIZE];
    int report_fd; /* detached: the launching process waits for a byte; else -1 */
} launch;

/* ---- settings ---- */

static int64_t count_cores(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

static npo_err find_address(launch *up, const char *given, npo_error *error)
{
    if (!given)
        return npo_address_of_state(up->state, up->address, error);
    if (strlen(given) >= sizeof up->address)
        return npo_error_set(error, NPO_E_USAGE, "address '%.40s...': too long", given);
    snprintf(up->address, sizeof up->address, "%s", given);
    return NPO_OK;
}

static npo_err prepare(launch *up, const up_values *values, npo_error *error)
{
    char hints[NPO_ADDRESS_SIZE];
    int64_t workers = values->workers > 0 ? values->workers : 1;
    int64_t share = count_cores() / workers;
    NPO_TRY(npo_state_path(values->common.state, &up->state, error));
    NPO_TRY(find_address(up, values->common.connect, error));
    NPO_TRY(npo_address_derive(up->address, NPO_ENDPOINT_HINTS, hints, error));
    NPO_TRY(npo_process_find("npod", "server", values->npod, &up->npod, error));
    NPO_TRY(npo_process_find("npoworker", "worker", values->npoworker, &up->npoworker, error));
    up->options = (npo_cluster_options){
        .state = up->state,
        .address = up->address,
        .npod = up->npod,
        .npoworker = up->npoworker,
        .workers = values->workers,
        .memory = values->memory,
        .threads = values->threads > 0 ? values->threads
                   : share > 0         ? share
                                       : 1,
        .listen = values->common.connect != NULL,
        .self = up,
        .watch_fd = up->report_fd,
    };
    return NPO_OK;
}

static void launch_fini(launch *up)
{
    free(up->state);
    free(up->npod);
    free(up->npoworker);
}

/* ---- ready ---- */

/* From here on the terminal is the launching process's again. */
static bool let_go(launch *up)
{
    char *path = NULL;
    if (asprintf(&path, "%s/up.log", up->state) < 0)
        return false;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    bool good = log >= 0 && dup2(log, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0;
    if (log >= 0)
        close(log);
    free(path);
    good = good && write(up->report_fd, "+", 1) == 1;
    close(up->report_fd);
    return good;
}

static bool announce(void *self)
{
    launch *up = self;
    bool detached = up->report_fd >= 0;
    long long workers = (long long)up->options.workers, threads = (long long)up->options.threads;
    printf("npod answers at %s, ", up->address);
    if (workers > 0)
        printf("%lld worker%s with %lld thread%s each", workers, workers == 1 ? "" : "s", threads,
               threads == 1 ? "" : "s");
    else
        printf("no workers yet");
    printf("; logs in %s\n", up->state);
    printf("%s\n", detached ? "'npoctl down' stops them" : "Ctrl-C stops them");
    fflush(stdout);
    return !detached || let_go(up);
}

static npo_exit run_here(const up_values *values, int report_fd)
{
    launch up = {.report_fd = report_fd};
    npo_error error = {0};
    npo_err err = prepare(&up, values, &error);
    up.options.ready = announce;
    if (!err)
        err = npo_state_own(up.state, &error);
    /* A settings file of npoctl's is none of npod's. */
    unsetenv("NPO_CONFIG");
    npo_exit code = NPO_EXIT_OK;
    if (err == NPO_E_BUSY)
        code = npo_exit_with(NPO_EXIT_REFUSED, "%s", error.text);
    else
        code = err ? npo_exit_local(&error) : npo_cluster_run(&up.options);
    launch_fini(&up);
    return code;
}

/* ---- detached ---- */

static npo_exit run_detached(const up_values *values)
{
    int pipe_fds[2], status = 0;
    char byte;
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return npo_exit_with(NPO_EXIT_FAILED, "cannot detach: %s", strerror(errno));
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return npo_exit_with(NPO_EXIT_FAILED, "cannot detach: %s", strerror(errno));
    if (pid == 0) {
        close(pipe_fds[0]);
        setsid();
        int null = open("/dev/null", O_RDONLY);
        if (null >= 0)
            dup2(null, STDIN_FILENO);
        exit(run_here(values, pipe_fds[1]));
    }
    close(pipe_fds[1]);
    ssize_t n;
    while ((n = read(pipe_fds[0], &byte, 1)) < 0 && errno == EINTR)
        ;
    if (n == 1)
        return NPO_EXIT_OK;
    /* It has said why on this terminal. */
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? (npo_exit)WEXITSTATUS(status)
                                                                : NPO_EXIT_FAILED;
}

static npo_exit run_up(const npo_call *call)
{
    const up_values *values = call->values;
    return values->detach ? run_detached(values) : run_here(values, -1);
}

static const npo_option options[] = {
    {"workers", 'w', NPO_OPTION_INT, 0, offsetof(up_values, workers), "N", "workers to start (1)",
     0, 256},
    {"threads", 't', NPO_OPTION_INT, 0, offsetof(up_values, threads), "N",
     "CPU threads of each worker (cores / workers)", 0, 1024},
    {"memory", 'm', NPO_OPTION_BYTES, 0, offsetof(up_values, memory), "BYTES",
     "what each worker may use (what the machine has)", 0, 1e15},
    {"detach", 'd', NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(up_values, detach), NULL,
     "return when they are ready; `npoctl down` stops them", 0, 0},
    {"npod", 0, NPO_OPTION_STRING, 0, offsetof(up_values, npod), "FILE", "the program to run", 0,
     0},
    {"npoworker", 0, NPO_OPTION_STRING, 0, offsetof(up_values, npoworker), "FILE",
     "the program to run", 0, 0},
};

const npo_command npo_command_up = {
    .name = "up",
    .summary = "run npod and workers on this machine",
    .usage = "[OPTION...]",
    .text = "Runs npod and workers in one state folder until Ctrl-C, which stops all of them; one "
            "that dies\n"
            "is started again. Jobs go on where they were at the next start. With --connect npod "
            "listens\n"
            "on that address instead of a socket in the state folder.",
    .example = "npoctl up --workers 2 -d",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(up_values),
    .run = run_up,
};
