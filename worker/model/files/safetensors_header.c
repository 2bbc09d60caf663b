#include "worker/model/files/safetensors_header.h"

#include "common/utf8.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[NPO_TENSOR_DTYPES] = {
    [NPO_TENSOR_U8] = {"U8", 1},   [NPO_TENSOR_F16] = {"F16", 2}, [NPO_TENSOR_BF16] = {"BF16", 2},
    [NPO_TENSOR_I32] = {"I32", 4}, [NPO_TENSOR_F32] = {"F32", 4}, [NPO_TENSOR_I64] = {"I64", 8},
};

const char *npo_tensor_dtype_name(npo_tensor_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t npo_tensor_dtype_bytes(npo_tensor_dtype dtype)
{
    return dtypes[dtype].bytes;
}

/* ---- scanner ---- */

typedef struct {
    const char *begin, *at, *end;
    char *string; /* where the next decoded string goes; a decoded string is never longer than its
                   * source with quotes, so that the header's length bounds all of them */
    npo_error *error;
} scanner;

static npo_err syntax(scanner *s, const char *expected)
{
    size_t offset = (size_t)(s->at - s->begin);
    if (s->at == s->end)
        return npo_error_set(s->error, NPO_E_FORMAT, "header ends at byte %zu, expected %s", offset,
                             expected);
    return npo_error_set(s->error, NPO_E_FORMAT, "header byte %zu: found '%c', expected %s", offset,
                         *s->at > ' ' && *s->at < 0x7F ? *s->at : '?', expected);
}

static void skip_space(scanner *s)
{
    while (s->at < s->end && *s->at && strchr(" \t\r\n", *s->at))
        s->at++;
}

static bool take(scanner *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static bool scan_hex4(scanner *s, uint32_t *ret_value)
{
    uint32_t value = 0;
    if (s->end - s->at < 4)
        return false;
    for (int i = 0; i < 4; i++, s->at++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = *s->at ? strchr(digits, *s->at | 0x20) : NULL;
        if (!digit || (*s->at < 'A' && *s->at > '9'))
            return false;
        value = value << 4 | (uint32_t)(digit - digits);
    }
    *ret_value = value;
    return true;
}

/* Behind a backslash. */
static bool scan_escape(scanner *s, uint32_t *ret_cp)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at == s->end || !*s->at)
        return false;
    const char *simple = strchr(from, *s->at);
    if (simple) {
        s->at++;
        *ret_cp = (uint8_t)to[simple - from];
        return true;
    }
    uint32_t low;
    if (*s->at++ != 'u' || !scan_hex4(s, ret_cp))
        return false;
    if (*ret_cp < 0xD800 || *ret_cp > 0xDFFF)
        return true;
    if (*ret_cp > 0xDBFF || s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u')
        return false;
    s->at += 2;
    if (!scan_hex4(s, &low) || low < 0xDC00 || low > 0xDFFF)
        return false;
    *ret_cp = 0x10000 + ((*ret_cp - 0xD800) << 10) + (low - 0xDC00);
    return true;
}

/* first_cp: the lowest code point allowed, escaped or not. Names end up in sentences and paths, so
 * they hold no control characters (NAME_CP); metadata may hold all but NUL. */
enum { TEXT_CP = 1, NAME_CP = 0x20 };

static npo_err scan_string(scanner *s, const char *what, uint32_t first_cp, const char **ret_text)
{
    char *text = s->string, *to = text;
    if (!take(s, '"'))
        return syntax(s, what);
    while (s->at < s->end && *s->at != '"') {
        const char *start = s->at;
        uint32_t cp = npo_utf8_decode(&s->at, s->end);
        if (cp == '\\' && !scan_escape(s, &cp))
            cp = NPO_UTF8_INVALID;
        if (cp == NPO_UTF8_INVALID || cp < first_cp) {
            s->at = start;
            return syntax(s, "printable UTF-8 text");
        }
        to += npo_utf8_encode(cp, to);
    }
    if (s->at == s->end)
        return syntax(s, "a closing '\"'");
    s->at++;
    *to++ = '\0';
    s->string = to;
    *ret_text = text;
    return NPO_OK;
}

static npo_err scan_count(scanner *s, uint64_t *ret_value)
{
    uint64_t value = 0;
    skip_space(s);
    const char *first = s->at;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
        if (value > (INT64_MAX - 9) / 10)
            return syntax(s, "a number below 2^63");
        value = value * 10 + (uint64_t)(*s->at - '0');
    }
    if (s->at == first)
        return syntax(s, "a whole number of at least 0");
    *ret_value = value;
    return NPO_OK;
}

