/* report.html: the evaluation as one page that needs nothing else: style, charts and pictures
 * inside. Light and dark as the reader's system asks. */
#ifndef NPO_WORKER_EVAL_PAGE_PAGE_H
#define NPO_WORKER_EVAL_PAGE_PAGE_H

#include "common/buf.h"
#include "worker/eval/results.h"

typedef struct {
    const char *title; /* plain text */
    const void *png;   /* bytes of a PNG file */
    size_t png_bytes;
} npo_page_picture;

/* Appends the page. Failure is that of ret_buf. */
void npo_page_write(const npo_results *results, const npo_page_picture *pictures,
                    size_t picture_count, npo_buf *ret_buf);

#endif
