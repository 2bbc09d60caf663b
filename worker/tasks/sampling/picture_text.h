/* What stands inside a sampled picture: everything it was drawn with, as JSON and in the form that
 * other programs read. */
#ifndef NPO_WORKER_TASKS_SAMPLING_PICTURE_TEXT_H
#define NPO_WORKER_TASKS_SAMPLING_PICTURE_TEXT_H

#include "common/buf.h"
#include "proto/job.h"

#define NPO_PICTURE_SETTINGS_KEY   "npo.settings"
#define NPO_PICTURE_PARAMETERS_KEY "parameters"

typedef struct {
    const npo_job *job;
    const char *label;           /* of the sampler */
    const char *prompt;          /* NULL: a sheet of several */
    const char *negative_prompt; /* "": none */
    uint64_t seed;
    int64_t number; /* of the picture under its seed */
    int64_t width, height;
    bool two_networks;
} npo_picture_text;

/* One JSON object, for NPO_PICTURE_SETTINGS_KEY. */
void npo_picture_text_settings(const npo_picture_text *text, npo_buf *buf);
/* For NPO_PICTURE_PARAMETERS_KEY, as AUTOMATIC1111 writes it and ComfyUI and others read it: the
 * prompt, "Negative prompt: ...", and a line of "Key: value" pairs. */
void npo_picture_text_parameters(const npo_picture_text *text, npo_buf *buf);

#endif
