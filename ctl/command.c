#include "ctl/command.h"

#include "common/json.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const npo_command *const npo_commands[] = {
    &npo_command_up,      &npo_command_down,   &npo_command_submit,  &npo_command_status,
    &npo_command_watch,   &npo_command_logs,   &npo_command_cancel,  &npo_command_hold,
    &npo_command_release, &npo_command_retry,  &npo_command_rm,      &npo_command_workers,
    &npo_command_import,  &npo_command_export, &npo_command_sample,  &npo_command_evaluate,
    &npo_command_get,     &npo_command_help,   &npo_command_version, NULL,
};

static const npo_option common_options[] = {
    {"connect", 0, NPO_OPTION_STRING, 0, offsetof(npo_common_values, connect), "ADDRESS",
     "npod's address (default: that of the state folder)", 0, 0},
    {"state", 0, NPO_OPTION_STRING, 0, offsetof(npo_common_values, state), "DIR",
     "state folder of `npoctl up` (default ~/.local/state/npo)", 0, 0},
};

const npo_command *npo_command_find(const char *name)
{
    for (size_t i = 0; npo_commands[i]; i++)
        if (strcmp(npo_commands[i]->name, name) == 0)
            return npo_commands[i];
    return NULL;
}

static npo_options_spec spec_of(const npo_command *command, char program[64])
{
    snprintf(program, 64, "npoctl %s", command->name);
    return (npo_options_spec){.program = program,
                              .usage = command->usage,
                              .text = command->text,
                              .example = command->example,
                              .options = command->options,
                              .count = command->option_count,
                              .common_options = common_options,
                              .common_count = NPO_ARRAY_COUNT(common_options),
                              .rest_max = command->rest_max};
}

void npo_command_print_help(const npo_command *command, void *file)
{
    char program[64];
    npo_options_spec spec = spec_of(command, program);
    npo_options_print_help(&spec, file);
}

static npo_exit run_read(const npo_command *command, const npo_options *options, const void *values)
{
    npo_call call = {.values = values};
    call.rest = npo_options_rest(options, &call.rest_count);
    if ((size_t)call.rest_count < command->rest_min)
        return npo_exit_with(NPO_EXIT_USAGE, "missing argument: npoctl %s %s", command->name,
                             command->usage);
    return command->run(&call);
}

npo_exit npo_command_run(const npo_command *command, int argc, char **argv)
{
    union {
        npo_common_values common;
        max_align_t align;
        char bytes[NPO_COMMAND_VALUES_MAX];
    } values = {0};
    char program[64];
    npo_options_spec spec = spec_of(command, program);
    npo_options *options = NULL;
    npo_error error = {0};
    assert(command->values_size >= sizeof(npo_common_values));
    assert(command->values_size <= sizeof values);
    if (command->defaults)
        memcpy(&values, command->defaults, command->values_size);
    if (npo_options_read(&spec, argc, argv, &values, &options, &error)) {
        npo_exit_local(&error);
        fprintf(stderr, "try 'npoctl %s --help'\n", command->name);
        return NPO_EXIT_USAGE;
    }
    npo_exit code = NPO_EXIT_OK;
    if (!npo_options_answer(&spec, options, &values, stdout))
        code = run_read(command, options, &values);
    npo_options_free(options);
    return code;
}

static bool parse_id(const char *text, char **ret_end, int64_t *ret_value)
{
    errno = 0;
    long long value = strtoll(text, ret_end, 10);
    *ret_value = value;
    return text[0] >= '0' && text[0] <= '9' && errno == 0;
}

npo_exit npo_command_parse_job(const char *text, int64_t *ret_job, int64_t *ret_step)
{
    char *end = NULL;
    int64_t job = 0, step = -1;
    bool good = parse_id(text, &end, &job) && job > 0;
    if (good && *end == '@' && ret_step)
        good = parse_id(end + 1, &end, &step);
    if (!good || *end)
        return npo_exit_with(NPO_EXIT_USAGE,
                             "job '%.60s': expected a number%s, as npoctl status shows", text,
                             ret_step ? " or NUMBER@STEP" : "");
    *ret_job = job;
    if (ret_step)
        *ret_step = step;
    return NPO_EXIT_OK;
}
