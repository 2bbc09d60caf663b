/* npo-job JOB.json DIR [THREADS]: runs a job on this machine without npod. For development. */
#include "tests/unit/tasks/local.h"

#include "common/bounds.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    npo_error error = {0};
    cJSON *spec = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: npo-job JOB.json DIR [THREADS] [KEY=VALUE...]\n");
        return 2;
    }
    local_options options = {.threads = argc > 3 ? atoi(argv[3]) : 0, .print = true};
    npo_err err = npo_json_load(argv[1], NPO_JOB_FILE_BYTES_MAX, &spec, &error);
    for (int i = 4; err == NPO_OK && i < argc; i++) {
        char *value = argv[i];
        while (*value && *value != '=')
            value++;
        if (*value)
            *value++ = 0;
        err = npo_json_set_path(spec, argv[i], value, &error);
    }
    if (err == NPO_OK)
        err = local_job_run(spec, argv[2], &options, &error);
    if (err != NPO_OK)
        fprintf(stderr, "%s: %s\n", npo_err_name(err), error.text);
    cJSON_Delete(spec);
    return err == NPO_OK ? 0 : 1;
}
