#include "common/bounds.h"
#include "common/file.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOUR_MS = 3600000 };

static const char *hash_of(const char *text)
{
    static char ring[4][NPO_HASH_TEXT_SIZE];
    static int at;
    npo_hash hash = npo_hash_bytes(text, strlen(text));
    npo_hash_format(&hash, ring[++at % 4]);
    return ring[at % 4];
}

static const cJSON *open_upload(npo_rig *rig, uint64_t boot, const char *hash, size_t size)
{
    return rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_OPEN, "{\"hash\":\"%s\",\"size\":%zu}", hash,
                   size);
}

static int64_t send_chunk(npo_rig *rig, uint64_t boot, const char *hash, int offset,
                          const char *text)
{
    rig->payload = text;
    rig->payload_len = strlen(text);
    rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_CHUNK, "{\"hash\":\"%s\",\"offset\":%d}", hash, offset);
    return npo_json_int(rig->last, "received", -1);
}

static const char *close_upload(npo_rig *rig, uint64_t boot, const char *hash)
{
    rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_CLOSE, "{\"hash\":\"%s\"}", hash);
    return rig_code(rig);
}

static bool is_there(npo_rig *rig, const char *hash)
{
    return npo_server_has_artifact(rig->server, hash);
}

static void file_of(const npo_rig *rig, const char *hash, char ret_path[128])
{
    snprintf(ret_path, 128, "%s/artifacts/%.2s/%s", rig->dir, hash, hash);
}

static bool has_file(const npo_rig *rig, const char *hash)
{
    char path[128];
    file_of(rig, hash, path);
    return npo_file_exists(path);
}

/* ---- in ---- */

static void test_artifact_arrives_in_chunks(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    open_upload(&rig, 1, hash, 11);
    assert_false(npo_json_bool(rig.last, "have", true));
    assert_int_equal(send_chunk(&rig, 1, hash, 0, "hello "), 6);
    assert_int_equal(send_chunk(&rig, 1, hash, 0, "hello "), 6); /* again: told how far it is */
    assert_string_equal(close_upload(&rig, 1, hash), "RANGE");
    assert_int_equal(send_chunk(&rig, 1, hash, 6, "world"), 11);
    assert_string_equal(close_upload(&rig, 1, hash), "");
    assert_true(is_there(&rig, hash) && has_file(&rig, hash));
    open_upload(&rig, 2, hash, 11);
    assert_true(npo_json_bool(rig.last, "have", false));
    assert_string_equal(close_upload(&rig, 2, hash), "");
    rig_close(&rig);
}

static void test_artifact_upload_goes_on_after_a_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    npo_hash parsed;
    assert_int_equal(npo_hash_parse(hash, &parsed), NPO_OK);
    open_upload(&rig, 1, hash, 11);
    send_chunk(&rig, 1, hash, 0, "hello ");
    rig_restart(&rig);
    npo_server_add_upload(rig.server, &parsed, 6); /* as found in the folder */
    open_upload(&rig, 1, hash, 11);
    assert_int_equal(npo_json_int(rig.last, "offset", -1), 6);
    assert_int_equal(send_chunk(&rig, 1, hash, 6, "world"), 11);
    assert_string_equal(close_upload(&rig, 1, hash), "");
    rig_close(&rig);
}

static void note_upload(void *self, const npo_hash *hash, uint64_t size)
{
    npo_hash_format(hash, self);
    assert_int_equal(size, 6);
}

static void test_artifact_interrupted_uploads_are_found(void **state)
{
    npo_rig rig = {0};
    char found[NPO_HASH_TEXT_SIZE] = "", junk[128];
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    open_upload(&rig, 1, hash, 11);
    send_chunk(&rig, 1, hash, 0, "hello ");
    snprintf(junk, sizeof junk, "%s/uploads/junk", rig.dir);
    assert_int_equal(npo_file_write(junk, "x", 1, 0600, NULL), NPO_OK);
    assert_int_equal(npo_effect_list_uploads(rig.dir, note_upload, found, NULL), NPO_OK);
    assert_string_equal(found, hash);
    assert_false(npo_file_exists(junk));
    rig_close(&rig);
}

