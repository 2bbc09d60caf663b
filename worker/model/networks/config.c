#include "worker/model/networks/config.h"

#include "worker/model/files/part_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20 };

npo_err npo_config_refuse(const npo_config_reader *reader, npo_err code, const char *key,
                          const cJSON *item, const char *expected)
{
    char *found = item ? cJSON_PrintUnformatted(item) : NULL;
    npo_err err = npo_error_set(reader->error, code, "%s: found %.80s, expected %s", key,
                                found ? found : "nothing", expected);
    free(found);
    return err;
}

/* ---- keys ---- */

static bool is_listed(const char *key, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(key, *list) == 0)
            return true;
    return false;
}

static npo_err check_fixed(const npo_config_reader *reader, const cJSON *item, const char *value)
{
    char *found = cJSON_PrintUnformatted(item);
    if (!found)
        return npo_error_set(reader->error, NPO_E_NOMEM, "out of memory");
    bool same = strcmp(found, value) == 0;
    free(found);
    if (same || (strcmp(item->string, "act_fn") == 0 && cJSON_IsString(item) &&
                 strcmp(item->valuestring, "swish") == 0)) /* silu's other name */
        return NPO_OK;
    char expected[96];
    snprintf(expected, sizeof expected, "%s (other values are not supported)", value);
    return npo_config_refuse(reader, NPO_E_UNSUPPORTED, item->string, item, expected);
}

static npo_err check_key(const npo_config_reader *reader, const npo_config_keys *keys,
                         const cJSON *item)
{
    char expected[96];
    for (const npo_config_fixed *fixed = keys->fixed; fixed->key; fixed++)
        if (strcmp(item->string, fixed->key) == 0)
            return check_fixed(reader, item, fixed->value);
    if (item->string[0] == '_' || cJSON_IsNull(item) || cJSON_IsFalse(item) ||
        is_listed(item->string, keys->without_effect) || is_listed(item->string, keys->read))
        return NPO_OK;
    snprintf(expected, sizeof expected, "an option of %s", keys->class_name);
    return npo_config_refuse(reader, NPO_E_UNSUPPORTED, item->string, item, expected);
}

npo_err npo_config_check_keys(const npo_config_reader *reader, const npo_config_keys *keys)
{
    if (!cJSON_IsObject(reader->json))
        return npo_error_set(reader->error, NPO_E_TYPE, "expected an object");
    for (const cJSON *item = reader->json->child; item; item = item->next)
        NPO_TRY(check_key(reader, keys, item));
    return NPO_OK;
}

/* ---- values ---- */

const cJSON *npo_config_get(const npo_config_reader *reader, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(reader->json, key);
    return cJSON_IsNull(item) ? NULL : item;
}

npo_err npo_config_to_int(const npo_config_reader *reader, const char *key, const cJSON *item,
                          int64_t min, int64_t max, int64_t *ret_value)
{
    char expected[96];
    double value = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (value >= (double)min && value <= (double)max && value == floor(value)) {
        *ret_value = (int64_t)value;
        return NPO_OK;
    }
    snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)min,
             (long long)max);
    return npo_config_refuse(reader, NPO_E_RANGE, key, item, expected);
}

npo_err npo_config_int(const npo_config_reader *reader, const char *key, int64_t fallback,
                       int64_t min, int64_t max, int64_t *ret_value)
{
    const cJSON *item = npo_config_get(reader, key);
    if (item)
        return npo_config_to_int(reader, key, item, min, max, ret_value);
    *ret_value = fallback;
    return NPO_OK;
}

npo_err npo_config_float(const npo_config_reader *reader, const char *key, double fallback,
                         double min, float *ret_value)
{
    const cJSON *item = npo_config_get(reader, key);
    double value = item ? (cJSON_IsNumber(item) ? item->valuedouble : NAN) : fallback;
    if (!(value >= min && value <= 1e6))
        return npo_config_refuse(reader, NPO_E_RANGE, key, item, "a number in range");
    *ret_value = (float)value;
    return NPO_OK;
}

npo_err npo_config_bool(const npo_config_reader *reader, const char *key, bool fallback,
                        bool *ret_value)
{
    const cJSON *item = npo_config_get(reader, key);
    if (item && !cJSON_IsBool(item))
        return npo_config_refuse(reader, NPO_E_TYPE, key, item, "true or false");
    *ret_value = item ? cJSON_IsTrue(item) : fallback;
    return NPO_OK;
}

npo_err npo_config_list(const npo_config_reader *reader, const char *key, const int64_t *fallback,
                        int fallback_count, int count_max, int64_t value_max, int64_t *ret_values,
                        int *ret_count)
{
    char expected[64];
    const cJSON *item = npo_config_get(reader, key);
    int count = item ? cJSON_GetArraySize(item) : fallback_count;
    if ((item && !cJSON_IsArray(item)) || count < 1 || count > count_max) {
        snprintf(expected, sizeof expected, "a list of 1 to %d numbers", count_max);
        return npo_config_refuse(reader, NPO_E_RANGE, key, item, expected);
    }
    for (int i = 0; i < count; i++) {
        if (item)
            NPO_TRY(npo_config_to_int(reader, key, cJSON_GetArrayItem(item, i), 1, value_max,
                                      &ret_values[i]));
        else
            ret_values[i] = fallback[i];
    }
    *ret_count = count;
    return NPO_OK;
}

npo_err npo_config_open(const char *path, cJSON **ret_json, char ret_name[NPO_CONFIG_NAME_MAX],
                        npo_error *error)
{
    snprintf(ret_name, NPO_CONFIG_NAME_MAX, "'%.300s'", path);
    return npo_part_file_json(path, CONFIG_BYTES_MAX, ret_json, error);
}
