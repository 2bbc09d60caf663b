#include "worker/supervisor/io/mover.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/proto/memory_npod.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char dir[64], cache[80], address[128];
    memory_npod *npod;
    uv_loop_t loop;
    npo_identity identity;
    npo_mover *mover;
    int count;
    npo_err err; /* of the last result, as what follows */
    uint64_t ticket;
    bool is_upload;
    char text[NPO_ERROR_TEXT_MAX];
    npo_artifact artifact;
    char fetched_path[256]; /* the last that was fetched */
    int fetched_at;         /* its place among the results */
} fixture;

static void on_moved(void *self, const npo_mover_result *result)
{
    fixture *fix = self;
    fix->count++;
    fix->err = result->err;
    fix->ticket = result->ticket;
    fix->is_upload = result->is_upload;
    fix->artifact = result->artifact;
    snprintf(fix->text, sizeof fix->text, "%s", result->error.text);
    if (result->err || result->input_count == 0)
        return;
    snprintf(fix->fetched_path, sizeof fix->fetched_path, "%s", result->inputs[0].path);
    fix->fetched_at = fix->count;
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    strcpy(fix->dir, "/tmp/npo-mover-XXXXXX");
    assert_non_null(mkdtemp(fix->dir));
    snprintf(fix->cache, sizeof fix->cache, "%s/cache", fix->dir);
    snprintf(fix->address, sizeof fix->address, "ipc://%s/npod.sock", fix->dir);
    fix->npod = memory_npod_start(fix->address);
    uv_loop_init(&fix->loop);
    assert_int_equal(npo_identity_init(&fix->identity, NULL), NPO_OK);
    npo_mover_options options = {.address = fix->address,
                                 .identity = &fix->identity,
                                 .cache_dir = fix->cache,
                                 .cache_bytes_max = 1 << 20,
                                 .self = fix,
                                 .moved = on_moved};
    assert_int_equal(npo_mover_start(&fix->loop, &options, &fix->mover, NULL), NPO_OK);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_mover_stop(fix->mover);
    uv_run(&fix->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&fix->loop), 0);
    memory_npod_stop(fix->npod);
    assert_int_equal(npo_file_remove(fix->dir, NULL), NPO_OK);
    free(fix);
    return 0;
}

static void run_until(fixture *fix, int count)
{
    while (fix->count < count)
        uv_run(&fix->loop, UV_RUN_ONCE);
}

static npo_mover_input *one_input(const npo_hash *hash)
{
    npo_mover_input *inputs = calloc(1, sizeof *inputs);
    inputs[0].name = strdup("model");
    inputs[0].hash = *hash;
    return inputs;
}

static const npo_transfer_fence fence = {.worker = 1, .task = 2, .attempt = 3};

static void fetch(fixture *fix, uint64_t ticket, const npo_hash *hash)
{
    assert_int_equal(npo_mover_fetch(fix->mover, ticket, &fence, one_input(hash), 1, NULL), NPO_OK);
}

static void test_mover_fetches_and_uploads_in_order(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "input", 5);
    char *path = npo_file_join(fix->dir, "out");
    assert_int_equal(npo_file_write(path, "result", 6, 0644, NULL), NPO_OK);
    fetch(fix, 1, &hash);
    assert_int_equal(npo_mover_upload(fix->mover, 1, &fence, "pool", path, NULL), NPO_OK);
    run_until(fix, 2);
    assert_int_equal(fix->fetched_at, 1);
    assert_true(npo_file_exists(fix->fetched_path));
    assert_true(fix->is_upload);
    assert_int_equal(fix->err, NPO_OK);
    size_t len;
    assert_memory_equal(memory_npod_find(fix->npod, &fix->artifact.hash, &len), "result", 6);
    assert_int_equal(atomic_load(&memory_npod_faults_of(fix->npod)->last_task), 2);
    /* What was uploaded need not be fetched. */
    atomic_store(&memory_npod_faults_of(fix->npod)->downloads, 0);
    hash = fix->artifact.hash;
    fetch(fix, 2, &hash);
    run_until(fix, 3);
    assert_int_equal(atomic_load(&memory_npod_faults_of(fix->npod)->downloads), 0);
    free(path);
}

static void test_mover_reports_failures(void **state)
{
    fixture *fix = *state;
    npo_hash hash = npo_hash_bytes("nowhere", 7);
    fetch(fix, 1, &hash);
    run_until(fix, 1);
    assert_int_equal(fix->err, NPO_E_NOT_FOUND);
    assert_int_equal(npo_mover_upload(fix->mover, 1, &fence, "pool", "/not/there", NULL), NPO_OK);
    run_until(fix, 2);
    assert_int_equal(fix->err, NPO_E_NOT_FOUND);
    assert_non_null(strstr(fix->text, "/not/there"));
}

static void test_mover_drop_ends_what_waits_for_npod(void **state)
{
    fixture *fix = *state;
    memory_npod_faults *faults = memory_npod_faults_of(fix->npod);
    npo_hash hash = memory_npod_put(fix->npod, "input", 5),
             other = memory_npod_put(fix->npod, "x", 1);
    atomic_store(&faults->silent_at_chunk, 1);
    fetch(fix, 1, &hash); /* is never answered */
    fetch(fix, 1, &hash); /* waits behind it */
    int64_t end_ms = npo_clock_ms() + 300;
    while (npo_clock_ms() < end_ms)
        uv_run(&fix->loop, UV_RUN_NOWAIT);
    assert_int_equal(fix->count, 0);
    atomic_store(&faults->silent_at_chunk, 0);
    npo_mover_drop(fix->mover, 1);
    fetch(fix, 2, &other);
    run_until(fix, 1);
    assert_int_equal(fix->ticket, 2);
    assert_int_equal(fix->err, NPO_OK);
    assert_int_equal(fix->count, 1);
}

static void test_mover_stop_does_not_wait_for_npod(void **state)
{
    fixture *fix = *state;
    npo_hash hash = memory_npod_put(fix->npod, "input", 5);
    atomic_store(&memory_npod_faults_of(fix->npod)->silent_at_chunk, 1);
    fetch(fix, 1, &hash); /* teardown stops it */
    uv_run(&fix->loop, UV_RUN_NOWAIT);
}

#define MOVER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MOVER_TEST(test_mover_fetches_and_uploads_in_order),
        MOVER_TEST(test_mover_reports_failures),
        MOVER_TEST(test_mover_drop_ends_what_waits_for_npod),
        MOVER_TEST(test_mover_stop_does_not_wait_for_npod),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