static void test_artifact_with_wrong_bytes_starts_again(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    open_upload(&rig, 1, hash, 11);
    send_chunk(&rig, 1, hash, 0, "hello w0rld");
    assert_string_equal(close_upload(&rig, 1, hash), "CORRUPT");
    assert_false(is_there(&rig, hash) || has_file(&rig, hash));
    open_upload(&rig, 1, hash, 11);
    assert_int_equal(npo_json_int(rig.last, "offset", -1), 0);
    send_chunk(&rig, 1, hash, 0, "hello world");
    assert_string_equal(close_upload(&rig, 1, hash), "");
    rig_close(&rig);
}

static void test_artifact_empty(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("");
    open_upload(&rig, 1, hash, 0);
    assert_string_equal(close_upload(&rig, 1, hash), "");
    assert_true(has_file(&rig, hash));
    rig_close(&rig);
}

static void test_artifact_refuses_chunks_that_do_not_fit(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    send_chunk(&rig, 1, hash, 0, "hello");
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    assert_string_equal(close_upload(&rig, 1, hash), "NOT_FOUND");
    open_upload(&rig, 1, hash, 11);
    send_chunk(&rig, 1, hash, 0, "hello world!");
    assert_string_equal(rig_code(&rig), "RANGE");
    send_chunk(&rig, 1, hash, 0, "");
    assert_string_equal(rig_code(&rig), "RANGE");
    open_upload(&rig, 1, hash, 12);
    assert_string_equal(rig_code(&rig), "RANGE");
    rig_close(&rig);
}

/* Two connections: the second chunk overtakes the first. */
static void test_artifact_chunks_may_overtake_by_one(void **state)
{
    npo_rig rig = {0};
    int first, second;
    rig_open(&rig);
    const char *hash = hash_of("hello world");
    char json[128];
    open_upload(&rig, 1, hash, 11);
    rig.hold_effects = true;
    npo_frame frame = {.id = NPO_MESSAGE_UPLOAD_CHUNK, .boot = 1, .request = 51, .json = json};
    frame.json_len = (size_t)sprintf(json, "{\"hash\":\"%s\",\"offset\":6}", hash);
    frame.payload = "world";
    frame.payload_len = 5;
    npo_server_handle(rig.server, &frame, rig.now, &second, &rig.reply);
    assert_true(rig.reply.later);
    assert_int_equal(npo_server_commit(rig.server, rig.now, NULL), NPO_OK);
    assert_null(npo_server_take_effects(rig.server));
    npo_server_handle(rig.server, &frame, rig.now, &second, &rig.reply);
    assert_true(rig.reply.drop); /* is being worked on */
    frame.request = 52;
    frame.json_len = (size_t)sprintf(json, "{\"hash\":\"%s\",\"offset\":0}", hash);
    frame.payload = "hello ";
    frame.payload_len = 6;
    npo_server_handle(rig.server, &frame, rig.now, &first, &rig.reply);
    assert_true(rig.reply.later);
    assert_int_equal(npo_server_commit(rig.server, rig.now, NULL), NPO_OK);
    void *answered[2];
    for (int i = 0; i < 2; i++) {
        npo_effect *effect = npo_server_take_effects(rig.server);
        assert_non_null(effect);
        npo_effect_run(rig.dir, effect);
        npo_server_effect_done(rig.server, effect, rig.now, &rig.reply);
        answered[i] = effect->to;
        npo_effect_free(effect);
    }
    assert_ptr_equal(answered[0], &first);
    assert_ptr_equal(answered[1], &second);
    assert_string_equal(rig.reply.json.data, "{\"received\":11}");
    rig.hold_effects = false;
    assert_string_equal(close_upload(&rig, 1, hash), "");
    rig_close(&rig);
}

