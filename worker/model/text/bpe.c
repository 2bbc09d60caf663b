#include "worker/model/text/bpe.h"

#include "worker/model/files/part_file.h"
#include "common/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VOCAB_BYTES_MAX = 16 << 20,
    MERGES_BYTES_MAX = 16 << 20,
    ID_MAX = 1 << 24,
};

/* A symbol's id packed with its neighbour's, and what the pair becomes. */
typedef struct {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* UINT32_MAX: the slot is free */
    int32_t merged;
} merge;

struct npo_bpe {
    cJSON *vocab;         /* backs the names of `tokens` */
    const cJSON **tokens; /* sorted by name */
    size_t token_count;
    size_t vocab_size;
    int32_t bytes[256], last_bytes[256]; /* ids of a byte within and at the end of a word */
    merge *merges;                       /* open addressing, power of two, at most half full */
    size_t merge_mask;
};

/* ---- vocabulary ---- */

static int compare_tokens(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

static int compare_token_name(const void *name, const void *token)
{
    return strcmp(name, (*(const cJSON *const *)token)->string);
}

int32_t npo_bpe_id(const npo_bpe *bpe, const char *token)
{
    const cJSON *const *found =
        bsearch(token, bpe->tokens, bpe->token_count, sizeof *bpe->tokens, compare_token_name);
    return found ? (int32_t)(*found)->valuedouble : -1;
}

static npo_err load_vocab(npo_bpe *bpe, const char *path, npo_error *error)
{
    NPO_TRY(npo_part_file_json(path, VOCAB_BYTES_MAX, &bpe->vocab, error));
    if (!cJSON_IsObject(bpe->vocab))
        return npo_error_set(error, NPO_E_FORMAT, "'%s': expected an object of token: id", path);
    size_t count = (size_t)cJSON_GetArraySize(bpe->vocab);
    bpe->tokens = calloc(count ? count : 1, sizeof *bpe->tokens);
    if (!bpe->tokens)
        return npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", path);
    for (const cJSON *item = bpe->vocab->child; item; item = item->next) {
        double id = item->valuedouble;
        if (!cJSON_IsNumber(item) || id < 0 || id > ID_MAX || id != (double)(int32_t)id)
            return npo_error_set(error, NPO_E_FORMAT,
                                 "'%s': token '%.40s': expected an id from 0 to %d", path,
                                 item->string, ID_MAX);
        if ((size_t)id >= bpe->vocab_size)
            bpe->vocab_size = (size_t)id + 1;
        bpe->tokens[bpe->token_count++] = item;
    }
    qsort(bpe->tokens, count, sizeof *bpe->tokens, compare_tokens);
    return NPO_OK;
}

/* The printable code point that stands for a byte: itself where it is printable Latin-1, else the
 * next free one from U+0100. Source: GPT-2's bytes_to_unicode. */
static void byte_alphabet(uint32_t ret_cps[256])
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        ret_cps[b] = printable ? b : next++;
    }
}

static npo_err map_bytes(npo_bpe *bpe, const char *unknown, const char *path, npo_error *error)
{
    uint32_t alphabet[256];
    int32_t unknown_id = unknown ? npo_bpe_id(bpe, unknown) : -1;
    byte_alphabet(alphabet);
    for (int b = 0; b < 256; b++) {
        char name[16];
        size_t len = npo_utf8_encode(alphabet[b], name);
        name[len] = '\0';
        bpe->bytes[b] = npo_bpe_id(bpe, name);
        strcpy(name + len, "</w>");
        bpe->last_bytes[b] = npo_bpe_id(bpe, name);
        if (bpe->bytes[b] < 0)
            bpe->bytes[b] = unknown_id;
        if (bpe->last_bytes[b] < 0)
            bpe->last_bytes[b] = unknown_id;
        if (bpe->bytes[b] < 0 || bpe->last_bytes[b] < 0)
            return npo_error_set(error, NPO_E_FORMAT,
                                 "'%s': no token for byte 0x%02x and no unknown token", path, b);
    }
    return NPO_OK;
}

/* ---- merges ---- */

static size_t hash_pair(uint64_t pair)
{
    pair *= 0x9E3779B97F4A7C15u;
    return (size_t)(pair ^ pair >> 29);
}

