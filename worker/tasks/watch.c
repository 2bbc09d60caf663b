#include "worker/tasks/watch.h"

static npo_err predict(void *self, int64_t n, const float *x, const float *t, const int32_t *prompt,
                       float *ret_out, npo_error *error)
{
    npo_watch *watch = self;
    const npo_denoiser *inner = watch->inner;
    for (int64_t at = 0; at < n; at += watch->micro_batch) {
        int64_t count = n - at < watch->micro_batch ? n - at : watch->micro_batch;
        size_t offset = (size_t)at * inner->sample_floats;
        NPO_TRY(npo_context_check(watch->ctx));
        NPO_TRY(inner->predict(inner->self, count, x + offset, t + at, prompt + at,
                               ret_out + offset, error));
    }
    for (int64_t i = 0; i < n; i++) {
        watch->unconditional += prompt[i] == NPO_PROMPT_EMPTY;
        watch->conditional += prompt[i] != NPO_PROMPT_EMPTY;
    }
    return NPO_OK;
}

void npo_watch_init(npo_watch *watch, npo_context *ctx, const npo_denoiser *inner,
                    int64_t micro_batch)
{
    *watch = (npo_watch){.inner = inner, .ctx = ctx, .micro_batch = micro_batch};
    watch->denoiser = (npo_denoiser){watch, inner->sample_floats, predict};
}
