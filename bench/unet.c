/* Seconds of a UNet's forward and of forward and backward at any size, with random weights made in
 * memory: the published networks can be measured without their files. Medians behind one warm-up.
 * Prints one JSON line; --profile shows before it where the time goes, each op with its share of
 * what the multiply-adds of this machine reach in the same run. */
#include "worker/model/networks/unet.h"
#include "bench/op_profile.h"
#include "common/clock.h"
#include "common/options.h"
#include "common/rng.h"
#include "kernels/op.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { REPEATS_MAX = 1000, CONTEXT_LEN = 77, TRAIN_TIMESTEPS = 1000 };

typedef struct {
    const char *config, *isa, *products;
    int64_t height, width, batch, threads, repeat;
    bool backward, profile;
} settings;

#define ROW(name, type, member, argument, help, min, max)                                          \
    {                                                                                              \
        name, 0, type, NPO_OPTION_FLAG_ONLY, offsetof(settings, member), argument, help, min, max  \
    }
static const npo_option options[] = {
    ROW("config", NPO_OPTION_STRING, config, "FILE", "config.json of the UNet", 0, 0),
    ROW("height", NPO_OPTION_INT, height, "N", "of the latent (64)", 1, 4096),
    ROW("width", NPO_OPTION_INT, width, "N", "of the latent (64)", 1, 4096),
    ROW("batch", NPO_OPTION_INT, batch, "N", "samples (1)", 1, 4096),
    ROW("threads", NPO_OPTION_INT, threads, "N", "CPU threads (2)", 1, 1024),
    ROW("repeat", NPO_OPTION_INT, repeat, "N", "runs measured (3)", 1, REPEATS_MAX),
    ROW("isa", NPO_OPTION_STRING, isa, "NAME", "avx512, avx2 or portable (the best)", 0, 0),
    ROW("products", NPO_OPTION_STRING, products, "NAME", "who multiplies matrices (auto)", 0, 0),
    ROW("backward", NPO_OPTION_BOOL, backward, NULL, "forward and backward", 0, 0),
    ROW("profile", NPO_OPTION_BOOL, profile, NULL, "show the most expensive ops", 0, 0),
};

static const npo_options_spec spec = {
    .program = "bench-unet",
    .usage = "[OPTION...]",
    .text = "Prints the median seconds of one evaluation of a UNet with random weights.",
    .example = "bench-unet --config unet/config.json --height 64 --width 64 --backward",
    .options = options,
    .count = sizeof(options) / sizeof(*options),
};

/* Zeroed, then filled by bench_open. */
typedef struct {
    settings set;
    npo_backend *backend;
    npo_unet_config config;
    npo_layout *layout;
    npo_graph *graph;
    npo_params *params, *grads;
    npo_plan_info info;
    npo_op_profile *profile;
} bench;

static void gaussians(uint32_t stream, size_t n, float scale, float *ret)
{
    const npo_rng rng = npo_rng_stream(0, NPO_RNG_NOISE, stream, 0);
    npo_rng_gaussians(&rng, n, ret);
    for (size_t i = 0; i < n; i++)
        ret[i] *= scale;
}

static npo_value record(bench *b)
{
    const settings *s = &b->set;
    const npo_unet_config *c = &b->config;
    const int64_t context = npo_unet_config_context(c);
    npo_unet_inputs in = {
        .x = npo_graph_input(b->graph, "x", NPO_F32, 4,
                             (const int64_t[]){s->batch, s->height, s->width, c->in_channels}),
        .t = npo_graph_input(b->graph, "t", NPO_F32, 1, &s->batch),
        .context = NPO_VALUE_NONE,
    };
    if (context > 0)
        in.context = npo_graph_input(b->graph, "context", NPO_F32, 3,
                                     (const int64_t[]){s->batch, CONTEXT_LEN, context});
    npo_value y = npo_unet_record(b->graph, c, in, NULL);
    npo_graph_output(b->graph, "y", y);
    if (!s->backward)
        return NPO_VALUE_NONE;
    npo_value target =
        npo_graph_input(b->graph, "target", NPO_F32, 4,
                        (const int64_t[]){s->batch, s->height, s->width, c->out_channels});
    return npo_op_mse_loss(b->graph, y, target);
}

/* Weights of a size that keeps activations near 1; norms get theirs around 1. */
static void fill_params(bench *b)
{
    float *data = npo_params_edit(b->params);
    for (size_t i = 0; i < npo_layout_count(b->layout); i++) {
        const npo_param_info *p = npo_layout_at(b->layout, i);
        const float fan_in = (float)(p->count / (size_t)p->dims[0]);
        gaussians((uint32_t)i + 1, p->count, p->ndim > 1 ? 1 / sqrtf(fan_in) : 0.1f,
                  data + p->offset);
        for (size_t k = 0; p->ndim == 1 && k < p->count; k++)
            data[p->offset + k] += strstr(p->name, "norm") && strstr(p->name, "weight") ? 1 : 0;
    }
}

