/* The published settings of self-npo for the models it was published for, as defaults of a job that
 * names one. Source: Self-NPO, arXiv 2505.11777, and its reference program. Internal to the job
 * module. */
#ifndef NPO_PROTO_JOB_PRESET_H
#define NPO_PROTO_JOB_PRESET_H

#include "proto/job.h"

/* Defaults in place of the recipe's. The batch is of one worker, see npo_job_preset_finish. */
void npo_job_preset_begin(npo_preset preset, npo_job *job);
/* After reading: the published batch of each worker, where the job names no batch. */
void npo_job_preset_finish(npo_job *job);
/* Whether presets have a value for a key that the recipe otherwise needs: "train.steps". */
bool npo_job_preset_gives(const char *section, const char *key);

#endif
