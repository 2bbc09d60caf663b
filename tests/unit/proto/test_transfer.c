#include "proto/transfer.h"

#include "common/bounds.h"
#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/proto/memory_npod.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BIG = 3 * NPO_CHUNK_BYTES + 12345 };

typedef struct {
    char dir[64], address[128];
    memory_npod *npod;
    memory_npod_faults *faults;
    npo_identity identity;
    npo_client *client;
    npo_transfer transfer;
    int silent_fd;   /* npod's last, while it may write to it */
    const char *big; /* BIG bytes */
} fixture;

static uint64_t big_words[BIG / 8 + 1];

static void open_client(fixture *fix, int wake_fd)
{
    npo_client_options options = {.address = fix->address,
                                  .identity = &fix->identity,
                                  .deadline_ms = 60000,
                                  .wake_fd = wake_fd};
    npo_client_close(fix->client);
    fix->client = NULL;
    assert_int_equal(npo_client_open(&options, &fix->client, NULL), NPO_OK);
    fix->transfer.client = fix->client;
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    strcpy(fix->dir, "/tmp/npo-transfer-XXXXXX");
    assert_non_null(mkdtemp(fix->dir));
    snprintf(fix->address, sizeof fix->address, "ipc://%s/npod.sock", fix->dir);
    fix->npod = memory_npod_start(fix->address);
    fix->faults = memory_npod_faults_of(fix->npod);
    assert_int_equal(npo_identity_init(&fix->identity, NULL), NPO_OK);
    open_client(fix, 0);
    fix->big = (const char *)big_words;
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_client_close(fix->client);
    memory_npod_stop(fix->npod);
    assert_int_equal(npo_file_remove(fix->dir, NULL), NPO_OK);
    free(fix);
    return 0;
}

static char *write_file(fixture *fix, const char *name, const void *bytes, size_t len)
{
    char *path = npo_file_join(fix->dir, name), *parent = strdup(path);
    *strrchr(parent, '/') = '\0';
    assert_int_equal(npo_file_make_dirs(parent, NULL), NPO_OK);
    assert_int_equal(npo_file_write(path, bytes, len, 0644, NULL), NPO_OK);
    free(parent);
    return path;
}

/* From the nth chunk or range on npod says nothing any more, and the client gives up. */
static void lose_npod_at(fixture *fix, int nth)
{
    fix->silent_fd = eventfd(0, EFD_CLOEXEC);
    assert_true(fix->silent_fd > 0);
    open_client(fix, fix->silent_fd);
    atomic_store(&fix->faults->silent_fd, fix->silent_fd);
    atomic_store(&fix->faults->silent_at_chunk, nth);
}

static void find_npod_again(fixture *fix)
{
    uint64_t count;
    open_client(fix, 0);
    atomic_store(&fix->faults->silent_at_chunk, 0);
    assert_int_equal(read(fix->silent_fd, &count, sizeof count), sizeof count);
    close(fix->silent_fd);
    atomic_store(&fix->faults->downloads, 0);
}

static void expect_published(fixture *fix, const npo_hash *hash, const void *bytes, size_t len)
{
    size_t found_len = 0;
    const void *found = memory_npod_find(fix->npod, hash, &found_len);
    assert_non_null(found);
    assert_int_equal(found_len, len);
    assert_memory_equal(found, bytes, len);
}

static void upload_big(fixture *fix)
{
    npo_artifact artifact;
    npo_error error = {0};
    char *path = write_file(fix, "big", fix->big, BIG);
    if (npo_upload(&fix->transfer, path, &artifact, &error))
        fail_msg("%s", error.text);
    assert_false(artifact.is_folder);
    assert_int_equal(artifact.size, BIG);
    expect_published(fix, &artifact.hash, fix->big, BIG);
    free(path);
}

