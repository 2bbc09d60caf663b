/* cases.json beside a vocabulary: [{"text", "ids", "padded_77"}]. The error of a line is the share
 * of texts with other ids, so that only 0 passes. */
#include "tests/reference/case.h"

#include "common/file.h"
#include "common/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CASES_BYTES_MAX = 16 << 20,
    TEXT_MAX = 4096,
    IDS_MAX = 4096,
    PADDED = 77,
};

/* cJSON ends a string at \u0000, so that the file is read with U+E000 in its place. */
static const char nul_escape[] = "\\u0000", nul_marker[] = "\\ue000", nul_bytes[] = "\xEE\x80\x80";

static void mark_nuls(char *text)
{
    for (char *at = text; (at = strstr(at, nul_escape));)
        memcpy(at, nul_marker, strlen(nul_marker));
}

static npo_err load_cases(const char *path, cJSON **ret_cases, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_err err = npo_file_read(path, CASES_BYTES_MAX, &text, error);
    if (!err && text.data)
        mark_nuls(text.data);
    if (!err)
        err = npo_json_parse(text.data, text.len, path, ret_cases, error);
    npo_buf_fini(&text);
    return err;
}

/* The text of a case with its NULs back; returns its length. */
static size_t case_text(const cJSON *item, char ret_text[TEXT_MAX])
{
    const char *from = npo_json_string(item, "text", "");
    size_t len = 0;
    while (*from && len < TEXT_MAX) {
        bool nul = strncmp(from, nul_bytes, strlen(nul_bytes)) == 0;
        ret_text[len++] = nul ? '\0' : *from;
        from += nul ? strlen(nul_bytes) : 1;
    }
    return len;
}

static bool is_same(const cJSON *expected, const int32_t *ids, size_t count)
{
    size_t i = 0;
    if ((size_t)cJSON_GetArraySize(expected) != count)
        return false;
    for (const cJSON *id = expected->child; id; id = id->next)
        if (id->valuedouble != (double)ids[i++])
            return false;
    return true;
}

static npo_err run_text(const npo_tokenizer *tokenizer, const cJSON *item, bool *ret_same,
                        npo_error *error)
{
    int32_t ids[IDS_MAX], padded[PADDED];
    char text[TEXT_MAX];
    size_t count, len = case_text(item, text);
    NPO_TRY(npo_tokenizer_encode(tokenizer, text, len, IDS_MAX, ids, &count, error));
    NPO_TRY(npo_tokenizer_encode_padded(tokenizer, text, len, PADDED, padded, error));
    *ret_same = is_same(cJSON_GetObjectItemCaseSensitive(item, "ids"), ids, count) &&
                is_same(cJSON_GetObjectItemCaseSensitive(item, "padded_77"), padded, PADDED);
    return NPO_OK;
}

static npo_err run_texts(case_env *env, const npo_tokenizer *tokenizer, const cJSON *cases,
                         npo_error *error)
{
    int other = 0, count = cJSON_GetArraySize(cases);
    case_worst worst = {0};
    for (const cJSON *item = cases->child; item; item = item->next) {
        bool same = false;
        NPO_TRY(run_text(tokenizer, item, &same, error));
        if (!same && !other++)
            snprintf(worst.tensor, sizeof worst.tensor, "text '%.100s'",
                     npo_json_string(item, "text", ""));
    }
    worst.error = count ? (double)other / count : 1;
    if (!other && count)
        snprintf(worst.tensor, sizeof worst.tensor, "%d texts", count);
    case_report(env, "", &worst, 0);
    return NPO_OK;
}

npo_err case_run_tokenizer(case_env *env, npo_error *error)
{
    cJSON *cases = NULL;
    npo_tokenizer *tokenizer = NULL;
    char *path = npo_file_join(env->dir, env->file);
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = load_cases(path, &cases, error);
    if (!err)
        err = npo_tokenizer_load(env->dir, &tokenizer, error);
    if (!err)
        err = run_texts(env, tokenizer, cases, error);
    npo_tokenizer_free(tokenizer);
    cJSON_Delete(cases);
    free(path);
    return err;
}
