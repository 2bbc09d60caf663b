/* Training state on disk: one safetensors file, all tensors F32 in the published shapes.
 *
 *   student.<name>      weights being trained
 *   ema.<name>          exponential moving average
 *   exp_avg.<name>      AdamW's first moment
 *   exp_avg_sq.<name>   AdamW's second moment
 *     for every tensor <name> of the network, and no others
 *   metadata
 *     "npo"          "checkpoint"
 *     "version"      "1"; a reader refuses another
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
#include "kernels/params.h"

#define NPO_CHECKPOINT_VERSION   1
#define NPO_CHECKPOINT_CLASS_MAX 256 /* bytes with NUL */

typedef struct {
    int64_t step;
    int64_t cursor;
    npo_hash hyper;
    char numeric_class[NPO_CHECKPOINT_CLASS_MAX];
} npo_checkpoint_meta;

/* All sets of one layout; borrowed. */
typedef struct {
    npo_params *student, *ema, *exp_avg, *exp_avg_sq;
} npo_checkpoint_sets;

/* Durable, atomic replace. */
npo_err npo_checkpoint_save(const char *path, const npo_checkpoint_sets *sets,
                            const npo_checkpoint_meta *meta, npo_error *error) NPO_MUST_CHECK;
/* Reads a whole checkpoint. Members of sets that are NULL are checked but not read (a task that
 * needs only the EMA); one at least must be there. Nothing is written to the sets unless the whole
 * file is right: version, every tensor's name, dtype, shape, all values finite, second moments not
 * negative. Errors: NPO_E_FORMAT, NPO_E_VERSION, NPO_E_SHAPE, NPO_E_NOT_FOUND, NPO_E_TYPE,
 * NPO_E_RANGE. */
npo_err npo_checkpoint_load(const char *path, const npo_checkpoint_sets *sets,
                            npo_checkpoint_meta *ret_meta, npo_error *error) NPO_MUST_CHECK;
/* Metadata only, from the header. */
npo_err npo_checkpoint_read_meta(const char *path, npo_checkpoint_meta *ret_meta,
                                 npo_error *error) NPO_MUST_CHECK;

#endif
