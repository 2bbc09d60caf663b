#include "ctl/job/fetch.h"

#include "common/file.h"
#include "ctl/text/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool npo_fetch_is_internal(const char *name)
{
    static const char *const internal[] = {"pool", "segment", "checkpoint", "features"};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(internal); i++) {
        size_t len = strlen(internal[i]);
        if (strncmp(name, internal[i], len) == 0 && (name[len] == '\0' || name[len] == '.'))
            return true;
    }
    return false;
}

bool npo_fetch_is_safe(const char *name)
{
    return *name && name[0] != '.' && !strchr(name, '/');
}

/* Whether path holds just that content; a folder's hash is that of its manifest. */
static bool is_there(const char *path, const char *hash)
{
    npo_artifact artifact;
    char found[NPO_HASH_TEXT_SIZE];
    if (npo_upload_describe(path, &artifact, NULL))
        return false;
    npo_hash_format(&artifact.hash, found);
    return strcmp(found, hash) == 0;
}

npo_exit npo_fetch_to(npo_session *session, const char *hash, const char *path, void *to)
{
    npo_artifact artifact;
    char size[NPO_FORMAT_SIZE];
    if (npo_file_exists(path)) {
        if (!is_there(path, hash))
            return npo_exit_with(NPO_EXIT_USAGE, "'%s' exists already and is something else", path);
        if (to)
            fprintf(to, "%s  is there already\n", path);
        return NPO_EXIT_OK;
    }
    npo_exit code = npo_session_download(session, hash, path, &artifact);
    if (code)
        return code;
    npo_format_bytes((double)artifact.bytes, size);
    if (to)
        fprintf(to, "%s  %s\n", path, size);
    return NPO_EXIT_OK;
}

/* Outputs come newest first. */
static bool is_newest(const cJSON *outputs, const cJSON *output)
{
    const char *name = npo_json_string(output, "name", "");
    for (const cJSON *item = outputs->child; item != output; item = item->next)
        if (strcmp(npo_json_string(item, "name", ""), name) == 0)
            return false;
    return true;
}

static npo_exit fetch_one(npo_session *session, const cJSON *output, const char *dir, void *to)
{
    const char *name = npo_json_string(output, "name", "");
    if (!npo_fetch_is_safe(name))
        return npo_exit_with(NPO_EXIT_REFUSED, "npod names an output '%.60s': refused", name);
    char *path = npo_file_join(dir, name);
    npo_exit code = path ? npo_fetch_to(session, npo_json_string(output, "hash", ""), path, to)
                         : npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    free(path);
    return code;
}

npo_exit npo_fetch_results(npo_session *session, const cJSON *outputs, const char *dir, void *to)
{
    npo_error error = {0};
    npo_exit code = NPO_EXIT_OK;
    if (npo_file_make_dirs(dir, &error))
        return npo_exit_local(&error);
    for (const cJSON *item = outputs ? outputs->child : NULL; !code && item; item = item->next)
        if (!npo_fetch_is_internal(npo_json_string(item, "name", "")) && is_newest(outputs, item))
            code = fetch_one(session, item, dir, to);
    return code;
}
