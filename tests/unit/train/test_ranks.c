/* The optimizer step over two ranks in two processes. */
#include "tests/unit/train/support.h"

#include "common/file.h"
#include "common/hash.h"
#include "worker/train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 2, LOCAL = 2, STEPS = 3 };

static char dir[64];

static int setup(void **state)
{
    strcpy(dir, "/tmp/npo-ranks-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    return npo_file_remove(dir, NULL) == NPO_OK ? 0 : -1;
}

static const char *file_of(int rank)
{
    static char path[2][128];
    snprintf(path[rank & 1], sizeof path[0], "%s/rank-%d", dir, rank);
    return path[rank & 1];
}

static npo_err save(npo_trainer *trainer, const char *path)
{
    const npo_checkpoint_sets sets = {npo_trainer_student(trainer), npo_trainer_ema(trainer),
                                      npo_trainer_moments(trainer)};
    const npo_checkpoint_meta meta = {.step = npo_trainer_step_count(trainer)};
    return npo_checkpoint_save(path, &sets, &meta, NULL);
}

/* In the child. Steps of LOCAL samples a rank, spoilt: the last target of rank 1 is not a number.
 */
static npo_err run_steps(small_unet *unet, npo_comm *comm, int rank, bool spoilt)
{
    npo_trainer *trainer = small_trainer(unet, comm, LOCAL);
    npo_err err = trainer ? NPO_OK : NPO_E_NOMEM;
    for (int step = 0; !err && step < STEPS; step++) {
        npo_batch batch;
        npo_train_result result;
        npo_error error = {0};
        small_batch(&batch, RANKS * LOCAL * step + LOCAL * rank, LOCAL);
        if (spoilt && rank == 1)
            batch.target[0] = NAN;
        err = npo_trainer_step(trainer, &batch, &result, &error);
        npo_batch_fini(&batch);
    }
    if (!err)
        err = save(trainer, file_of(rank));
    npo_trainer_free(trainer);
    return err;
}

static int run_rank(int rank, const char *store_dir, bool spoilt)
{
    small_unet unet;
    npo_comm_store store;
    npo_comm *comm = NULL;
    npo_error error = {0};
    alarm(150);
    if (npo_comm_store_new_dir(store_dir, &store, &error))
        return 100;
    const npo_comm_gloo_options options = {
        .rank = rank, .world = RANKS, .store = &store, .timeout_ms = 60000};
    if (npo_comm_new_gloo(&options, &comm, &error))
        return 101;
    small_unet_init(&unet, 1);
    npo_err err = run_steps(&unet, comm, rank, spoilt);
    npo_comm_free(comm);
    npo_comm_store_fini_dir(&store);
    small_unet_fini(&unet);
    return (int)err;
}

static void run_gang(const char *name, bool spoilt, npo_err expected)
{
    char store_dir[160];
    pid_t pids[RANKS];
    snprintf(store_dir, sizeof store_dir, "%s/%s", dir, name);
    for (int rank = 0; rank < RANKS; rank++) {
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] == 0)
            _exit(run_rank(rank, store_dir, spoilt));
    }
    for (int rank = 0; rank < RANKS; rank++) {
        int status = 0;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), expected);
    }
}

/* Both ranks hold the same bytes, and nearly those of one rank with the whole batch. */
static void test_ranks_train_as_one(void **state)
{
    run_gang("train", false, NPO_OK);
    npo_hash hashes[RANKS];
    uint64_t size;
    for (int rank = 0; rank < RANKS; rank++)
        assert_int_equal(npo_hash_file(file_of(rank), &hashes[rank], &size, NULL), NPO_OK);
    assert_true(npo_hash_equal(&hashes[0], &hashes[1]));

    small_unet unet;
    small_unet_init(&unet, 1);
    npo_trainer *whole = small_trainer(&unet, NULL, LOCAL);
    for (int step = 0; step < STEPS; step++) {
        npo_batch batch, half[RANKS];
        npo_train_result result;
        assert_int_equal(npo_batch_init(&batch, RANKS * LOCAL, SMALL_FLOATS), NPO_OK);
        for (int rank = 0; rank < RANKS; rank++) {
            small_batch(&half[rank], RANKS * LOCAL * step + LOCAL * rank, LOCAL);
            size_t at = (size_t)rank * LOCAL;
            memcpy(batch.x + at * SMALL_FLOATS, half[rank].x, LOCAL * SMALL_FLOATS * sizeof(float));
            memcpy(batch.target + at * SMALL_FLOATS, half[rank].target,
                   LOCAL * SMALL_FLOATS * sizeof(float));
            memcpy(batch.t + at, half[rank].t, LOCAL * sizeof(float));
            memcpy(batch.ca + at, half[rank].ca, LOCAL * sizeof(float));
            memcpy(batch.cb + at, half[rank].cb, LOCAL * sizeof(float));
            memcpy(batch.prompt + at, half[rank].prompt, LOCAL * sizeof(int32_t));
            npo_batch_fini(&half[rank]);
        }
        assert_int_equal(npo_trainer_step(whole, &batch, &result, NULL), NPO_OK);
        npo_batch_fini(&batch);
    }
    npo_params *student = NULL;
    npo_moments *moments = NULL;
    npo_checkpoint_meta meta;
    assert_int_equal(npo_params_new(unet.layout, &student), NPO_OK);
    assert_int_equal(npo_moments_new(unet.layout, NPO_OPTIMIZER_ADAMW, &moments), NPO_OK);
    const npo_checkpoint_sets sets = {.student = student, .moments = moments};
    assert_int_equal(npo_checkpoint_load(file_of(0), &sets, &meta, NULL), NPO_OK);
    assert_int_equal(meta.step, STEPS);
    /* First moments are linear in the gradients, so they show the average without Adam's signs. */
    double difference = 0, size_of = 0;
    const float *a = npo_moments_at(moments, NPO_EXP_AVG, 0).values;
    const float *b = npo_moments_at(npo_trainer_moments(whole), NPO_EXP_AVG, 0).values;
    for (size_t i = 0; i < npo_layout_floats(unet.layout); i++) {
        difference += pow((double)a[i] - (double)b[i], 2);
        size_of += pow((double)b[i], 2);
    }
    assert_true(size_of > 0 && sqrt(difference / size_of) < 1e-2);
    npo_params_free(student);
    npo_moments_free(moments);
    npo_trainer_free(whole);
    small_unet_fini(&unet);
}

/* One rank's bad value stops all of them, at the same step and without a timeout. */
static void test_ranks_stop_together_on_divergence(void **state)
{
    run_gang("diverge", true, NPO_E_DIVERGED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_train_as_one),
        cmocka_unit_test(test_ranks_stop_together_on_divergence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
