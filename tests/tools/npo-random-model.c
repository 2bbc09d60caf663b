/* npo-random-model: writes a pipeline of random weights, of the published or any other size, as a
 * model folder or a single-file checkpoint. Weights are scaled so that activations neither vanish
 * nor grow from layer to layer. They are made while they are written: memory holds a block. */
#include "common/file.h"
#include "common/options.h"
#include "common/rng.h"
#include "kernels/backend.h"
#include "worker/model/files/built_in.h"
#include "worker/model/files/part_file.h"
#include "worker/model/files/single_name.h"
#include "worker/model/files/weights.h"
#include "worker/model/networks/autoencoder.h"
#include "worker/model/networks/clip_text.h"
#include "worker/model/networks/unet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILES_MAX = 1000 };

#define RESIDUAL_GAIN 0.3f /* of the last layer of a branch that is added to its input */

typedef struct {
    const char *family, *like, *dtype;
    bool single_file;
    int64_t seed;
} settings;

typedef struct {
    const settings *values;
    npo_backend *backend;
    npo_tensor_dtype dtype;
    const char *out;
    char *skeleton;      /* folder of the configurations, or built in */
    npo_file_list files; /* of the skeleton */
    uint32_t slot;       /* next stream of random numbers */
} maker;

/* ---- values ---- */

/* One tensor: mean + scale * a Gaussian. */
typedef struct {
    npo_rng rng;
    float mean, scale;
} distribution;

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool closes_branch(const char *name)
{
    static const char *const ends[] = {"conv2.weight",    "to_out.0.weight", "ff.net.2.weight",
                                       "proj_out.weight", "out_proj.weight", "fc2.weight"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    return false;
}

static distribution distribution_of(const npo_param_info *info, npo_rng rng)
{
    float fan_in = 1;
    for (int i = 1; i < info->ndim; i++)
        fan_in *= (float)info->dims[i];
    if (strstr(info->name, "_embedding.weight"))
        return (distribution){rng, 0, 0.02f};
    if (ends_with(info->name, ".bias"))
        return (distribution){rng, 0, 0.02f};
    if (info->ndim == 1) /* a norm's */
        return (distribution){rng, 1, 0.05f};
    return (distribution){rng, 0, (closes_branch(info->name) ? RESIDUAL_GAIN : 1) / sqrtf(fan_in)};
}

static npo_err fill(void *user, size_t first, size_t n, float *ret_values, npo_error *error)
{
    const distribution *d = user;
    npo_rng rng = d->rng;
    rng.lap = (uint32_t)first;
    npo_rng_gaussians(&rng, n, ret_values);
    for (size_t i = 0; i < n; i++)
        ret_values[i] = d->mean + d->scale * ret_values[i];
    return NPO_OK;
}

/* ---- components ---- */

static npo_err unet_layout(npo_backend *backend, const char *path, npo_layout **ret_layout,
                           npo_error *error)
{
    npo_unet_config config;
    NPO_TRY(npo_unet_config_load(path, &config, error));
    return npo_unet_layout(backend, &config, ret_layout, error);
}

static npo_err text_layout(npo_backend *backend, const char *path, npo_layout **ret_layout,
                           npo_error *error)
{
    npo_clip_text_config config;
    NPO_TRY(npo_clip_text_config_load(path, &config, error));
    return npo_clip_text_layout(backend, &config, ret_layout, error);
}

static npo_err projected_layout(npo_backend *backend, const char *path, npo_layout **ret_layout,
                                npo_error *error)
{
    npo_clip_text_config config;
    NPO_TRY(npo_clip_text_config_load(path, &config, error));
    config.with_projection = true;
    return npo_clip_text_layout(backend, &config, ret_layout, error);
}

static npo_err vae_layout(npo_backend *backend, const char *path, npo_layout **ret_layout,
                          npo_error *error)
{
    npo_autoencoder_config config;
    NPO_TRY(npo_autoencoder_config_load(path, &config, error));
    return npo_autoencoder_layout(backend, &config, ret_layout, error);
}

static const struct {
    const char *folder, *file;
    npo_err (*layout)(npo_backend *, const char *, npo_layout **, npo_error *);
    npo_single_part part, part_xl; /* where there is a second text encoder */
} components[] = {
    {"unet", "diffusion_pytorch_model", unet_layout, NPO_SINGLE_UNET, NPO_SINGLE_UNET},
    {"vae", "diffusion_pytorch_model", vae_layout, NPO_SINGLE_VAE, NPO_SINGLE_VAE},
    {"text_encoder", "model", text_layout, NPO_SINGLE_TEXT, NPO_SINGLE_TEXT_XL},
    {"text_encoder_2", "model", projected_layout, NPO_SINGLE_TEXT_2, NPO_SINGLE_TEXT_2},
};

enum { COMPONENTS = sizeof components / sizeof *components };

/* The tensors of a file to write. */
typedef struct {
    npo_tensor_source *sources;
    distribution *distributions;
    npo_single_place *places; /* their names */
    size_t count;
    npo_layout *layouts[COMPONENTS]; /* of what is in the file, by component */
} content;

static void content_fini(content *c)
{
    free(c->sources);
    free(c->distributions);
    free(c->places);
    for (int i = 0; i < COMPONENTS; i++)
        npo_layout_unref(c->layouts[i]);
}

static npo_err open_layout(const maker *m, int component, npo_layout **ret_layout, npo_error *error)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s/config.json", m->skeleton, components[component].folder) < 0)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = NPO_OK;
    if (npo_part_file_exists(path))
        err = components[component].layout(m->backend, path, ret_layout, error);
    free(path);
    return err;
}

