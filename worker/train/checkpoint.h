/* Training state on disk: one safetensors file, tensors in the published shapes.
 *
 *   student.<name>      F32  weights being trained
 *   ema.<name>          F32  exponential moving average
 *   exp_avg.<name>      F32  AdamW's first moment, or U8, codes of the signed dynamic map
 *   exp_avg_sq.<name>   F32  AdamW's second moment, or U8, codes of the unsigned one
 *     for every tensor <name> of the network; moments are U8 where the optimizer is "adamw8bit" and
 *     the tensor has at least NPO_MOMENTS_8BIT_MIN elements
 *   exp_avg_absmax.<name>, exp_avg_sq_absmax.<name>   F32 [elements / 256, rounded up]
 *     for every moment in U8: what the codes of each 256 elements are multiples of
 *     and no others
 *   metadata
 *     "npo"          "checkpoint"
 *     "version"      "2"; a reader also takes "1", which has no "optimizer": it is "adamw"
 *     "optimizer"    "adamw" or "adamw8bit"
 *     "lora_rank", "lora_alpha", "lora_targets"   where <name> are those of a LoRA
 *                    (worker/model/networks/lora_layout.h): decimal, decimal, "attention"
 *     "step"         optimizer steps done, decimal
 *     "cursor"       samples of the data consumed, decimal
 *     "hyper"        32 hex digits: npo_hash of the canonical JSON of the hyper-parameters
 *     "numeric_class" what the bytes depend on (build, backend, ...), free text
 *
 * The trajectory pool of a job is a file of its own per shard (worker/diffusion/trajectory/pool.h).
 * Equal state gives equal bytes. */
#ifndef NPO_TRAIN_CHECKPOINT_H
#define NPO_TRAIN_CHECKPOINT_H

#include "common/hash.h"
#include "worker/model/networks/lora_layout.h"
#include "worker/train/moments.h"

#define NPO_CHECKPOINT_VERSION   2
#define NPO_CHECKPOINT_CLASS_MAX 256 /* bytes with NUL */

typedef struct {
    int64_t step;
    int64_t cursor;
    npo_hash hyper;
    npo_lora_options lora;        /* rank 0: all of a network */
    npo_optimizer_kind optimizer; /* read only: saving takes that of the moments */
    char numeric_class[NPO_CHECKPOINT_CLASS_MAX];
} npo_checkpoint_meta;

/* All sets of one layout; borrowed. */
typedef struct {
    npo_params *student, *ema;
    npo_moments *moments;
} npo_checkpoint_sets;

/* Durable, atomic replace. */
npo_err npo_checkpoint_save(const char *path, const npo_checkpoint_sets *sets,
                            const npo_checkpoint_meta *meta, npo_error *error) NPO_MUST_CHECK;
/* Reads a whole checkpoint. Members of sets that are NULL are checked but not read (a task that
 * needs only the EMA); student or EMA must be there. Nothing is written to the sets unless the
 * whole file is right: version, every tensor's name, dtype, shape, all values finite, second
 * moments not negative. Errors: NPO_E_FORMAT, NPO_E_VERSION, NPO_E_SHAPE, NPO_E_NOT_FOUND,
 * NPO_E_TYPE, NPO_E_RANGE, NPO_E_STATE where the moments are of another optimizer. */
npo_err npo_checkpoint_load(const char *path, const npo_checkpoint_sets *sets,
                            npo_checkpoint_meta *ret_meta, npo_error *error) NPO_MUST_CHECK;
/* Metadata only, from the header. */
npo_err npo_checkpoint_read_meta(const char *path, npo_checkpoint_meta *ret_meta,
                                 npo_error *error) NPO_MUST_CHECK;

#endif
