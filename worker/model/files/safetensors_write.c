#include "worker/model/files/safetensors.h"

#include "common/buf.h"
#include "common/file.h"
#include "worker/model/files/half.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16384 }; /* elements converted at a time */

static size_t count_of(const npo_tensor_source *source)
{
    size_t count = 1;
    for (int i = 0; i < source->ndim; i++)
        count *= (size_t)source->dims[i];
    return count;
}

uint64_t npo_tensor_source_bytes(const npo_tensor_source *source)
{
    return (uint64_t)count_of(source) * npo_tensor_dtype_bytes(source->dtype);
}

/* The reference writer's order, by which big elements stay aligned. */
static int compare_sources(const void *a, const void *b)
{
    const npo_tensor_source *x = *(const npo_tensor_source *const *)a;
    const npo_tensor_source *y = *(const npo_tensor_source *const *)b;
    if (x->dtype != y->dtype)
        return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_source_names(const void *a, const void *b)
{
    return strcmp((*(const npo_tensor_source *const *)a)->name,
                  (*(const npo_tensor_source *const *)b)->name);
}

/* ---- header ---- */

static void add_string(npo_buf *buf, const char *text)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    npo_buf_str(buf, "\"");
    for (; *text; text++) {
        const char *escape = strchr(from, *text);
        if (escape)
            npo_buf_printf(buf, "\\%c", to[escape - from]);
        else if ((uint8_t)*text < 0x20)
            npo_buf_printf(buf, "\\u%04x", (unsigned)*text);
        else
            npo_buf_add(buf, text, 1);
    }
    npo_buf_str(buf, "\"");
}

static void add_metadata(npo_buf *buf, const npo_tensor_metadata *metadata, size_t count)
{
    npo_buf_str(buf, "\"__metadata__\":{");
    for (size_t i = 0; i < count; i++) {
        npo_buf_str(buf, i ? "," : "");
        add_string(buf, metadata[i].key);
        npo_buf_str(buf, ":");
        add_string(buf, metadata[i].value);
    }
    npo_buf_str(buf, "}");
}

static void add_tensor(npo_buf *buf, const npo_tensor_source *source, uint64_t *offset)
{
    uint64_t end = *offset + count_of(source) * npo_tensor_dtype_bytes(source->dtype);
    add_string(buf, source->name);
    npo_buf_printf(buf, ":{\"dtype\":\"%s\",\"shape\":[", npo_tensor_dtype_name(source->dtype));
    for (int i = 0; i < source->ndim; i++)
        npo_buf_printf(buf, "%s%lld", i ? "," : "", (long long)source->dims[i]);
    npo_buf_printf(buf, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*offset,
                   (unsigned long long)end);
    *offset = end;
}

static npo_err build_header(const npo_tensor_source *const *sorted, size_t count,
                            const npo_tensor_metadata *metadata, size_t metadata_count,
                            npo_buf *ret_header)
{
    uint64_t offset = 0;
    npo_buf_str(ret_header, "{");
    if (metadata_count)
        add_metadata(ret_header, metadata, metadata_count);
    for (size_t i = 0; i < count; i++) {
        npo_buf_str(ret_header, i || metadata_count ? "," : "");
        add_tensor(ret_header, sorted[i], &offset);
    }
    npo_buf_str(ret_header, "}");
    while (!ret_header->err && ret_header->len % 8)
        npo_buf_str(ret_header, " ");
    return npo_buf_err(ret_header);
}

/* ---- data ---- */

static npo_err to_f16(const npo_tensor_source *source, const float *from, size_t n, uint16_t *to,
                      npo_error *error)
{
    for (size_t i = 0; i < n; i++) {
        to[i] = npo_f32_to_f16(from[i]);
        if ((to[i] & 0x7FFF) == 0x7C00 && isfinite(from[i]))
            return npo_error_set(error, NPO_E_RANGE,
                                 "tensor '%s' holds %g, expected at most 65504 for F16",
                                 source->name, (double)from[i]);
    }
    return NPO_OK;
}

/* Elements [first, first + n), n <= BLOCK: in memory already, or made in block. */
static npo_err values_of(const npo_tensor_source *source, size_t first, size_t n, float *block,
                         const float **ret_values, npo_error *error)
{
    *ret_values = source->data ? (const float *)source->data + first : block;
    return source->data ? NPO_OK : source->fill(source->user, first, n, block, error);
}

