/* Which files of a folder are a diffusers pipeline's. */
#ifndef NPO_PROTO_PIPELINE_H
#define NPO_PROTO_PIPELINE_H

#include "common/file.h"

/* Where dir has a model_index.json, takes everything off the list but that file and what lies in
 * the folders of the components it names: job files, pictures and single-file checkpoints often lie
 * beside them. A pipeline whose UNet has no weights of its own keeps the checkpoints at its root:
 * they are the weights. Elsewhere the list stays whole. Errors: those of reading model_index.json. */
npo_err npo_pipeline_filter(const char *dir, npo_file_list *list, npo_error *error) NPO_MUST_CHECK;

#endif
