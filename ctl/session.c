#include "ctl/session.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "ctl/cluster/state.h"
#include "ctl/text/format.h"
#include "ctl/text/terminal.h"
#include "proto/address.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { PROGRESS_EVERY_MS = 200 };

struct npo_session {
    npo_identity identity;
    npo_client *client;
    int signal_fd;
    /* progress of transfers on a terminal */
    int64_t shown_ms;
    bool shown;
};

/* ---- life ---- */

static npo_err catch_signals(npo_session *session, npo_error *error)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0 ||
        (session->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return npo_error_errno(error, errno, "cannot catch signals");
    return NPO_OK;
}

static npo_err find_address(const npo_common_values *common, char *ret_address, npo_error *error)
{
    char *state = NULL;
    if (common->connect && *common->connect) {
        if (strlen(common->connect) >= NPO_ADDRESS_SIZE)
            return npo_error_set(error, NPO_E_USAGE, "address '%.40s...': too long",
                                 common->connect);
        snprintf(ret_address, NPO_ADDRESS_SIZE, "%s", common->connect);
        return NPO_OK;
    }
    NPO_TRY(npo_state_path(common->state, &state, error));
    npo_err err = npo_address_of_state(state, ret_address, error);
    free(state);
    return err;
}

npo_exit npo_session_open(const npo_common_values *common, npo_session **ret_session)
{
    npo_error error = {0};
    char address[NPO_ADDRESS_SIZE];
    npo_session *session = calloc(1, sizeof *session);
    if (!session)
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    session->signal_fd = -1;
    npo_err err = find_address(common, address, &error);
    if (!err)
        err = catch_signals(session, &error);
    if (!err)
        err = npo_identity_init(&session->identity, &error);
    npo_client_options options = {
        .address = address, .identity = &session->identity, .wake_fd = session->signal_fd};
    if (!err)
        err = npo_client_open(&options, &session->client, &error);
    if (err) {
        npo_session_close(session);
        return npo_exit_local(&error);
    }
    *ret_session = session;
    return NPO_EXIT_OK;
}

void npo_session_close(npo_session *session)
{
    if (!session)
        return;
    npo_client_close(session->client);
    if (session->signal_fd >= 0)
        close(session->signal_fd);
    free(session);
}

/* ---- waiting ---- */

static bool wait_for_signal(const npo_session *session, int64_t ms)
{
    struct pollfd fd = {.fd = session->signal_fd, .events = POLLIN};
    return poll(&fd, 1, (int)ms) > 0;
}

static bool is_interrupted(const npo_session *session)
{
    return wait_for_signal(session, 0);
}

bool npo_session_sleep(npo_session *session, int64_t ms)
{
    return !wait_for_signal(session, ms);
}

/* ---- asking ---- */

static npo_exit explain(npo_session *session, npo_err err, const npo_error *error)
{
    if (err == NPO_E_CANCELLED && is_interrupted(session))
        return NPO_EXIT_INTERRUPTED;
    if (err == NPO_E_UNREACHABLE)
        return npo_exit_with(NPO_EXIT_UNREACHABLE, "%s; is npod running? ('npoctl up' starts it)",
                             error->text);
    if (err == NPO_E_NOMEM)
        return npo_exit_local(error);
    return npo_exit_with(NPO_EXIT_REFUSED, "%s", error->text);
}

npo_exit npo_session_ask_unless(npo_session *session, npo_message id, cJSON *body_take,
                                npo_err expected, bool *ret_met, npo_answer *ret_answer)
{
    npo_error error = {0};
    if (!body_take)
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    npo_err err = npo_client_call(session->client, id, body_take, NULL, 0, ret_answer, &error);
    cJSON_Delete(body_take);
    *ret_met = err != NPO_OK && err == expected;
    return err && !*ret_met ? explain(session, err, &error) : NPO_EXIT_OK;
}

npo_exit npo_session_ask(npo_session *session, npo_message id, cJSON *body_take,
                         npo_answer *ret_answer)
{
    bool met;
    return npo_session_ask_unless(session, id, body_take, NPO_OK, &met, ret_answer);
}

cJSON *npo_session_job_body(int64_t job)
{
    cJSON *body = cJSON_CreateObject();
    if (cJSON_AddNumberToObject(body, "job", (double)job))
        return body;
    cJSON_Delete(body);
    return NULL;
}

/* ---- transfers ---- */

static void show_progress(void *self, const char *path, uint64_t done, uint64_t size)
{
    npo_session *session = self;
    int64_t now_ms = npo_clock_ms();
    char have[NPO_FORMAT_SIZE], all[NPO_FORMAT_SIZE];
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (now_ms - session->shown_ms < PROGRESS_EVERY_MS)
        return;
    session->shown_ms = now_ms;
    session->shown = true;
    npo_format_bytes((double)done, have);
    npo_format_bytes((double)size, all);
    fprintf(stderr, "\r%.40s: %s of %s\x1b[K", name, have, all);
}

static npo_transfer start_transfer(npo_session *session)
{
    session->shown_ms = npo_clock_ms();
    session->shown = false;
    return (npo_transfer){.client = session->client,
                          .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
                          .self = session};
}

static npo_exit end_transfer(npo_session *session, npo_err err, const npo_error *error)
{
    static const npo_err refusals[] = {NPO_E_UNREACHABLE, NPO_E_CANCELLED, NPO_E_REFUSED,
                                       NPO_E_FENCED, NPO_E_STATE};
    if (session->shown)
        fprintf(stderr, "\r\x1b[K");
    for (size_t i = 0; i < NPO_ARRAY_COUNT(refusals); i++)
        if (err == refusals[i])
            return explain(session, err, error);
    return err ? npo_exit_with(NPO_EXIT_FAILED, "%s", error->text) : NPO_EXIT_OK;
}

npo_exit npo_session_upload(npo_session *session, const char *path, npo_artifact *ret_artifact)
{
    npo_error error = {0};
    npo_transfer transfer = start_transfer(session);
    npo_err err = npo_upload(&transfer, path, ret_artifact, &error);
    /* Sending fills no disk but npod's. */
    return end_transfer(session, err == NPO_E_FULL ? NPO_E_REFUSED : err, &error);
}

npo_exit npo_session_download(npo_session *session, const char *hash, const char *path,
                              npo_artifact *ret_artifact)
{
    npo_error error = {0};
    npo_hash parsed;
    npo_transfer transfer = start_transfer(session);
    if (npo_hash_parse(hash, &parsed))
        return npo_exit_with(NPO_EXIT_REFUSED, "npod names an artifact '%.60s', expected a hash",
                             hash);
    npo_err err = npo_download(&transfer, &parsed, path, ret_artifact, &error);
    return end_transfer(session, err, &error);
}
