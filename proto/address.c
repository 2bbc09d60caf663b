#include "proto/address.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SOCKET_PATH_MAX = 107 }; /* sun_path without the NUL */

static const char *const ipc_suffix[] = {
    [NPO_ENDPOINT_CONTROL] = ".sock",
    [NPO_ENDPOINT_BULK] = ".bulk.sock",
    [NPO_ENDPOINT_HINTS] = ".hints.sock",
};

static npo_err derive_ipc(const char *control, npo_endpoint endpoint, char *ret_address,
                          npo_error *error)
{
    size_t len = strlen(control), tail = strlen(".sock");
    if (len <= strlen("ipc://") + tail || strcmp(control + len - tail, ".sock") != 0)
        return npo_error_set(error, NPO_E_USAGE, "address '%s': expected ipc://PATH.sock", control);
    size_t path_max = len - strlen("ipc://") - tail + strlen(ipc_suffix[NPO_ENDPOINT_HINTS]);
    if (path_max > SOCKET_PATH_MAX)
        return npo_error_set(error, NPO_E_USAGE,
                             "address '%s': the socket path is %zu bytes too long", control,
                             path_max - SOCKET_PATH_MAX);
    snprintf(ret_address, NPO_ADDRESS_SIZE, "%.*s%s", (int)(len - tail), control,
             ipc_suffix[endpoint]);
    return NPO_OK;
}

static npo_err derive_tcp(const char *control, npo_endpoint endpoint, char *ret_address,
                          npo_error *error)
{
    const char *host = control + strlen("tcp://"), *colon = strrchr(host, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == host || end == colon + 1 || *end != '\0' || port < 1 || port > 65533)
        return npo_error_set(error, NPO_E_USAGE,
                             "address '%s': expected tcp://HOST:PORT with a port from 1 to 65533 "
                             "(the two after it are used too)",
                             control);
    if (colon - host > 100)
        return npo_error_set(error, NPO_E_USAGE, "address '%.60s...': the host name is too long",
                             control);
    snprintf(ret_address, NPO_ADDRESS_SIZE, "%.*s:%ld", (int)(colon - control), control,
             port + (long)endpoint);
    return NPO_OK;
}

npo_err npo_address_derive(const char *control, npo_endpoint endpoint,
                           char ret_address[NPO_ADDRESS_SIZE], npo_error *error)
{
    if (strncmp(control, "ipc://", 6) == 0)
        return derive_ipc(control, endpoint, ret_address, error);
    if (strncmp(control, "tcp://", 6) == 0)
        return derive_tcp(control, endpoint, ret_address, error);
    return npo_error_set(error, NPO_E_USAGE,
                         "address '%s': expected ipc://PATH.sock or tcp://HOST:PORT", control);
}

static bool is_loopback_ipv4(const char *host)
{
    unsigned a, b, c, d;
    char rest;
    return sscanf(host, "%3u.%3u.%3u.%3u%c", &a, &b, &c, &d, &rest) == 5 && rest == ':' &&
           a == 127 && b < 256 && c < 256 && d < 256;
}

bool npo_address_is_local(const char *address)
{
    if (strncmp(address, "ipc://", 6) == 0)
        return true;
    if (strncmp(address, "tcp://", 6) != 0)
        return false;
    return is_loopback_ipv4(address + 6) || strncmp(address + 6, "localhost:", 10) == 0;
}

npo_err npo_address_of_state(const char *state_dir, char ret_address[NPO_ADDRESS_SIZE],
                             npo_error *error)
{
    char dir[PATH_MAX], control[PATH_MAX + 32];
    /* A folder that is not there yet cannot be resolved; its path as given serves until then. */
    if (!realpath(state_dir, dir))
        snprintf(dir, sizeof dir, "%s", state_dir);
    snprintf(control, sizeof control, "ipc://%s/npod.sock", dir);
    return npo_address_derive(control, NPO_ENDPOINT_CONTROL, ret_address, error);
}