static void test_artifact_failed_write_is_told(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char part[160];
    const char *hash = hash_of("hello world");
    open_upload(&rig, 1, hash, 11);
    snprintf(part, sizeof part, "%s/uploads/%s.part", rig.dir, hash);
    assert_int_equal(npo_file_make_dirs(part, NULL), NPO_OK); /* in the way */
    send_chunk(&rig, 1, hash, 0, "hello world");
    assert_string_not_equal(rig_code(&rig), "");
    assert_int_equal(npo_file_remove(part, NULL), NPO_OK);
    assert_int_equal(send_chunk(&rig, 1, hash, 0, "hello world"), 11);
    assert_string_equal(close_upload(&rig, 1, hash), "");
    rig_close(&rig);
}

static void test_artifact_quota_refuses_what_does_not_fit(void **state)
{
    npo_rig rig = {.options = {.quota_bytes = 20}};
    rig_open(&rig);
    rig_publish(&rig, 1, "hello world");
    open_upload(&rig, 1, hash_of("a bit too long"), 14);
    assert_string_equal(rig_code(&rig), "FULL");
    assert_non_null(strstr(rig.last_text, "quota of 20"));
    open_upload(&rig, 1, hash_of("it fits"), 7);
    assert_string_equal(rig_code(&rig), "");
    open_upload(&rig, 1, hash_of("no more"), 7); /* one is coming in */
    assert_string_equal(rig_code(&rig), "FULL");
    rig_close(&rig);
}

static void test_artifact_folder_needs_its_files(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char manifest[256];
    snprintf(manifest, sizeof manifest,
             "{\"files\":[{\"hash\":\"%s\",\"path\":\"a\",\"size\":5}],"
             "\"format\":\"npo-manifest-1\"}",
             hash_of("inner"));
    const char *hash = hash_of(manifest);
    open_upload(&rig, 1, hash, strlen(manifest));
    send_chunk(&rig, 1, hash, 0, manifest);
    assert_string_equal(close_upload(&rig, 1, hash), "NOT_FOUND");
    rig_publish(&rig, 1, "inner");
    assert_string_equal(close_upload(&rig, 1, hash), "");
    assert_true(is_there(&rig, hash));
    rig_close(&rig);
}

/* ---- out ---- */

static void test_artifact_download_in_parts(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = rig_publish(&rig, 1, "hello world");
    rig_ask(&rig, 1, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\",\"offset\":6,\"bytes\":3}", hash);
    assert_int_equal(npo_json_int(rig.last, "size", 0), 11);
    assert_int_equal(rig.reply.payload.len, 3);
    assert_memory_equal(rig.reply.payload.data, "wor", 3);
    rig_ask(&rig, 1, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\",\"offset\":11}", hash);
    assert_int_equal(rig.reply.payload.len, 0);
    rig_ask(&rig, 1, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\",\"offset\":12}", hash);
    assert_string_equal(rig_code(&rig), "RANGE");
    rig_ask(&rig, 1, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\"}", hash_of("other"));
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_close(&rig);
}

static void test_artifact_missing_lists_what_is_not_there(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = rig_publish(&rig, 1, "x");
    rig_ask(&rig, 2, NPO_MESSAGE_ARTIFACTS_MISSING, "{\"hashes\":[\"%s\",\"%s\"]}", hash,
            hash_of("y"));
    const cJSON *missing = cJSON_GetObjectItem(rig.last, "missing");
    assert_int_equal(cJSON_GetArraySize(missing), 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetArrayItem(missing, 0)), hash_of("y"));
    rig_close(&rig);
}

/* The file was removed behind npod's back: its maker makes it again. */
static void test_artifact_lost_output_is_made_again(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, "\"recipe\":\"self-npo\",\"prompts\":[\"a\"],\"round_steps\":1,"
                                   "\"train\":{\"steps\":2,\"batch\":1}");
    char text[64], path[128];
    assert_true(rig_pull(&rig, &a));
    int64_t generate = a.task;
    snprintf(text, sizeof text, "pool of task %lld", (long long)a.task);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a)); /* truncate, which wants the pool */
    int64_t truncate = a.task;
    file_of(&rig, hash_of(text), path);
    assert_int_equal(unlink(path), 0);
    rig_ask(&rig, 1, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\"}", hash_of(text));
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_fail(&rig, &a, true);
    rig_tick(&rig, NPO_RETRY_BASE_MS);
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.task, generate);
    assert_int_equal(a.attempt, 2);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.task, truncate);
    rig_play(&rig, &a, 1);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

