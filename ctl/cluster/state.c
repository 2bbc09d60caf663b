#include "ctl/cluster/state.h"

#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_FILE "up.lock"

npo_err npo_state_path(const char *given, char **ret_path, npo_error *error)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL, *cwd = NULL;
    int n = 0;
    if (given && given[0] == '/')
        n = asprintf(&path, "%s", given);
    else if (given && *given)
        n = (cwd = getcwd(NULL, 0)) ? asprintf(&path, "%s/%s", cwd, given) : -1;
    else if (xdg && xdg[0] == '/')
        n = asprintf(&path, "%s/npo", xdg);
    else if (home && home[0] == '/')
        n = asprintf(&path, "%s/.local/state/npo", home);
    else
        return npo_error_set(error, NPO_E_USAGE,
                             "no state folder: HOME is not set; use --state DIR or NPO_STATE");
    free(cwd);
    if (n < 0)
        return npo_error_set(error, NPO_E_NOMEM, "cannot find the state folder");
    *ret_path = path;
    return NPO_OK;
}

/* A POSIX record lock: the kernel names its holder, it ends with the process however that ends, and
 * children never have it. */
static struct flock whole_file(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

static npo_err holder_of(int fd, const char *path, pid_t *ret_pid, npo_error *error)
{
    struct flock lock = whole_file();
    if (fcntl(fd, F_GETLK, &lock) < 0)
        return npo_error_errno(error, errno, "cannot look at the lock '%s'", path);
    *ret_pid = lock.l_type == F_UNLCK ? 0 : lock.l_pid;
    return NPO_OK;
}

npo_err npo_state_owner(const char *state, pid_t *ret_pid, npo_error *error)
{
    npo_err err = NPO_OK;
    char *path = npo_file_join(state, LOCK_FILE);
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (!path)
        err = npo_error_set(error, NPO_E_NOMEM, "cannot look into '%s'", state);
    else if (fd < 0 && errno == ENOENT)
        *ret_pid = 0;
    else if (fd < 0)
        err = npo_error_errno(error, errno, "cannot open '%s'", path);
    else
        err = holder_of(fd, path, ret_pid, error);
    if (fd >= 0)
        close(fd);
    free(path);
    return err;
}

static npo_err take_lock(const char *state, const char *path, npo_error *error)
{
    struct flock lock = whole_file();
    pid_t pid = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot create '%s'", path);
    if (fcntl(fd, F_SETLK, &lock) == 0)
        return NPO_OK; /* fd stays open: closing it would give the lock back */
    npo_err err = errno == EAGAIN || errno == EACCES
                      ? holder_of(fd, path, &pid, error)
                      : npo_error_errno(error, errno, "cannot lock '%s'", path);
    if (!err)
        err = npo_error_set(error, NPO_E_BUSY,
                            "'%s' is in use by process %ld ('npoctl up'); 'npoctl down' stops it",
                            state, (long)pid);
    close(fd);
    return err;
}

npo_err npo_state_own(const char *state, npo_error *error)
{
    bool is_new = !npo_file_exists(state);
    NPO_TRY(npo_file_make_dirs(state, error));
    if (is_new && chmod(state, 0700) < 0)
        return npo_error_errno(error, errno, "cannot protect '%s'", state);
    char *path = npo_file_join(state, LOCK_FILE);
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "cannot lock '%s'", state);
    npo_err err = take_lock(state, path, error);
    free(path);
    return err;
}