static void add_tensor(maker *m, content *c, const npo_param_info *info,
                       const npo_single_names *names)
{
    npo_single_place *place = &c->places[c->count];
    *place = (npo_single_place){0};
    if (!names || !npo_single_place_of(names, info->name, place))
        snprintf(place->name, sizeof place->name, "%s", info->name);
    if (place->third > 1) /* stands with the first */
        return;
    c->distributions[c->count] = distribution_of(
        info, npo_rng_stream((uint64_t)m->values->seed, NPO_RNG_WEIGHTS, m->slot++, 0));
    npo_tensor_source *source = &c->sources[c->count];
    *source = (npo_tensor_source){.name = place->name,
                                  .dtype = m->dtype,
                                  .ndim = info->ndim,
                                  .fill = fill,
                                  .user = &c->distributions[c->count]};
    memcpy(source->dims, info->dims, sizeof info->dims);
    if (place->third)
        source->dims[0] *= 3;
    if (place->transposed) {
        source->dims[0] = info->dims[1];
        source->dims[1] = info->dims[0];
    }
    c->count++;
}

static npo_err reserve(content *c, npo_error *error)
{
    size_t count = 1;
    for (int i = 0; i < COMPONENTS; i++)
        count += c->layouts[i] ? npo_layout_count(c->layouts[i]) : 0;
    c->sources = calloc(count, sizeof *c->sources);
    c->distributions = calloc(count, sizeof *c->distributions);
    c->places = calloc(count, sizeof *c->places);
    return c->sources && c->distributions && c->places
               ? NPO_OK
               : npo_error_set(error, NPO_E_NOMEM, "out of memory");
}

/* ---- writing ---- */

static npo_err make_parent(const char *path, npo_error *error)
{
    const char *slash = strrchr(path, '/');
    char *dir = strndup(path, slash ? (size_t)(slash - path) : 0);
    if (!dir)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = *dir ? npo_file_make_dirs(dir, error) : NPO_OK;
    free(dir);
    return err;
}

static npo_err write_content(const content *c, const char *path, uint64_t shard_bytes,
                             npo_error *error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    NPO_TRY(make_parent(path, error));
    return npo_safetensors_write_shards(path, c->sources, c->count, &format, 1, shard_bytes, error);
}

static npo_err write_component(maker *m, int component, npo_error *error)
{
    content c = {0};
    char *path = NULL;
    npo_err err = open_layout(m, component, &c.layouts[component], error);
    if (err || !c.layouts[component])
        return err;
    err = reserve(&c, error);
    for (size_t i = 0; !err && i < npo_layout_count(c.layouts[component]); i++)
        add_tensor(m, &c, npo_layout_at(c.layouts[component], i), NULL);
    if (!err && asprintf(&path, "%s/%s/%s.safetensors", m->out, components[component].folder,
                         components[component].file) < 0)
        err = npo_error_set(error, NPO_E_NOMEM, "out of memory");
    if (!err)
        err = write_content(&c, path, NPO_WEIGHTS_SHARD_BYTES, error);
    free(path);
    content_fini(&c);
    return err;
}

static npo_err write_single(maker *m, const char *path, npo_error *error)
{
    content c = {0};
    npo_err err = NPO_OK;
    for (int i = 0; !err && i < COMPONENTS; i++)
        err = open_layout(m, i, &c.layouts[i], error);
    if (!err)
        err = reserve(&c, error);
    bool xl = c.layouts[COMPONENTS - 1] != NULL;
    for (int i = 0; !err && i < COMPONENTS; i++) {
        if (!c.layouts[i])
            continue;
        npo_single_names names =
            npo_single_names_of(xl ? components[i].part_xl : components[i].part, c.layouts[i]);
        for (size_t k = 0; k < npo_layout_count(c.layouts[i]); k++)
            add_tensor(m, &c, npo_layout_at(c.layouts[i], k), &names);
    }
    if (!err)
        err = write_content(&c, path, UINT64_MAX, error);
    content_fini(&c);
    return err;
}

/* Everything of the skeleton that is no weights. */
static npo_err copy_parts(const maker *m, npo_error *error)
{
    npo_err err = NPO_OK;
    for (size_t i = 0; !err && i < m->files.count; i++) {
        const char *name = m->files.paths[i];
        if (ends_with(name, ".safetensors") ||
            (!strchr(name, '/') && strcmp(name, "model_index.json") != 0))
            continue;
        char *from = npo_file_join(m->skeleton, name), *to = npo_file_join(m->out, name);
        err = from && to ? make_parent(to, error)
                         : npo_error_set(error, NPO_E_NOMEM, "out of memory");
        if (!err)
            err = npo_part_file_copy(from, to, error);
        free(from);
        free(to);
    }
    return err;
}

