/* The LoRA of a checkpoint that holds one, as files of its own. */
#ifndef NPO_WORKER_TASKS_EXPORT_TRAINED_LORA_H
#define NPO_WORKER_TASKS_EXPORT_TRAINED_LORA_H

#include "worker/tasks/context.h"
#include "worker/train/checkpoint.h"

typedef struct {
    const char *checkpoint;
    const npo_lora_options *options; /* of the checkpoint's metadata */
    bool ema;                        /* the average, else the student */
    npo_layout *base;                /* layout of the whole network */
} npo_trained_lora;

/* Publishes "lora-peft.safetensors" and "lora-kohya.safetensors". ret_path: of the first,
 * malloc'ed. Errors: those of reading and writing. */
npo_err npo_trained_lora_export(npo_context *ctx, const npo_trained_lora *trained,
                                char **ret_path) NPO_MUST_CHECK;

#endif
