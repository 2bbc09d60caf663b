#include "server/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static npo_err explain_busy(int fd, const char *state_dir, npo_error *error)
{
    char text[32] = "";
    ssize_t len = pread(fd, text, sizeof text - 1, 0);
    long pid = len > 0 ? strtol(text, NULL, 10) : 0;
    if (pid > 0)
        return npo_error_set(error, NPO_E_BUSY,
                             "state folder '%s' is in use by another npod (process %ld)", state_dir,
                             pid);
    return npo_error_set(error, NPO_E_BUSY, "state folder '%s' is in use by another npod",
                         state_dir);
}

npo_err npo_lock_take(const char *state_dir, int *ret_fd, npo_error *error)
{
    char path[PATH_MAX], text[32];
    snprintf(path, sizeof path, "%s/npod.lock", state_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot write to state folder '%s'", state_dir);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        npo_err err = errno == EWOULDBLOCK
                          ? explain_busy(fd, state_dir, error)
                          : npo_error_errno(error, errno, "cannot lock '%s'", path);
        close(fd);
        return err;
    }
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len) {
        npo_err err = npo_error_errno(error, errno, "cannot write '%s'", path);
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return NPO_OK;
}
