#include "proto/job_keys.h"

#include "common/bounds.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define INT_EXACT_MAX 9007199254740992.0 /* 2^53 */
#define STEPS_MAX     10000000.0

const char *const npo_job_recipes[] = {
    [NPO_RECIPE_SELF_NPO] = "self-npo",
    [NPO_RECIPE_DIFFUSION] = "diffusion",
    [NPO_RECIPE_CLASSIFIER] = "classifier",
    [NPO_RECIPE_SAMPLE] = "sample",
    [NPO_RECIPE_EVALUATE] = "evaluate",
    [NPO_RECIPE_EXPORT] = "export",
    [NPO_RECIPE_COUNT] = NULL,
};
static_assert(sizeof npo_job_recipes / sizeof *npo_job_recipes == NPO_RECIPE_COUNT + 1,
              "one name per recipe");

const char *const npo_job_presets[] = {"none", "sd15", "sdxl", NULL};
const char *const npo_job_starts[] = {"noise", "latents", "full", NULL};
static const char *const pipelines[] = {"staged", "fused", NULL};
static const char *const computes[] = {"f32", "bf16", NULL};
static const char *const losses[] = {"pseudo-huber", "mse", NULL};
const char *const npo_job_lr_schedules[] = {"constant", "cosine", "linear", NULL};
const char *const npo_job_lora_targets_names[] = {"attention", "linear", "all", NULL};
const char *const npo_job_optimizers[] = {"adamw", "adamw8bit", NULL};
const char *const npo_job_samplers[] = {"ddim", "dpmpp-2m", "euler", "euler-ancestral", NULL};
const char *const npo_job_spacings[] = {"leading", "trailing", "linspace",
                                        "method",  "default",  NULL};
static const char *const weights[] = {"student", "ema", NULL};
const char *const npo_job_forms[] = {"negative", "delta", "merge", "lora", "one-network", NULL};
static const char *const namings[] = {"diffusers", "kohya", "comfyui", NULL};
static const char *const dtypes[] = {"f32", "f16", "bf16", NULL};
static const char *const layers[] = {"all", "attention", NULL};

/* ---- rows ---- */

#define AT(member) offsetof(npo_job_reader, member)
#define INT(key, member, min, max)                                                                 \
    {                                                                                              \
        key, NPO_JSON_INT, AT(member), false, min, max                                             \
    }
#define NUMBER(key, member, min, max)                                                              \
    {                                                                                              \
        key, NPO_JSON_NUMBER, AT(member), false, min, max                                          \
    }
#define BOOL(key, member)                                                                          \
    {                                                                                              \
        key, NPO_JSON_BOOL, AT(member)                                                             \
    }
#define CHOICE(key, member, names)                                                                 \
    {                                                                                              \
        key, NPO_JSON_ENUM, AT(member), false, 0, 0, names                                         \
    }
#define TREE(key, type, member)                                                                    \
    {                                                                                              \
        key, NPO_JSON_##type, AT(member)                                                           \
    }

enum {
    NONE = 0,
    SAMPLING = NPO_FOR_DENOISER | NPO_FOR_SAMPLE | NPO_FOR_EVALUATE,
    EVALUATING = NPO_FOR_SELF_NPO | NPO_FOR_EVALUATE,
    PROMPTED = NPO_FOR_DENOISER | NPO_FOR_SAMPLE | NPO_FOR_EVALUATE,
    MODELLED = NPO_FOR_ALL & ~NPO_FOR_CLASSIFIER,
    WITH_DATA = NPO_FOR_TRAINING | NPO_FOR_EVALUATE,
    NEGATIVES = NPO_FOR_SAMPLE | NPO_FOR_EVALUATE | NPO_FOR_EXPORT,
};

