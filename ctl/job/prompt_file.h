/* Prompts from a file. Text: one a line; an empty line is none. "*.jsonl": one object a line,
 * {"prompt": TEXT, "negative_prompt": TEXT, "seed": N}, of which only the prompt must be there; it
 * may be called "caption" or "text". A folder of captions: the first line of each *.txt in it, in
 * the order of their names. UTF-8, with or without a byte order mark. */
#ifndef NPO_CTL_JOB_PROMPT_FILE_H
#define NPO_CTL_JOB_PROMPT_FILE_H

#include "common/json.h"

/* Lists with an entry for each prompt. */
typedef struct {
    cJSON *prompts;   /* texts */
    cJSON *negatives; /* texts, "" where a line has none; NULL: no line has one */
    cJSON *seeds;     /* numbers, null where a line has none; NULL: no line has one */
} npo_prompt_file;

/* Errors: those of reading; NPO_E_FORMAT with line and byte for what is not UTF-8, and for what is
 * not JSON; NPO_E_USAGE for a file without prompts. */
npo_err npo_prompt_file_read(const char *path, npo_prompt_file *ret_file,
                             npo_error *error) NPO_MUST_CHECK;
void npo_prompt_file_fini(npo_prompt_file *file);

#endif
