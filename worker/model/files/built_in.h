/* Table of the files in models/built-in, compiled in. */
#ifndef NPO_WORKER_MODEL_FILES_BUILT_IN_H
#define NPO_WORKER_MODEL_FILES_BUILT_IN_H

#include <stddef.h>

typedef struct {
    const char *name; /* "sd15/unet/config.json" */
    const char *data; /* NUL behind it */
    size_t bytes;
} npo_built_in;

extern const npo_built_in npo_built_ins[]; /* by name */
extern const size_t npo_built_in_count;

#endif
