/* npo-latents MODEL NEGATIVE OUT SCALE STEPS PROMPT: draws one sample without npod and writes its
 * starting noise, its latent and its picture as tensors, so that other programs can be compared
 * with more than the 8 bits of a PNG. NEGATIVE is a model folder, or "-" for plain guidance. */
#include "worker/diffusion/sampler.h"
#include "worker/tasks/loaded/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *negative, *out, *prompt;
    double scale;
    int64_t steps;
    npo_backend *backend;
    npo_model *model, *other;
    npo_network_denoiser *denoisers[2];
    float *noise, *latent, *image;
} drawing;

static npo_err open_models(drawing *d, const char *model, npo_error *error)
{
    npo_backend_options options = {.device = "cpu"};
    NPO_TRY(npo_backend_new(&options, &d->backend, error));
    NPO_TRY(npo_model_open(d->backend, model, &d->model, error));
    NPO_TRY(npo_model_set_size(d->model, d->backend, 0, 0, error));
    NPO_TRY(npo_model_need_vae(d->model, d->backend, error));
    NPO_TRY(npo_model_encode(d->model, &d->prompt, 1, error));
    NPO_TRY(npo_network_denoiser_new(d->model->network, d->model->base, &d->model->prompts, 1,
                                     &d->denoisers[0], error));
    if (strcmp(d->negative, "-") == 0)
        return NPO_OK;
    NPO_TRY(npo_model_open(d->backend, d->negative, &d->other, error));
    NPO_TRY(npo_model_set_size(d->other, d->backend, 0, 0, error));
    return npo_network_denoiser_new(d->other->network, d->other->base, &d->model->prompts, 1,
                                    &d->denoisers[1], error);
}

static npo_err draw(drawing *d, npo_error *error)
{
    size_t floats = npo_latent_floats(d->model->latent);
    int32_t prompt = 0;
    d->noise = calloc(floats, sizeof(float));
    d->latent = calloc(floats, sizeof(float));
    d->image = calloc(npo_latent_floats(d->model->image), sizeof(float));
    if (!d->noise || !d->latent || !d->image)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_sampler_noise(0, 0, floats, d->noise);
    memcpy(d->latent, d->noise, floats * sizeof(float));
    const npo_denoiser *positive = npo_network_denoiser_get(d->denoisers[0]);
    npo_sampler_options options = {
        .settings = {d->model->schedule, NPO_SAMPLER_DDIM,
                     (npo_spacing)npo_schedule_config_of(d->model->schedule)->spacing, false,
                     d->steps},
        .guidance = {positive,
                     d->denoisers[1] ? npo_network_denoiser_get(d->denoisers[1]) : positive,
                     (float)(d->scale - 1), 0},
        .interval_end = 1,
    };
    NPO_TRY(npo_sampler_run(&options, 1, d->latent, &prompt, NULL, error));
    return npo_vae_decode(d->model->vae, d->latent, d->model->latent.height, d->model->latent.width,
                          d->image, error);
}

static npo_err write_tensors(const drawing *d, npo_error *error)
{
    npo_latent_shape latent = d->model->latent, image = d->model->image;
    npo_tensor_source sources[] = {
        {.name = "noise", .ndim = 3, .dims = {latent.height, latent.width, latent.channels}},
        {.name = "latent", .ndim = 3, .dims = {latent.height, latent.width, latent.channels}},
        {.name = "image", .ndim = 3, .dims = {image.height, image.width, image.channels}},
    };
    const float *data[] = {d->noise, d->latent, d->image};
    for (int i = 0; i < 3; i++) {
        sources[i].dtype = NPO_TENSOR_F32;
        sources[i].data = data[i];
    }
    return npo_safetensors_write(d->out, sources, 3, NULL, 0, error);
}

int main(int argc, char **argv)
{
    npo_error error = {0};
    if (argc != 7) {
        fprintf(stderr, "usage: npo-latents MODEL NEGATIVE|- OUT SCALE STEPS PROMPT\n");
        return 2;
    }
    drawing d = {.negative = argv[2],
                 .out = argv[3],
                 .scale = atof(argv[4]),
                 .steps = atoll(argv[5]),
                 .prompt = argv[6]};
    npo_err err = open_models(&d, argv[1], &error);
    if (!err)
        err = draw(&d, &error);
    if (!err)
        err = write_tensors(&d, &error);
    if (err)
        fprintf(stderr, "npo-latents: %s\n", error.text);
    npo_network_denoiser_free(d.denoisers[0]);
    npo_network_denoiser_free(d.denoisers[1]);
    npo_model_free(d.other);
    npo_model_free(d.model);
    npo_backend_free(d.backend);
    free(d.noise);
    free(d.latent);
    free(d.image);
    return err ? 1 : 0;
}