static void fill_inputs(bench *b)
{
    const settings *s = &b->set;
    const size_t positions = (size_t)(s->batch * s->height * s->width);
    const size_t context = (size_t)npo_unet_config_context(&b->config);
    float *t = npo_graph_input_data(b->graph, "t");
    gaussians(0, positions * (size_t)b->config.in_channels, 1, npo_graph_input_data(b->graph, "x"));
    for (int64_t i = 0; i < s->batch; i++)
        t[i] = (float)(TRAIN_TIMESTEPS * i / s->batch);
    if (context)
        gaussians(1, (size_t)s->batch * CONTEXT_LEN * context, 1,
                  npo_graph_input_data(b->graph, "context"));
    if (s->backward)
        gaussians(2, positions * (size_t)b->config.out_channels, 1,
                  npo_graph_input_data(b->graph, "target"));
}

static npo_err bench_open(bench *b, npo_error *error)
{
    const settings *s = &b->set;
    const npo_backend_options backend = {
        .device = "cpu", .threads = (int)s->threads, .isa = s->isa, .products = s->products};
    if (!s->config)
        return npo_error_set(error, NPO_E_USAGE, "expected --config with a UNet's config.json");
    NPO_TRY(npo_unet_config_load(s->config, &b->config, error));
    NPO_TRY(npo_backend_new(&backend, &b->backend, error));
    NPO_TRY(npo_layout_new(&b->layout));
    NPO_TRY(npo_graph_new(b->backend, b->layout, &b->graph));
    const npo_plan_options plan = {.loss = record(b)};
    NPO_TRY(npo_graph_plan(b->graph, &plan, &b->info, error));
    NPO_TRY(npo_params_new(b->layout, &b->params));
    if (s->backward)
        NPO_TRY(npo_params_new(b->layout, &b->grads));
    fill_params(b);
    fill_inputs(b);
    if (!s->profile)
        return NPO_OK;
    NPO_TRY(npo_op_profile_new(s->isa, (int)s->threads, &b->profile));
    npo_graph_observe(b->graph, npo_op_profile_add, b->profile);
    return NPO_OK;
}

static void bench_close(bench *b)
{
    npo_op_profile_free(b->profile);
    npo_params_free(b->grads);
    npo_params_free(b->params);
    npo_graph_free(b->graph);
    npo_layout_unref(b->layout);
    npo_backend_free(b->backend);
}

static int compare_ns(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double median_s(int64_t *ns, int64_t n)
{
    qsort(ns, (size_t)n, sizeof(*ns), compare_ns);
    return (double)(ns[(n - 1) / 2] + ns[n / 2]) / 2e9;
}

static npo_err measure(bench *b, double *ret_forward, double *ret_step, npo_error *error)
{
    int64_t forward[REPEATS_MAX], step[REPEATS_MAX];
    const int64_t repeats = b->set.repeat;
    for (int64_t i = -1; i < repeats; i++) {
        int64_t *at = i < 0 ? NULL : &forward[i];
        if (b->profile)
            npo_op_profile_begin(b->profile, i >= 0);
        const int64_t start = npo_clock_ns();
        NPO_TRY(npo_graph_forward(b->graph, b->params, error));
        if (at)
            *at = npo_clock_ns() - start;
        if (b->grads)
            NPO_TRY(npo_graph_backward(b->graph, b->params, 1, b->grads, error));
        if (at)
            step[i] = npo_clock_ns() - start;
    }
    *ret_forward = median_s(forward, repeats);
    *ret_step = median_s(step, repeats);
    return NPO_OK;
}

static npo_err run(bench *b, npo_error *error)
{
    struct rusage usage;
    double forward = 0, step = 0;
    NPO_TRY(bench_open(b, error));
    NPO_TRY(measure(b, &forward, &step, error));
    if (b->profile)
        npo_op_profile_print(b->profile, stdout);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"forward_s\": %.4f, ", forward);
    if (b->grads)
        printf("\"step_s\": %.4f, ", step);
    printf("\"forward_gflop\": %.1f, \"backward_gflop\": %.1f, \"arena_mib\": %zu, "
           "\"private_mib\": %zu, \"peak_mib\": %ld}\n",
           b->info.forward_flops / 1e9, b->info.backward_flops / 1e9, b->info.arena_bytes >> 20,
           b->info.private_bytes >> 20, usage.ru_maxrss >> 10);
    return NPO_OK;
}

int main(int argc, char **argv)
{
    bench b = {.set = {.height = 64, .width = 64, .batch = 1, .threads = 2, .repeat = 3}};
    npo_options *read = NULL;
    npo_error error = {0};
    npo_err err = npo_options_read(&spec, argc, argv, &b.set, &read, &error);
    if (err != NPO_OK)
        goto out;
    if (npo_options_answer(&spec, read, &b.set, stdout))
        goto out;
    err = run(&b, &error);
out:
    if (err != NPO_OK)
        fprintf(stderr, "bench-unet: %s\n", error.text[0] ? error.text : npo_err_text(err));
    bench_close(&b);
    npo_options_free(read);
    return err == NPO_OK ? 0 : err == NPO_E_USAGE ? 2 : 1;
}
