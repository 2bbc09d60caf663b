#include "worker/tasks/sampling/picture_text.h"

#include "worker/eval/json_out.h"

static void add_text(npo_buf *buf, const char *key, const char *text)
{
    npo_buf_printf(buf, "\"%s\": ", key);
    npo_json_out_text(buf, text);
    npo_buf_str(buf, ", ");
}

void npo_picture_text_settings(const npo_picture_text *text, npo_buf *buf)
{
    const npo_job_sample *sample = &text->job->sample;
    npo_buf_str(buf, "{");
    if (text->prompt) {
        add_text(buf, "prompt", text->prompt);
        add_text(buf, "negative_prompt", text->negative_prompt);
        npo_buf_printf(buf, "\"image\": %lld, ", (long long)text->number);
    }
    npo_buf_printf(buf, "\"seed\": %llu", (unsigned long long)text->seed);
    npo_json_out_member(buf, ", ", "guidance_scale", sample->guidance_scale);
    if (text->two_networks)
        npo_json_out_member(buf, ", ", "beta", sample->beta);
    npo_json_out_member(buf, ", ", "rescale", sample->rescale);
    npo_json_out_member(buf, ", ", "interval_start", sample->interval_start);
    npo_json_out_member(buf, ", ", "interval_end", sample->interval_end);
    npo_buf_printf(buf,
                   ", \"sampler\": \"%s\", \"spacing\": \"%s\", \"karras\": %s, \"steps\": %lld, "
                   "\"width\": %lld, \"height\": %lld}",
                   npo_job_sampler_name(text->job), npo_job_spacing_name(text->job),
                   sample->karras ? "true" : "false", (long long)sample->steps,
                   (long long)text->width, (long long)text->height);
}

void npo_picture_text_parameters(const npo_picture_text *text, npo_buf *buf)
{
    const npo_job_sample *sample = &text->job->sample;
    if (text->prompt)
        npo_buf_printf(buf, "%s\n", text->prompt);
    if (text->prompt && *text->negative_prompt)
        npo_buf_printf(buf, "Negative prompt: %s\n", text->negative_prompt);
    npo_buf_printf(buf, "Steps: %lld, Sampler: %s, CFG scale: %.10g, Seed: %llu, Size: %lldx%lld",
                   (long long)sample->steps, text->label, sample->guidance_scale,
                   (unsigned long long)text->seed, (long long)text->width, (long long)text->height);
    if (sample->rescale != 0)
        npo_buf_printf(buf, ", Guidance rescale: %.10g", sample->rescale);
    if (text->two_networks)
        npo_buf_printf(buf, ", Negative network: %.10g", sample->beta);
    if (text->prompt)
        npo_buf_printf(buf, ", Image: %lld", (long long)text->number);
}
