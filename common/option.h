/* One option of a program: its names, its value as text, and as JSON. A table of them is read by
 * common/options.h. */
#ifndef NPO_COMMON_OPTION_H
#define NPO_COMMON_OPTION_H

#include "common/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum {
    NPO_OPTION_BOOL,   /* bool; --name, --no-name; elsewhere true/false/1/0 */
    NPO_OPTION_INT,    /* int64_t within [min, max] */
    NPO_OPTION_NUMBER, /* double within [min, max] */
    NPO_OPTION_BYTES,  /* int64_t; suffixes K, M, G, T are powers of 1024 */
    NPO_OPTION_STRING, /* const char *; owned by the npo_options */
    NPO_OPTION_LIST,   /* npo_option_list; each use of the flag adds one */
} npo_option_type;

enum {
    NPO_OPTION_FLAG_ONLY = 1, /* no environment, no config file: an order, not a setting */
    NPO_OPTION_HIDDEN = 2     /* not in --help and --print-config */
};

typedef struct {
    const char **items;
    size_t count;
} npo_option_list;

typedef struct {
    const char *name; /* lower case, words joined by '-' */
    char letter;      /* short form, 0: none */
    npo_option_type type;
    unsigned flags;
    size_t offset;        /* of the member in the program's struct */
    const char *argument; /* "DIR" in the help; NULL for BOOL */
    const char *help;     /* one line */
    double min, max;      /* INT, NUMBER, BYTES; both 0: unbounded */
} npo_option;

enum { NPO_OPTION_NAME_SIZE = 64 };

/* Memory that values point to. */
typedef struct {
    char **strings; /* every copy that a member points to */
    size_t string_count;
    void **lists; /* arrays of NPO_OPTION_LIST members */
    size_t list_count;
} npo_option_store;

void npo_option_store_fini(npo_option_store *store);

/* "cache-bytes" -> "cache_bytes" */
void npo_option_key(const npo_option *option, char ret_key[NPO_OPTION_NAME_SIZE]);
/* "cache-bytes" -> "NPO_CACHE_BYTES" */
void npo_option_variable(const npo_option *option, char ret_name[NPO_OPTION_NAME_SIZE]);
/* Reads text into *member, whose type is the option's; a list grows by one. Errors: NPO_E_TYPE,
 * NPO_E_RANGE, NPO_E_NOMEM, without a sentence. */
npo_err npo_option_read(const npo_option *option, const char *text, npo_option_store *store,
                        void *member) NPO_MUST_CHECK;
/* "a whole number" */
const char *npo_option_expectation(const npo_option *option);
/* The value as npo_option_read would read it back; NULL: not set. Free with cJSON_Delete. */
cJSON *npo_option_json(const npo_option *option, const void *member);
/* Its line of --help; nothing for a hidden one. */
void npo_option_print(const npo_option *option, FILE *to);

#endif
