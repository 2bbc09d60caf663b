#include "worker/model/text/unicode.h"

#include "worker/model/text/unicode_data.h"

#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

/* All range-like rows begin with first, last. Returns the row that holds cp, or NULL. */
static const void *find_range(const void *rows, size_t count, size_t row_bytes, uint32_t cp)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const npo_unicode_range *row =
            (const npo_unicode_range *)((const char *)rows + middle * row_bytes);
        if (cp < row->first)
            high = middle;
        else if (cp > row->last)
            low = middle + 1;
        else
            return row;
    }
    return NULL;
}

static bool is_in(const npo_unicode_range *rows, size_t count, uint32_t cp)
{
    return find_range(rows, count, sizeof *rows, cp) != NULL;
}

bool npo_unicode_is_letter(uint32_t cp)
{
    return is_in(npo_unicode_letters, npo_unicode_letters_count, cp);
}

bool npo_unicode_is_number(uint32_t cp)
{
    return is_in(npo_unicode_numbers, npo_unicode_numbers_count, cp);
}

bool npo_unicode_is_space(uint32_t cp)
{
    return is_in(npo_unicode_spaces, npo_unicode_spaces_count, cp);
}

size_t npo_unicode_lower(uint32_t cp, uint32_t ret_lower[2])
{
    if (cp == 0x130) { /* the only one that becomes two: i, combining dot above */
        ret_lower[0] = 'i';
        ret_lower[1] = 0x307;
        return 2;
    }
    const npo_unicode_lower_run *run = find_range(
        npo_unicode_lower_runs, npo_unicode_lower_runs_count, sizeof *npo_unicode_lower_runs, cp);
    bool moves = run && (cp - run->first) % run->stride == 0;
    ret_lower[0] = moves ? (uint32_t)((int32_t)cp + run->delta) : cp;
    return 1;
}

static uint32_t combining_class(uint32_t cp)
{
    const npo_unicode_class_run *run = find_range(
        npo_unicode_class_runs, npo_unicode_class_runs_count, sizeof *npo_unicode_class_runs, cp);
    return run ? run->combining_class : 0;
}

/* ---- code points ---- */

npo_err npo_codepoints_add(npo_codepoints *list, uint32_t cp)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        uint32_t *more = reallocarray(list->at, cap, sizeof *more);
        if (!more)
            return NPO_E_NOMEM;
        list->at = more;
        list->cap = cap;
    }
    list->at[list->count++] = cp;
    return NPO_OK;
}

void npo_codepoints_fini(npo_codepoints *list)
{
    free(list->at);
    *list = (npo_codepoints){0};
}

/* ---- normalisation form C (Unicode, chapter 3.11 and 3.12) ---- */

enum {
    HANGUL_S = 0xAC00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11A7,
    HANGUL_LS = 19,
    HANGUL_VS = 21,
    HANGUL_TS = 28,
    HANGUL_SS = HANGUL_LS * HANGUL_VS * HANGUL_TS,
};

static int compare_decomposition(const void *key, const void *row)
{
    uint32_t a = *(const uint32_t *)key, b = ((const npo_unicode_decomposition *)row)->cp;
    return a < b ? -1 : a > b;
}

static npo_err decompose(uint32_t cp, npo_codepoints *to)
{
    uint32_t s = cp - HANGUL_S;
    if (s < HANGUL_SS) {
        NPO_TRY(npo_codepoints_add(to, HANGUL_L + s / (HANGUL_VS * HANGUL_TS)));
        NPO_TRY(npo_codepoints_add(to, HANGUL_V + s / HANGUL_TS % HANGUL_VS));
        return s % HANGUL_TS ? npo_codepoints_add(to, HANGUL_T + s % HANGUL_TS) : NPO_OK;
    }
    const npo_unicode_decomposition *row =
        bsearch(&cp, npo_unicode_decompositions, npo_unicode_decompositions_count, sizeof *row,
                compare_decomposition);
    if (!row)
        return npo_codepoints_add(to, cp);
    NPO_TRY(decompose(row->first, to)); /* at most four levels deep in the data */
    return row->second ? decompose(row->second, to) : NPO_OK;
}

typedef struct {
    uint32_t cp, combining_class;
    size_t place;
} mark;

static int compare_marks(const void *a, const void *b)
{
    const mark *x = a, *y = b;
    if (x->combining_class != y->combining_class)
        return x->combining_class < y->combining_class ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

/* Stable sort of each run of marks by combining class. */
static npo_err reorder(npo_codepoints *text)
{
    mark *marks = malloc((text->count ? text->count : 1) * sizeof *marks);
    if (!marks)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < text->count;) {
        size_t n = 0;
        uint32_t class;
        for (; i + n < text->count && (class = combining_class(text->at[i + n])); n++)
            marks[n] = (mark){text->at[i + n], class, n};
        if (n > 1)
            qsort(marks, n, sizeof *marks, compare_marks);
        for (size_t k = 0; k < n; k++)
            text->at[i + k] = marks[k].cp;
        i += n + 1;
    }
    free(marks);
    return NPO_OK;
}

static int compare_composition(const void *key, const void *index)
{
    const uint32_t *pair = key;
    const npo_unicode_decomposition *row = &npo_unicode_decompositions[*(const uint16_t *)index];
    if (pair[0] != row->first)
        return pair[0] < row->first ? -1 : 1;
    return pair[1] < row->second ? -1 : pair[1] > row->second;
}

/* The primary composite of a, b, or 0. */
static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (a - HANGUL_L < HANGUL_LS && b - HANGUL_V < HANGUL_VS)
        return HANGUL_S + ((a - HANGUL_L) * HANGUL_VS + (b - HANGUL_V)) * HANGUL_TS;
    if (a - HANGUL_S < HANGUL_SS && (a - HANGUL_S) % HANGUL_TS == 0 && b - HANGUL_T < HANGUL_TS &&
        b != HANGUL_T)
        return a + (b - HANGUL_T);
    uint32_t pair[2] = {a, b};
    const uint16_t *index = bsearch(pair, npo_unicode_compositions, npo_unicode_compositions_count,
                                    sizeof *npo_unicode_compositions, compare_composition);
    return index ? npo_unicode_decompositions[*index].cp : 0;
}

static void compose(npo_codepoints *text)
{
    size_t starter = SIZE_MAX, out = 0;
    uint32_t last_class = 0; /* of the character before, since the starter */
    for (size_t i = 0; i < text->count; i++) {
        uint32_t cp = text->at[i], class = combining_class(cp);
        /* Blocked when a mark of the same or a higher class, or a starter, stands between. */
        bool adjacent = starter != SIZE_MAX && out == starter + 1;
        bool reaches = starter != SIZE_MAX && (adjacent || (last_class && last_class < class));
        uint32_t composite = reaches ? compose_pair(text->at[starter], cp) : 0;
        if (composite) {
            text->at[starter] = composite;
            continue;
        }
        if (!class)
            starter = out;
        last_class = class;
        text->at[out++] = cp;
    }
    text->count = out;
}

npo_err npo_unicode_nfc(npo_codepoints *text)
{
    size_t i = 0;
    while (i < text->count && text->at[i] < 0x300) /* nothing below changes or reorders */
        i++;
    if (i == text->count)
        return NPO_OK;
    npo_codepoints split = {0};
    npo_err err = NPO_OK;
    for (i = 0; !err && i < text->count; i++)
        err = decompose(text->at[i], &split);
    if (!err)
        err = reorder(&split);
    if (err) {
        npo_codepoints_fini(&split);
        return err;
    }
    compose(&split);
    npo_codepoints_fini(text);
    *text = split;
    return NPO_OK;
}