static const npo_job_row top[] = {
    {{"name", NPO_JSON_STRING, AT(name), false, 0, NPO_NAME_MAX},
     NPO_FOR_ALL,
     NONE,
     "what people call the job; the recipe's name if none"},
    {CHOICE("recipe", recipe, npo_job_recipes), NPO_FOR_ALL, NPO_FOR_ALL, "what to do"},
    {CHOICE("preset", job.preset, npo_job_presets), NPO_FOR_SELF_NPO, NONE,
     "sd15, sdxl: the published settings as defaults"},
    {INT("workers", job.workers, 1, NPO_GANG_MAX), NPO_FOR_ALL, NONE,
     "ranks; the job gets all of them or waits"},
    {INT("priority", job.priority, -1000, 1000), NPO_FOR_ALL, NONE, "higher goes first"},
    {INT("time_limit_s", job.time_limit_s, 0, 31536000), NPO_FOR_ALL, NONE,
     "seconds of running before the job ends as failed; 0: no limit"},
    {INT("retries", job.retries, 0, 100), NPO_FOR_ALL, NONE,
     "failures of one task before the job fails; lost workers do not count"},
    {INT("seed", job.seed, 0, INT_EXACT_MAX), NPO_FOR_ALL, NONE,
     "of every draw: the same job and seed give the same bytes"},
    {TREE("after", ARRAY, job.after), NPO_FOR_ALL, NONE, "ids of jobs that must be done before"},
    {TREE("constraints", OBJECT, job.constraints), NPO_FOR_ALL, NONE,
     "workers that may take part: {\"device\": NAME, \"label\": {NAME: VALUE}}"},
    {BOOL("any_class", job.any_class), NPO_FOR_ALL, NONE,
     "also workers of other numeric classes; the bytes may then differ from run to run"},
    {CHOICE("pipeline", job.pipeline, pipelines), NPO_FOR_SELF_NPO, NONE,
     "staged: generate, truncate and train are tasks; fused: one task does the three"},
    {INT("round_steps", job.round_steps, 1, STEPS_MAX), NPO_FOR_TRAINING, NONE,
     "optimizer steps a round; each round ends with a checkpoint"},
    {INT("staleness", job.staleness, 0, 1), NPO_FOR_SELF_NPO, NONE,
     "rounds by which the generating network may lag; 1 overlaps generate and train"},
    {INT("preview_rounds", job.preview_rounds, 0, STEPS_MAX), NPO_FOR_DENOISER, NONE,
     "a preview grid every so many rounds; 0: none"},
    {TREE("model", ANY, model), MODELLED, MODELLED,
     "pipeline folder in diffusers layout, or a single-file checkpoint of SD1.5 or SDXL"},
    {TREE("negative", ANY, negative), NEGATIVES, NPO_FOR_EVALUATE,
     "folder of the trained negative network; export: or a LoRA file"},
    {TREE("positive", ANY, positive), NPO_FOR_EXPORT, NONE,
     "fine-tuned model (folder or LoRA file) whose offset form merge adds"},
    {TREE("data", ANY, data), WITH_DATA, NPO_FOR_DIFFUSION | NPO_FOR_CLASSIFIER,
     "folder of IDX files, or of PNG files and captions.jsonl"},
    {TREE("prompts", ARRAY, job.prompts), PROMPTED, NPO_FOR_SAMPLE,
     "prompts (IDX data: by label); npoctl also takes the path of a file, see npoctl.md"},
    {INT("height", job.height, 0, NPO_IMAGE_SIDE_MAX), PROMPTED, NONE,
     "of the images in pixels, a multiple of the VAE's factor; 0: as the model was trained"},
    {INT("width", job.width, 0, NPO_IMAGE_SIDE_MAX), PROMPTED, NONE, "the same"},
    {TREE("train", OBJECT, train), NPO_FOR_TRAINING, NPO_FOR_TRAINING, "section: training"},
    {TREE("generate", OBJECT, generate), NPO_FOR_SELF_NPO, NONE, "section: trajectories"},
    {TREE("sample", OBJECT, sample), SAMPLING, NONE,
     "section: sampling, of previews and of the evaluation too"},
    {TREE("evaluate", OBJECT, evaluate), EVALUATING, NPO_FOR_EVALUATE,
     "section: evaluation and report"},
    {TREE("export", OBJECT, export), NPO_FOR_EXPORT, NONE, "section: what leaves, in which form"},
    {TREE("from", OBJECT, job.from), NPO_FOR_TRAINING | NPO_FOR_EXPORT, NONE,
     "set by npod from `npoctl submit --from`, not by people"},
    {BOOL("init_random", job.init_random), NPO_FOR_DIFFUSION, NONE,
     "start from random weights instead of the model's"},
};

