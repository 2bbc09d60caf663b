#include "ctl/cluster/cluster.h"

#include "common/clock.h"
#include "common/file.h"
#include "ctl/cluster/process.h"
#include "ctl/cluster/restart.h"
#include "proto/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ARGUMENTS_MAX = 16,
    READY_MS = 60000, /* npod and all workers, from the start */
    ASK_MS = 1000,
    LOOK_MS = 50,
    GRACE_MS = 10000, /* between SIGTERM and SIGKILL */
    LINE_SIZE = 400
};

typedef struct {
    char *name;                /* "npod", "worker-1" */
    char *argv[ARGUMENTS_MAX]; /* owned, NULL-terminated */
    char *log_path;
    pid_t pid; /* 0: not running */
    npo_restart restart;
} child;

typedef struct {
    const npo_cluster_options *options;
    child *children; /* npod first */
    size_t count;
    size_t wanted; /* so many of them are to run: first npod alone, then all */
    pid_t checker; /* waits until they are ready; 0: has ended */
    bool is_ready, leaving, killing;
    npo_exit code;
    int signal_fd;
} cluster;

/* ---- what is started ---- */

static bool add_argument(child *one, int index, const char *format, const char *value)
{
    return asprintf(&one->argv[index], format, value) >= 0 || (one->argv[index] = NULL);
}

/* values are pairs of option and value, ended by NULL. */
static bool describe(child *one, const char *state, const char *program, const char *const *values)
{
    int n = 0;
    bool good = add_argument(one, n++, "%s", program);
    for (; good && *values; values++)
        good = add_argument(one, n++, "%s", *values);
    return good && asprintf(&one->log_path, "%s/%s.log", state, one->name) >= 0;
}

static bool describe_npod(cluster *all)
{
    const npo_cluster_options *options = all->options;
    const char *values[] = {"--state", options->state, options->listen ? "--listen" : NULL,
                            options->address, NULL};
    child *npod = &all->children[0];
    npod->name = strdup("npod");
    return npod->name && describe(npod, options->state, options->npod, values);
}

static bool describe_worker(cluster *all, size_t index)
{
    const npo_cluster_options *options = all->options;
    child *worker = &all->children[index];
    char threads[24], memory[24], *folder = NULL;
    snprintf(threads, sizeof threads, "%lld", (long long)options->threads);
    snprintf(memory, sizeof memory, "%lld", (long long)options->memory);
    if (asprintf(&worker->name, "worker-%zu", index) < 0)
        return false;
    folder = npo_file_join(options->state, worker->name);
    const char *values[] = {"--connect", options->address, "--state",   folder,
                            "--name",    worker->name,     "--threads", threads,
                            "--memory",  memory,           NULL};
    bool good = folder && describe(worker, options->state, options->npoworker, values) &&
                npo_file_make_dirs(folder, NULL) == NPO_OK;
    free(folder);
    return good;
}

static bool describe_all(cluster *all)
{
    all->count = (size_t)all->options->workers + 1;
    all->children = calloc(all->count, sizeof *all->children);
    bool good = all->children && describe_npod(all);
    for (size_t i = 1; good && i < all->count; i++)
        good = describe_worker(all, i);
    return good;
}

static void forget_all(cluster *all)
{
    for (size_t i = 0; all->children && i < all->count; i++) {
        for (int j = 0; j < ARGUMENTS_MAX; j++)
            free(all->children[i].argv[j]);
        free(all->children[i].name);
        free(all->children[i].log_path);
    }
    free(all->children);
}

static bool start(cluster *all, child *one)
{
    npo_error error = {0};
    if (npo_process_start(one->argv, one->log_path, &one->pid, &error)) {
        all->code = npo_exit_with(NPO_EXIT_FAILED, "%s", error.text);
        all->leaving = true;
        return false;
    }
    npo_restart_started(&one->restart, npo_clock_ms());
    return true;
}

/* ---- readiness ---- */