static void test_upload_publishes_a_file_in_chunks(void **state)
{
    fixture *fix = *state;
    upload_big(fix);
    /* 4 chunks; one that overtook another on the second connection comes again */
    int chunks = atomic_load(&fix->faults->chunks);
    assert_true(chunks >= 4 && chunks <= 6);
    assert_int_equal(atomic_load(&fix->faults->closes), 1);
    upload_big(fix); /* nothing is sent twice */
    assert_int_equal(atomic_load(&fix->faults->chunks), chunks);
    assert_int_equal(atomic_load(&fix->faults->opens), 2);
}

static void test_upload_publishes_an_empty_file(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    char *path = write_file(fix, "empty", "", 0);
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, NULL), NPO_OK);
    expect_published(fix, &artifact.hash, "", 0);
    free(path);
}

static void test_upload_of_a_task_says_whose_it_is(void **state)
{
    fixture *fix = *state;
    fix->transfer.fence = (npo_transfer_fence){.worker = 1, .task = 77, .attempt = 2, .rank = 0};
    upload_big(fix);
    assert_int_equal(atomic_load(&fix->faults->last_task), 77);
}

static void test_upload_goes_on_where_it_was_interrupted(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    char *path = write_file(fix, "big", fix->big, BIG);
    lose_npod_at(fix, 3);
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, NULL), NPO_E_CANCELLED);
    npo_hash hash = npo_hash_bytes(fix->big, BIG);
    size_t received = memory_npod_received(fix->npod, &hash);
    assert_true(received >= NPO_CHUNK_BYTES && received <= 2 * NPO_CHUNK_BYTES);
    find_npod_again(fix);
    upload_big(fix);
    assert_int_equal(atomic_load(&fix->faults->taken_bytes), BIG); /* no byte taken twice */
    free(path);
}

static void test_upload_rewinds_to_what_was_received(void **state)
{
    fixture *fix = *state;
    atomic_store(&fix->faults->refuse_chunks, 3);
    upload_big(fix);
    assert_true(atomic_load(&fix->faults->chunks) > 4);
}

static void test_upload_gives_up_when_nothing_moves(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    npo_error error = {0};
    char *path = write_file(fix, "big", fix->big, BIG);
    atomic_store(&fix->faults->refuse_chunks, 1000000);
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, &error), NPO_E_PEER);
    assert_non_null(strstr(error.text, "stands still at 0"));
    free(path);
}

static void test_upload_opens_again_when_npod_forgot(void **state)
{
    fixture *fix = *state;
    atomic_store(&fix->faults->forget_at_chunk, 2);
    upload_big(fix);
    assert_int_equal(atomic_load(&fix->faults->opens), 2);
}

static void test_upload_starts_again_after_corruption(void **state)
{
    fixture *fix = *state;
    atomic_store(&fix->faults->corrupt_closes, 1);
    upload_big(fix);
    assert_int_equal(atomic_load(&fix->faults->opens), 2);
    assert_true(atomic_load(&fix->faults->chunks) >= 8);
}

static void test_upload_gives_up_on_lasting_corruption(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    char *path = write_file(fix, "file", "abc", 3);
    atomic_store(&fix->faults->corrupt_closes, 1000);
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, NULL), NPO_E_CORRUPT);
    assert_true(atomic_load(&fix->faults->closes) <= 5);
    free(path);
}

static void change_file(void *self, const char *path, uint64_t done, uint64_t size)
{
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, -1, SEEK_END);
    fputc(0x55, file);
    fclose(file);
}

static void test_upload_notices_that_the_file_changed(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    npo_error error = {0};
    char *path = write_file(fix, "big", fix->big, BIG);
    fix->transfer.progress = change_file;
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, &error), NPO_E_CORRUPT);
    assert_non_null(strstr(error.text, "changed while it was sent"));
    fix->transfer.progress = NULL;
    free(path);
}

