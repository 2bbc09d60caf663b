/* The weights of a UNet where they lie: in a model's file, in a checkpoint, or as a LoRA. They are
 * read range by range, so that networks of any size are combined with the memory of a block. */
#ifndef NPO_MODEL_WEIGHT_VIEW_H
#define NPO_MODEL_WEIGHT_VIEW_H

#include "worker/model/files/weights.h"

typedef struct npo_weight_view npo_weight_view;

/* All three check names, shapes and dtypes of everything first; the layout is borrowed for the
 * view's life. Errors: those of npo_safetensors_open, npo_weights_read and npo_lora_load. */

/* A UNet's file, or the index of its shards. map may be NULL. */
npo_err npo_weight_view_open(const char *path, const npo_weights_map *map, const npo_layout *layout,
                             npo_weight_view **ret_view, npo_error *error) NPO_MUST_CHECK;
/* The tensors of a file whose names begin with a prefix ("student."), others beside them. */
npo_err npo_weight_view_open_set(const char *path, const char *prefix, const npo_layout *layout,
                                 npo_weight_view **ret_view, npo_error *error) NPO_MUST_CHECK;
npo_err npo_weight_view_open_lora(const char *path, const npo_layout *layout,
                                  npo_weight_view **ret_view, npo_error *error) NPO_MUST_CHECK;
void npo_weight_view_close(npo_weight_view *view);

const npo_layout *npo_weight_view_layout(const npo_weight_view *view); /* borrowed */
/* Whether it holds offsets from a base network (a LoRA) and not weights. */
bool npo_weight_view_is_offset(const npo_weight_view *view);
/* Elements [first, first + n) of the layout's tensor; those of an offset are zero where the LoRA
 * has none. Errors: NPO_E_RANGE for a value that is not finite. */
npo_err npo_weight_view_read(const npo_weight_view *view, size_t tensor, size_t first, size_t n,
                             float *ret_values, npo_error *error) NPO_MUST_CHECK;
/* Gives back the memory that the tensor's part of the file takes. */
void npo_weight_view_release(const npo_weight_view *view, size_t tensor);

#endif
