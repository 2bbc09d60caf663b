#include "tests/unit/ctl/capture.h"

#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

void npo_capture_start(npo_capture *capture)
{
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        capture->saved[i] = dup(i + 1);
        capture->files[i] = memfd_create("capture", MFD_CLOEXEC);
        assert(capture->saved[i] >= 0 && capture->files[i] >= 0);
        dup2(capture->files[i], i + 1);
    }
}

void npo_capture_stop(npo_capture *capture, npo_buf *ret_out, npo_buf *ret_err)
{
    npo_buf *wanted[] = {ret_out, ret_err};
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        char bytes[4096];
        ssize_t n;
        for (off_t at = 0; (n = pread(capture->files[i], bytes, sizeof bytes, at)) > 0; at += n)
            if (wanted[i])
                npo_buf_add(wanted[i], bytes, (size_t)n);
        dup2(capture->saved[i], i + 1);
        close(capture->saved[i]);
        close(capture->files[i]);
    }
}
