/* The captions file of a folder of PNG images: `captions.jsonl`, one JSON object a line,
 * {"file": "shoes/001.png", "caption": "a photo of a shoe"}. Paths are relative to the folder and
 * stay inside it. Empty lines are skipped; a file may stand on several lines with different
 * captions. */
#ifndef NPO_WORKER_DATA_CAPTIONS_H
#define NPO_WORKER_DATA_CAPTIONS_H

#include "common/err.h"
#include <stddef.h>

#define NPO_CAPTIONS_FILE      "captions.jsonl"
#define NPO_CAPTIONS_BYTES_MAX (256 << 20) /* of the file */
#define NPO_CAPTION_BYTES_MAX  4096        /* of one caption */
#define NPO_CAPTIONS_COUNT_MAX 4000000

typedef struct {
    char **files, **captions; /* [count] each, owned */
    size_t count;
} npo_captions;

/* Errors name the file and the line: NPO_E_NOT_FOUND, NPO_E_FORMAT, NPO_E_USAGE or NPO_E_TYPE for a
 * line of another shape, NPO_E_REFUSED for a path that leaves the folder, NPO_E_LIMIT, NPO_E_NOMEM.
 * A file without a line is NPO_E_FORMAT. */
npo_err npo_captions_load(const char *path, npo_captions *ret_captions,
                          npo_error *error) NPO_MUST_CHECK;
void npo_captions_fini(npo_captions *captions);

#endif
