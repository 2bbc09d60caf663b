/* The job file: what a person submits, checked the same way by npoctl (--dry-run), npod and the
 * executor. docs/job-file.md documents every key; a test compares it with the tables in job.c.
 *
 * Paths are the submitter's: npoctl imports what they name and puts {"artifact": HASH} in their
 * place; npod and workers accept artifacts only. */
#ifndef NPO_PROTO_JOB_H
#define NPO_PROTO_JOB_H

#include "common/hash.h"
#include "common/json.h"
#include <stdint.h>

typedef enum {
    NPO_RECIPE_SELF_NPO,
    NPO_RECIPE_DIFFUSION,
    NPO_RECIPE_CLASSIFIER, /* the evaluation's feature network */
    NPO_RECIPE_SAMPLE,
    NPO_RECIPE_EVALUATE,
    NPO_RECIPE_EXPORT,
    NPO_RECIPE_COUNT
} npo_recipe;

typedef enum { NPO_STARTS_NOISE, NPO_STARTS_LATENTS, NPO_STARTS_FULL } npo_starts;
typedef enum { NPO_PRESET_NONE, NPO_PRESET_SD15, NPO_PRESET_SDXL } npo_preset;
typedef enum { NPO_PIPELINE_STAGED, NPO_PIPELINE_FUSED } npo_pipeline;
typedef enum { NPO_LOSS_PSEUDO_HUBER, NPO_LOSS_MSE } npo_loss_kind;
typedef enum { NPO_JOB_COMPUTE_F32, NPO_JOB_COMPUTE_BF16 } npo_job_compute; /* as npo_compute */
typedef enum { NPO_LR_CONSTANT, NPO_LR_COSINE, NPO_LR_LINEAR } npo_lr_kind;
/* train.lora.targets, numbered as npo_lora_targets. */
typedef enum { NPO_JOB_LORA_ATTENTION, NPO_JOB_LORA_LINEAR, NPO_JOB_LORA_ALL } npo_job_lora_targets;
typedef enum { NPO_OPTIMIZER_ADAMW, NPO_OPTIMIZER_ADAMW8BIT } npo_optimizer_kind;
/* sample.sampler and sample.spacing, numbered as npo_sampler_kind and npo_spacing. */
typedef enum {
    NPO_JOB_SAMPLER_DDIM,
    NPO_JOB_SAMPLER_DPMPP_2M,
    NPO_JOB_SAMPLER_EULER,
    NPO_JOB_SAMPLER_EULER_ANCESTRAL
} npo_job_sampler;
typedef enum {
    NPO_JOB_SPACING_LEADING,
    NPO_JOB_SPACING_TRAILING,
    NPO_JOB_SPACING_LINSPACE,
    NPO_JOB_SPACING_METHOD,
    NPO_JOB_SPACING_DEFAULT
} npo_job_spacing;
typedef enum { NPO_WEIGHTS_STUDENT, NPO_WEIGHTS_EMA } npo_weights_kind;
typedef enum {
    NPO_FORM_NEGATIVE,
    NPO_FORM_DELTA,
    NPO_FORM_MERGE,
    NPO_FORM_LORA,
    NPO_FORM_ONE_NETWORK
} npo_export_form;
typedef enum { NPO_NAMING_DIFFUSERS, NPO_NAMING_KOHYA, NPO_NAMING_COMFYUI } npo_export_naming;
typedef enum { NPO_DTYPE_F32, NPO_DTYPE_F16, NPO_DTYPE_BF16 } npo_export_dtype;
typedef enum { NPO_LAYERS_ALL, NPO_LAYERS_ATTENTION } npo_export_layers;

/* A file or folder: path before import, artifact after. Both NULL: not given. Borrowed from the
 * JSON. */
typedef struct {
    const char *path;
    const char *artifact; /* 32 hex digits */
} npo_job_ref;

typedef struct {
    int64_t steps;       /* optimizer steps in all */
    int64_t batch;       /* samples an optimizer step, over all ranks */
    int64_t micro_batch; /* samples a forward pass; 0: batch / workers */
    double lr, weight_decay, beta1, beta2, eps, clip, ema_decay;
    int optimizer; /* npo_optimizer_kind */
    int64_t warmup_steps;
    int lr_schedule; /* npo_lr_kind */
    int loss;        /* npo_loss_kind; recipe diffusion: mse of the prediction */
    int compute;     /* npo_job_compute */
    double huber_c;
    double empty_prompt_share; /* of the student's prompts */
    int weights;               /* npo_weights_kind: what export hands out */
    struct {
        int64_t rank; /* 0: the whole network is trained */
        double alpha; /* 0 in the file: the rank */
        int targets;  /* npo_job_lora_targets */
    } lora;
} npo_job_train;

typedef struct {
    double w_gen;          /* guided output cond + w_gen (cond - uncond) */
    int starts;            /* npo_starts */
    int64_t solver_steps;  /* 25 */
    int64_t segment_steps; /* 5 */
    bool stagger;
} npo_job_generate;

