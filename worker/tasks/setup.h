/* The model, prompts and images of a task that runs the denoiser. */
#ifndef NPO_WORKER_TASKS_SETUP_H
#define NPO_WORKER_TASKS_SETUP_H

#include "worker/tasks/context.h"

typedef struct {
    npo_model *model;        /* prompts encoded: model->prompts */
    const npo_dataset *data; /* NULL where it was not opened */
    npo_latents *latents;    /* of data; NULL: images are samples */
    const char **prompts;    /* [prompt_count]; the array is owned, the strings are not */
    size_t prompt_count;
    int32_t *negative; /* [prompt_count] ids of the negative prompts; owned */
} npo_setup;

/* Opens input "model" for the job's size of images, and input "data" (split train) where images are
 * wanted or the job names no prompts. Prompts are those of the data (IDX: the job's, by label),
 * without data the job's. Errors: NPO_E_USAGE where data or prompts are missing; NPO_E_SHAPE where
 * images do not fit the model, or the size does not; those of reading. */
npo_err npo_setup_open(npo_context *ctx, bool wants_images, npo_setup *ret_setup) NPO_MUST_CHECK;
void npo_setup_fini(npo_setup *setup);
/* How networks are planned that compute as a job's key says (npo_job_compute): a quarter of the
 * worker's memory may hold their packed weights. */
npo_network_plan npo_setup_plan(const npo_context *ctx, int compute);

/* The job's "prompts" as an array (owned, strings borrowed); NULL and 0 where it has none. Errors:
 * NPO_E_TYPE, NPO_E_NOMEM. */
npo_err npo_setup_job_prompts(npo_context *ctx, const char ***ret_prompts,
                              size_t *ret_count) NPO_MUST_CHECK;
/* The negative prompt of the job's prompt number i; "" where it has none. */
const char *npo_setup_negative_prompt(const npo_job *job, size_t i);
/* Image `index` of the data as the network sees it, [latent]: encoded where the model has a VAE. */
npo_err npo_setup_sample(const npo_setup *setup, int64_t index, float *ret_x,
                         npo_error *error) NPO_MUST_CHECK;

#endif
