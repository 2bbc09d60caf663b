#include "worker/supervisor/io/child.h"

#include "common/buf.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIPE_OUT, PIPE_ERR, PIPE_WIRE, PIPE_COUNT };

typedef struct {
    uv_pipe_t pipe;
    npo_child *child;
    npo_buf line;
    bool skipping; /* the rest of a line that was too long */
} reader;

struct npo_child {
    uv_process_t process;
    reader readers[PIPE_COUNT];
    npo_child_handler handler;
    int open;    /* handles that are not yet closed */
    bool exited; /* the process has */
    char how[96];
};

/* ---- end ---- */

static void on_closed(uv_handle_t *handle)
{
    npo_child *child = handle->data;
    if (--child->open > 0)
        return;
    npo_child_handler handler = child->handler;
    char how[sizeof child->how];
    memcpy(how, child->how, sizeof how);
    for (int i = 0; i < PIPE_COUNT; i++)
        npo_buf_fini(&child->readers[i].line);
    free(child);
    handler.exited(handler.self, how);
}

static void on_exit_process(uv_process_t *process, int64_t status, int signum)
{
    npo_child *child = process->data;
    child->exited = true;
    if (signum)
        snprintf(child->how, sizeof child->how, "the executor was killed by signal %d (%s)", signum,
                 strsignal(signum));
    else
        snprintf(child->how, sizeof child->how, "the executor ended with status %d", (int)status);
    uv_close((uv_handle_t *)process, on_closed);
}

/* ---- lines ---- */

static void deliver(reader *from, npo_child *child)
{
    bool is_wire = from == &child->readers[PIPE_WIRE];
    cJSON *message = NULL;
    if (!is_wire)
        child->handler.text(child->handler.self, from->line.data ? from->line.data : "");
    else if (npo_json_parse(from->line.data, from->line.len, "the executor's message", &message,
                            NULL) == NPO_OK)
        child->handler.message(child->handler.self, message);
    cJSON_Delete(message);
    npo_buf_clear(&from->line);
}

/* Text lines are cut at their limit; a wire line that long is none of ours and is left out. */
static void add_part(reader *from, const char *part, size_t len)
{
    size_t max = from == &from->child->readers[PIPE_WIRE] ? (size_t)NPO_CHILD_LINE_MAX
                                                          : (size_t)NPO_CHILD_TEXT_MAX;
    size_t room = max - from->line.len;
    if (len > room) {
        from->skipping = true;
        len = room;
    }
    npo_buf_add(&from->line, part, len);
}

static void take(reader *from, const char *data, size_t len)
{
    while (len > 0) {
        const char *newline = memchr(data, '\n', len);
        size_t part = newline ? (size_t)(newline - data) : len;
        if (!from->skipping)
            add_part(from, data, part);
        if (!newline)
            return;
        deliver(from, from->child);
        from->skipping = false;
        data += part + 1;
        len -= part + 1;
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    ret_buf->base = malloc(suggested);
    ret_buf->len = ret_buf->base ? suggested : 0;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    npo_child *child = stream->data;
    for (int i = 0; n > 0 && i < PIPE_COUNT; i++)
        if ((uv_stream_t *)&child->readers[i].pipe == stream)
            take(&child->readers[i], buf->base, (size_t)n);
    free(buf->base);
    if (n < 0)
        uv_close((uv_handle_t *)stream, on_closed);
}

/* ---- start ---- */

static void init_pipes(uv_loop_t *loop, npo_child *child, uv_stdio_container_t stdio[4])
{
    stdio[0].flags = UV_IGNORE;
    for (int i = 0; i < PIPE_COUNT; i++) {
        reader *from = &child->readers[i];
        uv_pipe_init(loop, &from->pipe, 0);
        from->pipe.data = child;
        from->child = child;
        npo_buf_init(&from->line, NPO_CHILD_LINE_MAX);
        stdio[i + 1].flags = (uv_stdio_flags)(UV_CREATE_PIPE | UV_WRITABLE_PIPE |
                                              (i == PIPE_WIRE ? UV_READABLE_PIPE : 0));
        stdio[i + 1].data.stream = (uv_stream_t *)&from->pipe;
    }
}

npo_err npo_child_start(uv_loop_t *loop, const char *file, char **argv,
                        const npo_child_handler *handler, npo_child **ret_child, npo_error *error)
{
    npo_child *child = calloc(1, sizeof *child);
    if (!child)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start the executor: out of memory");
    uv_stdio_container_t stdio[PIPE_COUNT + 1];
    uv_process_options_t options = {.file = file,
                                    .args = argv,
                                    .exit_cb = on_exit_process,
                                    .stdio = stdio,
                                    .stdio_count = PIPE_COUNT + 1};
    child->handler = *handler;
    child->open = PIPE_COUNT + 1;
    child->process.data = child;
    init_pipes(loop, child, stdio);
    int rc = uv_spawn(loop, &child->process, &options);
    *ret_child = child;
    if (rc == 0) {
        for (int i = 0; i < PIPE_COUNT; i++)
            uv_read_start((uv_stream_t *)&child->readers[i].pipe, on_alloc, on_read);
        return NPO_OK;
    }
    /* Ends as a process that exited at once: one way for the caller. */
    snprintf(child->how, sizeof child->how, "the executor did not start: %s", uv_strerror(rc));
    child->exited = true;
    for (int i = 0; i < PIPE_COUNT; i++)
        uv_close((uv_handle_t *)&child->readers[i].pipe, on_closed);
    uv_close((uv_handle_t *)&child->process, on_closed);
    return NPO_OK;
}

typedef struct {
    uv_write_t write;
    char *text;
} sending;

static void on_written(uv_write_t *write, int status)
{
    sending *line = (sending *)write;
    cJSON_free(line->text);
    free(line);
}

void npo_child_send(npo_child *child, const cJSON *message)
{
    uv_stream_t *wire = (uv_stream_t *)&child->readers[PIPE_WIRE].pipe;
    sending *line = calloc(1, sizeof *line);
    if (line)
        line->text = cJSON_PrintUnformatted(message);
    if (!line || !line->text || uv_is_closing((uv_handle_t *)wire)) {
        if (line)
            cJSON_free(line->text);
        free(line);
        return;
    }
    size_t len = strlen(line->text);
    line->text[len] = '\n'; /* in place of the NUL */
    uv_buf_t buf = uv_buf_init(line->text, (unsigned)len + 1);
    if (uv_write(&line->write, wire, &buf, 1, on_written) < 0)
        on_written(&line->write, -1);
}

void npo_child_signal(npo_child *child, int signum)
{
    if (!child->exited)
        uv_process_kill(&child->process, signum);
}