/* [a, b, ...] of at most max numbers. */
static npo_err scan_counts(scanner *s, const char *tensor, const char *key, size_t max,
                           uint64_t *ret_values, size_t *ret_count)
{
    size_t count = 0;
    if (!take(s, '['))
        return syntax(s, "'['");
    if (!take(s, ']')) {
        do {
            if (count == max)
                return npo_error_set(s->error, NPO_E_LIMIT,
                                     "tensor '%s': %s has more than %zu numbers", tensor, key, max);
            NPO_TRY(scan_count(s, &ret_values[count++]));
        } while (take(s, ','));
        if (!take(s, ']'))
            return syntax(s, "',' or ']'");
    }
    *ret_count = count;
    return NPO_OK;
}

/* ---- one tensor ---- */

enum { KEY_DTYPE = 1, KEY_SHAPE = 2, KEY_OFFSETS = 4, KEYS_ALL = 7 };

static npo_err scan_dtype(scanner *s, npo_tensor_entry *entry)
{
    const char *name;
    NPO_TRY(scan_string(s, "a dtype", NAME_CP, &name));
    for (int d = 0; d < NPO_TENSOR_DTYPES; d++)
        if (strcmp(name, dtypes[d].name) == 0) {
            entry->tensor.dtype = (npo_tensor_dtype)d;
            return NPO_OK;
        }
    return npo_error_set(s->error, NPO_E_UNSUPPORTED,
                         "tensor '%s': dtype '%.20s', expected F32, F16, BF16, I64, I32 or U8",
                         entry->tensor.name, name);
}

static npo_err scan_offsets(scanner *s, npo_tensor_entry *entry)
{
    uint64_t offsets[2];
    size_t count = 0;
    NPO_TRY(scan_counts(s, entry->tensor.name, "data_offsets", 2, offsets, &count));
    if (count != 2)
        return npo_error_set(s->error, NPO_E_FORMAT,
                             "tensor '%s': data_offsets has %zu numbers, expected 2",
                             entry->tensor.name, count);
    entry->begin = offsets[0];
    entry->end = offsets[1];
    return NPO_OK;
}

static npo_err scan_shape(scanner *s, npo_tensor_entry *entry)
{
    uint64_t dims[NPO_TENSOR_DIMS_MAX];
    size_t count = 0;
    NPO_TRY(scan_counts(s, entry->tensor.name, "shape", NPO_TENSOR_DIMS_MAX, dims, &count));
    entry->tensor.ndim = (int)count;
    for (size_t i = 0; i < count; i++)
        entry->tensor.dims[i] = (int64_t)dims[i];
    return NPO_OK;
}

