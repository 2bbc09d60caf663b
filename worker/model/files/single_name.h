/* Names of single-file checkpoints.
 *
 * The checkpoints that the authors of Stable Diffusion 1.5 and SDXL published hold the whole
 * pipeline in one file, under other names than a pipeline in diffusers layout: numbered by the
 * order of the blocks (input_blocks.4.1), and of the second text encoder with query, key and value
 * in one tensor. A layout has diffusers' names; the rules here lead from them to the file's.
 *
 *   part               prefix of its names in a file
 *   NPO_SINGLE_UNET    model.diffusion_model.
 *   NPO_SINGLE_VAE     first_stage_model.
 *   NPO_SINGLE_TEXT    cond_stage_model.transformer.          SD1.5
 *   NPO_SINGLE_TEXT_XL conditioner.embedders.0.transformer.   SDXL, first text encoder
 *   NPO_SINGLE_TEXT_2  conditioner.embedders.1.model.         SDXL, second (OpenCLIP's names) */
#ifndef NPO_WORKER_MODEL_FILES_SINGLE_NAME_H
#define NPO_WORKER_MODEL_FILES_SINGLE_NAME_H

#include "kernels/params.h"

typedef enum {
    NPO_SINGLE_UNET,
    NPO_SINGLE_VAE,
    NPO_SINGLE_TEXT,
    NPO_SINGLE_TEXT_XL,
    NPO_SINGLE_TEXT_2,
    NPO_SINGLE_PARTS,
} npo_single_part;

/* What the numbers of a network's blocks depend on. */
typedef struct {
    npo_single_part part;
    int levels;            /* up blocks */
    int layers;            /* resnets of a down block; an up block has one more */
    uint32_t up_attention; /* bit i: up block i attends */
} npo_single_names;

#define NPO_SINGLE_NAME_MAX (NPO_PARAM_NAME_MAX + 64) /* bytes with NUL */

/* Where a tensor of a layout stands in the file. */
typedef struct {
    char name[NPO_SINGLE_NAME_MAX];
    int third;       /* 0: the whole tensor; 1, 2, 3: that third of its rows */
    bool transposed; /* [in,out] for [out,in] */
} npo_single_place;

const char *npo_single_prefix(npo_single_part part);
npo_single_names npo_single_names_of(npo_single_part part, const npo_layout *layout);
/* name: "conv_in.weight". False for a name that single files have no place for. */
bool npo_single_place_of(const npo_single_names *names, const char *name,
                         npo_single_place *ret_place);

#endif
