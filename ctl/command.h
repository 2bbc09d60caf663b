/* A command of npoctl: one row of the table in command.c, one file each in commands/. */
#ifndef NPO_CTL_COMMAND_H
#define NPO_CTL_COMMAND_H

#include "common/options.h"
#include "ctl/exit.h"

/* Options of every command; first member of every command's values. */
typedef struct {
    const char *connect; /* address of npod, NULL: that of the state folder */
    const char *state;   /* folder of `npoctl up`, NULL: the default */
} npo_common_values;

typedef struct {
    const void *values; /* the command's struct */
    char **rest;        /* positional arguments, NULL-terminated */
    int rest_count;
} npo_call;

typedef struct {
    const char *name, *summary;
    const char *usage; /* behind the name: "[OPTION...] FILE" */
    const char *text;  /* a few lines for --help */
    const char *example;
    const npo_option *options;
    size_t option_count;
    const void *defaults; /* of values_size bytes, NULL: all zero */
    size_t values_size;
    size_t rest_min, rest_max;
    npo_exit (*run)(const npo_call *call);
} npo_command;

enum { NPO_COMMAND_VALUES_MAX = 512 };

/* NULL-terminated, in the order of the help. */
extern const npo_command *const npo_commands[];

const npo_command *npo_command_find(const char *name); /* NULL: no such command */
/* Prints a command's help, as --help does. */
void npo_command_print_help(const npo_command *command, void *file);
/* Reads the arguments (argv[0] is the command's name), answers --help and the like, runs. */
npo_exit npo_command_run(const npo_command *command, int argc, char **argv);

/* "12" -> 12, "12@150" -> 12, 150 (ret_step NULL: refused). -1: no step. Prints a sentence and
 * returns NPO_EXIT_USAGE for anything else. */
npo_exit npo_command_parse_job(const char *text, int64_t *ret_job, int64_t *ret_step);

extern const npo_command npo_command_up, npo_command_down, npo_command_submit, npo_command_status,
    npo_command_watch, npo_command_logs, npo_command_cancel, npo_command_hold, npo_command_release,
    npo_command_retry, npo_command_rm, npo_command_workers, npo_command_import, npo_command_export,
    npo_command_sample, npo_command_evaluate, npo_command_get, npo_command_help,
    npo_command_version;

#define NPO_ARRAY_COUNT(array) (sizeof(array) / sizeof *(array))

#endif