static void test_upload_refuses_what_is_no_file(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact;
    npo_error error = {0};
    assert_int_equal(npo_upload(&fix->transfer, "/not/there", &artifact, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "/not/there"));
    assert_int_equal(npo_upload(&fix->transfer, "/dev/null", &artifact, &error), NPO_E_TYPE);
    assert_int_equal(mkdir("/tmp/npo-transfer-empty", 0755), 0);
    assert_int_equal(npo_upload(&fix->transfer, "/tmp/npo-transfer-empty", &artifact, &error),
                     NPO_E_NOT_FOUND);
    rmdir("/tmp/npo-transfer-empty");
}

static npo_artifact upload_folder(fixture *fix)
{
    npo_artifact artifact = {0}, described = {0};
    free(write_file(fix, "model/config.json", "{}", 2));
    free(write_file(fix, "model/unet/weights", fix->big, BIG));
    free(write_file(fix, "model/unet/same", fix->big, BIG));
    char *path = npo_file_join(fix->dir, "model");
    assert_int_equal(npo_upload(&fix->transfer, path, &artifact, NULL), NPO_OK);
    assert_int_equal(npo_upload_describe(path, &described, NULL), NPO_OK);
    assert_true(npo_hash_equal(&artifact.hash, &described.hash));
    assert_true(artifact.is_folder && described.is_folder);
    assert_int_equal(artifact.bytes, 2 + 2 * BIG);
    assert_int_equal(described.bytes, artifact.bytes);
    free(path);
    return artifact;
}

static void test_upload_of_a_folder_sends_only_what_lacks(void **state)
{
    fixture *fix = *state;
    upload_big(fix);
    atomic_store(&fix->faults->chunks, 0);
    npo_artifact artifact = upload_folder(fix);
    assert_int_equal(atomic_load(&fix->faults->missings), 1);
    assert_int_equal(atomic_load(&fix->faults->chunks), 2); /* config.json and the manifest */
    size_t len = 0;
    const char *text = memory_npod_find(fix->npod, &artifact.hash, &len);
    assert_non_null(text);
    assert_int_equal(len, artifact.size);
    assert_true(npo_manifest_is_text(text, len));
}

/* ---- download ---- */

static void expect_file(const char *path, const void *bytes, size_t len)
{
    npo_file_map map;
    assert_int_equal(npo_file_map_open(path, &map, NULL), NPO_OK);
    assert_int_equal(map.size, len);
    if (len > 0)
        assert_memory_equal(map.data, bytes, len);
    npo_file_map_close(&map);
}

static void download_big(fixture *fix)
{
    npo_hash hash = memory_npod_put(fix->npod, fix->big, BIG);
    uint64_t size = 0;
    npo_error error = {0};
    char *path = npo_file_join(fix->dir, "fetched");
    if (npo_download_file(&fix->transfer, &hash, path, &size, &error))
        fail_msg("%s", error.text);
    assert_int_equal(size, BIG);
    expect_file(path, fix->big, BIG);
    free(path);
}

static void test_download_fetches_and_verifies(void **state)
{
    fixture *fix = *state;
    download_big(fix);
    assert_int_equal(atomic_load(&fix->faults->downloads), 4);
}

static void test_download_of_nothing_gives_an_empty_file(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "", 0);
    uint64_t size = 1;
    char *path = npo_file_join(fix->dir, "nothing");
    assert_int_equal(npo_download_file(&fix->transfer, &hash, path, &size, NULL), NPO_OK);
    assert_int_equal(size, 0);
    expect_file(path, "", 0);
    free(path);
}

static void test_download_goes_on_with_its_part(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, fix->big, BIG);
    char *path = npo_file_join(fix->dir, "fetched");
    lose_npod_at(fix, 3);
    assert_int_equal(npo_download_file(&fix->transfer, &hash, path, NULL, NULL), NPO_E_CANCELLED);
    assert_false(npo_file_exists(path));
    find_npod_again(fix);
    download_big(fix);
    assert_true(atomic_load(&fix->faults->downloads) < 4); /* not from the start */
    free(path);
}

