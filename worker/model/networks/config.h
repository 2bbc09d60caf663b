/* Reading the config.json that other programs write beside a network's weights. An option that
 * changes the computation and has a value not computed here is refused with a sentence that names
 * key, found and expected; one without effect is accepted. */
#ifndef NPO_WORKER_MODEL_NETWORKS_CONFIG_H
#define NPO_WORKER_MODEL_NETWORKS_CONFIG_H

#include "common/json.h"

/* Lives for one call of a config's read function. */
typedef struct {
    const cJSON *json;
    npo_error *error;
} npo_config_reader;

/* An option with one supported value; a missing option is fine, its default is that value. */
typedef struct {
    const char *key, *value; /* value as JSON text */
} npo_config_fixed;

/* What may stand in a config of one class. Lists end with NULL. Keys that begin with '_' and
 * unknown ones that are null or false are accepted too: options of later versions, switched off. */
typedef struct {
    const char *class_name;
    const npo_config_fixed *fixed; /* ends with a NULL key */
    const char *const *without_effect;
    const char *const *read; /* keys that the class's read function looks at */
} npo_config_keys;

/* "key: found <item>, expected <expected>"; returns code. */
npo_err npo_config_refuse(const npo_config_reader *reader, npo_err code, const char *key,
                          const cJSON *item, const char *expected);
/* Errors: NPO_E_TYPE where the config is no object, NPO_E_UNSUPPORTED. */
npo_err npo_config_check_keys(const npo_config_reader *reader,
                              const npo_config_keys *keys) NPO_MUST_CHECK;
/* NULL for a missing key and for null. */
const cJSON *npo_config_get(const npo_config_reader *reader, const char *key);
/* item, which may be NULL, as a whole number within [min, max]; key stands in the sentence. */
npo_err npo_config_to_int(const npo_config_reader *reader, const char *key, const cJSON *item,
                          int64_t min, int64_t max, int64_t *ret_value) NPO_MUST_CHECK;

/* The value of a key, or fallback for a missing key and for null. */
npo_err npo_config_int(const npo_config_reader *reader, const char *key, int64_t fallback,
                       int64_t min, int64_t max, int64_t *ret_value) NPO_MUST_CHECK;
npo_err npo_config_float(const npo_config_reader *reader, const char *key, double fallback,
                         double min, float *ret_value) NPO_MUST_CHECK; /* at most 1e6 */
npo_err npo_config_bool(const npo_config_reader *reader, const char *key, bool fallback,
                        bool *ret_value) NPO_MUST_CHECK;
/* A list of 1 to count_max whole numbers within [1, value_max]; the fallback's for a missing key.
 */
npo_err npo_config_list(const npo_config_reader *reader, const char *key, const int64_t *fallback,
                        int fallback_count, int count_max, int64_t value_max, int64_t *ret_values,
                        int *ret_count) NPO_MUST_CHECK;

/* Parses a config file of at most 1 MiB; ret_name: how sentences name it ("'a/config.json'"). */
enum { NPO_CONFIG_NAME_MAX = 320 };
npo_err npo_config_open(const char *path, cJSON **ret_json, char ret_name[NPO_CONFIG_NAME_MAX],
                        npo_error *error) NPO_MUST_CHECK;

#endif