static bool is_same_folder(const char *a, const char *b)
{
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* On a port somebody else's npod may answer: it is known by its folder. */
static bool is_answer_good(const cluster *all, const cJSON *info)
{
    const cJSON *workers = cJSON_GetObjectItemCaseSensitive(info, "workers");
    int64_t found = npo_json_int(workers, "idle", 0) + npo_json_int(workers, "busy", 0);
    return found >= (int64_t)all->wanted - 1 &&
           is_same_folder(npo_json_string(info, "state_dir", ""), all->options->state);
}

static bool ask_ready(const cluster *all, npo_client *client)
{
    npo_answer answer = {0};
    if (npo_client_call(client, NPO_MESSAGE_INFO, NULL, NULL, 0, &answer, NULL))
        return false;
    bool ready = is_answer_good(all, answer.json);
    npo_answer_fini(&answer);
    return ready;
}

/* A process of its own, so that this one never holds a socket and may go on to fork. */
static int check_ready(const cluster *all)
{
    npo_identity identity;
    npo_client *client = NULL;
    int64_t end_ms = npo_clock_ms() + READY_MS;
    npo_client_options wanted = {
        .address = all->options->address, .identity = &identity, .deadline_ms = ASK_MS};
    if (npo_identity_init(&identity, NULL) || npo_client_open(&wanted, &client, NULL))
        return 1;
    bool ready = false;
    while (!(ready = ask_ready(all, client)) && npo_clock_ms() < end_ms)
        poll(NULL, 0, LOOK_MS);
    return ready ? 0 : 1;
}

static bool start_checker(cluster *all)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        sigset_t none;
        npo_process_bind(parent);
        setpgid(0, 0);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        _exit(check_ready(all));
    }
    all->checker = pid > 0 ? pid : 0;
    return pid > 0;
}

/* ---- ends of children ---- */

static void leave(cluster *all, npo_exit code)
{
    if (all->leaving)
        return;
    all->leaving = true;
    all->code = code;
}

/* Starts the children up to `wanted`, and a checker for them. */
static void advance(cluster *all, size_t wanted)
{
    size_t first = all->wanted;
    all->wanted = wanted;
    for (size_t i = first; !all->leaving && i < wanted; i++)
        start(all, &all->children[i]);
    if (!all->leaving && !start_checker(all))
        leave(all, npo_exit_with(NPO_EXIT_FAILED, "cannot fork: %s", strerror(errno)));
}

static void checker_ended(cluster *all, int status)
{
    all->checker = 0;
    if (all->leaving)
        return;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        leave(all, npo_exit_with(
                       NPO_EXIT_FAILED,
                       "npod and its %lld workers were not ready within %d s; see the logs "
                       "in '%s'",
                       (long long)all->options->workers, READY_MS / 1000, all->options->state));
        return;
    }
    if (all->wanted < all->count) {
        advance(all, all->count);
        return;
    }
    all->is_ready = true;
    if (!all->options->ready(all->options->self))
        leave(all, NPO_EXIT_FAILED);
}

static void child_ended(cluster *all, child *one, int status)
{
    char how[80], line[LINE_SIZE];
    one->pid = 0;
    if (all->leaving)
        return;
    npo_process_describe(status, how, sizeof how);
    npo_process_last_line(one->log_path, line, sizeof line);
    npo_restart_ended(&one->restart, npo_clock_ms());
    /* What is wrong before the first answer (a folder in use, a newer database) stays wrong. */
    if (one == all->children && !all->is_ready && WIFEXITED(status)) {
        leave(all, npo_exit_with(NPO_EXIT_FAILED, "npod ended at once, %s: %s", how, line));
        return;
    }
    npo_exit_with(NPO_EXIT_FAILED, "%s ended, %s: %s; %s", one->name, how, line,
                  one->restart.given_up ? "given up" : "it is started again");
    if (one->restart.given_up)
        leave(all, npo_exit_with(NPO_EXIT_FAILED, "%s ended %d times in a row; see '%s'", one->name,
                                 NPO_RESTARTS_MAX + 1, one->log_path));
}

