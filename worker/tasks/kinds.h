/* The task kinds. Each checks its inputs, does its work, publishes its outputs; the sentence of a
 * failure is in ctx->error. */
#ifndef NPO_WORKER_TASKS_KINDS_H
#define NPO_WORKER_TASKS_KINDS_H

#include "worker/tasks/context.h"

/* Inputs: model, checkpoint or none (the base model generates), pool.* or none (fresh
 * trajectories), data where trajectories start from it. params: first_step, steps. Output "pool":
 * all slots of this shard, those of the steps asked for advanced by one segment. */
npo_err npo_kind_generate(npo_context *ctx) NPO_MUST_CHECK;
/* Inputs: model, checkpoint or none, pool. params: first_step, steps. Outputs "segment": the cuts
 * of those steps; "pool": the input, for the next round. */
npo_err npo_kind_truncate(npo_context *ctx) NPO_MUST_CHECK;
/* One rank of recipe self-npo. Inputs: model, checkpoint or none (begin from the base model), and
 * segment.<rank>; with params.fused instead pool.* or none, and data. Outputs of rank 0
 * "checkpoint"; fused, of each rank, "pool.<rank>". */
npo_err npo_kind_train_self_npo(npo_context *ctx) NPO_MUST_CHECK;
/* One rank of recipe diffusion. Inputs: model, data, checkpoint or none. Output of rank 0
 * "checkpoint".
 */
npo_err npo_kind_train_diffusion(npo_context *ctx) NPO_MUST_CHECK;
/* Recipe classifier, one rank. Inputs: data, checkpoint or none. Output "checkpoint". */
npo_err npo_kind_train_classifier(npo_context *ctx) NPO_MUST_CHECK;
/* Recipe sample: inputs model, negative or none; output "images", a folder. With params.preview:
 * inputs model, checkpoint; output "preview-<step>.png". */
npo_err npo_kind_sample(npo_context *ctx) NPO_MUST_CHECK;
/* Inputs: model, negative, classifier. Output "features.<shard>". */
npo_err npo_kind_evaluate(npo_context *ctx) NPO_MUST_CHECK;
/* Inputs: features.*, classifier, data. Outputs "metrics.json", "report.html", "grid-scale-*.png".
 */
npo_err npo_kind_report(npo_context *ctx) NPO_MUST_CHECK;
/* Inputs: model and checkpoint or negative; recipe classifier: checkpoint. Output "model", a
 * folder. */
npo_err npo_kind_export(npo_context *ctx) NPO_MUST_CHECK;

#endif
