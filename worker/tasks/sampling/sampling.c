#include "worker/tasks/sampling/sampling.h"

#include "worker/image/png.h"

enum {
    GRID_ZOOM_BELOW = 128, /* pictures of smaller sides are drawn larger */
    GRID_ZOOM = 2,
    GRID_GAP = 4
};

npo_err npo_sampling_draw(npo_sampling *s, bool two, int64_t first, int64_t n, float *ret_images)
{
    const npo_job_sample *sample = &s->ctx->task->spec->sample;
    const npo_drawing drawing = {
        .scale = sample->guidance_scale,
        .two = two,
        .seed = (uint64_t)sample->seed,
        .first = first,
        .n = n,
    };
    return npo_drawer_run(&s->drawer, &drawing, ret_images);
}

npo_grid_options npo_sampling_grid(const npo_sampling *s, int columns, int rows)
{
    npo_latent_shape shape = s->setup.model->image;
    bool small = shape.width < GRID_ZOOM_BELOW && shape.height < GRID_ZOOM_BELOW;
    return (npo_grid_options){.columns = columns,
                              .rows = rows,
                              .width = (int)shape.width,
                              .height = (int)shape.height,
                              .channels = (int)shape.channels,
                              .zoom = small ? GRID_ZOOM : 1,
                              .gap = GRID_GAP};
}

npo_picture_text npo_sampling_text(const npo_sampling *s, int64_t image)
{
    const npo_job *job = s->ctx->task->spec;
    const npo_model *model = s->setup.model;
    npo_picture_text text = {
        .job = job,
        .label = npo_sampler_label((npo_sampler_kind)job->sample.sampler, job->sample.karras),
        .seed = (uint64_t)job->sample.seed,
        .width = model->image.width,
        .height = model->image.height,
        .two_networks = s->negative != NULL,
    };
    if (image < 0)
        return text;
    size_t prompt = (size_t)image % s->setup.prompt_count;
    npo_drawer_noise noise = npo_drawer_noise_of(job, s->setup.prompt_count, text.seed, image);
    text.prompt = s->setup.prompts[prompt];
    text.negative_prompt = npo_setup_negative_prompt(job, prompt);
    text.seed = noise.seed;
    text.number = noise.number;
    return text;
}

npo_err npo_sampling_write(npo_sampling *s, const char *path, const npo_image *picture,
                           const npo_picture_text *text)
{
    npo_buf settings = NPO_BUF_INIT, parameters = NPO_BUF_INIT;
    npo_picture_text_settings(text, &settings);
    npo_picture_text_parameters(text, &parameters);
    npo_err err = npo_buf_err(&settings) ? npo_buf_err(&settings) : npo_buf_err(&parameters);
    if (err) {
        err = npo_context_fail(s->ctx, err, "settings");
    } else {
        const npo_png_text texts[] = {{NPO_PICTURE_SETTINGS_KEY, settings.data},
                                      {NPO_PICTURE_PARAMETERS_KEY, parameters.data}};
        err = npo_png_write(path, picture, texts, sizeof texts / sizeof *texts, s->ctx->error);
    }
    npo_buf_fini(&settings);
    npo_buf_fini(&parameters);
    return err;
}

npo_err npo_sampling_write_grid(npo_sampling *s, const char *path, const npo_grid_options *options,
                                const float *pictures)
{
    npo_image sheet = {0};
    npo_picture_text text = npo_sampling_text(s, -1);
    npo_err err = npo_grid_draw(options, pictures, &sheet);
    if (err != NPO_OK)
        return npo_context_fail(s->ctx, err, "grid");
    err = npo_sampling_write(s, path, &sheet, &text);
    npo_image_fini(&sheet);
    return err;
}