static const npo_job_row train[] = {
    {INT("steps", job.train.steps, 1, STEPS_MAX), NPO_FOR_TRAINING, NPO_FOR_TRAINING,
     "optimizer steps in all"},
    {INT("batch", job.train.batch, 1, 1 << 20), NPO_FOR_TRAINING, NONE,
     "samples an optimizer step, over all ranks"},
    {INT("micro_batch", job.train.micro_batch, 0, 1 << 20), NPO_FOR_TRAINING, NONE,
     "samples a forward pass; 0: batch / workers"},
    {CHOICE("optimizer", job.train.optimizer, npo_job_optimizers), NPO_FOR_DENOISER, NONE,
     "adamw8bit: AdamW with its state in 8 bits, for large models"},
    {NUMBER("lr", job.train.lr, 0, 10), NPO_FOR_TRAINING, NONE, "learning rate"},
    {NUMBER("weight_decay", job.train.weight_decay, 0, 10), NPO_FOR_TRAINING, NONE,
     "AdamW's, decoupled"},
    {NUMBER("beta1", job.train.beta1, 0, 0.9999999), NPO_FOR_TRAINING, NONE, "AdamW's"},
    {NUMBER("beta2", job.train.beta2, 0, 0.9999999), NPO_FOR_TRAINING, NONE, "AdamW's"},
    {NUMBER("eps", job.train.eps, 1e-30, 1), NPO_FOR_TRAINING, NONE, "AdamW's"},
    {NUMBER("clip", job.train.clip, 0, 1e6), NPO_FOR_TRAINING, NONE,
     "largest norm of the gradient; 0: not clipped"},
    {NUMBER("ema_decay", job.train.ema_decay, 0, 0.9999999), NPO_FOR_TRAINING, NONE,
     "of the averaged network, which generates in self-npo"},
    {INT("warmup_steps", job.train.warmup_steps, 0, STEPS_MAX), NPO_FOR_TRAINING, NONE,
     "steps over which the learning rate rises from 0"},
    {CHOICE("lr_schedule", job.train.lr_schedule, npo_job_lr_schedules), NPO_FOR_TRAINING, NONE,
     "of the learning rate behind the warm-up"},
    {CHOICE("loss", job.train.loss, losses), NPO_FOR_DENOISER, NONE,
     "self-npo: of x0; diffusion: of the network's prediction"},
    {NUMBER("huber_c", job.train.huber_c, 1e-9, 1e3), NPO_FOR_DENOISER, NONE,
     "h of the pseudo-Huber loss sqrt(d^2 + h^2) - h"},
    {CHOICE("compute", job.train.compute, computes), NPO_FOR_DENOISER, NONE,
     "bf16: activations and weights of products rounded; sums and the optimizer stay f32"},
    {NUMBER("empty_prompt_share", job.train.empty_prompt_share, 0, 1), NPO_FOR_DENOISER, NONE,
     "part of the samples that train with the empty prompt"},
    {CHOICE("weights", job.train.weights, weights), NPO_FOR_TRAINING, NONE,
     "which network is exported"},
    {TREE("lora", OBJECT, lora), NPO_FOR_DENOISER, NONE,
     "section: train a LoRA beside the frozen model instead of all weights"},
};

static const npo_job_row lora[] = {
    {INT("rank", job.train.lora.rank, 1, NPO_LORA_RANK_MAX), NPO_FOR_DENOISER, NPO_FOR_DENOISER,
     "columns of each pair of matrices"},
    {NUMBER("alpha", job.train.lora.alpha, 0, 1e6), NPO_FOR_DENOISER, NONE,
     "the LoRA's part is multiplied by alpha / rank; 0: the rank"},
    {CHOICE("targets", job.train.lora.targets, npo_job_lora_targets_names), NPO_FOR_DENOISER, NONE,
     "attention: its four projections; linear: all linear layers; all: convolutions too"},
};

