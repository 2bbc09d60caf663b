#include "kernels/comm/comm.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- ranks as processes ---- */

typedef struct {
    int rank, world;
    npo_comm *comm;
    const char *dir;
} gang_rank;

/* Runs in a child; 0: as expected. Must not use cmocka's asserts. */
typedef int (*rank_body)(const gang_rank *gang);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d line %d: %s\n", gang->rank, __LINE__, #condition);            \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* Far above what a loaded machine needs; and one for the tests that wait for it to pass. */
enum { TIMEOUT_MS = 60000, SHORT_TIMEOUT_MS = 3000 };

static int run_rank(int rank, int world, const char *dir, const npo_comm_gloo_options *limits,
                    rank_body body)
{
    alarm(150); /* a rank that hangs fails instead of holding up the suite */
    npo_comm_store store;
    npo_error error = {0};
    if (npo_comm_store_new_dir(dir, &store, &error))
        return 10;
    npo_comm_gloo_options options = *limits;
    options.rank = rank;
    options.world = world;
    options.store = &store;
    npo_comm *comm = NULL;
    if (npo_comm_new_gloo(&options, &comm, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 11;
    }
    gang_rank gang = {.rank = rank, .world = world, .comm = comm, .dir = dir};
    int result = body(&gang);
    npo_comm_free(comm);
    npo_comm_store_fini_dir(&store);
    return result;
}

static void make_dir(char path[64])
{
    strcpy(path, "/tmp/npo-comm-XXXXXX");
    assert_non_null(mkdtemp(path));
}

/* Forks `world` ranks; those of the mask are expected to die by SIGKILL, the others to return 0. */
static void run_limited(int world, unsigned killed, int64_t timeout_ms, rank_body body)
{
    const npo_comm_gloo_options limits = {.connect_timeout_ms = TIMEOUT_MS,
                                          .timeout_ms = timeout_ms};
    char dir[64];
    pid_t pids[8];
    make_dir(dir);
    for (int rank = 0; rank < world; rank++) {
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] == 0)
            _exit(run_rank(rank, world, dir, &limits, body));
    }
    for (int rank = 0; rank < world; rank++) {
        int status = 0;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        if (killed >> rank & 1)
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        else
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
}

static void run_gang(int world, unsigned killed, rank_body body)
{
    run_limited(world, killed, TIMEOUT_MS, body);
}

/* A mark that other ranks can wait for. */
static int set_mark(const gang_rank *gang, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/mark-%s", gang->dir, name);
    return npo_file_write(path, "x", 1, 0600, NULL) == NPO_OK ? 0 : 1;
}

static bool has_mark(const gang_rank *gang, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/mark-%s", gang->dir, name);
    return npo_file_exists(path);
}

