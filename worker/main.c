/* npoworker: reads the options, then is the supervisor, or (--executor, started by it) the
 * executor. */
#include "common/bounds.h"
#include "common/crash.h"
#include "common/file.h"
#include "common/log.h"
#include "common/options.h"
#include "proto/address.h"
#include "worker/executor/executor.h"
#include "worker/supervisor/service.h"

#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *connect, *state, *cache, *name, *device, *isa, *log_level;
    int64_t cache_bytes, memory, threads;
    npo_option_list labels;
    bool executor, crash_points;
} settings;

#define AT(member) offsetof(settings, member)

static const npo_option table[] = {
    {"connect", 0, NPO_OPTION_STRING, 0, AT(connect), "ADDRESS",
     "npod: ipc://PATH.sock or tcp://HOST:PORT", 0, 0},
    {"state", 0, NPO_OPTION_STRING, 0, AT(state), "DIR",
     "folder of this worker alone (default npo-worker)", 0, 0},
    {"cache", 0, NPO_OPTION_STRING, 0, AT(cache), "DIR",
     "folder of downloaded artifacts (default STATE/cache)", 0, 0},
    {"cache-bytes", 0, NPO_OPTION_BYTES, 0, AT(cache_bytes), "BYTES",
     "evict artifacts beyond this (default 20G)", 0, 1e15},
    {"memory", 0, NPO_OPTION_BYTES, 0, AT(memory), "BYTES",
     "what tasks may use: training computes parts twice rather than more, or refuses (default what "
     "the machine has)",
     0, 1e15},
    {"name", 0, NPO_OPTION_STRING, 0, AT(name), "NAME",
     "unique among the workers (default the host's name)", 0, 0},
    {"label", 0, NPO_OPTION_LIST, 0, AT(labels), "KEY=VALUE",
     "what jobs may ask for; may be repeated", 0, 0},
    {"device", 0, NPO_OPTION_STRING, 0, AT(device), "DEVICE", "what to compute on (default cpu)", 0,
     0},
    {"threads", 0, NPO_OPTION_INT, 0, AT(threads), "N", "CPU threads (default all cores)", 1, 1024},
    {"isa", 0, NPO_OPTION_STRING, 0, AT(isa), "ISA",
     "avx512, avx2 or portable (default the best here)", 0, 0},
    {"log-level", 0, NPO_OPTION_STRING, 0, AT(log_level), "LEVEL",
     "error, warn, info or debug (default info)", 0, 0},
    {"executor", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY | NPO_OPTION_HIDDEN, AT(executor), NULL,
     "be the executor", 0, 0},
    {"crash-points", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY | NPO_OPTION_HIDDEN, AT(crash_points),
     NULL, "print the names that NPO_CRASH_AT knows", 0, 0},
};

static const npo_options_spec spec = {
    .program = "npoworker",
    .usage = "--connect ADDRESS [OPTION...]",
    .text = "Runs the tasks that npod hands out, on one device of this machine.\n"
            "SIGTERM or Ctrl-C: gives the task in hand back and leaves.",
    .example = "npoworker --connect ipc:///var/lib/npo/npod.sock --state /var/lib/npo/worker-0 "
               "--threads 4",
    .options = table,
    .count = sizeof table / sizeof table[0],
};

static npo_err fill_defaults(settings *set, npo_error *error)
{
    static char cache[4096], host[256];
    cpu_set_t cores;
    if (set->threads == 0)
        set->threads = sched_getaffinity(0, sizeof cores, &cores) == 0
                           ? CPU_COUNT(&cores)
                           : sysconf(_SC_NPROCESSORS_ONLN);
    if (!set->name) {
        if (gethostname(host, sizeof host - 1) < 0)
            return npo_error_set(error, NPO_E_USAGE, "--name: the host has no name, give one");
        set->name = host;
    }
    if (!set->cache) {
        if (snprintf(cache, sizeof cache, "%s/cache", set->state) >= (int)sizeof cache)
            return npo_error_set(error, NPO_E_USAGE, "--state: '%.60s...' is too long", set->state);
        set->cache = cache;
    }
    return NPO_OK;
}

