/* JSON on cJSON: bounded parsing, and objects read by a table of fields, so that every file and
 * message is checked the same way: unknown keys (with the closest known one), wrong types, values
 * out of range, all with the path of the thing: `train.lr: found "fast", expected a number`. */
#ifndef NPO_COMMON_JSON_H
#define NPO_COMMON_JSON_H

#include "common/err.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    NPO_JSON_BOOL,   /* bool */
    NPO_JSON_INT,    /* int64_t, a whole number within [min, max] and |x| <= 2^53 */
    NPO_JSON_NUMBER, /* double, finite, within [min, max] */
    NPO_JSON_STRING, /* const char *, borrowed from the tree; at most max bytes (0: any) */
    NPO_JSON_ENUM,   /* int, index into choices */
    NPO_JSON_OBJECT, /* const cJSON *, borrowed */
    NPO_JSON_ARRAY,  /* const cJSON *, borrowed */
    NPO_JSON_ANY,    /* const cJSON *, borrowed */
} npo_json_type;

/* One row per key. A missing key leaves the member as it is: fill defaults before reading. */
typedef struct {
    const char *key;
    npo_json_type type;
    size_t offset; /* offsetof(struct, member) */
    bool required;
    double min, max;            /* INT, NUMBER; both 0 = unbounded. STRING: max bytes */
    const char *const *choices; /* ENUM: NULL-terminated */
} npo_json_field;

/* Parses text of len bytes; refuses trailing bytes, duplicate keys, and depth over
 * NPO_JSON_DEPTH_MAX. name stands in the sentence ("job file 'a.json'"). Free with cJSON_Delete. */
npo_err npo_json_parse(const char *text, size_t len, const char *name, cJSON **ret_json,
                       npo_error *error) NPO_MUST_CHECK;
/* npo_file_read, then npo_json_parse. */
npo_err npo_json_load(const char *path, size_t limit, cJSON **ret_json,
                      npo_error *error) NPO_MUST_CHECK;
/* Reads object into *ret_struct by the table. path: "" at the top, else "train" etc. Keys beginning
 * with '_' are comments when allow_unknown is false; with allow_unknown others are ignored too
 * (configs of other programs). On failure members read so far are changed. */
npo_err npo_json_read(const cJSON *object, const char *path, const npo_json_field *fields,
                      size_t field_count, bool allow_unknown, void *ret_struct,
                      npo_error *error) NPO_MUST_CHECK;
/* The known key nearest to `key` by edit distance, or NULL when none is near. */
const char *npo_json_closest(const char *key, const char *const *known, size_t count);
/* Sets object.a.b = value for a path "a.b"; value is parsed as JSON, and taken as a string when it
 * is none. Objects on the way are created. */
npo_err npo_json_set_path(cJSON *object, const char *path, const char *value,
                          npo_error *error) NPO_MUST_CHECK;
/* Unformatted text with keys sorted at every level: equal content gives equal bytes. malloc'ed,
 * NULL when out of memory. Sorts the tree in place. */
char *npo_json_canonical(cJSON *json);
/* Convenience over cJSON for replies that were already checked. Defaults where key is missing or of
 * another type, or where npo_json_int would meet a number beyond 2^53. */
int64_t npo_json_int(const cJSON *object, const char *key, int64_t fallback);
double npo_json_number(const cJSON *object, const char *key, double fallback);
const char *npo_json_string(const cJSON *object, const char *key, const char *fallback);
bool npo_json_bool(const cJSON *object, const char *key, bool fallback);

#endif
