#include "worker/supervisor/io/cache.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/proto/memory_npod.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 1000 };

typedef struct {
    char dir[64], cache_dir[80];
    memory_npod *npod;
    npo_identity identity;
    npo_client *client;
    npo_transfer transfer;
    npo_cache *cache;
} fixture;

static void reopen(fixture *fix, uint64_t bytes_max)
{
    npo_cache_close(fix->cache);
    fix->cache = NULL;
    assert_int_equal(npo_cache_open(fix->cache_dir, bytes_max, &fix->cache, NULL), NPO_OK);
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    char address[128];
    strcpy(fix->dir, "/tmp/npo-cache-XXXXXX");
    assert_non_null(mkdtemp(fix->dir));
    snprintf(fix->cache_dir, sizeof fix->cache_dir, "%s/cache", fix->dir);
    snprintf(address, sizeof address, "ipc://%s/npod.sock", fix->dir);
    fix->npod = memory_npod_start(address);
    assert_int_equal(npo_identity_init(&fix->identity, NULL), NPO_OK);
    npo_client_options options = {
        .address = address, .identity = &fix->identity, .deadline_ms = 20000};
    assert_int_equal(npo_client_open(&options, &fix->client, NULL), NPO_OK);
    fix->transfer.client = fix->client;
    reopen(fix, 1 << 20);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_cache_close(fix->cache);
    npo_client_close(fix->client);
    memory_npod_stop(fix->npod);
    assert_int_equal(npo_file_remove(fix->dir, NULL), NPO_OK);
    free(fix);
    return 0;
}

static npo_hash put(fixture *fix, char fill)
{
    char bytes[SIZE];
    memset(bytes, fill, sizeof bytes);
    return memory_npod_put(fix->npod, bytes, sizeof bytes);
}

static char *get(fixture *fix, const npo_hash *hash)
{
    char *path = NULL;
    npo_error error = {0};
    if (npo_cache_get(fix->cache, &fix->transfer, hash, &path, &error))
        fail_msg("%s", error.text);
    return path;
}

static int downloads(fixture *fix)
{
    return atomic_load(&memory_npod_faults_of(fix->npod)->downloads);
}

