/* The forms in which a negative network leaves (docs/job-file.md, section export). Each writes the
 * output "model" below the task's folder and says in `report` what was lost on the
 * way. */
#ifndef NPO_WORKER_TASKS_EXPORT_FORMS_H
#define NPO_WORKER_TASKS_EXPORT_FORMS_H

#include "common/buf.h"
#include "worker/tasks/export/blend.h"
#include "worker/tasks/export/inputs.h"

/* What every form gets. */
typedef struct {
    npo_context *ctx;
    const npo_export_inputs *inputs;
    npo_blend blend; /* the offset that leaves, and its base */
    int64_t tensors; /* done */
    npo_buf report;  /* JSON members behind the common ones, each begun with ", " */
} npo_export_work;

/* A whole pipeline: the model's with another UNet. */
npo_err npo_export_pipeline(npo_export_work *work, const char *path) NPO_MUST_CHECK;
/* One safetensors file of offsets. */
npo_err npo_export_delta(npo_export_work *work, const char *path) NPO_MUST_CHECK;
/* One safetensors file with a truncated decomposition of the offset of every layer. */
npo_err npo_export_lora(npo_export_work *work, const char *path) NPO_MUST_CHECK;

/* npo_blend_fill with progress and the end of a cancelled task; user: an npo_export_work. */
npo_err npo_export_fill(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                        npo_error *error) NPO_MUST_CHECK;
/* sqrt(part / whole), 0 where both are. */
double npo_export_share(double part, double whole);

#endif
