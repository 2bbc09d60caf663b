#include "proto/job_preset.h"

#include <string.h>

static const struct {
    double lr, weight_decay;
    double w_gen, guidance_scale;
    npo_starts starts;
    int64_t batch; /* of one worker */
} presets[] = {
    [NPO_PRESET_SD15] = {1e-6, 1e-3, -1, 7.5, NPO_STARTS_NOISE, 20},
    [NPO_PRESET_SDXL] = {1e-7, 0, -5, 5, NPO_STARTS_LATENTS, 10},
};

enum { STEPS = 1000, SAMPLE_STEPS = 25 };

void npo_job_preset_begin(npo_preset preset, npo_job *job)
{
    if (preset == NPO_PRESET_NONE)
        return;
    job->train.steps = STEPS;
    job->train.batch = 0; /* until the number of workers is known */
    job->train.micro_batch = 1;
    job->train.optimizer = NPO_OPTIMIZER_ADAMW8BIT;
    job->train.lr = presets[preset].lr;
    job->train.weight_decay = presets[preset].weight_decay;
    job->generate.w_gen = presets[preset].w_gen;
    job->generate.starts = presets[preset].starts;
    job->sample.guidance_scale = presets[preset].guidance_scale;
    job->sample.steps = SAMPLE_STEPS;
    job->sample.batch = 1;
}

void npo_job_preset_finish(npo_job *job)
{
    if (job->preset != NPO_PRESET_NONE && job->train.batch == 0)
        job->train.batch = presets[job->preset].batch * job->workers;
}

bool npo_job_preset_gives(const char *section, const char *key)
{
    return (!*section && strcmp(key, "train") == 0) ||
           (strcmp(section, "train") == 0 && strcmp(key, "steps") == 0);
}