static npo_err write_model(maker *m, npo_error *error)
{
    npo_err err = NPO_OK;
    if (m->values->single_file && !m->values->like)
        return write_single(m, m->out, error);
    NPO_TRY(npo_file_make_dirs(m->out, error));
    NPO_TRY(copy_parts(m, error));
    if (m->values->single_file) {
        char *path = npo_file_join(m->out, "model.safetensors");
        err = path ? write_single(m, path, error)
                   : npo_error_set(error, NPO_E_NOMEM, "out of memory");
        free(path);
    }
    for (int i = 0; !err && !m->values->single_file && i < COMPONENTS; i++)
        err = write_component(m, i, error);
    return err;
}

/* ---- the program ---- */

static npo_err list_built_in(maker *m, npo_error *error)
{
    size_t len = strlen(m->values->family);
    m->files.paths = calloc(npo_built_in_count, sizeof *m->files.paths);
    for (size_t i = 0; m->files.paths && i < npo_built_in_count; i++) {
        const char *name = npo_built_ins[i].name;
        if (strncmp(name, m->values->family, len) != 0 || name[len] != '/')
            continue;
        m->files.paths[m->files.count] = strdup(name + len + 1);
        if (!m->files.paths[m->files.count++])
            return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    }
    return m->files.count
               ? NPO_OK
               : npo_error_set(error, NPO_E_USAGE, "--family: found '%s', expected sd15 or sdxl",
                               m->values->family);
}

static npo_err read_dtype(const char *text, npo_tensor_dtype *ret_dtype, npo_error *error)
{
    static const struct {
        const char *name;
        npo_tensor_dtype dtype;
    } dtypes[] = {{"f32", NPO_TENSOR_F32}, {"f16", NPO_TENSOR_F16}, {"bf16", NPO_TENSOR_BF16}};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, text) == 0) {
            *ret_dtype = dtypes[i].dtype;
            return NPO_OK;
        }
    return npo_error_set(error, NPO_E_USAGE, "--dtype: found '%s', expected f32, f16 or bf16",
                         text);
}

static npo_err make(const settings *values, const char *out, npo_error *error)
{
    maker m = {.values = values, .out = out};
    npo_backend_options options = {.device = "cpu", .threads = 1};
    NPO_TRY(read_dtype(values->dtype, &m.dtype, error));
    int len = values->like ? asprintf(&m.skeleton, "%s", values->like)
                           : asprintf(&m.skeleton, "%s%s", NPO_BUILT_IN, values->family);
    if (len < 0)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = values->like ? npo_file_list_tree(values->like, FILES_MAX, &m.files, error)
                               : list_built_in(&m, error);
    if (!err)
        err = npo_backend_new(&options, &m.backend, error);
    if (!err)
        err = write_model(&m, error);
    npo_backend_free(m.backend);
    npo_file_list_fini(&m.files);
    free(m.skeleton);
    return err;
}

#define OPTION(name, type, member, argument, help)                                                 \
    {                                                                                              \
        name, 0, type, NPO_OPTION_FLAG_ONLY, offsetof(settings, member), argument, help, 0, 0      \
    }

int main(int argc, char **argv)
{
    static const npo_option options[] = {
        OPTION("family", NPO_OPTION_STRING, family, "NAME", "sd15 or sdxl, of the published size"),
        OPTION("like", NPO_OPTION_STRING, like, "DIR", "the configurations of this model folder"),
        OPTION("single-file", NPO_OPTION_BOOL, single_file, NULL, "a single-file checkpoint"),
        OPTION("dtype", NPO_OPTION_STRING, dtype, "TYPE", "f32, f16 or bf16"),
        OPTION("seed", NPO_OPTION_INT, seed, "N", "of the random weights"),
    };
    static const npo_options_spec spec = {
        .program = "npo-random-model",
        .usage = "[OPTION...] OUT",
        .text = "Writes a pipeline of random weights. OUT is a folder; with --single-file and "
                "without --like, a file.",
        .example = "npo-random-model --family sd15 --dtype f16 /tmp/sd15",
        .options = options,
        .count = sizeof options / sizeof *options,
        .rest_max = 1,
    };
    settings values = {.family = "sd15", .dtype = "f16"};
    npo_options *read = NULL;
    npo_error error = {0};
    int rest = 0;
    npo_err err = npo_options_read(&spec, argc, argv, &values, &read, &error);
    if (!err && npo_options_answer(&spec, read, &values, stdout)) {
        npo_options_free(read);
        return 0;
    }
    char **out = err ? NULL : npo_options_rest(read, &rest);
    if (!err && rest != 1)
        err = npo_error_set(&error, NPO_E_USAGE, "expected OUT, the folder or file to write");
    if (!err)
        err = make(&values, out[0], &error);
    npo_options_free(read);
    if (err)
        fprintf(stderr, "npo-random-model: %s\n", error.text);
    return err == NPO_E_USAGE ? 2 : err ? 1 : 0;
}
