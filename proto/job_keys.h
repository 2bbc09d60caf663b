/* The tables of the job file: one row per key with its type, bounds, recipes and meaning. job.c
 * reads by them, docs/job-file.md repeats them (a test compares). Internal to the job module. */
#ifndef NPO_PROTO_JOB_KEYS_H
#define NPO_PROTO_JOB_KEYS_H

#include "proto/job.h"

/* Sets of recipes. */
enum {
    NPO_FOR_SELF_NPO = 1 << NPO_RECIPE_SELF_NPO,
    NPO_FOR_DIFFUSION = 1 << NPO_RECIPE_DIFFUSION,
    NPO_FOR_CLASSIFIER = 1 << NPO_RECIPE_CLASSIFIER,
    NPO_FOR_SAMPLE = 1 << NPO_RECIPE_SAMPLE,
    NPO_FOR_EVALUATE = 1 << NPO_RECIPE_EVALUATE,
    NPO_FOR_EXPORT = 1 << NPO_RECIPE_EXPORT,
    NPO_FOR_DENOISER = NPO_FOR_SELF_NPO | NPO_FOR_DIFFUSION,
    NPO_FOR_TRAINING = NPO_FOR_DENOISER | NPO_FOR_CLASSIFIER,
    NPO_FOR_ALL = (1 << NPO_RECIPE_COUNT) - 1
};

/* What the tables fill: the job, and the members that job.c converts afterwards. */
typedef struct {
    npo_job job;
    int recipe;
    const char *name;
    const cJSON *model, *negative, *positive, *data, *classifier, *evaluate_data; /* references */
    const cJSON *train, *lora, *generate, *sample, *evaluate, *export;            /* sections */
} npo_job_reader;

typedef struct {
    npo_json_field field; /* offset within npo_job_reader; required stays false, see below */
    unsigned recipes;     /* where the key has a meaning; elsewhere it is refused */
    unsigned required;    /* where it must stand */
    const char *summary;  /* one line for people */
    const char *type;     /* in place of the field's, for what job.c reads itself */
} npo_job_row;

typedef struct {
    const char *name;        /* "" for the top level, else the key of the section */
    size_t offset;           /* of the section's object in npo_job_reader; the top has none */
    const npo_job_row *rows; /* [count] */
    size_t count;
} npo_job_section;

enum { NPO_JOB_SECTIONS = 7, NPO_JOB_ROWS_MAX = 32 };

/* The top level first. */
extern const npo_job_section npo_job_sections[NPO_JOB_SECTIONS];
/* Names by number, NULL-terminated. */
extern const char *const npo_job_recipes[];      /* npo_recipe */
extern const char *const npo_job_presets[];      /* npo_preset */
extern const char *const npo_job_starts[];       /* npo_starts */
extern const char *const npo_job_lr_schedules[]; /* npo_lr_kind */
extern const char *const npo_job_lora_targets_names[];
extern const char *const npo_job_optimizers[]; /* npo_optimizer_kind */
extern const char *const npo_job_samplers[];   /* npo_job_sampler */
extern const char *const npo_job_spacings[];   /* npo_job_spacing */
extern const char *const npo_job_forms[];      /* npo_export_form */

/* job_export.c: the rules of recipe export. Errors: NPO_E_USAGE. */
npo_err npo_job_check_export(const npo_job *job, npo_error *error) NPO_MUST_CHECK;
/* A reader with every default of a recipe. */
void npo_job_reader_init(npo_recipe recipe, npo_job_reader *ret_reader);

#endif
