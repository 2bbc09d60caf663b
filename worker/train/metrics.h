/* One line of training metrics as JSON, keys in this order:
 *   {"step": 12, "loss": 0.0123, "grad_norm": 0.5, "lr": 0.0001, "samples_per_s": 140.2,
 *    "offset": {"total": 0.001, "conv_in": 0.002, ...}}
 * offset is left out where norms is NULL; a value that is not finite is null. Units: step counts
 * optimizer steps done; offset is relative (worker/train/step.h). */
#ifndef NPO_TRAIN_METRICS_H
#define NPO_TRAIN_METRICS_H

#include "common/buf.h"
#include "worker/train/step.h"

/* Appends the line without newline. */
npo_err npo_metrics_line(npo_buf *buf, int64_t step, const npo_train_result *result,
                         double samples_per_s, const npo_offset_norms *norms) NPO_MUST_CHECK;

#endif
