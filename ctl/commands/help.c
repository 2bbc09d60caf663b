#include "ctl/commands/help.h"
#include "ctl/command.h"

#include "common/json.h"

#include <stdio.h>
#include <string.h>

void npo_help_print(void *file)
{
    fprintf(file,
            "Usage: npoctl COMMAND [OPTION...]\n\n"
            "Runs and looks at npo jobs: training of negative networks for diffusion models.\n\n"
            "Commands:\n");
    for (size_t i = 0; npo_commands[i]; i++)
        fprintf(file, "  %-10s %s\n", npo_commands[i]->name, npo_commands[i]->summary);
    fprintf(file, "\n`npoctl COMMAND --help` shows a command's options and an example.\n\n"
                  "Exit codes: 0 done (without --wait: accepted), 1 failed, 2 wrong usage,\n"
                  "3 the job was cancelled, 4 coordinator unreachable for 5 s, 5 refused,\n"
                  "130 interrupted (the job goes on).\n");
}

npo_exit npo_help_unknown(const char *name)
{
    const char *known[64];
    size_t count = 0;
    for (; npo_commands[count]; count++)
        known[count] = npo_commands[count]->name;
    const char *closest = npo_json_closest(name, known, count);
    if (closest)
        return npo_exit_with(NPO_EXIT_USAGE, "unknown command '%.60s', did you mean '%s'?", name,
                             closest);
    return npo_exit_with(NPO_EXIT_USAGE, "unknown command '%.60s'; 'npoctl help' lists all", name);
}

static npo_exit run_help(const npo_call *call)
{
    if (call->rest_count == 0) {
        npo_help_print(stdout);
        return NPO_EXIT_OK;
    }
    const npo_command *command = npo_command_find(call->rest[0]);
    if (!command)
        return npo_help_unknown(call->rest[0]);
    npo_command_print_help(command, stdout);
    return NPO_EXIT_OK;
}

static npo_exit run_version(const npo_call *call)
{
    (void)call;
    printf("npoctl %s\n", NPO_VERSION);
    return NPO_EXIT_OK;
}

const npo_command npo_command_help = {
    .name = "help",
    .summary = "list the commands, or explain one",
    .usage = "[COMMAND]",
    .text = "Lists the commands, or prints what `npoctl COMMAND --help` prints.",
    .example = "npoctl help submit",
    .values_size = sizeof(npo_common_values),
    .rest_max = 1,
    .run = run_help,
};

const npo_command npo_command_version = {
    .name = "version",
    .summary = "print the version",
    .usage = "",
    .text = "Prints the version of this program.",
    .example = "npoctl version",
    .values_size = sizeof(npo_common_values),
    .run = run_version,
};