/* As if it had been used an hour ago, minus `order` seconds. */
static void age(const char *path, int order)
{
    struct timespec times[2];
    clock_gettime(CLOCK_REALTIME, &times[0]);
    times[0].tv_sec -= 3600 - order;
    times[1] = times[0];
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static npo_hash put_folder(fixture *fix, const npo_hash *file)
{
    char hash[NPO_HASH_TEXT_SIZE], text[256];
    npo_hash_format(file, hash);
    int n = snprintf(text, sizeof text,
                     "{\"files\":[{\"hash\":\"%s\",\"path\":\"unet/w\",\"size\":%d}],"
                     "\"format\":\"npo-manifest-1\"}",
                     hash, SIZE);
    return memory_npod_put(fix->npod, text, (size_t)n);
}

static void test_cache_fetches_once(void **state)
{
    fixture *fix = *state;
    npo_hash hash = put(fix, 'a');
    char *first = get(fix, &hash), *second = get(fix, &hash);
    assert_string_equal(first, second);
    assert_int_equal(downloads(fix), 1);
    reopen(fix, 1 << 20); /* and knows it after a restart */
    free(second);
    second = get(fix, &hash);
    assert_int_equal(downloads(fix), 1);
    free(first);
    free(second);
}

static void test_cache_makes_folders_of_manifests(void **state)
{
    fixture *fix = *state;
    npo_hash file = put(fix, 'a'), folder = put_folder(fix, &file);
    char *path = get(fix, &folder), *inside = npo_file_join(path, "unet/w");
    struct stat st;
    assert_int_equal(stat(inside, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_int_equal(st.st_nlink, 2);
    assert_int_equal(downloads(fix), 2);
    free(get(fix, &folder));
    assert_int_equal(downloads(fix), 2);
    free(inside);
    free(path);
}

static void test_cache_adds_an_output_without_copying(void **state)
{
    fixture *fix = *state;
    npo_hash hash = put(fix, 'a');
    char bytes[SIZE], *path = npo_file_join(fix->dir, "output");
    struct stat st;
    memset(bytes, 'a', sizeof bytes);
    assert_int_equal(npo_file_write(path, bytes, sizeof bytes, 0644, NULL), NPO_OK);
    npo_artifact artifact = {.hash = hash};
    assert_int_equal(npo_cache_add(fix->cache, &artifact, path, NULL), NPO_OK);
    assert_int_equal(npo_cache_add(fix->cache, &artifact, path, NULL), NPO_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_nlink, 2);
    free(get(fix, &hash));
    assert_int_equal(downloads(fix), 0);
    assert_int_equal(npo_cache_add(fix->cache, &artifact, "/not/there", NULL), NPO_E_NOT_FOUND);
    free(path);
}

static void test_cache_adds_a_folder_that_was_made_here(void **state)
{
    fixture *fix = *state;
    char *dir = npo_file_join(fix->dir, "model"), *sub = npo_file_join(dir, "unet");
    char *one = npo_file_join(dir, "a"), *two = npo_file_join(sub, "b"), *kept, *inside;
    npo_artifact artifact;
    struct stat st;
    assert_int_equal(npo_file_make_dirs(sub, NULL), NPO_OK);
    assert_int_equal(npo_file_write(one, "same", 4, 0644, NULL), NPO_OK);
    assert_int_equal(npo_file_write(two, "same", 4, 0644, NULL), NPO_OK);
    assert_int_equal(npo_upload(&fix->transfer, dir, &artifact, NULL), NPO_OK);
    assert_true(artifact.is_folder);
    assert_int_equal(npo_cache_add(fix->cache, &artifact, dir, NULL), NPO_OK);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    kept = get(fix, &artifact.hash);
    inside = npo_file_join(kept, "unet/b");
    assert_int_equal(stat(inside, &st), 0);
    assert_int_equal(st.st_nlink, 3); /* both names and the file itself */
    assert_int_equal(downloads(fix), 0);
    assert_int_equal(npo_file_make_dirs(sub, NULL), NPO_OK);
    assert_int_equal(npo_file_write(two, "other", 5, 0644, NULL), NPO_OK);
    assert_int_equal(npo_cache_add(fix->cache, &artifact, dir, NULL), NPO_E_CORRUPT);
    free(kept);
    free(inside);
    free(one);
    free(two);
    free(sub);
    free(dir);
}

/* An executor takes what has the same modification times for what it has loaded. */
static void test_cache_leaves_modification_times(void **state)
{
    fixture *fix = *state;
    npo_hash file = put(fix, 'a'), folder = put_folder(fix, &file);
    struct stat before[2], after[2];
    char *paths[] = {get(fix, &file), get(fix, &folder)};
    for (int i = 0; i < 2; i++) {
        age(paths[i], 0);
        assert_int_equal(stat(paths[i], &before[i]), 0);
    }
    free(get(fix, &file));
    free(get(fix, &folder));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stat(paths[i], &after[i]), 0);
        assert_int_equal(after[i].st_mtim.tv_sec, before[i].st_mtim.tv_sec);
        assert_int_equal(after[i].st_mtim.tv_nsec, before[i].st_mtim.tv_nsec);
        assert_true(after[i].st_atim.tv_sec > before[i].st_atim.tv_sec);
        free(paths[i]);
    }
}

/* --cache may lie on another file system than the tasks. */
static void test_cache_copies_from_another_file_system(void **state)
{
    fixture *fix = *state;
    char dir[] = "/dev/shm/npo-cache-XXXXXX";
    struct stat here, there;
    npo_artifact artifact;
    if (!mkdtemp(dir) || stat(dir, &there) || stat(fix->dir, &here) ||
        here.st_dev == there.st_dev) {
        print_message("/dev/shm is no other file system than /tmp here\n");
        rmdir(dir);
        skip();
    }
    char *file = npo_file_join(dir, "out"), *kept;
    assert_int_equal(npo_file_write(file, "out", 3, 0644, NULL), NPO_OK);
    assert_int_equal(npo_upload_describe(file, &artifact, NULL), NPO_OK);
    assert_int_equal(npo_cache_add(fix->cache, &artifact, file, NULL), NPO_OK);
    kept = get(fix, &artifact.hash);
    assert_int_equal(downloads(fix), 0);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    free(kept);
    free(file);
}

static void test_cache_belongs_to_one_process(void **state)
{
    fixture *fix = *state;
    npo_cache *other = NULL;
    npo_error error = {0};
    assert_int_equal(npo_cache_open(fix->cache_dir, SIZE, &other, &error), NPO_E_BUSY);
    assert_non_null(strstr(error.text, "another worker uses the cache folder"));
}

static void test_cache_evicts_the_least_recently_used(void **state)
{
    fixture *fix = *state;
    npo_hash a = put(fix, 'a'), b = put(fix, 'b'), c = put(fix, 'c');
    reopen(fix, 2 * SIZE);
    char *path_a = get(fix, &a), *path_b = get(fix, &b);
    age(path_a, 2);
    age(path_b, 1);
    npo_cache_begin(fix->cache);
    char *path_c = get(fix, &c);
    assert_int_equal(npo_cache_trim(fix->cache, &fix->transfer, NULL), NPO_OK);
    assert_true(npo_file_exists(path_a));
    assert_false(npo_file_exists(path_b));
    assert_true(npo_file_exists(path_c));
    uint64_t bytes;
    assert_int_equal(npo_cache_bytes(fix->cache, &bytes, NULL), NPO_OK);
    assert_int_equal(bytes, 2 * SIZE);
    free(path_a);
    free(path_b);
    free(path_c);
}

static void test_cache_keeps_what_the_task_uses(void **state)
{
    fixture *fix = *state;
    npo_hash a = put(fix, 'a'), b = put(fix, 'b');
    reopen(fix, SIZE);
    npo_cache_begin(fix->cache);
    char *path_a = get(fix, &a), *path_b = get(fix, &b);
    assert_int_equal(npo_cache_trim(fix->cache, &fix->transfer, NULL), NPO_OK);
    assert_true(npo_file_exists(path_a) && npo_file_exists(path_b));
    free(path_a);
    free(path_b);
}

static void test_cache_keeps_what_npod_lacks(void **state)
{
    fixture *fix = *state;
    char bytes[SIZE], *path = npo_file_join(fix->dir, "output"), *kept = NULL;
    npo_hash a = put(fix, 'a');
    memset(bytes, 'x', sizeof bytes);
    npo_hash only_here = npo_hash_bytes(bytes, sizeof bytes);
    assert_int_equal(npo_file_write(path, bytes, sizeof bytes, 0644, NULL), NPO_OK);
    assert_int_equal(npo_cache_add(fix->cache, &(npo_artifact){.hash = only_here}, path, NULL),
                     NPO_OK);
    unlink(path);
    free(path);
    reopen(fix, SIZE / 2);
    kept = get(fix, &only_here);
    path = get(fix, &a);
    age(kept, 0);
    age(path, 1);
    npo_cache_begin(fix->cache);
    assert_int_equal(npo_cache_trim(fix->cache, &fix->transfer, NULL), NPO_OK);
    assert_true(npo_file_exists(kept));
    assert_false(npo_file_exists(path));
    free(kept);
    free(path);
}

static void test_cache_evicts_a_folder_before_its_files(void **state)
{
    fixture *fix = *state;
    npo_hash file = put(fix, 'a'), folder = put_folder(fix, &file), other = put(fix, 'b');
    char *path = get(fix, &folder), *part = get(fix, &file);
    reopen(fix, SIZE);
    age(path, 1);
    age(part, 1);
    npo_cache_begin(fix->cache);
    char *used = get(fix, &other);
    assert_int_equal(npo_cache_trim(fix->cache, &fix->transfer, NULL), NPO_OK);
    assert_false(npo_file_exists(path));
    assert_false(npo_file_exists(part));
    assert_true(npo_file_exists(used));
    free(path);
    free(part);
    free(used);
}

static void test_cache_clears_half_made_folders(void **state)
{
    fixture *fix = *state;
    char *half = npo_file_join(fix->cache_dir, "folders/00112233445566778899aabbccddeeff.part-7");
    assert_int_equal(npo_file_make_dirs(half, NULL), NPO_OK);
    reopen(fix, SIZE);
    assert_false(npo_file_exists(half));
    free(half);
}

static void test_cache_reports_what_cannot_be_fetched(void **state)
{
    fixture *fix = *state;
    npo_hash nowhere = npo_hash_bytes("nowhere", 7), folder = put_folder(fix, &nowhere);
    npo_error error = {0};
    char *path = NULL;
    assert_int_equal(npo_cache_get(fix->cache, &fix->transfer, &nowhere, &path, &error),
                     NPO_E_NOT_FOUND);
    assert_int_equal(npo_cache_get(fix->cache, &fix->transfer, &folder, &path, &error),
                     NPO_E_NOT_FOUND);
    assert_null(path);
}

#define CACHE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CACHE_TEST(test_cache_fetches_once),
        CACHE_TEST(test_cache_makes_folders_of_manifests),
        CACHE_TEST(test_cache_adds_an_output_without_copying),
        CACHE_TEST(test_cache_adds_a_folder_that_was_made_here),
        CACHE_TEST(test_cache_leaves_modification_times),
        CACHE_TEST(test_cache_copies_from_another_file_system),
        CACHE_TEST(test_cache_belongs_to_one_process),
        CACHE_TEST(test_cache_evicts_the_least_recently_used),
        CACHE_TEST(test_cache_keeps_what_the_task_uses),
        CACHE_TEST(test_cache_keeps_what_npod_lacks),
        CACHE_TEST(test_cache_evicts_a_folder_before_its_files),
        CACHE_TEST(test_cache_clears_half_made_folders),
        CACHE_TEST(test_cache_reports_what_cannot_be_fetched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