static npo_err check_entry(npo_tensor_entry *entry, uint64_t data_bytes, npo_error *error)
{
    npo_tensor *t = &entry->tensor;
    size_t size = dtypes[t->dtype].bytes, bytes = size;
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow(bytes, (size_t)t->dims[i], &bytes))
            return npo_error_set(error, NPO_E_FORMAT, "tensor '%s': shape is over 2^64 bytes",
                                 t->name);
    if (entry->begin > entry->end || entry->end - entry->begin != bytes)
        return npo_error_set(error, NPO_E_FORMAT,
                             "tensor '%s': data_offsets [%llu,%llu], expected %zu bytes for %s and "
                             "its shape",
                             t->name, (unsigned long long)entry->begin,
                             (unsigned long long)entry->end, bytes, dtypes[t->dtype].name);
    if (entry->end > data_bytes)
        return npo_error_set(
            error, NPO_E_FORMAT, "tensor '%s' ends at byte %llu, found only %llu bytes of data",
            t->name, (unsigned long long)entry->end, (unsigned long long)data_bytes);
    if (entry->begin % size)
        return npo_error_set(error, NPO_E_FORMAT,
                             "tensor '%s': data begins at byte %llu, expected a multiple of %zu",
                             t->name, (unsigned long long)entry->begin, size);
    t->bytes = bytes;
    t->count = bytes / size;
    return NPO_OK;
}

static npo_err scan_tensor(scanner *s, npo_tensor_entry *entry, uint64_t data_bytes)
{
    static const struct {
        const char *name;
        int bit;
        npo_err (*scan)(scanner *s, npo_tensor_entry *entry);
    } keys[] = {{"dtype", KEY_DTYPE, scan_dtype},
                {"shape", KEY_SHAPE, scan_shape},
                {"data_offsets", KEY_OFFSETS, scan_offsets}};
    int seen = 0;
    if (!take(s, '{'))
        return syntax(s, "'{'");
    do {
        const char *key;
        size_t k = 0, count = sizeof keys / sizeof *keys;
        NPO_TRY(scan_string(s, "dtype, shape or data_offsets", NAME_CP, &key));
        while (k < count && strcmp(key, keys[k].name) != 0)
            k++;
        if (k == count || seen & keys[k].bit)
            return npo_error_set(s->error, NPO_E_FORMAT,
                                 "tensor '%s': %s key '%.40s', expected dtype, shape and "
                                 "data_offsets once each",
                                 entry->tensor.name, k == count ? "unknown" : "second", key);
        seen |= keys[k].bit;
        if (!take(s, ':'))
            return syntax(s, "':'");
        NPO_TRY(keys[k].scan(s, entry));
    } while (take(s, ','));
    if (!take(s, '}'))
        return syntax(s, "',' or '}'");
    if (seen != KEYS_ALL)
        return npo_error_set(s->error, NPO_E_FORMAT,
                             "tensor '%s': expected dtype, shape and data_offsets, one is missing",
                             entry->tensor.name);
    return check_entry(entry, data_bytes, s->error);
}

/* ---- the whole header ---- */

static npo_err grow(void **items, size_t count, size_t item_bytes)
{
    /* Powers of two from 16: room is left unless the count has just reached one. */
    if (count && (count < 16 || count & (count - 1)))
        return NPO_OK;
    void *more = reallocarray(*items, count ? 2 * count : 16, item_bytes);
    if (!more)
        return NPO_E_NOMEM;
    *items = more;
    return NPO_OK;
}

static npo_err scan_metadata(scanner *s, npo_tensor_header *header)
{
    if (header->metadata)
        return npo_error_set(s->error, NPO_E_FORMAT, "'__metadata__' stands twice");
    if (!take(s, '{'))
        return syntax(s, "'{'");
    if (take(s, '}'))
        return NPO_OK;
    do {
        npo_tensor_metadata pair;
        NPO_TRY(scan_string(s, "a metadata key", TEXT_CP, &pair.key));
        if (!take(s, ':'))
            return syntax(s, "':'");
        NPO_TRY(scan_string(s, "a metadata string", TEXT_CP, &pair.value));
        NPO_TRY(grow((void **)&header->metadata, header->metadata_count, sizeof pair));
        header->metadata[header->metadata_count++] = pair;
    } while (take(s, ','));
    return take(s, '}') ? NPO_OK : syntax(s, "',' or '}'");
}