static void test_artifact_lost_import_fails_the_job(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char path[128];
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    file_of(&rig, hash_of("the model"), path);
    assert_int_equal(unlink(path), 0);
    rig_ask(&rig, 9, NPO_MESSAGE_DOWNLOAD, "{\"hash\":\"%s\"}", hash_of("the model"));
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    assert_false(rig_pull(&rig, &a));
    assert_string_equal(rig_state(&rig, job), "failed");
    assert_non_null(strstr(rig.last_text, "is gone and no task of the job makes it"));
    rig_close(&rig);
}

/* ---- pins and garbage ---- */

static void test_artifact_garbage_goes_by_age(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 2 * HOUR_MS}};
    rig_open(&rig);
    const char *hash = rig_publish(&rig, 1, "x");
    rig_tick(&rig, HOUR_MS + 60000); /* the pin is over, the age is not */
    assert_true(is_there(&rig, hash));
    rig_tick(&rig, HOUR_MS + 60000);
    assert_false(is_there(&rig, hash) || has_file(&rig, hash));
    /* It may come again. */
    rig_publish(&rig, 1, "x");
    assert_true(is_there(&rig, hash) && has_file(&rig, hash));
    rig_close(&rig);
}

static void test_artifact_pins_of_clients_end_after_an_hour(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    const char *hash = rig_publish(&rig, 1, "x");
    rig_tick(&rig, HOUR_MS - 60000);
    assert_true(is_there(&rig, hash));
    rig_ask(&rig, 2, NPO_MESSAGE_ARTIFACTS_MISSING, "{\"hashes\":[\"%s\"]}", hash); /* pins too */
    rig_tick(&rig, HOUR_MS - 60000);
    assert_true(is_there(&rig, hash));
    rig_restart(&rig);
    rig_tick(&rig, 180000);
    assert_false(is_there(&rig, hash));
    rig_close(&rig);
}

/* An import of hours: what came first is there when the last file is. */
static void test_artifact_pins_hold_while_their_client_is_at_work(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    const char *first = rig_publish(&rig, 1, "x"), *large = hash_of("a large file");
    open_upload(&rig, 1, large, 12);
    for (int i = 0; i < 12; i++) { /* half an hour for each byte */
        char byte[2] = {"a large file"[i], 0};
        assert_int_equal(send_chunk(&rig, 1, large, i, byte), i + 1);
        rig_tick(&rig, HOUR_MS / 2);
    }
    assert_true(is_there(&rig, first));
    rig_tick(&rig, HOUR_MS);
    assert_false(is_there(&rig, first));
    rig_close(&rig);
}

static void test_artifact_of_a_job_stays_until_it_is_removed(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    char output[64];
    snprintf(output, sizeof output, "images of task %lld", (long long)a.task);
    rig_done(&rig, &a);
    rig_tick(&rig, 10 * HOUR_MS);
    assert_true(is_there(&rig, hash_of("the model")));
    assert_true(is_there(&rig, hash_of(output)));
    rig_ask(&rig, 9, NPO_MESSAGE_REMOVE, "{\"job\":%lld}", (long long)job);
    rig_tick(&rig, 60000);
    assert_false(is_there(&rig, hash_of("the model")));
    assert_false(is_there(&rig, hash_of(output)));
    assert_int_equal(npo_store_check(rig.store, NULL), NPO_OK);
    rig_close(&rig);
}

static void test_artifact_of_a_task_is_pinned_until_it_ends(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    const char *hash = hash_of("half a day's work");
    rig_ask(&rig, 1, NPO_MESSAGE_UPLOAD_OPEN,
            "{\"hash\":\"%s\",\"size\":17,\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0}",
            hash, (long long)a.id, (long long)a.task);
    assert_string_equal(rig_code(&rig), "");
    send_chunk(&rig, 1, hash, 0, "half a day's work");
    assert_string_equal(close_upload(&rig, 1, hash), "");
    for (int i = 0; i < 12 * 360; i++) {
        rig_tick(&rig, 10000);
        if (i == 2000)
            rig_restart(&rig);
        rig_beat(&rig, &a);
    }
    assert_true(is_there(&rig, hash));
    rig_fail(&rig, &a, true); /* the attempt is over, the pin with it */
    rig_tick(&rig, 60000);
    assert_false(is_there(&rig, hash));
    rig_close(&rig);
}

