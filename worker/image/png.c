#include "worker/image/png.h"
#include "common/file.h"
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPRESSION_LEVEL = 6 };

/* libpng leaves through longjmp: what must survive it lives in this struct, not in registers. */
typedef struct {
    const char *name;
    char message[200];
    npo_buf *out; /* encoding */
    const uint8_t *data;
    size_t len, used; /* decoding */
    npo_image image;
    png_bytep *rows;
} png_job;

static void job_error(png_structp png, png_const_charp message)
{
    png_job *job = png_get_error_ptr(png);
    snprintf(job->message, sizeof job->message, "%s", message);
    png_longjmp(png, 1);
}

static void job_warning(png_structp png, png_const_charp message)
{
}

static void write_bytes(png_structp png, png_bytep data, size_t len)
{
    png_job *job = png_get_io_ptr(png);
    npo_buf_add(job->out, data, len);
    if (npo_buf_err(job->out) != NPO_OK)
        png_error(png, "no memory for the file");
}

static void flush_nothing(png_structp png)
{
}

static void read_bytes(png_structp png, png_bytep data, size_t len)
{
    png_job *job = png_get_io_ptr(png);
    if (len > job->len - job->used)
        png_error(png, "the file ends early");
    memcpy(data, job->data + job->used, len);
    job->used += len;
}

static bool is_ascii(const char *text)
{
    while (*text && (unsigned char)*text < 0x80)
        text++;
    return *text == 0;
}

/* tEXt is Latin-1; what is not ASCII goes into iTXt, which is UTF-8. */
static void encode_texts(png_structp png, png_infop info, const npo_png_text *texts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(texts[i].text);
        bool ascii = is_ascii(texts[i].text);
        png_text text = {
            .compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
            .key = (char *)texts[i].key,
            .text = (char *)texts[i].text,
            .text_length = ascii ? len : 0,
            .itxt_length = ascii ? 0 : len,
        };
        png_set_text(png, info, &text, 1);
    }
}

static bool encode(png_structp png, png_infop info, const npo_image *image,
                   const npo_png_text *texts, size_t text_count)
{
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_write_fn(png, png_get_error_ptr(png), write_bytes, flush_nothing);
    png_set_compression_level(png, COMPRESSION_LEVEL);
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 image->channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    encode_texts(png, info, texts, text_count);
    png_write_info(png, info);
    size_t stride = (size_t)image->width * (size_t)image->channels;
    for (int y = 0; y < image->height; y++)
        png_write_row(png, image->pixels + (size_t)y * stride);
    png_write_end(png, info);
    return true;
}

npo_err npo_png_encode(const npo_image *image, const npo_png_text *texts, size_t text_count,
                       npo_buf *ret_buf, npo_error *error)
{
    png_job job = {.out = ret_buf};
    png_infop info = NULL;
    npo_err err = NPO_OK;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &job, job_error, job_warning);
    if (!png || !(info = png_create_info_struct(png))) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot encode a picture: out of memory");
        goto out;
    }
    if (!encode(png, info, image, texts, text_count)) {
        err = npo_buf_err(ret_buf) != NPO_OK ? npo_buf_err(ret_buf) : NPO_E_LIBRARY;
        npo_error_set(error, err, "cannot encode a picture: %s", job.message);
    }
out:
    png_destroy_write_struct(&png, &info);
    return err;
}

npo_err npo_png_write(const char *path, const npo_image *image, const npo_png_text *texts,
                      size_t text_count, npo_error *error)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_err err = npo_png_encode(image, texts, text_count, &buf, error);
    if (err == NPO_OK)
        err = npo_file_write(path, buf.data, buf.len, 0644, error);
    npo_buf_fini(&buf);
    return err;
}

static void ask_for_8_bits(png_structp png, png_infop info)
{
    png_set_palette_to_rgb(png);
    png_set_expand_gray_1_2_4_to_8(png);
    png_set_scale_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

static bool decode(png_structp png, png_infop info, png_job *job)
{
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_user_limits(png, NPO_IMAGE_SIDE_MAX, NPO_IMAGE_SIDE_MAX);
    png_set_read_fn(png, job, read_bytes);
    png_read_info(png, info);
    ask_for_8_bits(png, info);
    int channels = png_get_channels(png, info);
    int width = (int)png_get_image_width(png, info), height = (int)png_get_image_height(png, info);
    if (npo_image_init(&job->image, width, height, channels, 0) != NPO_OK)
        png_error(png, "no memory for the pixels");
    job->rows = calloc((size_t)height, sizeof *job->rows);
    if (!job->rows)
        png_error(png, "no memory for the pixels");
    for (int y = 0; y < height; y++)
        job->rows[y] = job->image.pixels + (size_t)y * (size_t)width * (size_t)channels;
    png_read_image(png, job->rows);
    png_read_end(png, NULL);
    return true;
}

npo_err npo_png_decode(const void *data, size_t len, const char *name, npo_image *ret_image,
                       npo_error *error)
{
    if (len < 8 || png_sig_cmp(data, 0, 8) != 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot read '%s': found no PNG signature, expected a PNG file", name);
    png_job job = {.name = name, .data = data, .len = len};
    png_infop info = NULL;
    npo_err err = NPO_OK;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, job_error, job_warning);
    if (!png || !(info = png_create_info_struct(png))) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", name);
        goto out;
    }
    if (!decode(png, info, &job)) {
        err = npo_error_set(error, NPO_E_FORMAT, "cannot read '%s': %s", name, job.message);
        npo_image_fini(&job.image);
        goto out;
    }
    *ret_image = job.image;
out:
    free(job.rows);
    png_destroy_read_struct(&png, &info, NULL);
    return err;
}

npo_err npo_png_read(const char *path, npo_image *ret_image, npo_error *error)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_err err = npo_file_read(path, NPO_PNG_FILE_BYTES_MAX, &buf, error);
    if (err == NPO_OK)
        err = npo_png_decode(buf.data, buf.len, path, ret_image, error);
    npo_buf_fini(&buf);
    return err;
}
