#include "worker/model/text/tokenizer.h"

#include "common/file.h"
#include "worker/model/files/part_file.h"
#include "worker/model/text/bpe.h"
#include "worker/model/text/unicode.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    TEXT_BYTES_MAX = 1 << 20,
    CONFIG_BYTES_MAX = 1 << 20,
    LENGTH_MAX = 1 << 16, /* transformers writes 1e30 for "none" */
    SPECIALS = 4,
};

/* A token found in the text as it stands (or, "normalized", after normalisation), never split. */
typedef struct {
    char *text; /* owned */
    bool normalized;
    int32_t id;
} special;

enum { BOS, EOS, UNK, PAD };

static const struct {
    const char *key, *fallback;
} special_keys[SPECIALS] = {
    [BOS] = {"bos_token", "<|startoftext|>"},
    [EOS] = {"eos_token", "<|endoftext|>"},
    [UNK] = {"unk_token", "<|endoftext|>"},
    [PAD] = {"pad_token", "<|endoftext|>"},
};

struct npo_tokenizer {
    npo_bpe *bpe;
    special specials[SPECIALS];
    int64_t max_length;
};

/* ---- loading ---- */

static npo_err read_special(const cJSON *config, int which, special *ret_special, npo_error *error)
{
    const char *key = special_keys[which].key, *text = special_keys[which].fallback;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
    if (cJSON_IsString(item)) {
        text = item->valuestring;
    } else if (cJSON_IsObject(item)) { /* an AddedToken */
        text = npo_json_string(item, "content", "");
        ret_special->normalized = npo_json_bool(item, "normalized", false);
    } else if (item && !cJSON_IsNull(item)) {
        return npo_error_set(error, NPO_E_TYPE, "%s: expected a string or an object", key);
    }
    if (!*text)
        return npo_error_set(error, NPO_E_FORMAT, "%s: is empty", key);
    ret_special->text = strdup(text);
    return ret_special->text ? NPO_OK : npo_error_set(error, NPO_E_NOMEM, "out of memory");
}

/* The same token under several keys is one token. Where they disagree on "normalized", transformers
 * ends up with the value that is not the first key's. */
static void unify_specials(npo_tokenizer *tokenizer)
{
    special *all = tokenizer->specials;
    for (int i = 0; i < SPECIALS; i++) {
        bool first = all[i].normalized, mixed = false;
        for (int k = i + 1; k < SPECIALS; k++)
            if (strcmp(all[k].text, all[i].text) == 0)
                mixed = mixed || all[k].normalized != first;
        for (int k = i; mixed && k < SPECIALS; k++)
            if (strcmp(all[k].text, all[i].text) == 0)
                all[k].normalized = !first;
    }
}

static npo_err read_config(npo_tokenizer *tokenizer, const cJSON *config, npo_error *error)
{
    double length = npo_json_number(config, "model_max_length", 0);
    tokenizer->max_length = length >= 2 && length <= LENGTH_MAX ? (int64_t)length : 0;
    for (int i = 0; i < SPECIALS; i++)
        NPO_TRY(read_special(config, i, &tokenizer->specials[i], error));
    unify_specials(tokenizer);
    return NPO_OK;
}

static npo_err load_config(npo_tokenizer *tokenizer, const char *path, npo_error *error)
{
    cJSON *config = NULL;
    if (npo_part_file_exists(path))
        NPO_TRY(npo_part_file_json(path, CONFIG_BYTES_MAX, &config, error));
    npo_err err = read_config(tokenizer, config, error);
    if (err)
        npo_error_prefix(error, err, "'%s'", path);
    cJSON_Delete(config);
    return err;
}

static npo_err find_specials(npo_tokenizer *tokenizer, const char *path, npo_error *error)
{
    for (int i = 0; i < SPECIALS; i++) {
        special *s = &tokenizer->specials[i];
        s->id = npo_bpe_id(tokenizer->bpe, s->text);
        if (s->id < 0)
            return npo_error_set(error, NPO_E_NOT_FOUND, "'%s': no token '%s' for %s", path,
                                 s->text, special_keys[i].key);
    }
    return NPO_OK;
}

npo_err npo_tokenizer_load(const char *dir, npo_tokenizer **ret_tokenizer, npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    npo_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    char *vocab = npo_file_join(dir, "vocab.json"), *merges = npo_file_join(dir, "merges.txt");
    char *config = npo_file_join(dir, "tokenizer_config.json");
    if (!tokenizer || !vocab || !merges || !config) {
        npo_error_set(error, err, "cannot read '%s': out of memory", dir);
        goto out;
    }
    err = load_config(tokenizer, config, error);
    if (!err)
        err = npo_bpe_load(vocab, merges, tokenizer->specials[UNK].text, &tokenizer->bpe, error);
    if (!err)
        err = find_specials(tokenizer, vocab, error);
out:
    free(vocab);
    free(merges);
    free(config);
    if (err)
        npo_tokenizer_free(tokenizer);
    else
        *ret_tokenizer = tokenizer;
    return err;
}