static void test_artifact_folder_keeps_its_files(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    char manifest[256];
    rig_publish(&rig, 1, "inner");
    snprintf(manifest, sizeof manifest,
             "{\"files\":[{\"hash\":\"%s\",\"path\":\"a\",\"size\":5}],"
             "\"format\":\"npo-manifest-1\"}",
             hash_of("inner"));
    rig_publish(&rig, 1, manifest);
    rig_tick(&rig, HOUR_MS - 60000);
    rig_ask(&rig, 2, NPO_MESSAGE_ARTIFACTS_MISSING, "{\"hashes\":[\"%s\"]}", hash_of(manifest));
    rig_tick(&rig, HOUR_MS - 60000);
    assert_true(is_there(&rig, hash_of("inner")));
    rig_tick(&rig, 300000);
    assert_false(is_there(&rig, hash_of(manifest)));
    assert_false(is_there(&rig, hash_of("inner")));
    rig_close(&rig);
}

/* Killed between the commit that marks and the removal of the file. */
static void test_artifact_marked_garbage_goes_at_the_next_start(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    const char *hash = rig_publish(&rig, 1, "x");
    rig.hold_effects = true;
    for (int i = 0; i < 40 && is_there(&rig, hash); i++)
        rig_tick(&rig, 120000);
    assert_false(is_there(&rig, hash));
    assert_true(has_file(&rig, hash));
    rig.hold_effects = false;
    rig_restart(&rig);
    rig_tick(&rig, 100);
    assert_false(has_file(&rig, hash));
    rig_close(&rig);
}

static bool knows(void *self, const char *hash)
{
    return npo_server_has_artifact(self, hash);
}

static void test_artifact_sweep_removes_files_that_were_never_recorded(void **state)
{
    npo_rig rig = {0};
    char path[128];
    rig_open(&rig);
    const char *kept = rig_publish(&rig, 1, "kept");
    file_of(&rig, hash_of("stray"), path);
    *strrchr(path, '/') = '\0';
    assert_int_equal(npo_file_make_dirs(path, NULL), NPO_OK);
    file_of(&rig, hash_of("stray"), path);
    assert_int_equal(npo_file_write(path, "stray", 5, 0600, NULL), NPO_OK);
    assert_int_equal(npo_effect_sweep(rig.dir, knows, rig.server, NULL), NPO_OK);
    assert_false(has_file(&rig, hash_of("stray")));
    assert_true(has_file(&rig, kept));
    rig_close(&rig);
}

/* Published, but npod was killed before the commit: closing it again records it. */
static void test_artifact_published_twice_is_recorded_once(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *hash = hash_of("hello");
    open_upload(&rig, 1, hash, 5);
    send_chunk(&rig, 1, hash, 0, "hello");
    npo_effect publish = {.kind = NPO_EFFECT_PUBLISH, .size = 5};
    assert_int_equal(npo_hash_parse(hash, &publish.hash), NPO_OK);
    npo_effect_run(rig.dir, &publish);
    assert_int_equal(publish.error.code, NPO_OK);
    assert_true(has_file(&rig, hash));
    assert_false(is_there(&rig, hash));
    rig_restart(&rig);
    assert_string_equal(close_upload(&rig, 1, hash), "");
    assert_true(is_there(&rig, hash));
    rig_close(&rig);
}

/* Marked as garbage, wanted again, and npod killed twice on the way: who keeps it is not forgotten.
 */