static const npo_job_row generate[] = {
    {NUMBER("w_gen", job.generate.w_gen, -100, 100), NPO_FOR_SELF_NPO, NONE,
     "weakening: the target predicts cond + w_gen (cond - uncond)"},
    {CHOICE("starts", job.generate.starts, npo_job_starts), NPO_FOR_SELF_NPO, NONE,
     "where trajectories begin; latents needs data; full: no truncation, to compare with"},
    {INT("solver_steps", job.generate.solver_steps, 1, 1000), NPO_FOR_SELF_NPO, NONE,
     "steps of the DDIM grid"},
    {INT("segment_steps", job.generate.segment_steps, 1, 1000), NPO_FOR_SELF_NPO, NONE,
     "solver steps before a cut"},
    {BOOL("stagger", job.generate.stagger), NPO_FOR_SELF_NPO, NONE,
     "spread first laps over the grid, so that every batch has every noise level"},
};

static const npo_job_row sample[] = {
    {NUMBER("guidance_scale", job.sample.guidance_scale, 0, 1000), SAMPLING, NONE,
     "g = w + 1; 1: no negative pass"},
    {NUMBER("beta", job.sample.beta, -10, 10), SAMPLING, NONE,
     "part of the offset in the negative network"},
    {NUMBER("rescale", job.sample.rescale, 0, 1), SAMPLING, NONE, "guidance rescale; 0: off"},
    {NUMBER("interval_start", job.sample.interval_start, 0, 1), SAMPLING, NONE,
     "guidance acts where timestep / 1000 is from here"},
    {NUMBER("interval_end", job.sample.interval_end, 0, 1), SAMPLING, NONE, "to here"},
    {CHOICE("compute", job.sample.compute, computes), SAMPLING, NONE, "as train.compute"},
    {CHOICE("sampler", job.sample.sampler, npo_job_samplers), SAMPLING, NONE,
     "dpmpp-2m: DPM-Solver++ of order 2; euler-ancestral adds noise at each step"},
    {CHOICE("spacing", job.sample.spacing, npo_job_spacings), SAMPLING, NONE,
     "of the timesteps; default: the model's scheduler, or the method's grid (previews, "
     "evaluation)"},
    {BOOL("karras", job.sample.karras), SAMPLING, NONE, "noise levels of Karras; not with ddim"},
    {INT("steps", job.sample.steps, 1, 1000), SAMPLING, NONE, "solver steps"},
    {TREE("negative_prompt", ANY, job.sample.negative_prompt), SAMPLING, NONE,
     "in place of the empty prompt in the negative branch; a list has one for each prompt",
     "text or list"},
    {INT("count", job.sample.count, 1, 1000000), NPO_FOR_DENOISER | NPO_FOR_SAMPLE, NONE,
     "images; prompts take turns"},
    {INT("batch", job.sample.batch, 0, 65536), SAMPLING, NONE,
     "images a forward pass; 0: 16, but 1 of latents over 32 x 32"},
    {INT("seed", job.sample.seed, 0, INT_EXACT_MAX), NPO_FOR_DENOISER | NPO_FOR_SAMPLE, NONE,
     "of the starting noise"},
    {TREE("seeds", ARRAY, job.sample.seeds), NPO_FOR_SAMPLE, NONE,
     "one for each prompt, in place of seed; images of a prompt are then counted by themselves"},
    {BOOL("grid", job.sample.grid), NPO_FOR_SAMPLE, NONE,
     "also a sheet of the first images, grid.png"},
};

static const npo_job_row evaluate[] = {
    {TREE("classifier", ANY, classifier), EVALUATING, EVALUATING,
     "safetensors file or folder of the network whose features are compared"},
    {TREE("data", ANY, evaluate_data), EVALUATING, NONE, "real images; the job's data if none"},
    {INT("samples", job.evaluate.samples, 2, 10000000), EVALUATING, NONE, "images a cell"},
    {INT("real_samples", job.evaluate.real_samples, 2, 10000000), EVALUATING, NONE,
     "real images that the distance is measured against, at most"},
    {TREE("scales", ARRAY, job.evaluate.scales), EVALUATING, NONE, "guidance scales"},
    {TREE("betas", ARRAY, job.evaluate.betas), EVALUATING, NONE,
     "parts of the offset in the negative network"},
    {TREE("seeds", ARRAY, job.evaluate.seeds), EVALUATING, NONE, "of the starting noise"},
};

