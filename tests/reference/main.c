/* reference-cases DIR...: runs every case found in DIR and in the folders directly below it. Exit
 * code 0: all passed; 1: a case failed, could not be run, or none was found; 2: usage. */
#include "common/file.h"
#include "tests/reference/case.h"

#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first row whose pattern fits a file and whose `beside` (if any) stands in the same folder. A
 * row without `run` is a kind that this version does not compute (skip says which), or a file that
 * belongs to a case of another file (no skip). */
static const struct {
    const char *pattern, *beside;
    case_run run;
    const char *skip;
} kinds[] = {
    {"vae.safetensors", "vae", case_run_vae, NULL},
    {"negative-lora-*.safetensors", "unet", case_run_lora, NULL},
    {"clip.safetensors", NULL, NULL, "CLIP score is not computed yet"},
    {"blip.safetensors", NULL, NULL, "BLIP is not computed yet"},
    {"aesthetic-head.safetensors", NULL, NULL, "the aesthetic score is not computed yet"},
    {"cases.json", "vocab.json", case_run_tokenizer, NULL},
    {"text.safetensors", "text_encoder_2", case_run_text_xl, NULL},
    {"text.safetensors", "text_encoder", case_run_text, NULL},
    {"unet-*-grads.safetensors", "unet", case_run_unet_grads, NULL},
    {"unet-*.safetensors", "unet", case_run_unet, NULL},
    {"unet.safetensors", "unet", case_run_unet, NULL},
    {"schedule.json", NULL, case_run_schedule, NULL},
    {"sampling.safetensors", "sampling.json", case_run_sampling, NULL},
    {"self-npo-w*.safetensors", "unet", case_run_self_npo, NULL},
    {"negative-unet.safetensors", "unet", NULL, NULL},
    {"*-weights.safetensors", NULL, NULL, NULL},
    {"model*.safetensors", NULL, NULL, NULL},
    {"*", NULL, NULL, "no case of a known kind"},
};

static bool is_beside(const char *dir, const char *name)
{
    char *path = name ? npo_file_join(dir, name) : NULL;
    bool there = !name || (path && npo_file_exists(path));
    free(path);
    return there;
}

static void run_file(case_env *env)
{
    size_t k = 0; /* the last row fits every file */
    npo_error error = {0};
    while (fnmatch(kinds[k].pattern, env->file, 0) != 0 || !is_beside(env->dir, kinds[k].beside))
        k++;
    if (kinds[k].skip) {
        printf("%s SKIP %s\n", env->name, kinds[k].skip);
        env->totals->skipped++;
    } else if (kinds[k].run && kinds[k].run(env, &error) != NPO_OK) {
        printf("%s nan FAIL (%s)\n", env->name, error.text);
        env->totals->failed++;
    }
}

/* Data files are cases; configurations and vocabularies are not. */
static int is_case_file(const struct dirent *entry)
{
    return fnmatch("*.safetensors", entry->d_name, 0) == 0 ||
           strcmp(entry->d_name, "cases.json") == 0 || strcmp(entry->d_name, "schedule.json") == 0;
}

static int is_folder(const struct dirent *entry)
{
    return entry->d_type == DT_DIR && entry->d_name[0] != '.';
}

/* "sd15-tiny/unet-square" of the folder's last name and the file's without its ending. */
static char *case_name(const char *dir, const char *file)
{
    char *name = NULL;
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/')
        len--;
    const char *slash = memrchr(dir, '/', len);
    const char *last = slash ? slash + 1 : dir;
    if (asprintf(&name, "%.*s/%.*s", (int)(len - (size_t)(last - dir)), last,
                 (int)strcspn(file, "."), file) < 0)
        return NULL;
    return name;
}

static void run_folder(npo_backend *backend, const char *dir, case_totals *totals)
{
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_case_file, alphasort);
    for (int i = 0; i < count; i++) {
        char *name = case_name(dir, entries[i]->d_name);
        case_env env = {backend, dir, entries[i]->d_name, name ? name : "?", totals};
        run_file(&env);
        free(name);
        free(entries[i]);
    }
    free(entries);
}

static bool run_tree(npo_backend *backend, const char *root, case_totals *totals)
{
    struct dirent **entries = NULL;
    int count = scandir(root, &entries, is_folder, alphasort);
    if (count < 0) {
        fprintf(stderr, "reference-cases: cannot open folder '%s'\n", root);
        return false;
    }
    run_folder(backend, root, totals);
    for (int i = 0; i < count; i++) {
        char *dir = npo_file_join(root, entries[i]->d_name);
        if (dir)
            run_folder(backend, dir, totals);
        free(dir);
        free(entries[i]);
    }
    free(entries);
    return true;
}

int main(int argc, char **argv)
{
    npo_backend *backend = NULL;
    npo_error error = {0};
    case_totals totals = {0};
    bool readable = true;
    if (argc < 2) {
        fprintf(stderr, "usage: reference-cases DIR...\n");
        return 2;
    }
    /* One thread: the networks are tiny, and threads that wait for each other on a busy machine
     * take minutes over what one does in a second. */
    npo_backend_options options = {.device = "cpu", .threads = 1};
    if (npo_backend_new(&options, &backend, &error)) {
        fprintf(stderr, "reference-cases: %s\n", error.text);
        return 1;
    }
    for (int i = 1; i < argc; i++)
        readable = run_tree(backend, argv[i], &totals) && readable;
    npo_backend_free(backend);
    printf("%d passed, %d failed, %d skipped\n", totals.passed, totals.failed, totals.skipped);
    return readable && totals.passed && !totals.failed ? 0 : 1;
}
