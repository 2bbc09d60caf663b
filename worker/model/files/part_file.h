/* A file of a model that is no weights: on disk, or built in (models/built-in) under a path that
 * begins with NPO_BUILT_IN. Every reader of configurations and vocabularies goes through here. */
#ifndef NPO_WORKER_MODEL_FILES_PART_FILE_H
#define NPO_WORKER_MODEL_FILES_PART_FILE_H

#include "common/buf.h"
#include "common/json.h"

#define NPO_BUILT_IN "built-in:" /* "built-in:sd15/unet/config.json" */

bool npo_part_file_exists(const char *path);
/* As npo_file_read, npo_json_load and npo_file_copy. */
npo_err npo_part_file_read(const char *path, size_t limit, npo_buf *ret_buf,
                           npo_error *error) NPO_MUST_CHECK;
npo_err npo_part_file_json(const char *path, size_t limit, cJSON **ret_json,
                           npo_error *error) NPO_MUST_CHECK;
npo_err npo_part_file_copy(const char *from, const char *to, npo_error *error) NPO_MUST_CHECK;

#endif