static const npo_job_row export[] = {
    {CHOICE("form", job.export.form, npo_job_forms), NPO_FOR_EXPORT, NONE,
     "the negative network, its offset delta, a merge, a LoRA of delta, or theta_0 - w delta"},
    {NUMBER("alpha", job.export.alpha, -10, 10), NPO_FOR_EXPORT, NONE,
     "merge: part of the fine-tuned model's offset"},
    {NUMBER("beta", job.export.beta, -10, 10), NPO_FOR_EXPORT, NONE,
     "part of delta, in all forms but one-network"},
    {NUMBER("w", job.export.w, 0, 100), NPO_FOR_EXPORT, NONE,
     "one-network: how far to go from delta; needed there"},
    {INT("rank", job.export.rank, 1, NPO_LORA_RANK_MAX), NPO_FOR_EXPORT, NONE,
     "lora: of every layer; with energy at most so many; 0: 128 with energy, else needed"},
    {NUMBER("energy", job.export.energy, 0, 1), NPO_FOR_EXPORT, NONE,
     "lora: fewest ranks that keep this share of a layer's squared norm; 0: rank decides"},
    {CHOICE("naming", job.export.naming, namings), NPO_FOR_EXPORT, NONE,
     "lora: diffusers (PEFT) or kohya; delta: diffusers or comfyui (.diff)"},
    {CHOICE("layers", job.export.layers, layers), NPO_FOR_EXPORT, NONE,
     "lora: all linear and convolution layers, or those of attention alone"},
    {CHOICE("dtype", job.export.dtype, dtypes), NPO_FOR_EXPORT, NONE, "of the tensors written"},
    {CHOICE("weights", job.export.weights, weights), NPO_FOR_EXPORT, NONE,
     "which network of a checkpoint"},
};

#define SECTION(name, offset, rows)                                                                \
    {                                                                                              \
        name, offset, rows, sizeof(rows) / sizeof *(rows)                                          \
    }
#define FITS(rows) static_assert(sizeof(rows) / sizeof *(rows) <= NPO_JOB_ROWS_MAX, "rows")

const npo_job_section npo_job_sections[NPO_JOB_SECTIONS] = {
    SECTION("", 0, top),
    SECTION("train", AT(train), train),
    SECTION("train.lora", AT(lora), lora),
    SECTION("generate", AT(generate), generate),
    SECTION("sample", AT(sample), sample),
    SECTION("evaluate", AT(evaluate), evaluate),
    SECTION("export", AT(export), export),
};
FITS(top);
FITS(train);
FITS(lora);
FITS(generate);
FITS(sample);
FITS(evaluate);
FITS(export);

/* ---- defaults ---- */

/* Lists that a job gets when it names none: trees of constants, so that nobody has to free them. */
#define ITEM(value, next)                                                                          \
    {                                                                                              \
        next, NULL, NULL, cJSON_Number, NULL, (int)(value), value, NULL                            \
    }
static cJSON scale_items[] = {
    ITEM(1, &scale_items[1]),
    ITEM(1.5, &scale_items[2]),
    ITEM(2, &scale_items[3]),
    ITEM(3, NULL),
};
static cJSON one = ITEM(1, NULL), zero = ITEM(0, NULL);
static const cJSON default_scales = {.type = cJSON_Array, .child = scale_items};
static const cJSON list_of_one = {.type = cJSON_Array, .child = &one};
static const cJSON list_of_zero = {.type = cJSON_Array, .child = &zero};

