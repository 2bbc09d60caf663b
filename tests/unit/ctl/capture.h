/* What a function prints on stdout and stderr, for tests. */
#ifndef NPO_TESTS_CTL_CAPTURE_H
#define NPO_TESTS_CTL_CAPTURE_H

#include "common/buf.h"

typedef struct {
    int saved[2], files[2];
} npo_capture;

void npo_capture_start(npo_capture *capture);
/* Gives stdout and stderr back; both texts are appended (NULL: not wanted). */
void npo_capture_stop(npo_capture *capture, npo_buf *ret_out, npo_buf *ret_err);

#endif