void npo_tokenizer_free(npo_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (int i = 0; i < SPECIALS; i++)
        free(tokenizer->specials[i].text);
    npo_bpe_free(tokenizer->bpe);
    free(tokenizer);
}

int64_t npo_tokenizer_max_length(const npo_tokenizer *tokenizer)
{
    return tokenizer->max_length;
}

size_t npo_tokenizer_vocab_size(const npo_tokenizer *tokenizer)
{
    return npo_bpe_vocab_size(tokenizer->bpe);
}

/* ---- normalisation ---- */

static npo_err decode(const char *text, size_t len, npo_codepoints *ret_text)
{
    for (const char *at = text, *end = text + len; at < end;) {
        uint32_t cp = npo_utf8_decode(&at, end);
        NPO_TRY(npo_codepoints_add(ret_text, cp == NPO_UTF8_INVALID ? 0xFFFD : cp));
    }
    return NPO_OK;
}

static npo_err encode(const npo_codepoints *text, char **ret_text, size_t *ret_len)
{
    char *bytes = malloc(4 * text->count + 1);
    if (!bytes)
        return NPO_E_NOMEM;
    size_t len = 0;
    for (size_t i = 0; i < text->count; i++)
        len += npo_utf8_encode(text->at[i], bytes + len);
    *ret_text = bytes;
    *ret_len = len;
    return NPO_OK;
}

/* White space runs become one space, the rest lower case. */
static npo_err collapse(const npo_codepoints *text, npo_codepoints *ret_text)
{
    for (size_t i = 0; i < text->count; i++) {
        uint32_t lower[2];
        bool space = npo_unicode_is_space(text->at[i]);
        if (space && i && npo_unicode_is_space(text->at[i - 1]))
            continue;
        size_t n = npo_unicode_lower(space ? ' ' : text->at[i], lower);
        for (size_t k = 0; k < n; k++)
            NPO_TRY(npo_codepoints_add(ret_text, lower[k]));
    }
    return NPO_OK;
}

static npo_err normalize(const char *text, size_t len, char **ret_text, size_t *ret_len)
{
    npo_codepoints raw = {0}, clean = {0};
    npo_err err = decode(text, len, &raw);
    if (!err)
        err = npo_unicode_nfc(&raw);
    if (!err)
        err = collapse(&raw, &clean);
    if (!err)
        err = encode(&clean, ret_text, ret_len);
    npo_codepoints_fini(&raw);
    npo_codepoints_fini(&clean);
    return err;
}

/* ---- words ---- */

static bool is_symbol(uint32_t cp)
{
    return !npo_unicode_is_space(cp) && !npo_unicode_is_letter(cp) && !npo_unicode_is_number(cp);
}

/* End of the longest run of a class. */
static const char *run_end(const char *at, const char *end, bool (*is_class)(uint32_t cp))
{
    while (at < end) {
        const char *next = at;
        if (!is_class(npo_utf8_decode(&next, end)))
            break;
        at = next;
    }
    return at;
}

enum { PARTS_MAX = 3 };

/* Alternatives that the pattern spells out, and the words that byte-level BPE makes of each.
 * Special tokens get here only by lower-casing, and their letters are then words of their own. */
typedef struct {
    const char *text;
    size_t parts[PARTS_MAX]; /* bytes */
} literal;

static const literal literals[] = {
    {"<|startoftext|>", {2, 11, 2}},
    {"<|endoftext|>", {2, 9, 2}},
    {"'s", {2}},
    {"'t", {2}},
    {"'re", {3}},
    {"'ve", {3}},
    {"'m", {2}},
    {"'ll", {3}},
    {"'d", {2}},
};

static const literal *find_literal(const char *at, const char *end)
{
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        size_t n = strlen(literals[i].text);
        if ((size_t)(end - at) >= n && memcmp(at, literals[i].text, n) == 0)
            return &literals[i];
    }
    return NULL;
}

/* End of the word that begins at `at` and is no literal. Source of both: the pattern of
 * transformers' CLIPTokenizer. */
static const char *word_end(const char *at, const char *end)
{
    uint32_t cp = npo_utf8_decode(&at, end);
    if (npo_unicode_is_letter(cp))
        return run_end(at, end, npo_unicode_is_letter);
    return npo_unicode_is_number(cp) ? at : run_end(at, end, is_symbol);
}

