#include "ctl/session.h"

#include "common/file.h"
#include "ctl/text/format.h"

#include <stdio.h>

typedef struct {
    npo_common_values common;
    bool json;
} import_values;

static void print_artifact(const npo_artifact *artifact, const char *path, bool json)
{
    char hash[NPO_HASH_TEXT_SIZE], size[NPO_FORMAT_SIZE];
    npo_hash_format(&artifact->hash, hash);
    npo_format_bytes((double)artifact->bytes, size);
    if (json)
        printf("{\"artifact\":\"%s\",\"bytes\":%llu,\"kind\":\"%s\"}\n", hash,
               (unsigned long long)artifact->bytes, artifact->is_folder ? "folder" : "file");
    else
        printf("%s  %s  %s\n", hash, size, path);
}

static npo_exit run_import(const npo_call *call)
{
    const import_values *values = call->values;
    npo_session *session = NULL;
    npo_exit code = NPO_EXIT_OK;
    for (int i = 0; !code && i < call->rest_count; i++)
        if (!npo_file_exists(call->rest[i]))
            code = npo_exit_with(NPO_EXIT_USAGE, "'%s' does not exist", call->rest[i]);
    if (!code)
        code = npo_session_open(&values->common, &session);
    for (int i = 0; !code && i < call->rest_count; i++) {
        npo_artifact artifact;
        code = npo_session_upload(session, call->rest[i], &artifact);
        if (!code)
            print_artifact(&artifact, call->rest[i], values->json);
    }
    npo_session_close(session);
    return code;
}

static const npo_option options[] = {
    {"json", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(import_values, json), NULL,
     "one JSON object a line", 0, 0},
};

const npo_command npo_command_import = {
    .name = "import",
    .summary = "store a file or folder with npod",
    .usage = "[OPTION...] PATH...",
    .text =
        "Stores files or folders with npod and prints their hashes, which may stand in a job file "
        "as\n"
        "{\"artifact\": HASH}. What npod has already is not sent again. Of a folder with a "
        "model_index.json\n"
        "only that and the components it names are stored. Unless a job uses it within an hour, "
        "npod may\n"
        "forget it.",
    .example = "npoctl import models/fashion",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .values_size = sizeof(import_values),
    .rest_min = 1,
    .rest_max = 1000,
    .run = run_import,
};