static merge *find_slot(const npo_bpe *bpe, uint64_t pair)
{
    size_t i = hash_pair(pair) & bpe->merge_mask;
    while (bpe->merges[i].rank != UINT32_MAX && bpe->merges[i].pair != pair)
        i = (i + 1) & bpe->merge_mask;
    return &bpe->merges[i];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* "left right": both and their concatenation are tokens. */
static npo_err add_merge(npo_bpe *bpe, char *line, uint32_t rank, npo_error *error)
{
    char *space = strchr(line, ' ');
    if (!space || strchr(space + 1, ' '))
        return npo_error_set(error, NPO_E_FORMAT, "found '%.60s', expected two tokens", line);
    int32_t right = npo_bpe_id(bpe, space + 1);
    *space = '\0';
    int32_t left = npo_bpe_id(bpe, line);
    memmove(space, space + 1, strlen(space + 1) + 1);
    int32_t merged = npo_bpe_id(bpe, line);
    if (left < 0 || right < 0 || merged < 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "the merge to '%.60s' has a token that the vocabulary lacks", line);
    merge *slot = find_slot(bpe, pair_of(left, right));
    if (slot->rank == UINT32_MAX)
        *slot = (merge){pair_of(left, right), rank, merged};
    return NPO_OK;
}

static npo_err reserve_merges(npo_bpe *bpe, size_t lines)
{
    size_t slots = 16;
    while (slots < 2 * lines)
        slots *= 2;
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return NPO_E_NOMEM;
    bpe->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        bpe->merges[i].rank = UINT32_MAX;
    return NPO_OK;
}

static npo_err load_merges(npo_bpe *bpe, const char *path, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_err err = npo_part_file_read(path, MERGES_BYTES_MAX, &text, error);
    if (err)
        goto out;
    size_t lines = 1;
    for (size_t i = 0; i < text.len; i++)
        lines += text.data[i] == '\n';
    err = reserve_merges(bpe, lines);
    if (err) {
        npo_error_set(error, err, "cannot read '%s': out of memory", path);
        goto out;
    }
    uint32_t rank = 0;
    char *rest = text.data;
    for (size_t line = 1; rest && *rest; line++) {
        char *start = strsep(&rest, "\n");
        start[strcspn(start, "\r")] = '\0';
        if (!*start || (line == 1 && strncmp(start, "#version", 8) == 0))
            continue;
        err = add_merge(bpe, start, rank++, error);
        if (err) {
            npo_error_prefix(error, err, "'%s' line %zu", path, line);
            goto out;
        }
    }
out:
    npo_buf_fini(&text);
    return err;
}

npo_err npo_bpe_load(const char *vocab_path, const char *merges_path, const char *unknown,
                     npo_bpe **ret_bpe, npo_error *error)
{
    npo_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", vocab_path);
    npo_err err = load_vocab(bpe, vocab_path, error);
    if (!err)
        err = map_bytes(bpe, unknown, vocab_path, error);
    if (!err)
        err = load_merges(bpe, merges_path, error);
    if (err) {
        npo_bpe_free(bpe);
        return err;
    }
    *ret_bpe = bpe;
    return NPO_OK;
}

void npo_bpe_free(npo_bpe *bpe)
{
    if (!bpe)
        return;
    cJSON_Delete(bpe->vocab);
    free(bpe->tokens);
    free(bpe->merges);
    free(bpe);
}

size_t npo_bpe_vocab_size(const npo_bpe *bpe)
{
    return bpe->vocab_size;
}

/* ---- encoding ---- */

/* Symbols of a word as a doubly linked list over their first places; a dead one has id -1. */
typedef struct {
    int32_t id;
    uint32_t before, after; /* NONE at the ends */
} symbol;

/* A possible merge of symbols[place] with the one after it; stale when either has changed. */
typedef struct {
    uint32_t rank, place;
    uint64_t pair;
    int32_t merged;
} candidate;

/* Binary heap, the lowest (rank, place) first. Each merge takes one candidate and adds at most two,
 * so that 3 per symbol are room enough. */
typedef struct {
    const npo_bpe *bpe;
    symbol *symbols;
    candidate *heap;
    size_t heap_count;
} merger;

#define NONE UINT32_MAX

static bool is_before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

static void push(merger *m, candidate c)
{
    size_t i = m->heap_count++;
    for (; i && is_before(&c, &m->heap[(i - 1) / 2]); i = (i - 1) / 2)
        m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
}

static candidate pop(merger *m)
{
    candidate top = m->heap[0], last = m->heap[--m->heap_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->heap_count; i = child) {
        if (child + 1 < m->heap_count && is_before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!is_before(&m->heap[child], &last))
            break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = last;
    return top;
}

static void consider(merger *m, uint32_t place)
{
    if (place == NONE || m->symbols[place].after == NONE)
        return;
    uint64_t pair = pair_of(m->symbols[place].id, m->symbols[m->symbols[place].after].id);
    const merge *slot = find_slot(m->bpe, pair);
    if (slot->rank != UINT32_MAX)
        push(m, (candidate){slot->rank, place, pair, slot->merged});
}

static void apply(merger *m, const candidate *c)
{
    symbol *left = &m->symbols[c->place];
    if (left->id < 0 || left->after == NONE ||
        pair_of(left->id, m->symbols[left->after].id) != c->pair)
        return;
    symbol *right = &m->symbols[left->after];
    left->id = c->merged;
    left->after = right->after;
    right->id = -1;
    if (left->after != NONE)
        m->symbols[left->after].before = c->place;
    consider(m, left->before);
    consider(m, c->place);
}

npo_err npo_bpe_encode(const npo_bpe *bpe, const char *word, size_t len, int32_t *ret_ids,
                       size_t *ret_count)
{
    *ret_count = 0;
    if (len == 0)
        return NPO_OK;
    merger m = {.bpe = bpe};
    m.symbols = malloc(len * sizeof *m.symbols);
    m.heap = malloc(3 * len * sizeof *m.heap);
    npo_err err = m.symbols && m.heap ? NPO_OK : NPO_E_NOMEM;
    if (err)
        goto out;
    for (size_t i = 0; i < len; i++) {
        const int32_t *ids = i + 1 < len ? bpe->bytes : bpe->last_bytes;
        m.symbols[i] = (symbol){ids[(uint8_t)word[i]], i ? (uint32_t)i - 1 : NONE,
                                i + 1 < len ? (uint32_t)i + 1 : NONE};
    }
    for (size_t i = 0; i < len; i++)
        consider(&m, (uint32_t)i);
    while (m.heap_count) {
        candidate c = pop(&m);
        apply(&m, &c);
    }
    for (uint32_t i = 0; i != NONE; i = m.symbols[i].after)
        ret_ids[(*ret_count)++] = m.symbols[i].id;
out:
    free(m.symbols);
    free(m.heap);
    return err;
}