static void test_artifact_wanted_again_while_it_is_removed(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    const char *hash = hash_of("the model");
    rig_publish(&rig, 999, "the model");
    rig.hold_effects = true;
    for (int i = 0; i < 40 && is_there(&rig, hash); i++)
        rig_tick(&rig, 120000);
    rig_restart(&rig);
    open_upload(&rig, 999, hash, strlen("the model"));
    rig.hold_effects = false;
    rig_restart(&rig);
    rig_tick(&rig, 100);
    int64_t job = rig_submit(&rig, RIG_SAMPLE); /* brings the model */
    rig_tick(&rig, 3 * HOUR_MS);
    assert_string_equal(rig_state(&rig, job), "pending");
    assert_true(is_there(&rig, hash) && has_file(&rig, hash));
    rig_close(&rig);
}

static bool is_job(void *self, int64_t job)
{
    return npo_server_has_job(self, job);
}

/* Killed between the commit that removes a job and the removal of its streams. */
static void test_artifact_sweep_removes_streams_of_jobs_that_are_gone(void **state)
{
    npo_rig rig = {0};
    char kept[128], gone[128];
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    snprintf(kept, sizeof kept, "%s/streams/%lld", rig.dir, (long long)job);
    snprintf(gone, sizeof gone, "%s/streams/%lld", rig.dir, (long long)job + 1);
    assert_int_equal(npo_file_make_dirs(kept, NULL), NPO_OK);
    assert_int_equal(npo_file_make_dirs(gone, NULL), NPO_OK);
    assert_int_equal(npo_effect_sweep_streams(rig.dir, is_job, rig.server, NULL), NPO_OK);
    assert_true(npo_file_exists(kept));
    assert_false(npo_file_exists(gone));
    rig_close(&rig);
}

/* An upload found at a start counts against the quota as soon as its size is known. */
static void test_artifact_quota_holds_for_interrupted_uploads(void **state)
{
    npo_rig rig = {.options = {.quota_bytes = 20}};
    npo_hash parsed;
    rig_open(&rig);
    const char *hash = hash_of("far too long for the quota");
    assert_int_equal(npo_hash_parse(hash, &parsed), NPO_OK);
    npo_server_add_upload(rig.server, &parsed, 6);
    open_upload(&rig, 1, hash, 26);
    assert_string_equal(rig_code(&rig), "FULL");
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_artifact_arrives_in_chunks),
        cmocka_unit_test(test_artifact_upload_goes_on_after_a_restart),
        cmocka_unit_test(test_artifact_interrupted_uploads_are_found),
        cmocka_unit_test(test_artifact_with_wrong_bytes_starts_again),
        cmocka_unit_test(test_artifact_empty),
        cmocka_unit_test(test_artifact_refuses_chunks_that_do_not_fit),
        cmocka_unit_test(test_artifact_chunks_may_overtake_by_one),
        cmocka_unit_test(test_artifact_failed_write_is_told),
        cmocka_unit_test(test_artifact_quota_refuses_what_does_not_fit),
        cmocka_unit_test(test_artifact_folder_needs_its_files),
        cmocka_unit_test(test_artifact_download_in_parts),
        cmocka_unit_test(test_artifact_missing_lists_what_is_not_there),
        cmocka_unit_test(test_artifact_lost_output_is_made_again),
        cmocka_unit_test(test_artifact_lost_import_fails_the_job),
        cmocka_unit_test(test_artifact_garbage_goes_by_age),
        cmocka_unit_test(test_artifact_pins_of_clients_end_after_an_hour),
        cmocka_unit_test(test_artifact_pins_hold_while_their_client_is_at_work),
        cmocka_unit_test(test_artifact_of_a_job_stays_until_it_is_removed),
        cmocka_unit_test(test_artifact_of_a_task_is_pinned_until_it_ends),
        cmocka_unit_test(test_artifact_folder_keeps_its_files),
        cmocka_unit_test(test_artifact_marked_garbage_goes_at_the_next_start),
        cmocka_unit_test(test_artifact_sweep_removes_files_that_were_never_recorded),
        cmocka_unit_test(test_artifact_published_twice_is_recorded_once),
        cmocka_unit_test(test_artifact_wanted_again_while_it_is_removed),
        cmocka_unit_test(test_artifact_sweep_removes_streams_of_jobs_that_are_gone),
        cmocka_unit_test(test_artifact_quota_holds_for_interrupted_uploads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