static void pause_ms(int64_t ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* ---- sums ---- */

/* Values of very different size, so that another order of addition gives other bits. */
static float value_of(int rank, size_t i)
{
    uint32_t h = (uint32_t)(i * 2654435761u + (uint32_t)rank * 40503u + 12345u);
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    float sign = h & 1 ? 1.0f : -1.0f;
    return sign * (1.0f + (float)(h >> 9) * 0x1p-23f) * (float)(1 << (h >> 1 & 15));
}

static int sum_size(const gang_rank *gang, size_t n)
{
    npo_error error = {0};
    float *x = malloc((n + 1) * sizeof *x);
    CHECK(x);
    for (size_t i = 0; i < n; i++)
        x[i] = value_of(gang->rank, i);
    x[n] = 42;
    npo_err err = npo_comm_allreduce_sum(gang->comm, x, n, &error);
    if (err)
        fprintf(stderr, "%s\n", error.text);
    CHECK(err == NPO_OK);
    for (size_t i = 0; i < n; i++) {
        float expected = value_of(0, i);
        for (int rank = 1; rank < gang->world; rank++)
            expected += value_of(rank, i);
        CHECK(memcmp(&expected, &x[i], sizeof expected) == 0);
    }
    CHECK(x[n] == 42);
    free(x);
    return 0;
}

static int body_sums(const gang_rank *gang)
{
    static const size_t sizes[] = {
        0, 1, 2, 3, 7, 1000, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2500000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sum_size(gang, sizes[i]))
            return 1;
    return 0;
}

static void test_comm_sums_in_rank_order_over_two(void **state)
{
    run_gang(2, 0, body_sums);
}

static void test_comm_sums_in_rank_order_over_three(void **state)
{
    run_gang(3, 0, body_sums);
}

static void test_comm_sums_over_five(void **state)
{
    run_gang(5, 0, body_sums);
}

/* The last rank comes late; nobody passes before it has written its file. */
static int body_barrier(const gang_rank *gang)
{
    npo_error error = {0};
    if (gang->rank == gang->world - 1) {
        pause_ms(300);
        CHECK(set_mark(gang, "late") == 0);
    }
    CHECK(npo_comm_barrier(gang->comm, &error) == NPO_OK);
    CHECK(has_mark(gang, "late"));
    CHECK(npo_comm_barrier(gang->comm, &error) == NPO_OK);
    return 0;
}

static void test_comm_barrier_waits_for_all(void **state)
{
    run_gang(3, 0, body_barrier);
}

/* ---- failures ---- */

static int expect_failure(const gang_rank *gang, int culprit, npo_err code, npo_err other)
{
    enum { N = 3 << 20 };
    npo_error error = {0};
    char name[32];
    float *x = calloc(N, sizeof *x);
    CHECK(x);
    int64_t start = npo_clock_ms();
    npo_err err = npo_comm_allreduce_sum(gang->comm, x, N, &error);
    int64_t took = npo_clock_ms() - start;
    fprintf(stderr, "rank %d after %lld ms: %s\n", gang->rank, (long long)took, error.text);
    snprintf(name, sizeof name, "rank %d ", culprit);
    CHECK(err == code || err == other);
    CHECK(strstr(error.text, name));
    CHECK(took < TIMEOUT_MS / 2); /* not by waiting for the long time limit */
    CHECK(npo_comm_allreduce_sum(gang->comm, x, 1, &error) == NPO_E_STATE);
    CHECK(npo_comm_barrier(gang->comm, &error) == NPO_E_STATE);
    free(x);
    return 0;
}

static int body_last_dies(const gang_rank *gang)
{
    if (sum_size(gang, 1000))
        return 1;
    if (gang->rank == gang->world - 1) {
        pause_ms(200); /* the others are in the middle of theirs */
        kill(getpid(), SIGKILL);
    }
    return expect_failure(gang, gang->world - 1, NPO_E_PEER, NPO_E_PEER);
}

static void test_comm_names_a_rank_killed_in_a_collective_of_two(void **state)
{
    run_gang(2, 1u << 1, body_last_dies);
}

static void test_comm_names_a_rank_killed_in_a_collective_of_three(void **state)
{
    run_gang(3, 1u << 2, body_last_dies);
}

static void *kill_soon(void *argument)
{
    pause_ms(3);
    kill(getpid(), SIGKILL);
    return NULL;
}

/* Dies while its own allreduce is under way, with shares sent and received. */
static int body_dies_inside(const gang_rank *gang)
{
    enum { N = 8 << 20 };
    npo_error error = {0};
    float *x = calloc(N, sizeof *x);
    CHECK(x && npo_comm_barrier(gang->comm, &error) == NPO_OK);
    pthread_t thread;
    if (gang->rank == 1)
        CHECK(pthread_create(&thread, NULL, kill_soon, NULL) == 0);
    npo_err err = NPO_OK;
    for (int i = 0; !err && i < 1000; i++)
        err = npo_comm_allreduce_sum(gang->comm, x, N, &error);
    fprintf(stderr, "rank %d: %s\n", gang->rank, error.text);
    CHECK(err == NPO_E_PEER && strstr(error.text, "rank 1 "));
    free(x);
    return 0;
}

static void test_comm_names_a_rank_killed_while_it_sends(void **state)
{
    run_gang(3, 1u << 1, body_dies_inside);
}

static int body_one_hangs(const gang_rank *gang)
{
    npo_error error = {0};
    CHECK(npo_comm_barrier(gang->comm, &error) == NPO_OK);
    if (gang->rank == 1) {
        while (!has_mark(gang, "0") || !has_mark(gang, "2"))
            pause_ms(20);
        return 0;
    }
    int64_t start = npo_clock_ms();
    int result = expect_failure(gang, 1, NPO_E_TIMEOUT, NPO_E_PEER);
    CHECK(npo_clock_ms() - start >= SHORT_TIMEOUT_MS / 2);
    return result | set_mark(gang, gang->rank == 0 ? "0" : "2");
}

static void test_comm_ends_at_the_time_limit_when_a_rank_hangs(void **state)
{
    run_limited(3, 0, SHORT_TIMEOUT_MS, body_one_hangs);
}

/* In a barrier only rank 0 waits for rank 1; the others wait for rank 0, and still name rank 1. */
static int body_one_misses_the_barrier(const gang_rank *gang)
{
    npo_error error = {0};
    CHECK(npo_comm_barrier(gang->comm, &error) == NPO_OK);
    if (gang->rank == 1) {
        while (!has_mark(gang, "0") || !has_mark(gang, "2") || !has_mark(gang, "3"))
            pause_ms(20);
        return 0;
    }
    npo_err err = npo_comm_barrier(gang->comm, &error);
    fprintf(stderr, "rank %d: %s\n", gang->rank, error.text);
    CHECK(err == NPO_E_TIMEOUT || err == NPO_E_PEER);
    CHECK(strstr(error.text, ": rank 1 "));
    static const char *const marks[] = {"0", "1", "2", "3"};
    return set_mark(gang, marks[gang->rank]);
}

static void test_comm_names_the_first_to_fail(void **state)
{
    run_limited(4, 0, SHORT_TIMEOUT_MS, body_one_misses_the_barrier);
}

static int body_none(const gang_rank *gang)
{
    return 0;
}

static void test_comm_rendezvous_names_a_rank_that_does_not_come(void **state)
{
    char dir[64];
    make_dir(dir);
    npo_comm_store store;
    npo_error error = {0};
    assert_int_equal(npo_comm_store_new_dir(dir, &store, &error), NPO_OK);
    const npo_comm_gloo_options options = {
        .rank = 0, .world = 2, .store = &store, .connect_timeout_ms = 200, .timeout_ms = 200};
    npo_comm *comm = NULL;
    int64_t start = npo_clock_ms();
    assert_int_equal(npo_comm_new_gloo(&options, &comm, &error), NPO_E_TIMEOUT);
    assert_true(npo_clock_ms() - start < TIMEOUT_MS / 2);
    assert_non_null(strstr(error.text, "rank 1 "));
    npo_comm_store_fini_dir(&store);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
}

/* A rank that published its address and then died. */
static void test_comm_rendezvous_ends_when_a_rank_died(void **state)
{
    char dir[64];
    make_dir(dir);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const npo_comm_gloo_options limits = {.connect_timeout_ms = 300};
        _exit(run_rank(1, 2, dir, &limits, body_none));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 11);
    npo_comm_store store;
    npo_error error = {0};
    assert_int_equal(npo_comm_store_new_dir(dir, &store, &error), NPO_OK);
    const npo_comm_gloo_options options = {
        .rank = 0, .world = 2, .store = &store, .connect_timeout_ms = 500, .timeout_ms = 500};
    npo_comm *comm = NULL;
    int64_t start = npo_clock_ms();
    npo_err err = npo_comm_new_gloo(&options, &comm, &error);
    assert_true(err == NPO_E_UNREACHABLE || err == NPO_E_TIMEOUT);
    assert_true(npo_clock_ms() - start < TIMEOUT_MS / 2);
    npo_comm_store_fini_dir(&store);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
}

