/* Settings of a program by one table: flag over environment over config file over default, with
 * --help, --version, --config FILE and --print-config made from the same table.
 *
 *   name "cache-bytes"  ->  --cache-bytes 4G  or  --cache-bytes=4G
 *                           NPO_CACHE_BYTES=4G
 *                           {"cache_bytes": "4G"} in the file of --config (or NPO_CONFIG)
 *
 * Defaults are what the struct holds before the call. */
#ifndef NPO_COMMON_OPTIONS_H
#define NPO_COMMON_OPTIONS_H

#include "common/option.h"

typedef struct {
    const char *program; /* "npoworker", or "npoctl submit" */
    const char *usage;   /* "[OPTION...] FILE": behind the program's name */
    const char *text;    /* what it does: a sentence or a few */
    const char *example; /* a command line that works */
    const npo_option *options;
    size_t count;
    /* Options shared by several commands; listed after the program's own. NULL, 0: none. */
    const npo_option *common_options;
    size_t common_count;
    size_t rest_max;   /* positional arguments allowed; more are refused */
    bool stop_at_rest; /* the first positional argument ends the options (a command's own follow) */
} npo_options_spec;

typedef enum {
    NPO_OPTIONS_RUN,
    NPO_OPTIONS_HELP,
    NPO_OPTIONS_VERSION,
    NPO_OPTIONS_PRINT_CONFIG
} npo_options_request;

typedef struct npo_options npo_options;

/* Reads everything into *ret_struct. argv[0] is skipped. Free ret_options when the strings are no
 * longer used. Errors: NPO_E_USAGE (unknown option with the closest known one, missing value, out
 * of range, naming flag, variable or file), and those of reading the config file. */
npo_err npo_options_read(const npo_options_spec *spec, int argc, char **argv, void *ret_struct,
                         npo_options **ret_options, npo_error *error) NPO_MUST_CHECK;
void npo_options_free(npo_options *options);
/* What the arguments ask for: to run, or to print and leave. */
npo_options_request npo_options_requested(const npo_options *options);
/* Positional arguments, borrowed from argv. */
char **npo_options_rest(const npo_options *options, int *ret_count);
/* Does what HELP, VERSION or PRINT_CONFIG asks, on `to`; false for RUN. */
bool npo_options_answer(const npo_options_spec *spec, const npo_options *options,
                        const void *values, FILE *to);
void npo_options_print_help(const npo_options_spec *spec, FILE *to);
/* A JSON object that --config would read back; comment keys say where each value came from:
 * {"threads": 2, "_threads": "environment"}. */
void npo_options_print_config(const npo_options_spec *spec, const npo_options *options,
                              const void *values, FILE *to);

#endif
