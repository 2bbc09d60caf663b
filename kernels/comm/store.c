#include "common/clock.h"
#include "common/file.h"
#include "kernels/comm/comm.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POLL_NS 2000000L

static npo_err dir_set(void *self, const char *key, const void *value, size_t len)
{
    char *path = npo_file_join(self, key);
    if (!path)
        return NPO_E_NOMEM;
    npo_err err = npo_file_write(path, value, len, 0600, NULL);
    free(path);
    return err;
}

static npo_err read_value(const char *path, void *ret_value, size_t size, size_t *ret_len)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_err err = npo_file_read(path, size, &buf, NULL);
    if (!err) {
        if (buf.len)
            memcpy(ret_value, buf.data, buf.len);
        *ret_len = buf.len;
    }
    npo_buf_fini(&buf);
    return err;
}

static npo_err dir_get(void *self, const char *key, int64_t timeout_ms, void *ret_value,
                       size_t size, size_t *ret_len)
{
    char *path = npo_file_join(self, key);
    if (!path)
        return NPO_E_NOMEM;
    int64_t deadline = npo_clock_ms() + timeout_ms;
    npo_err err = NPO_OK;
    /* Names appear by rename, so a file that is there is whole. */
    while ((err = read_value(path, ret_value, size, ret_len)) == NPO_E_NOT_FOUND) {
        if (npo_clock_ms() >= deadline) {
            err = NPO_E_TIMEOUT;
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
    free(path);
    return err;
}

npo_err npo_comm_store_new_dir(const char *dir, npo_comm_store *ret_store, npo_error *error)
{
    NPO_TRY(npo_file_make_dirs(dir, error));
    char *copy = strdup(dir);
    if (!copy)
        return npo_error_set(error, NPO_E_NOMEM, "rendezvous folder '%s': out of memory", dir);
    *ret_store = (npo_comm_store){.self = copy, .set = dir_set, .get = dir_get};
    return NPO_OK;
}

void npo_comm_store_fini_dir(npo_comm_store *store)
{
    free(store->self);
    *store = (npo_comm_store){0};
}
