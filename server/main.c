/* npod: the coordinator. Reads its settings and runs the loop. */
#include "common/bounds.h"
#include "common/crash.h"
#include "common/file.h"
#include "common/log.h"
#include "common/options.h"
#include "proto/address.h"
#include "server/loop.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef struct {
    const char *state, *listen, *log_level;
    int64_t lease_ms, quota, garbage_age_s;
    bool insecure, raise_epoch, crash_points;
} npod_settings;

static const npo_option options[] = {
    {"state", 0, NPO_OPTION_STRING, 0, offsetof(npod_settings, state), "DIR",
     "folder of the database and the artifacts", 0, 0},
    {"listen", 0, NPO_OPTION_STRING, 0, offsetof(npod_settings, listen), "ADDRESS",
     "ipc://PATH.sock or tcp://127.0.0.1:PORT; default ipc://STATE/npod.sock", 0, 0},
    {"insecure", 0, NPO_OPTION_BOOL, 0, offsetof(npod_settings, insecure), NULL,
     "also listen where other machines can reach it: anyone there may use it", 0, 0},
    {"quota", 0, NPO_OPTION_BYTES, 0, offsetof(npod_settings, quota), "BYTES",
     "most bytes of artifacts, such as 200G; 0: what the disk holds", 0, 9e15},
    {"garbage-age-s", 0, NPO_OPTION_INT, 0, offsetof(npod_settings, garbage_age_s), "SECONDS",
     "artifacts that nothing refers to are kept this long", 1, 31536000},
    {"lease-ms", 0, NPO_OPTION_INT, 0, offsetof(npod_settings, lease_ms), "MS",
     "a worker silent for so long is lost", 100, 3600000},
    {"log-level", 0, NPO_OPTION_STRING, 0, offsetof(npod_settings, log_level), "LEVEL",
     "error, warn, info or debug", 0, 0},
    {"raise-epoch", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(npod_settings, raise_epoch),
     NULL, "after restoring a backup: workers then trust this npod and no other", 0, 0},
    {"crash-points", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY | NPO_OPTION_HIDDEN,
     offsetof(npod_settings, crash_points), NULL, "list where NPO_CRASH_AT may kill", 0, 0},
};

static const npo_options_spec spec = {
    .program = "npod",
    .usage = "[OPTION...]",
    .text = "Coordinator of npo: takes jobs, gives their tasks to workers, keeps what they make. "
            "State is\n"
            "safe at any moment: killed and started again it goes on where it was.",
    .example = "npod --state /var/lib/npo --listen tcp://127.0.0.1:7411",
    .options = options,
    .count = sizeof options / sizeof options[0],
};

static void print_crash_points(void)
{
    for (const char *const *point = npo_crash_points("npod"); *point; point++)
        puts(*point);
}

static npo_err check_address(const npod_settings *settings, npo_error *error)
{
    if (npo_address_is_local(settings->listen) || settings->insecure)
        return NPO_OK;
    return npo_error_set(
        error, NPO_E_REFUSED,
        "address '%s' can be reached from other machines, and whoever reaches npod "
        "may do anything with it: use ipc or 127.0.0.1, or add --insecure",
        settings->listen);
}

static npo_err prepare_state(const char *dir, npo_error *error)
{
    NPO_TRY(npo_file_make_dirs(dir, error));
    if (access(dir, R_OK | W_OK | X_OK) < 0)
        return npo_error_errno(error, errno, "cannot write to state folder '%s'", dir);
    return NPO_OK;
}

static npo_err run(npod_settings *settings, npo_error *error)
{
    char address[NPO_ADDRESS_SIZE];
    npo_log_level level;
    if (npo_log_level_parse(settings->log_level, &level) != NPO_OK)
        return npo_error_set(error, NPO_E_USAGE,
                             "--log-level: found '%s', expected error, warn, info or debug",
                             settings->log_level);
    npo_log_init("npod", level);
    NPO_TRY(prepare_state(settings->state, error));
    if (!settings->listen) {
        NPO_TRY(npo_address_of_state(settings->state, address, error));
        settings->listen = address;
    }
    NPO_TRY(check_address(settings, error));
    const npo_loop_options loop = {
        .state_dir = settings->state,
        .listen = settings->listen,
        .lease_ms = settings->lease_ms,
        .garbage_age_ms = settings->garbage_age_s * 1000,
        .quota_bytes = (uint64_t)settings->quota,
        .raise_epoch = settings->raise_epoch,
    };
    return npo_loop_run(&loop, error);
}

int main(int argc, char **argv)
{
    npod_settings settings = {.state = "/var/lib/npo",
                              .log_level = "info",
                              .lease_ms = NPO_LEASE_MS,
                              .garbage_age_s = 3600};
    npo_options *read = NULL;
    npo_error error = {0};
    /* Chunks of 4 MiB come and go all the time: their memory is kept instead of returned each time.
     */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    mallopt(M_TOP_PAD, 64 << 20);
    npo_err err = npo_options_read(&spec, argc, argv, &settings, &read, &error);
    if (err) {
        fprintf(stderr, "npod: %s (npod --help)\n", error.text);
        return EXIT_USAGE;
    }
    if (settings.crash_points)
        print_crash_points();
    else if (!npo_options_answer(&spec, read, &settings, stdout))
        err = run(&settings, &error);
    npo_options_free(read);
    if (err)
        fprintf(stderr, "npod: %s\n", error.text);
    if (err == NPO_E_USAGE || err == NPO_E_REFUSED)
        return EXIT_USAGE;
    return err ? EXIT_FAILED : EXIT_SUCCESS;
}