static const npo_job_train self_npo_train = {
    .batch = 32,
    .lr = 1e-4,
    .weight_decay = 1e-3,
    .loss = NPO_LOSS_PSEUDO_HUBER,
    .lr_schedule = NPO_LR_CONSTANT,
    .weights = NPO_WEIGHTS_STUDENT,
};
static const npo_job_train diffusion_train = {
    .batch = 64,
    .lr = 1e-3,
    .weight_decay = 0.01,
    .loss = NPO_LOSS_MSE,
    .warmup_steps = 200,
    .lr_schedule = NPO_LR_COSINE,
    .weights = NPO_WEIGHTS_EMA,
    .empty_prompt_share = 0.1,
};
static const npo_job_train classifier_train = {
    .batch = 64,
    .lr = 1e-3,
    .weight_decay = 0.01,
    .loss = NPO_LOSS_MSE,
    .lr_schedule = NPO_LR_COSINE,
    .weights = NPO_WEIGHTS_STUDENT,
};
static const struct {
    const npo_job_train *train;
    int64_t round_steps;
} by_recipe[NPO_RECIPE_COUNT] = {
    [NPO_RECIPE_SELF_NPO] = {&self_npo_train, 25},
    [NPO_RECIPE_DIFFUSION] = {&diffusion_train, 100},
    [NPO_RECIPE_CLASSIFIER] = {&classifier_train, 100},
};

static void init_train(npo_recipe recipe, npo_job *job)
{
    if (!by_recipe[recipe].train)
        return;
    job->train = *by_recipe[recipe].train;
    job->round_steps = by_recipe[recipe].round_steps;
    job->train.beta1 = 0.9;
    job->train.beta2 = 0.999;
    job->train.eps = 1e-8;
    job->train.clip = 1;
    job->train.ema_decay = 0.999;
    job->train.huber_c = 1e-3;
}

void npo_job_reader_init(npo_recipe recipe, npo_job_reader *ret_reader)
{
    *ret_reader = (npo_job_reader){.recipe = (int)recipe, .job.recipe = recipe};
    npo_job *job = &ret_reader->job;
    job->workers = 1;
    job->retries = NPO_RETRIES_DEFAULT;
    init_train(recipe, job);
    job->generate = (npo_job_generate){
        .w_gen = -1,
        .starts = NPO_STARTS_NOISE,
        .solver_steps = 25,
        .segment_steps = 5,
        .stagger = true,
    };
    job->sample = (npo_job_sample){
        .guidance_scale = 2,
        .beta = 1,
        .interval_end = 1,
        .steps = 25,
        .count = 16,
        .spacing = NPO_JOB_SPACING_DEFAULT,
    };
    job->evaluate = (npo_job_evaluate){
        .samples = 500,
        .real_samples = 10000,
        .scales = &default_scales,
        .betas = &list_of_one,
        .seeds = &list_of_zero,
    };
    job->export = (npo_job_export){.alpha = 1, .beta = 1};
}

/* ---- listing ---- */

static const char *const type_names[] = {
    [NPO_JSON_BOOL] = "true or false", [NPO_JSON_INT] = "whole number",
    [NPO_JSON_NUMBER] = "number",      [NPO_JSON_STRING] = "text",
    [NPO_JSON_ENUM] = "choice",        [NPO_JSON_OBJECT] = "object",
    [NPO_JSON_ARRAY] = "list",         [NPO_JSON_ANY] = "path",
};

static void print_list(const cJSON *list, char *ret_text, size_t size)
{
    size_t len = (size_t)snprintf(ret_text, size, "[");
    for (const cJSON *item = list->child; item && len < size; item = item->next)
        len += (size_t)snprintf(ret_text + len, size - len, "%.10g%s", item->valuedouble,
                                item->next ? ", " : "");
    if (len < size)
        snprintf(ret_text + len, size - len, "]");
}

/* What the member holds by default, "" where the key then counts as not given. */
static void print_default(const npo_json_field *field, const npo_job_reader *reader, char *ret_text,
                          size_t size)
{
    const void *member = (const char *)reader + field->offset;
    ret_text[0] = '\0';
    switch (field->type) {
    case NPO_JSON_BOOL:
        snprintf(ret_text, size, "%s", *(const bool *)member ? "true" : "false");
        break;
    case NPO_JSON_INT:
        snprintf(ret_text, size, "%lld", (long long)*(const int64_t *)member);
        break;
    case NPO_JSON_NUMBER:
        snprintf(ret_text, size, "%.10g", *(const double *)member);
        break;
    case NPO_JSON_ENUM:
        snprintf(ret_text, size, "%s", field->choices[*(const int *)member]);
        break;
    case NPO_JSON_ARRAY:
        if (*(const cJSON *const *)member)
            print_list(*(const cJSON *const *)member, ret_text, size);
        break;
    case NPO_JSON_STRING:
    case NPO_JSON_OBJECT:
    case NPO_JSON_ANY:
        break;
    }
}

