#include "ctl/cluster/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOG_BYTES_MAX = 16 << 20, TAIL_BYTES = 2048 };

/* ---- finding ---- */

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* dir/rest/name if that is a program, else NULL. */
static char *try_path(const char *dir, int dir_len, const char *rest, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%.*s%s/%s", dir_len, dir, rest, name) < 0)
        return NULL;
    if (is_program(path))
        return path;
    free(path);
    return NULL;
}

static char *find_near(const char *name, const char *sibling)
{
    char self[4096], up[64];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0)
        return NULL;
    self[len] = '\0';
    int dir_len = (int)(strrchr(self, '/') - self);
    snprintf(up, sizeof up, "/../%s", sibling);
    char *path = try_path(self, dir_len, "", name);
    return path ? path : try_path(self, dir_len, up, name);
}

static char *find_in_path(const char *name)
{
    const char *at = getenv("PATH");
    while (at && *at) {
        int len = (int)strcspn(at, ":");
        char *path = len > 0 ? try_path(at, len, "", name) : NULL;
        if (path)
            return path;
        at += len + (at[len] == ':');
    }
    return NULL;
}

npo_err npo_process_find(const char *name, const char *sibling, const char *given, char **ret_path,
                         npo_error *error)
{
    char *path = NULL;
    if (given && !is_program(given))
        return npo_error_set(error, NPO_E_NOT_FOUND, "'%s' is no program that can be run", given);
    path = given ? strdup(given) : find_near(name, sibling);
    if (!path && !given)
        path = find_in_path(name);
    if (!path)
        return npo_error_set(error, NPO_E_NOT_FOUND,
                             "cannot find '%s': neither beside npoctl nor in PATH", name);
    *ret_path = path;
    return NPO_OK;
}

/* ---- starting ---- */

void npo_process_bind(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* It may have ended before the call. */
    if (getppid() != parent)
        _exit(127);
}

static int open_log(const char *path)
{
    struct stat st;
    char *old = NULL;
    if (stat(path, &st) == 0 && st.st_size > LOG_BYTES_MAX && asprintf(&old, "%s.old", path) >= 0) {
        (void)!rename(path, old);
        free(old);
    }
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/* Between fork and exec: only what is safe there. Does not return. */
static void become(char *const *argv, int log, int report, pid_t parent)
{
    sigset_t none;
    npo_process_bind(parent);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0 && dup2(null, 0) >= 0 && dup2(log, 1) >= 0 && dup2(log, 2) >= 0)
        execv(argv[0], argv);
    int code = errno;
    (void)!write(report, &code, sizeof code);
    _exit(127);
}

npo_err npo_process_start(char *const *argv, const char *log_path, pid_t *ret_pid, npo_error *error)
{
    int report[2], code = 0, log = open_log(log_path);
    if (log < 0)
        return npo_error_errno(error, errno, "cannot write '%s'", log_path);
    if (pipe2(report, O_CLOEXEC) < 0) {
        close(log);
        return npo_error_errno(error, errno, "cannot start '%s'", argv[0]);
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(argv, log, report[1], parent);
    int fork_errno = errno;
    close(log);
    close(report[1]);
    /* exec closes the other end; before that only its failure is written. */
    ssize_t n = pid > 0 ? read(report[0], &code, sizeof code) : 0;
    close(report[0]);
    if (pid < 0)
        return npo_error_errno(error, fork_errno, "cannot start '%s'", argv[0]);
    if (n == (ssize_t)sizeof code) {
        waitpid(pid, NULL, 0);
        return npo_error_errno(error, code, "cannot start '%s'", argv[0]);
    }
    *ret_pid = pid;
    return NPO_OK;
}

/* ---- ending ---- */

int npo_process_reap(pid_t *ret_pid, int *ret_status)
{
    siginfo_t info = {0};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
        return 0;
    /* While the child is not reaped nobody else can get its number. */
    kill(-info.si_pid, SIGKILL);
    *ret_pid = info.si_pid;
    return waitpid(info.si_pid, ret_status, 0) == info.si_pid;
}

void npo_process_describe(int status, char *ret_text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(ret_text, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(ret_text, size, "exit code %d", WEXITSTATUS(status));
}

static size_t read_tail(const char *path, char *ret_text, size_t size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        off_t at = st.st_size > (off_t)size - 1 ? st.st_size - ((off_t)size - 1) : 0;
        n = pread(fd, ret_text, size - 1, at);
    }
    if (fd >= 0)
        close(fd);
    ret_text[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

void npo_process_last_line(const char *log_path, char *ret_text, size_t size)
{
    char tail[TAIL_BYTES];
    size_t len = read_tail(log_path, tail, sizeof tail);
    while (len > 0 && (tail[len - 1] == '\n' || tail[len - 1] == ' '))
        tail[--len] = '\0';
    const char *line = strrchr(tail, '\n') ? strrchr(tail, '\n') + 1 : tail;
    /* "2026-01-31T12:00:00.123Z npod error sentence" */
    const char *sentence = line;
    for (int i = 0; i < 3 && sentence && line[0] >= '0' && line[0] <= '9'; i++)
        sentence = strchr(sentence, ' ') ? strchr(sentence, ' ') + 1 : NULL;
    snprintf(ret_text, size, "%s", sentence ? sentence : line);
}
