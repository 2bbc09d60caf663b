#include "worker/model/files/complaints.h"

#include <stdio.h>
#include <string.h>

enum { COMPLAINTS_BYTES = NPO_ERROR_TEXT_MAX - 160, COMPLAINT_BYTES = 512, SHAPE_BYTES = 96 };

void npo_complain(npo_complaints *all, npo_err code, const char *format, ...)
{
    char text[COMPLAINT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!all->code)
        all->code = code;
    if (all->text.len && all->text.len + strlen(text) > COMPLAINTS_BYTES)
        all->left_out++;
    else
        npo_buf_printf(&all->text, "%s%s", all->text.len ? "; " : "", text);
}

static const char *format_shape(int ndim, const int64_t *dims, char *text)
{
    size_t at = (size_t)snprintf(text, SHAPE_BYTES, "[");
    for (int i = 0; i < ndim && at < SHAPE_BYTES; i++)
        at += (size_t)snprintf(text + at, SHAPE_BYTES - at, "%s%lld", i ? "," : "",
                               (long long)dims[i]);
    if (at < SHAPE_BYTES)
        snprintf(text + at, SHAPE_BYTES - at, "]");
    return text;
}

void npo_complain_shape(npo_complaints *all, const char *name, int ndim, const int64_t *dims,
                        int expected_ndim, const int64_t *expected)
{
    char found[SHAPE_BYTES], wanted[SHAPE_BYTES];
    npo_complain(all, NPO_E_SHAPE, "'%.200s': shape %s, expected %s", name,
                 format_shape(ndim, dims, found), format_shape(expected_ndim, expected, wanted));
}

void npo_complain_tensor(npo_complaints *all, const char *name, const npo_tensor *tensor,
                         bool right_shape, int expected_ndim, const int64_t *expected)
{
    if (!tensor)
        npo_complain(all, NPO_E_NOT_FOUND, "'%s': missing", name);
    else if (!right_shape)
        npo_complain_shape(all, name, tensor->ndim, tensor->dims, expected_ndim, expected);
    else if (!npo_tensor_is_float(tensor))
        npo_complain(all, NPO_E_TYPE, "'%s': dtype %s, expected F32, F16 or BF16", name,
                     npo_tensor_dtype_name(tensor->dtype));
}

npo_err npo_complaints_finish(npo_complaints *all, const char *path, npo_error *error)
{
    if (all->left_out)
        npo_buf_printf(&all->text, "; and %zu more", all->left_out);
    npo_err err = npo_buf_err(&all->text);
    if (err)
        npo_error_set(error, err, "cannot load '%s': %s", path, npo_err_text(err));
    else if (all->code)
        err = npo_error_set(error, all->code, "cannot load %s in '%s'", all->text.data, path);
    npo_buf_fini(&all->text);
    return err;
}