typedef struct {
    double guidance_scale;               /* g = w + 1; 1: no negative pass */
    double beta;                         /* part of the offset in the negative network */
    double rescale;                      /* guidance rescale, 0: off */
    double interval_start, interval_end; /* guidance acts where timestep / 1000 is within; 0, 1 */
    int64_t steps;
    int64_t count; /* images */
    int64_t batch; /* images a forward pass; 0: as many as suit their size */
    int64_t seed;
    int sampler; /* npo_job_sampler */
    int compute; /* npo_job_compute */
    int spacing; /* npo_job_spacing */
    bool karras;
    bool grid;                    /* recipe sample: all images on one sheet as well */
    const cJSON *negative_prompt; /* a string, a list of one for each prompt, or NULL: empty */
    const cJSON *seeds;           /* whole numbers, one for each prompt, or NULL */
} npo_job_sample;

typedef struct {
    npo_job_ref classifier;
    npo_job_ref data;     /* real images */
    int64_t samples;      /* a cell */
    int64_t real_samples; /* real images the distance is measured against */
    const cJSON *scales;  /* numbers > 0 */
    const cJSON *betas;   /* numbers */
    const cJSON *seeds;   /* whole numbers */
} npo_job_evaluate;

/* What leaves: theta_0 is the model, delta the offset of the negative network from it, eta that of
 * the fine-tuned model. */
typedef struct {
    int form;      /* npo_export_form */
    double alpha;  /* part of eta; merge */
    double beta;   /* part of delta; all but one-network */
    double w;      /* one-network: theta_0 - w delta */
    int64_t rank;  /* lora; 0: not given */
    double energy; /* lora; 0: not given */
    int naming;    /* npo_export_naming; lora, delta */
    int layers;    /* npo_export_layers; lora */
    int dtype;     /* npo_export_dtype */
    int weights;   /* npo_weights_kind; of a checkpoint */
} npo_job_export;

typedef struct {
    char name[129];
    npo_recipe recipe;
    int preset;           /* npo_preset */
    int64_t workers;      /* ranks, all or nothing */
    int64_t priority;     /* higher first */
    int64_t time_limit_s; /* 0: none */
    int64_t retries;      /* failures of one task before the job fails */
    int64_t seed;
    const cJSON *after;       /* job ids that must be done first, or NULL */
    const cJSON *constraints; /* {"device": "cpu", "label": {..}} or NULL */
    bool any_class;
    int pipeline; /* npo_pipeline */
    int64_t round_steps, staleness;
    int64_t preview_rounds; /* a preview grid each so many rounds; 0: none */
    npo_job_ref model;
    npo_job_ref negative;  /* sample, evaluate, export: the trained network */
    npo_job_ref positive;  /* export, form merge: a fine-tuned model */
    npo_job_ref data;      /* images and captions */
    int64_t height, width; /* of the images in pixels; 0: the model's */
    const cJSON *prompts;  /* list of strings, or NULL: those of data */
    npo_job_train train;
    npo_job_generate generate;
    npo_job_sample sample;
    npo_job_evaluate evaluate;
    npo_job_export export;
    bool has_evaluate; /* self-npo: evaluate and report at the end */
    /* Continue or branch: set by npod from submit's "from", NULL otherwise:
     * {"job", "step", "checkpoint": HASH, "pools": [HASH..]} */
    const cJSON *from;
    bool init_random; /* start from random weights drawn with `seed` */
} npo_job;

/* Reads and checks a whole job. Strings and lists borrow from json, which must outlive ret_job.
 * Fills defaults by recipe: micro_batch becomes batch / workers, evaluate.data the job's data, the
 * lists of evaluate are never NULL. Where a job continues, `from` must stand in json already.
 * Errors: NPO_E_USAGE, NPO_E_TYPE, NPO_E_LIMIT with the sentence. */
npo_err npo_job_read(const cJSON *json, npo_job *ret_job, npo_error *error) NPO_MUST_CHECK;
/* Every member of the job file that is a path, as a dotted key: "model", "data", "evaluate.data"...
 * NULL-terminated: what npoctl imports and npod pins. */
const char *const *npo_job_path_keys(void);
const char *npo_job_recipe_name(npo_recipe recipe);
const char *npo_job_preset_name(const npo_job *job);      /* of preset */
const char *npo_job_starts_name(const npo_job *job);      /* of generate.starts */
const char *npo_job_lr_schedule_name(const npo_job *job); /* of train.lr_schedule */
const char *npo_lora_targets_name(int targets);           /* "attention" */
const char *npo_optimizer_name(npo_optimizer_kind kind);  /* "adamw", "adamw8bit" */
const char *npo_job_sampler_name(const npo_job *job);     /* of sample.sampler */
const char *npo_job_spacing_name(const npo_job *job);     /* of sample.spacing */
/* True where the recipe trains in rounds (self-npo, diffusion, classifier). */
bool npo_job_is_training(const npo_job *job);

/* One key of the job file, for people and for the test that compares docs/job-file.md. */
typedef struct {
    char key[64];       /* "train.lr" */
    char type[64];      /* "number"; for a choice its values */
    char fallback[160]; /* default: "25 (self-npo), 100 (diffusion, classifier)"; "" for none */
    char recipes[96];   /* "all", or those where the key has a meaning */
    const char *summary;
} npo_job_key;

size_t npo_job_key_count(void);
void npo_job_key_at(size_t index, npo_job_key *ret_key); /* index < npo_job_key_count() */
/* Prints every key with its default to a FILE: `npoctl submit --help-job`. */
void npo_job_print_keys(void *file);

#endif
