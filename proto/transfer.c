#include "proto/transfer.h"

#include "common/crash.h"
#include "proto/transfer_part.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { HASHES_A_CALL = 16384 };
static_assert(HASHES_A_CALL * (2 * NPO_HASH_BYTES + 3) + 64 <= 1048576,
              "the hashes of one artifacts_missing must fit in the message");

/* ---- what uploads and downloads share ---- */

void npo_transfer_crash_point(const char *name)
{
    if (name)
        npo_crash_point(name);
}

void npo_transfer_report(const npo_transfer *transfer, const char *path, uint64_t done,
                         uint64_t size)
{
    if (transfer->progress)
        transfer->progress(transfer->self, path, done, size);
}

npo_err npo_transfer_no_memory(const char *path, npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot transfer '%s': out of memory", path);
}

cJSON *npo_transfer_body(const npo_hash *hash)
{
    char text[NPO_HASH_TEXT_SIZE];
    cJSON *body = cJSON_CreateObject();
    npo_hash_format(hash, text);
    if (cJSON_AddStringToObject(body, "hash", text))
        return body;
    cJSON_Delete(body);
    return NULL;
}

/* ---- what npod lacks ---- */

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(npo_hash));
}

static npo_err mark_missing(const cJSON *list, const npo_hash *hashes, size_t count,
                            bool *ret_missing, npo_error *error)
{
    size_t missing_count = 0;
    npo_hash *missing = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *missing);
    npo_err err = missing
                      ? NPO_OK
                      : npo_error_set(error, NPO_E_NOMEM, "cannot ask for hashes: out of memory");
    for (const cJSON *item = list ? list->child : NULL; !err && item; item = item->next) {
        const char *text = cJSON_GetStringValue(item);
        if (!text || npo_hash_parse(text, &missing[missing_count++]))
            err = npo_error_set(error, NPO_E_FORMAT, "reply to 'artifacts_missing': not a hash");
    }
    if (!err)
        qsort(missing, missing_count, sizeof *missing, compare_hashes);
    for (size_t i = 0; !err && i < count; i++)
        ret_missing[i] =
            bsearch(&hashes[i], missing, missing_count, sizeof *missing, compare_hashes) != NULL;
    free(missing);
    return err;
}

static npo_err ask_missing(const npo_transfer *transfer, const npo_hash *hashes, size_t count,
                           bool *ret_missing, npo_error *error)
{
    npo_answer answer = {0};
    cJSON *body = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(body, "hashes");
    npo_err err = list ? NPO_OK : NPO_E_NOMEM;
    for (size_t i = 0; !err && i < count; i++) {
        char text[NPO_HASH_TEXT_SIZE];
        npo_hash_format(&hashes[i], text);
        if (!cJSON_AddItemToArray(list, cJSON_CreateString(text)))
            err = NPO_E_NOMEM;
    }
    if (err)
        npo_error_set(error, err, "cannot ask for hashes: out of memory");
    else
        err = npo_client_call(transfer->client, NPO_MESSAGE_ARTIFACTS_MISSING, body, NULL, 0,
                              &answer, error);
    if (!err)
        err = mark_missing(cJSON_GetObjectItemCaseSensitive(answer.json, "missing"), hashes, count,
                           ret_missing, error);
    npo_answer_fini(&answer);
    cJSON_Delete(body);
    return err;
}

npo_err npo_transfer_missing(const npo_transfer *transfer, const npo_hash *hashes, size_t count,
                             bool *ret_missing, npo_error *error)
{
    memset(ret_missing, 0, count * sizeof *ret_missing);
    for (size_t at = 0; at < count; at += HASHES_A_CALL) {
        size_t n = count - at < HASHES_A_CALL ? count - at : HASHES_A_CALL;
        NPO_TRY(ask_missing(transfer, hashes + at, n, ret_missing + at, error));
    }
    return NPO_OK;
}