static npo_err write_values(npo_file_writer *writer, const npo_tensor_source *source,
                            npo_error *error)
{
    float block[BLOCK];
    uint16_t halves[BLOCK];
    const float *values;
    size_t count = count_of(source);
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at < BLOCK ? count - at : BLOCK;
        NPO_TRY(values_of(source, at, n, block, &values, error));
        if (source->dtype == NPO_TENSOR_F32) {
            NPO_TRY(npo_file_writer_add(writer, values, n * sizeof *values, error));
            continue;
        }
        if (source->dtype == NPO_TENSOR_F16)
            NPO_TRY(to_f16(source, values, n, halves, error));
        else
            for (size_t i = 0; i < n; i++)
                halves[i] = npo_f32_to_bf16(values[i]);
        NPO_TRY(npo_file_writer_add(writer, halves, n * sizeof *halves, error));
    }
    return NPO_OK;
}

static bool is_float(npo_tensor_dtype dtype)
{
    return dtype == NPO_TENSOR_F32 || dtype == NPO_TENSOR_F16 || dtype == NPO_TENSOR_BF16;
}

static npo_err write_data(npo_file_writer *writer, const npo_tensor_source *source,
                          npo_error *error)
{
    size_t bytes = count_of(source) * npo_tensor_dtype_bytes(source->dtype);
    if (!bytes)
        return NPO_OK;
    if (!source->data && source->from) {
        assert(source->from->dtype == source->dtype && source->from->bytes == bytes);
        NPO_TRY(npo_file_writer_add(writer, source->from->data, bytes, error));
        npo_tensor_release(source->from);
        return NPO_OK;
    }
    return is_float(source->dtype) ? write_values(writer, source, error)
                                   : npo_file_writer_add(writer, source->data, bytes, error);
}

/* ---- the file ---- */

static npo_err sort_sources(const npo_tensor_source *tensors, size_t count,
                            const npo_tensor_source ***ret_sorted, npo_error *error)
{
    const npo_tensor_source **sorted = calloc(count ? count : 1, sizeof *sorted);
    if (!sorted)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        sorted[i] = &tensors[i];
    qsort(sorted, count, sizeof *sorted, compare_source_names);
    for (size_t i = 1; i < count; i++)
        if (compare_source_names(&sorted[i - 1], &sorted[i]) == 0) {
            npo_err err =
                npo_error_set(error, NPO_E_EXISTS, "tensor '%s' stands twice", sorted[i]->name);
            free(sorted);
            return err;
        }
    qsort(sorted, count, sizeof *sorted, compare_sources);
    *ret_sorted = sorted;
    return NPO_OK;
}

static npo_err write_file(npo_file_writer *writer, const npo_tensor_source *const *sorted,
                          size_t count, const npo_buf *header, npo_error *error)
{
    uint8_t prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++)
        prefix[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
    NPO_TRY(npo_file_writer_add(writer, prefix, sizeof prefix, error));
    NPO_TRY(npo_file_writer_add(writer, header->data, header->len, error));
    for (size_t i = 0; i < count; i++)
        NPO_TRY(write_data(writer, sorted[i], error));
    return NPO_OK;
}

npo_err npo_safetensors_write(const char *path, const npo_tensor_source *tensors, size_t count,
                              const npo_tensor_metadata *metadata, size_t metadata_count,
                              npo_error *error)
{
    npo_buf header;
    npo_file_writer *writer = NULL;
    const npo_tensor_source **sorted = NULL;
    npo_buf_init(&header, NPO_SAFETENSORS_HEADER_BYTES_MAX);
    npo_err err = sort_sources(tensors, count, &sorted, error);
    if (err) {
        npo_error_prefix(error, err, "cannot write '%s'", path);
        goto out;
    }
    err = build_header(sorted, count, metadata, metadata_count, &header);
    if (err) {
        npo_error_set(error, err, "cannot write '%s': header: %s", path, npo_err_text(err));
        goto out;
    }
    err = npo_file_writer_new(path, 0666, &writer, error);
    if (err)
        goto out;
    err = write_file(writer, sorted, count, &header, error);
    if (err == NPO_E_RANGE) /* the writer's own sentences name the file */
        npo_error_prefix(error, err, "cannot write '%s'", path);
    if (err)
        goto out;
    err = npo_file_writer_commit(writer, error);
    writer = NULL;
out:
    npo_file_writer_abort(writer);
    npo_buf_fini(&header);
    free(sorted);
    return err;
}