static npo_err check_settings(const settings *set, npo_error *error)
{
    char address[NPO_ADDRESS_SIZE];
    npo_log_level level;
    if (npo_log_level_parse(set->log_level, &level))
        return npo_error_set(error, NPO_E_USAGE,
                             "--log-level: found '%s', expected error, warn, info or debug",
                             set->log_level);
    npo_log_init(set->executor ? "executor" : "npoworker", level);
    for (size_t i = 0; i < set->labels.count; i++) {
        const char *label = set->labels.items[i];
        size_t key = strcspn(label, "=");
        if (!label[key] || key < 1 || key > NPO_NAME_MAX)
            return npo_error_set(error, NPO_E_USAGE,
                                 "--label: found '%.80s', expected KEY=VALUE with a key of 1 to %d "
                                 "bytes",
                                 label, (int)NPO_NAME_MAX);
    }
    if (!*set->name || strlen(set->name) > NPO_NAME_MAX)
        return npo_error_set(error, NPO_E_USAGE, "--name: found '%.40s', expected 1 to %d bytes",
                             set->name, (int)NPO_NAME_MAX);
    if (set->executor)
        return NPO_OK;
    if (!set->connect)
        return npo_error_set(error, NPO_E_USAGE, "--connect is missing: where does npod listen?");
    return npo_address_derive(set->connect, NPO_ENDPOINT_HINTS, address, error);
}

static npo_err run_executor(const settings *set, npo_error *error)
{
    npo_executor_options options = {.device = set->device,
                                    .isa = set->isa,
                                    .threads = (int)set->threads,
                                    .memory_bytes = (size_t)set->memory,
                                    .state_dir = set->state};
    return npo_executor_run(&options, error);
}

static npo_err run_supervisor(const settings *set, char *program, int *ret_exit_code,
                              npo_error *error)
{
    char threads[24], memory[24];
    /* Threads that spin for each other for long, as libgomp's do, take a hundred times as long
     * where other work has the cores (measured); ones that sleep at once take twice as long where
     * none has. Some tens of microseconds of spinning cost nothing in either case. */
    if (!getenv("OMP_WAIT_POLICY") && setenv("GOMP_SPINCOUNT", "10000", 0) < 0)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start: out of memory");
    snprintf(threads, sizeof threads, "%lld", (long long)set->threads);
    snprintf(memory, sizeof memory, "%lld", (long long)set->memory);
    char *argv[] = {program,
                    (char *)"--executor",
                    (char *)"--state",
                    (char *)set->state,
                    (char *)"--device",
                    (char *)set->device,
                    (char *)"--threads",
                    threads,
                    (char *)"--memory",
                    memory,
                    (char *)"--log-level",
                    (char *)set->log_level,
                    (char *)(set->isa ? "--isa" : NULL),
                    (char *)set->isa,
                    NULL};
    npo_service_options options = {.address = set->connect,
                                   .state_dir = set->state,
                                   .cache_dir = set->cache,
                                   .cache_bytes = set->cache_bytes,
                                   .name = set->name,
                                   .device = set->device,
                                   .threads = set->threads,
                                   .labels = set->labels,
                                   /* the same binary, even when its file was replaced meanwhile */
                                   .executor_file = "/proc/self/exe",
                                   .executor_argv = argv};
    return npo_service_run(&options, ret_exit_code, error);
}

static int fail(const npo_error *error, int code)
{
    fprintf(stderr, "npoworker: %s\n", error->text);
    return code;
}

static int print_crash_points(void)
{
    static const char *const programs[] = {"npoworker", "executor"};
    for (int i = 0; i < 2; i++)
        for (const char *const *name = npo_crash_points(programs[i]); *name; name++)
            printf("%s\n", *name);
    return 0;
}

static int run(const settings *set, char *program)
{
    int exit_code = 1;
    npo_error error = {0};
    if (set->crash_points)
        return print_crash_points();
    if (check_settings(set, &error))
        return fail(&error, 2);
    npo_err err = set->executor ? run_executor(set, &error)
                                : run_supervisor(set, program, &exit_code, &error);
    return err ? fail(&error, 1) : exit_code;
}

int main(int argc, char **argv)
{
    settings set = {.state = "npo-worker",
                    .device = "cpu",
                    .log_level = "info",
                    .cache_bytes = (int64_t)20 << 30};
    npo_options *options = NULL;
    npo_error error = {0};
    if (npo_options_read(&spec, argc, argv, &set, &options, &error) ||
        fill_defaults(&set, &error)) {
        npo_options_free(options);
        return fail(&error, 2);
    }
    int exit_code = npo_options_answer(&spec, options, &set, stdout) ? 0 : run(&set, argv[0]);
    npo_options_free(options);
    return exit_code;
}