static void test_download_discards_a_damaged_part(void **state)
{
    fixture *fix = *state;
    free(write_file(fix, "fetched.part", "these are not the first bytes", 29));
    download_big(fix);
    char *path = npo_file_join(fix->dir, "fetched.part");
    assert_false(npo_file_exists(path));
    free(path);
}

static void test_download_discards_a_part_that_is_too_long(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "short", 5);
    char *path = npo_file_join(fix->dir, "fetched");
    free(write_file(fix, "fetched.part", "longer than that", 16));
    assert_int_equal(npo_download_file(&fix->transfer, &hash, path, NULL, NULL), NPO_OK);
    expect_file(path, "short", 5);
    free(path);
}

static void test_download_starts_again_after_corruption(void **state)
{
    fixture *fix = *state;
    atomic_store(&fix->faults->corrupt_downloads, 1);
    download_big(fix);
    assert_int_equal(atomic_load(&fix->faults->downloads), 8);
}

static void test_download_gives_up_on_lasting_corruption(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "short", 5);
    npo_error error = {0};
    char *path = npo_file_join(fix->dir, "fetched");
    atomic_store(&fix->faults->corrupt_downloads, 1000);
    assert_int_equal(npo_download_file(&fix->transfer, &hash, path, NULL, &error), NPO_E_CORRUPT);
    assert_non_null(strstr(error.text, "arrived as"));
    assert_false(npo_file_exists(path));
    free(path);
}

static void test_download_of_what_is_not_there(void **state)
{
    fixture *fix = *state;
    npo_hash hash = npo_hash_bytes("nobody", 6);
    char *path = npo_file_join(fix->dir, "fetched");
    assert_int_equal(npo_download_file(&fix->transfer, &hash, path, NULL, NULL), NPO_E_NOT_FOUND);
    free(path);
}

static void test_download_of_a_folder_gives_its_files(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact = upload_folder(fix), fetched = {0};
    npo_error error = {0};
    char *path = npo_file_join(fix->dir, "copy"), *file = npo_file_join(path, "unet/weights");
    if (npo_download(&fix->transfer, &artifact.hash, path, &fetched, &error))
        fail_msg("%s", error.text);
    assert_true(fetched.is_folder);
    assert_int_equal(fetched.bytes, artifact.bytes);
    expect_file(file, fix->big, BIG);
    assert_int_equal(npo_download(&fix->transfer, &artifact.hash, path, &fetched, &error),
                     NPO_E_EXISTS);
    free(file);
    free(path);
}

static void test_download_of_a_folder_goes_on_with_its_files(void **state)
{
    fixture *fix = *state;
    npo_artifact artifact = upload_folder(fix), fetched = {0};
    char *path = npo_file_join(fix->dir, "copy"), *file = npo_file_join(path, "unet/weights");
    lose_npod_at(fix, 8); /* manifest, config, 4 ranges, 1 range */
    assert_int_equal(npo_download(&fix->transfer, &artifact.hash, path, &fetched, NULL),
                     NPO_E_CANCELLED);
    assert_false(npo_file_exists(path));
    find_npod_again(fix);
    assert_int_equal(npo_download(&fix->transfer, &artifact.hash, path, &fetched, NULL), NPO_OK);
    assert_true(atomic_load(&fix->faults->downloads) <= 5); /* of 10 */
    expect_file(file, fix->big, BIG);
    free(file);
    free(path);
}

/* ---- client ---- */

static void test_client_refuses_a_coordinator_of_an_older_epoch(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "short", 5);
    npo_error error = {0};
    bool missing;
    atomic_store(&fix->faults->epoch, 7);
    assert_int_equal(npo_transfer_missing(&fix->transfer, &hash, 1, &missing, &error), NPO_OK);
    assert_false(missing);
    atomic_store(&fix->faults->epoch, 6);
    assert_int_equal(npo_transfer_missing(&fix->transfer, &hash, 1, &missing, &error),
                     NPO_E_REFUSED);
    assert_non_null(strstr(error.text, "out of date"));
    atomic_store(&fix->faults->epoch, 8);
    assert_int_equal(npo_transfer_missing(&fix->transfer, &hash, 1, &missing, &error), NPO_OK);
}