/* "25" where all recipes agree, else "25 (self-npo), 100 (diffusion, classifier)". */
static void describe_default(const npo_job_row *row, char *ret_text, size_t size)
{
    char values[NPO_RECIPE_COUNT][64];
    size_t distinct = 0, len = 0;
    bool told[NPO_RECIPE_COUNT] = {false};
    npo_job_reader reader;
    ret_text[0] = '\0';
    for (int i = 0; i < NPO_RECIPE_COUNT; i++) {
        npo_job_reader_init((npo_recipe)i, &reader);
        print_default(&row->field, &reader, values[i], sizeof values[i]);
        if (row->required & 1u << i)
            snprintf(values[i], sizeof values[i], "required");
        told[i] = !(row->recipes & 1u << i) || !values[i][0];
    }
    for (int i = 0; i < NPO_RECIPE_COUNT; i++) {
        char names[96] = "";
        unsigned same = 0;
        for (int j = i; j < NPO_RECIPE_COUNT && !told[i]; j++) {
            if (told[j] || strcmp(values[i], values[j]) != 0)
                continue;
            size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                     npo_job_recipes[j]);
            same |= 1u << j;
        }
        if (!same)
            continue;
        for (int j = 0; j < NPO_RECIPE_COUNT; j++)
            told[j] = told[j] || (same & 1u << j);
        const char *joiner = distinct++ ? ", " : "";
        if (same == row->recipes)
            len += (size_t)snprintf(ret_text + len, size - len, "%s", values[i]);
        else
            len +=
                (size_t)snprintf(ret_text + len, size - len, "%s%s (%s)", joiner, values[i], names);
        assert(len < size);
    }
}

static void describe_type(const npo_job_row *row, char *ret_text, size_t size)
{
    const npo_json_field *field = &row->field;
    size_t len = 0;
    if (row->type || field->type != NPO_JSON_ENUM) {
        snprintf(ret_text, size, "%s", row->type ? row->type : type_names[field->type]);
        return;
    }
    for (int i = 0; field->choices[i] && len < size; i++)
        len +=
            (size_t)snprintf(ret_text + len, size - len, "%s%s", i ? ", " : "", field->choices[i]);
}

static void describe_recipes(unsigned recipes, char *ret_text, size_t size)
{
    size_t len = (size_t)snprintf(ret_text, size, "%s", recipes == NPO_FOR_ALL ? "all" : "");
    for (int i = 0; i < NPO_RECIPE_COUNT && recipes != NPO_FOR_ALL; i++)
        if (recipes & 1u << i)
            len += (size_t)snprintf(ret_text + len, size - len, "%s%s", len ? ", " : "",
                                    npo_job_recipes[i]);
    assert(len < size);
}

size_t npo_job_key_count(void)
{
    size_t count = 0;
    for (int i = 0; i < NPO_JOB_SECTIONS; i++)
        count += npo_job_sections[i].count;
    return count;
}

void npo_job_key_at(size_t index, npo_job_key *ret_key)
{
    const npo_job_section *section = npo_job_sections;
    for (; index >= section->count; section++)
        index -= section->count;
    const npo_job_row *row = &section->rows[index];
    snprintf(ret_key->key, sizeof ret_key->key, "%s%s%s", section->name, *section->name ? "." : "",
             row->field.key);
    describe_type(row, ret_key->type, sizeof ret_key->type);
    describe_default(row, ret_key->fallback, sizeof ret_key->fallback);
    describe_recipes(row->recipes, ret_key->recipes, sizeof ret_key->recipes);
    ret_key->summary = row->summary;
}

void npo_job_print_keys(void *file)
{
    for (size_t i = 0; i < npo_job_key_count(); i++) {
        npo_job_key key;
        npo_job_key_at(i, &key);
        fprintf(file, "%-24s %s\n", key.key, key.summary);
        fprintf(file, "%-24s   %s; recipes: %s%s%s\n", "", key.type, key.recipes,
                *key.fallback ? "; default: " : "", key.fallback);
    }
}