/* ---- encoding ---- */

/* Ids found so far; once full, further ones are dropped, since the text is cut at the limit. */
typedef struct {
    int32_t *ids;
    size_t count, limit;
} id_list;

static void add_id(id_list *list, int32_t id)
{
    if (list->count < list->limit)
        list->ids[list->count++] = id;
}

static npo_err add_word(const npo_tokenizer *tokenizer, const char *word, size_t len, id_list *list)
{
    size_t count;
    int32_t *ids = malloc(len * sizeof *ids);
    if (!ids)
        return NPO_E_NOMEM;
    npo_err err = npo_bpe_encode(tokenizer->bpe, word, len, ids, &count);
    for (size_t i = 0; !err && i < count; i++)
        add_id(list, ids[i]);
    free(ids);
    return err;
}

static npo_err add_words(const npo_tokenizer *tokenizer, const char *text, size_t len,
                         id_list *list)
{
    const char *at = text, *end = text + len;
    while ((at = run_end(at, end, npo_unicode_is_space)) < end && list->count < list->limit) {
        const literal *spelled = find_literal(at, end);
        size_t word = spelled ? 0 : (size_t)(word_end(at, end) - at);
        for (int i = 0; spelled && i < PARTS_MAX && spelled->parts[i]; i++) {
            NPO_TRY(add_word(tokenizer, at, spelled->parts[i], list));
            at += spelled->parts[i];
        }
        if (word)
            NPO_TRY(add_word(tokenizer, at, word, list));
        at += word;
    }
    return NPO_OK;
}

/* The first special token of the given kind in the text (the longest of those that begin at the
 * same place), or NULL. */
static const special *find_special(const npo_tokenizer *tokenizer, bool normalized,
                                   const char *text, size_t len, size_t *ret_offset)
{
    const special *found = NULL;
    size_t offset = len, length = 0;
    for (int i = 0; i < SPECIALS; i++) {
        const special *s = &tokenizer->specials[i];
        const char *at =
            s->normalized == normalized ? memmem(text, len, s->text, strlen(s->text)) : NULL;
        if (!at)
            continue;
        size_t here = (size_t)(at - text);
        if (here < offset || (here == offset && strlen(s->text) > length)) {
            found = s;
            offset = here;
            length = strlen(s->text);
        }
    }
    *ret_offset = offset;
    return found;
}

typedef npo_err (*add_text)(const npo_tokenizer *tokenizer, const char *text, size_t len,
                            id_list *list);

/* Cuts the text at special tokens and gives what is between to `between`. */
static npo_err add_split(const npo_tokenizer *tokenizer, bool normalized, const char *text,
                         size_t len, add_text between, id_list *list)
{
    while (len > 0 && list->count < list->limit) {
        size_t offset;
        const special *s = find_special(tokenizer, normalized, text, len, &offset);
        NPO_TRY(between(tokenizer, text, offset, list));
        if (!s)
            break;
        add_id(list, s->id);
        offset += strlen(s->text);
        text += offset;
        len -= offset;
    }
    return NPO_OK;
}

static npo_err add_raw(const npo_tokenizer *tokenizer, const char *text, size_t len, id_list *list)
{
    char *clean = NULL;
    size_t clean_len;
    NPO_TRY(normalize(text, len, &clean, &clean_len));
    npo_err err = add_split(tokenizer, true, clean, clean_len, add_words, list);
    free(clean);
    return err;
}

npo_err npo_tokenizer_encode(const npo_tokenizer *tokenizer, const char *text, size_t len,
                             size_t limit, int32_t *ret_ids, size_t *ret_count, npo_error *error)
{
    if (len > TEXT_BYTES_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "prompt of %zu bytes, expected at most %d", len,
                             TEXT_BYTES_MAX);
    id_list list = {ret_ids, 0, limit - 1};
    add_id(&list, tokenizer->specials[BOS].id);
    npo_err err = add_split(tokenizer, false, text, len, add_raw, &list);
    if (err)
        return npo_error_set(error, err, "cannot tokenize a prompt: %s", npo_err_text(err));
    list.limit = limit;
    add_id(&list, tokenizer->specials[EOS].id);
    *ret_count = list.count;
    return NPO_OK;
}

npo_err npo_tokenizer_encode_padded(const npo_tokenizer *tokenizer, const char *text, size_t len,
                                    size_t length, int32_t *ret_ids, npo_error *error)
{
    size_t count;
    NPO_TRY(npo_tokenizer_encode(tokenizer, text, len, length, ret_ids, &count, error));
    for (; count < length; count++)
        ret_ids[count] = tokenizer->specials[PAD].id;
    return NPO_OK;
}
