#include "server/state.h"

#include <stdlib.h>
#include <string.h>

void npo_server_reply_fini(npo_server_reply *reply)
{
    npo_buf_fini(&reply->json);
    npo_buf_fini(&reply->payload);
}

void npo_server_reply_clear(npo_server_reply *reply)
{
    npo_buf_clear(&reply->json);
    npo_buf_clear(&reply->payload);
    reply->later = reply->drop = false;
}

void npo_json_add_int(npo_buf *buf, int64_t value)
{
    char text[24], *at = text + sizeof text;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (value < 0)
        *--at = '-';
    npo_buf_add(buf, at, (size_t)(text + sizeof text - at));
}

void npo_json_add_field(npo_buf *buf, const char *text, int64_t value)
{
    npo_buf_str(buf, text);
    npo_json_add_int(buf, value);
}

static void add_escaped(npo_buf *buf, unsigned char c)
{
    switch (c) {
    case '"':
        npo_buf_str(buf, "\\\"");
        return;
    case '\\':
        npo_buf_str(buf, "\\\\");
        return;
    case '\n':
        npo_buf_str(buf, "\\n");
        return;
    default:
        npo_buf_printf(buf, "\\u%04x", c);
    }
}

void npo_json_add_text(npo_buf *buf, const char *text)
{
    if (!text) {
        npo_buf_str(buf, "null");
        return;
    }
    npo_buf_add(buf, "\"", 1);
    const char *from = text;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        npo_buf_add(buf, from, (size_t)(text - from));
        add_escaped(buf, c);
        from = text + 1;
    }
    npo_buf_add(buf, from, (size_t)(text - from));
    npo_buf_add(buf, "\"", 1);
}

npo_err npo_reply_tree(npo_request *request, cJSON *tree_take)
{
    char *text = cJSON_PrintUnformatted(tree_take);
    cJSON_Delete(tree_take);
    if (!text)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot write the reply");
    npo_buf_str(&request->reply->json, text);
    free(text);
    return npo_buf_err(&request->reply->json);
}

npo_err npo_reply_ok(npo_request *request)
{
    npo_buf_str(&request->reply->json, "{\"ok\":true}");
    return npo_buf_err(&request->reply->json);
}

npo_err npo_request_read(npo_request *request, const npo_json_field *fields, size_t count,
                         void *ret_struct)
{
    return npo_json_read(request->json, "", fields, count, true, ret_struct, &request->error);
}

npo_err npo_request_hash(npo_request *request, const char *text, npo_hash *ret_hash)
{
    if (npo_hash_parse(text, ret_hash) == NPO_OK)
        return NPO_OK;
    return npo_error_set(&request->error, NPO_E_FORMAT,
                         "hash: found '%.40s', expected 32 hex digits", text);
}

npo_err npo_request_name(npo_request *request, const char *key, const char *name)
{
    for (const char *at = name; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return npo_error_set(&request->error, NPO_E_USAGE, "%s: found a control character",
                                 key);
    if (!*name)
        return npo_error_set(&request->error, NPO_E_USAGE, "%s: found \"\", expected a name", key);
    return NPO_OK;
}
