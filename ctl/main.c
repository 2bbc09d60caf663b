#include "ctl/command.h"
#include "ctl/commands/help.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static const char *const aliases[][2] = {
        {"--help", "help"}, {"-h", "help"}, {"--version", "version"}, {"-V", "version"}};
    if (argc < 2) {
        npo_help_print(stderr);
        return NPO_EXIT_USAGE;
    }
    const char *name = argv[1];
    for (size_t i = 0; i < NPO_ARRAY_COUNT(aliases); i++)
        if (strcmp(name, aliases[i][0]) == 0)
            name = aliases[i][1];
    const npo_command *command = npo_command_find(name);
    npo_exit code = command ? npo_command_run(command, argc - 1, argv + 1) : npo_help_unknown(name);
    if (fflush(stdout) != 0 && code == NPO_EXIT_OK)
        code = npo_exit_with(NPO_EXIT_FAILED, "cannot write to standard output");
    return code;
}
