/* What the cases that run a whole model share: the UNet of the case's folder, its noise schedule,
 * and the text embeddings that the public library computed (text.safetensors: prompt 1 is the empty
 * one). */
#ifndef NPO_TESTS_REFERENCE_CASE_PIPELINE_H
#define NPO_TESTS_REFERENCE_CASE_PIPELINE_H

#include "tests/reference/case.h"
#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/schedule.h"
#include "worker/diffusion/trajectory/segment.h"

#define CASE_EMPTY_PROMPT 1

typedef struct {
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params; /* of unet/ */
    npo_schedule *schedule;
    float *embeddings;
    npo_prompts prompts;
    npo_latent_shape latent;
    npo_network_shape shape;
    npo_network *network;
} case_pipeline;

/* x: a tensor [N,C,H,W] of the latent shape to plan for. Free with case_pipeline_fini also after a
 * failure. */
npo_err case_pipeline_init(case_pipeline *pipeline, const case_env *env, const npo_tensor *x,
                           npo_error *error) NPO_MUST_CHECK;
void case_pipeline_fini(case_pipeline *pipeline);

#endif