static void test_client_wait_ends_when_woken(void **state)
{
    fixture *fix = *state;
    uint64_t one = 1;
    npo_error error = {0};
    npo_client *client = NULL;
    npo_client_options options = {.address = "ipc:///tmp/npo-nobody-listens.sock",
                                  .identity = &fix->identity,
                                  .deadline_ms = -1,
                                  .wake_fd = eventfd(0, 0)};
    assert_int_equal(npo_client_open(&options, &client, NULL), NPO_OK);
    assert_int_equal(write(options.wake_fd, &one, sizeof one), sizeof one);
    assert_int_equal(npo_client_call(client, NPO_MESSAGE_INFO, NULL, NULL, 0, NULL, &error),
                     NPO_E_CANCELLED);
    npo_client_close(client);
    close(options.wake_fd);
}

static void test_client_says_who_does_not_answer(void **state)
{
    fixture *fix = *state;
    npo_error error = {0};
    npo_client *client = NULL;
    npo_client_options options = {.address = "ipc:///tmp/npo-nobody-listens.sock",
                                  .identity = &fix->identity,
                                  .deadline_ms = 50};
    assert_int_equal(npo_client_open(&options, &client, NULL), NPO_OK);
    assert_int_equal(npo_client_call(client, NPO_MESSAGE_INFO, NULL, NULL, 0, NULL, &error),
                     NPO_E_UNREACHABLE);
    assert_non_null(strstr(error.text, "npo-nobody-listens.sock"));
    npo_client_close(client);
}

#define TRANSFER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRANSFER_TEST(test_upload_publishes_a_file_in_chunks),
        TRANSFER_TEST(test_upload_publishes_an_empty_file),
        TRANSFER_TEST(test_upload_of_a_task_says_whose_it_is),
        TRANSFER_TEST(test_upload_goes_on_where_it_was_interrupted),
        TRANSFER_TEST(test_upload_rewinds_to_what_was_received),
        TRANSFER_TEST(test_upload_gives_up_when_nothing_moves),
        TRANSFER_TEST(test_upload_opens_again_when_npod_forgot),
        TRANSFER_TEST(test_upload_starts_again_after_corruption),
        TRANSFER_TEST(test_upload_gives_up_on_lasting_corruption),
        TRANSFER_TEST(test_upload_notices_that_the_file_changed),
        TRANSFER_TEST(test_upload_refuses_what_is_no_file),
        TRANSFER_TEST(test_upload_of_a_folder_sends_only_what_lacks),
        TRANSFER_TEST(test_download_fetches_and_verifies),
        TRANSFER_TEST(test_download_of_nothing_gives_an_empty_file),
        TRANSFER_TEST(test_download_goes_on_with_its_part),
        TRANSFER_TEST(test_download_discards_a_damaged_part),
        TRANSFER_TEST(test_download_discards_a_part_that_is_too_long),
        TRANSFER_TEST(test_download_starts_again_after_corruption),
        TRANSFER_TEST(test_download_gives_up_on_lasting_corruption),
        TRANSFER_TEST(test_download_of_what_is_not_there),
        TRANSFER_TEST(test_download_of_a_folder_gives_its_files),
        TRANSFER_TEST(test_download_of_a_folder_goes_on_with_its_files),
        TRANSFER_TEST(test_client_refuses_a_coordinator_of_an_older_epoch),
        TRANSFER_TEST(test_client_wait_ends_when_woken),
        TRANSFER_TEST(test_client_says_who_does_not_answer),
    };
    for (size_t i = 0; i < sizeof big_words / sizeof big_words[0]; i++)
        big_words[i] = i * 0x9e3779b97f4a7c15u;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