static npo_err failing_set(void *self, const char *key, const void *value, size_t len)
{
    return NPO_E_FENCED;
}

static npo_err failing_get(void *self, const char *key, int64_t timeout_ms, void *ret_value,
                           size_t size, size_t *ret_len)
{
    return NPO_E_FENCED;
}

static void test_comm_rendezvous_passes_on_what_the_store_says(void **state)
{
    const npo_comm_store store = {.set = failing_set, .get = failing_get};
    const npo_comm_gloo_options options = {.rank = 0, .world = 2, .store = &store};
    npo_comm *comm = NULL;
    npo_error error = {0};
    assert_int_equal(npo_comm_new_gloo(&options, &comm, &error), NPO_E_FENCED);
}

static void test_comm_refuses_wrong_options(void **state)
{
    static const npo_comm_gloo_options rows[] = {
        {.rank = 0, .world = 0},
        {.rank = 0, .world = NPO_GANG_MAX + 1},
        {.rank = -1, .world = 2},
        {.rank = 2, .world = 2},
        {.rank = 0, .world = 2, .timeout_ms = -1},
        {.rank = 0, .world = 2, .connect_timeout_ms = -1},
    };
    npo_comm *comm = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(npo_comm_new_gloo(&rows[i], &comm, NULL), NPO_E_RANGE);
    const npo_comm_store store = {.set = failing_set, .get = failing_get};
    const npo_comm_gloo_options nowhere = {
        .rank = 0, .world = 2, .store = &store, .interface = "no-such-interface"};
    assert_int_equal(npo_comm_new_gloo(&nowhere, &comm, NULL), NPO_E_NOT_FOUND);
    static const char *const hosts[] = {"no such host", "192.0.2.1"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        const npo_comm_gloo_options deaf = {
            .rank = 0, .world = 2, .store = &store, .host = hosts[i]};
        assert_int_equal(npo_comm_new_gloo(&deaf, &comm, NULL), NPO_E_NOT_FOUND);
    }
    assert_null(comm);
}