static void reap(cluster *all)
{
    pid_t pid;
    int status;
    while (npo_process_reap(&pid, &status)) {
        if (pid == all->checker)
            checker_ended(all, status);
        for (size_t i = 0; i < all->count; i++)
            if (all->children[i].pid == pid)
                child_ended(all, &all->children[i], status);
    }
}

/* ---- loop ---- */

static void take_signals(cluster *all)
{
    struct signalfd_siginfo info;
    while (read(all->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        all->killing = all->leaving;
        leave(all, NPO_EXIT_OK);
    }
}

static int64_t next_due(const cluster *all, int64_t now_ms)
{
    int64_t due_ms = now_ms + READY_MS;
    for (size_t i = 0; i < all->wanted; i++)
        if (all->children[i].pid == 0 && all->children[i].restart.due_ms < due_ms)
            due_ms = all->children[i].restart.due_ms;
    return due_ms > now_ms ? due_ms - now_ms : 0;
}

static void wait_for_something(cluster *all, int64_t ms)
{
    struct pollfd fds[] = {{.fd = all->signal_fd, .events = POLLIN},
                           {.fd = all->is_ready ? -1 : all->options->watch_fd, .events = 0}};
    if (poll(fds, 2, (int)ms) > 0 && fds[1].revents)
        leave(all, NPO_EXIT_INTERRUPTED);
    take_signals(all);
    reap(all);
}

static void restart_due(cluster *all)
{
    int64_t now_ms = npo_clock_ms();
    for (size_t i = 0; !all->leaving && i < all->wanted; i++)
        if (all->children[i].pid == 0 && all->children[i].restart.due_ms <= now_ms)
            start(all, &all->children[i]);
}

/* ---- stopping ---- */

static bool any_runs(const cluster *all, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++)
        if (all->children[i].pid > 0)
            return true;
    return false;
}

static void signal_all(const cluster *all, size_t first, size_t end, int number)
{
    for (size_t i = first; i < end; i++)
        if (all->children[i].pid > 0)
            kill(all->children[i].pid, number);
}

static void stop(cluster *all, size_t first, size_t end)
{
    int64_t end_ms = npo_clock_ms() + GRACE_MS;
    signal_all(all, first, end, SIGTERM);
    while (any_runs(all, first, end) && !all->killing && npo_clock_ms() < end_ms)
        wait_for_something(all, end_ms - npo_clock_ms() > 0 ? end_ms - npo_clock_ms() : 0);
    signal_all(all, first, end, SIGKILL);
    while (any_runs(all, first, end))
        wait_for_something(all, LOOK_MS);
}

/* Workers first, so that they can give their tasks back. */
static void stop_all(cluster *all)
{
    if (all->checker > 0)
        kill(all->checker, SIGKILL);
    stop(all, 1, all->count);
    stop(all, 0, 1);
    while (all->checker > 0)
        wait_for_something(all, LOOK_MS);
}

/* ---- all together ---- */

static bool catch_signals(cluster *all)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGCHLD);
    /* A terminal that went away must not end the children at once. */
    signal(SIGPIPE, SIG_IGN);
    /* Orphans of a worker come to this process instead of staying behind. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
        return false;
    all->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    return all->signal_fd >= 0;
}

npo_exit npo_cluster_run(const npo_cluster_options *options)
{
    cluster all = {.options = options, .signal_fd = -1};
    if (!describe_all(&all) || !catch_signals(&all)) {
        all.leaving = true;
        all.code = npo_exit_with(NPO_EXIT_FAILED, "cannot prepare the state folder '%s': %s",
                                 options->state, strerror(errno));
    }
    if (!all.leaving)
        advance(&all, 1);
    while (!all.leaving) {
        wait_for_something(&all, next_due(&all, npo_clock_ms()));
        restart_due(&all);
    }
    if (all.signal_fd >= 0) {
        stop_all(&all);
        close(all.signal_fd);
    }
    forget_all(&all);
    return all.code;
}