static npo_err scan_entries(scanner *s, uint64_t data_bytes, npo_tensor_header *header)
{
    if (s->at == s->end || *s->at != '{')
        return syntax(s, "'{'");
    s->at++;
    if (take(s, '}'))
        return NPO_OK;
    do {
        npo_tensor_entry entry = {0};
        NPO_TRY(scan_string(s, "a tensor name", NAME_CP, &entry.tensor.name));
        if (!take(s, ':'))
            return syntax(s, "':'");
        if (strcmp(entry.tensor.name, "__metadata__") == 0) {
            NPO_TRY(scan_metadata(s, header));
            continue;
        }
        NPO_TRY(scan_tensor(s, &entry, data_bytes));
        NPO_TRY(grow((void **)&header->entries, header->count, sizeof entry));
        header->entries[header->count++] = entry;
    } while (take(s, ','));
    return take(s, '}') ? NPO_OK : syntax(s, "',' or '}'");
}

static int compare_names(const void *a, const void *b)
{
    const npo_tensor_entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int compare_offsets(const void *a, const void *b)
{
    const npo_tensor_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return compare_names(a, b);
}

static npo_err check_names(npo_tensor_header *header, npo_error *error)
{
    if (header->count)
        qsort(header->entries, header->count, sizeof *header->entries, compare_names);
    for (size_t i = 1; i < header->count; i++)
        if (compare_names(&header->entries[i - 1], &header->entries[i]) == 0)
            return npo_error_set(error, NPO_E_FORMAT, "tensor '%s' stands twice",
                                 header->entries[i].tensor.name);
    return NPO_OK;
}

static npo_err check_coverage(npo_tensor_header *header, uint64_t data_bytes, npo_error *error)
{
    uint64_t covered = 0;
    const char *before = NULL;
    if (header->count)
        qsort(header->entries, header->count, sizeof *header->entries, compare_offsets);
    for (size_t i = 0; i < header->count; i++) {
        const npo_tensor_entry *entry = &header->entries[i];
        if (entry->begin < covered)
            return npo_error_set(error, NPO_E_FORMAT,
                                 "tensor '%s' begins at byte %llu, inside '%s', which ends at %llu",
                                 entry->tensor.name, (unsigned long long)entry->begin, before,
                                 (unsigned long long)covered);
        if (entry->begin > covered)
            return npo_error_set(
                error, NPO_E_FORMAT,
                "tensor '%s' begins at byte %llu, expected %llu: the bytes between "
                "belong to no tensor",
                entry->tensor.name, (unsigned long long)entry->begin, (unsigned long long)covered);
        covered = entry->end;
        before = entry->tensor.name;
    }
    if (covered != data_bytes)
        return npo_error_set(error, NPO_E_FORMAT,
                             "found %llu bytes of data, expected %llu by the header",
                             (unsigned long long)data_bytes, (unsigned long long)covered);
    return NPO_OK;
}

npo_err npo_tensor_header_parse(const char *json, size_t len, uint64_t data_bytes,
                                npo_tensor_header *ret_header, npo_error *error)
{
    npo_tensor_header header = {.strings = malloc(len + 1)};
    scanner s = {
        .begin = json, .at = json, .end = json + len, .string = header.strings, .error = error};
    npo_err err = header.strings ? scan_entries(&s, data_bytes, &header) : NPO_E_NOMEM;
    if (err)
        goto out;
    take(&s, '\0'); /* padding */
    if (s.at != s.end)
        err = syntax(&s, "only spaces behind the object");
    if (!err)
        err = check_names(&header, error);
    if (!err)
        err = check_coverage(&header, data_bytes, error);
out:
    if (err == NPO_E_NOMEM)
        npo_error_set(error, err, "out of memory for the header");
    if (err)
        npo_tensor_header_fini(&header);
    else
        *ret_header = header;
    return err;
}

void npo_tensor_header_fini(npo_tensor_header *header)
{
    free(header->entries);
    free(header->metadata);
    free(header->strings);
    *header = (npo_tensor_header){0};
}