static void test_comm_of_one_is_the_identity(void **state)
{
    const npo_comm_gloo_options options = {.rank = 0, .world = 1};
    npo_comm *comm = NULL;
    npo_error error = {0};
    float x[3] = {1, 2, 3};
    assert_int_equal(npo_comm_new_gloo(&options, &comm, &error), NPO_OK);
    assert_int_equal(npo_comm_world(comm), 1);
    assert_int_equal(npo_comm_allreduce_sum(comm, x, 3, &error), NPO_OK);
    assert_int_equal(npo_comm_barrier(comm, &error), NPO_OK);
    assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3);
    npo_comm_free(comm);
    npo_comm_free(NULL);
}

static void test_comm_store_keeps_values_and_waits(void **state)
{
    char dir[64], value[8];
    size_t len = 0;
    make_dir(dir);
    npo_comm_store store;
    assert_int_equal(npo_comm_store_new_dir(dir, &store, NULL), NPO_OK);
    assert_int_equal(store.get(store.self, "a", 0, value, sizeof value, &len), NPO_E_TIMEOUT);
    assert_int_equal(store.set(store.self, "a", "0123456789", 10), NPO_OK);
    assert_int_equal(store.get(store.self, "a", 0, value, sizeof value, &len), NPO_E_LIMIT);
    assert_int_equal(store.set(store.self, "a", "", 0), NPO_OK);
    assert_int_equal(store.get(store.self, "a", 0, value, sizeof value, &len), NPO_OK);
    assert_int_equal(len, 0);
    npo_comm_store_fini_dir(&store);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    assert_int_not_equal(npo_comm_store_new_dir("/dev/null/x", &store, NULL), NPO_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comm_sums_in_rank_order_over_two),
        cmocka_unit_test(test_comm_sums_in_rank_order_over_three),
        cmocka_unit_test(test_comm_sums_over_five),
        cmocka_unit_test(test_comm_barrier_waits_for_all),
        cmocka_unit_test(test_comm_names_a_rank_killed_in_a_collective_of_two),
        cmocka_unit_test(test_comm_names_a_rank_killed_in_a_collective_of_three),
        cmocka_unit_test(test_comm_names_a_rank_killed_while_it_sends),
        cmocka_unit_test(test_comm_ends_at_the_time_limit_when_a_rank_hangs),
        cmocka_unit_test(test_comm_names_the_first_to_fail),
        cmocka_unit_test(test_comm_rendezvous_names_a_rank_that_does_not_come),
        cmocka_unit_test(test_comm_rendezvous_ends_when_a_rank_died),
        cmocka_unit_test(test_comm_rendezvous_passes_on_what_the_store_says),
        cmocka_unit_test(test_comm_refuses_wrong_options),
        cmocka_unit_test(test_comm_of_one_is_the_identity),
        cmocka_unit_test(test_comm_store_keeps_values_and_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
