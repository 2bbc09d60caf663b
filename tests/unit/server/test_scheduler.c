#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ONE_STEP "\"prompts\":[\"a\"],\"round_steps\":1,\"train\":{\"steps\":1,\"batch\":12}"
#define FUSED    "\"recipe\":\"self-npo\",\"pipeline\":\"fused\"," ONE_STEP

static void test_scheduler_gang_is_all_or_nothing(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, FUSED ",\"workers\":3");
    assert_false(rig_pull(&rig, &a));
    assert_false(rig_pull(&rig, &b));
    assert_string_equal(rig_state(&rig, job), "pending");
    assert_string_equal(rig_reason(&rig, job), "needs 3 workers, 2 of 2 match its constraints");
    rig_worker c = rig_hello(&rig, 3, "c", "c");
    assert_true(rig_pull(&rig, &b));
    assert_true(rig_pull(&rig, &c));
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.task, b.task);
    assert_int_equal(a.task, c.task);
    assert_int_equal(a.world, 3);
    assert_int_equal((1 << a.rank) | (1 << b.rank) | (1 << c.rank), 7);
    assert_string_equal(rig_state(&rig, job), "running");
    rig_close(&rig);
}

static void test_scheduler_gang_waits_for_ranks_that_are_busy(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, "\"recipe\":\"self-npo\",\"workers\":2,\"prompts\":[\"a\"],\"round_steps\":1,"
                     "\"staleness\":1,\"train\":{\"steps\":2,\"batch\":2}");
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b)); /* generate */
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    assert_string_equal(a.kind, "truncate");
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a)); /* of the next round: nothing of this one is ready */
    assert_string_equal(a.kind, "generate");
    assert_int_equal(a.round, 1);
    rig_done(&rig, &b);
    assert_true(rig_pull(&rig, &b));
    rig_done(&rig, &b);
    /* train(0) is ready, a is busy: b must not begin generate(1). */
    assert_false(rig_pull(&rig, &b));
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    assert_string_equal(a.kind, "train");
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(a.task, b.task);
    rig_close(&rig);
}

static void test_scheduler_shards_stay_with_their_worker(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[3] = {rig_hello(&rig, 1, "a", "c"), rig_hello(&rig, 2, "b", "c"),
                             rig_hello(&rig, 3, "c", "c")};
    rig_submit(&rig, "\"recipe\":\"self-npo\",\"workers\":3,\"prompts\":[\"a\"],\"round_steps\":1,"
                     "\"train\":{\"steps\":3,\"batch\":3}");
    int64_t shard[3] = {-1, -1, -1};
    for (bool more = true; more;) {
        more = false;
        for (int i = 2; i >= 0; i--) { /* not in the order of the shards */
            if (!rig_pull(&rig, &workers[i]))
                continue;
            more = true;
            if (strcmp(workers[i].kind, "export") == 0 || strcmp(workers[i].kind, "train") == 0)
                continue;
            if (shard[i] < 0)
                shard[i] = workers[i].shard;
            assert_int_equal(workers[i].shard, shard[i]);
        }
        for (int i = 0; i < 3; i++)
            if (workers[i].task)
                rig_done(&rig, &workers[i]);
    }
    rig_close(&rig);
}

static void test_scheduler_takes_over_a_shard_whose_worker_is_silent(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_worker b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, "\"recipe\":\"self-npo\",\"workers\":2,\"prompts\":[\"a\"],\"round_steps\":1,"
                     "\"train\":{\"steps\":1,\"batch\":2}");
    assert_true(rig_pull(&rig, &a)); /* generate of its shard */
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a)); /* truncate of its shard */
    rig_done(&rig, &a);
    assert_false(rig_pull(&rig, &a)); /* b's shard is left to b */
    rig_tick(&rig, 3000);
    rig_beat(&rig, &b);
    assert_true(rig_pull(&rig, &a)); /* but not for ever */
    assert_string_equal(a.kind, "generate");
    rig_close(&rig);
}

static void test_scheduler_higher_priority_goes_first(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t low = rig_submit(&rig, RIG_SAMPLE);
    int64_t first = rig_submit(&rig, RIG_SAMPLE ",\"priority\":5");
    int64_t second = rig_submit(&rig, RIG_SAMPLE ",\"priority\":5");
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    const int64_t order[] = {first, second, low};
    for (int i = 0; i < 3; i++) {
        assert_true(rig_pull(&rig, &a));
        assert_int_equal(a.job, order[i]);
        rig_done(&rig, &a);
    }
    assert_string_equal(rig_state(&rig, low), "done");
    rig_close(&rig);
}

static void test_scheduler_reserves_for_the_first_and_backfills_behind_it(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t running = rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":100");
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, running);
    int64_t big = rig_submit(&rig, FUSED ",\"workers\":2");
    int64_t endless = rig_submit(&rig, RIG_SAMPLE);
    int64_t longer = rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":101");
    /* b is kept for the big job, which can begin in 100 s at the latest. */
    assert_false(rig_pull(&rig, &b));
    assert_string_equal(rig_reason(&rig, big),
                        "needs 2 workers, 1 of 2 are free, others have job 1");
    assert_string_equal(rig_reason(&rig, endless),
                        "waits behind job 2, for which workers are kept");
    int64_t shorter = rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":99");
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, shorter);
    rig_done(&rig, &b);
    assert_false(rig_pull(&rig, &b));
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_int_equal(a.job, big);
    assert_int_equal(b.job, big);
    assert_string_equal(rig_state(&rig, longer), "pending");
    rig_close(&rig);
}

static void test_scheduler_a_job_that_cannot_run_blocks_nobody(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t big = rig_submit(&rig, FUSED ",\"workers\":4,\"priority\":9");
    int64_t small = rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, small);
    assert_string_equal(rig_state(&rig, big), "pending");
    rig_close(&rig);
}

static void test_scheduler_after_waits_until_done(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char more[128];
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t first = rig_submit(&rig, RIG_SAMPLE);
    snprintf(more, sizeof more, RIG_SAMPLE ",\"after\":[%lld]", (long long)first);
    int64_t second = rig_submit(&rig, more);
    assert_true(rig_pull(&rig, &a));
    assert_false(rig_pull(&rig, &b));
    snprintf(more, sizeof more, "waits for job %lld to be done", (long long)first);
    assert_string_equal(rig_reason(&rig, second), more);
    rig_restart(&rig);
    assert_false(rig_pull(&rig, &b));
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, second);
    /* Waiting for what is done already is not waiting. */
    snprintf(more, sizeof more, RIG_SAMPLE ",\"after\":[%lld]", (long long)first);
    int64_t third = rig_submit(&rig, more);
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, third);
    rig_close(&rig);
}

static void test_scheduler_after_refuses_jobs_that_are_not_there(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig.may_fail = true;
    rig_submit(&rig, RIG_SAMPLE ",\"after\":[77]");
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    assert_non_null(strstr(rig.last_text, "there is no job 77"));
    rig_close(&rig);
}

static void test_scheduler_constraints_choose_workers(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t gpu = rig_submit(&rig, RIG_SAMPLE ",\"constraints\":{\"device\":\"cuda\"}");
    int64_t other = rig_submit(&rig, RIG_SAMPLE ",\"constraints\":{\"label\":{\"rack\":\"b\"}}");
    int64_t here = rig_submit(&rig, RIG_SAMPLE ",\"constraints\":{\"device\":\"cpu\","
                                               "\"label\":{\"rack\":\"a\"}}");
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, here);
    rig_done(&rig, &a);
    assert_false(rig_pull(&rig, &a));
    assert_string_equal(rig_reason(&rig, gpu), "needs 1 workers, 0 of 1 match its constraints");
    assert_string_equal(rig_state(&rig, other), "pending");
    rig_close(&rig);
}

static void test_scheduler_keeps_to_one_numeric_class(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "avx2"), b = rig_hello(&rig, 2, "b", "avx512");
    int64_t strict = rig_submit(&rig, FUSED ",\"workers\":2");
    assert_false(rig_pull(&rig, &a));
    assert_string_equal(rig_reason(&rig, strict),
                        "needs 2 workers of one numeric class and build; 2 match, but differ");
    int64_t loose = rig_submit(&rig, FUSED ",\"workers\":2,\"any_class\":true");
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_int_equal(a.job, loose);
    rig_done(&rig, &a);
    rig_done(&rig, &b);
    rig_play(&rig, &a, 1); /* export of the loose one */
    rig_worker c = rig_hello(&rig, 3, "c", "avx2");
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, strict);
    assert_true(rig_pull(&rig, &c));
    assert_int_equal(c.job, strict);
    assert_false(rig_pull(&rig, &b));
    rig_close(&rig);
}

static void test_scheduler_a_class_once_used_is_kept(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "avx2");
    int64_t job = rig_submit(&rig, FUSED);
    assert_true(rig_pull(&rig, &a));
    rig_ask(&rig, a.boot, NPO_MESSAGE_GOODBYE, "{\"worker\":%lld}", (long long)a.id);
    rig_worker b = rig_hello(&rig, 2, "b", "avx512");
    assert_false(rig_pull(&rig, &b));
    rig_restart(&rig);
    assert_false(rig_pull(&rig, &b));
    rig_worker c = rig_hello(&rig, 3, "c", "avx2");
    assert_true(rig_pull(&rig, &c));
    assert_int_equal(c.job, job);
    assert_int_equal(c.attempt, 2);
    rig_close(&rig);
}

static void test_scheduler_time_limit_ends_the_job(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":60");
    rig_tick(&rig, 100000); /* waiting does not count */
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    assert_true(rig_pull(&rig, &a));
    for (int i = 0; i < 50; i++) {
        rig_tick(&rig, 1000);
        rig_beat(&rig, &a);
    }
    rig_restart(&rig); /* nor is it forgotten */
    assert_string_equal(rig_state(&rig, job), "running");
    for (int i = 0; i < 9; i++) {
        rig_tick(&rig, 1000);
        rig_beat(&rig, &a);
    }
    assert_string_equal(rig_state(&rig, job), "running");
    rig_tick(&rig, 1000);
    assert_string_equal(rig_state(&rig, job), "failed");
    assert_non_null(strstr(rig.last_text, "its time limit of 60 s is over"));
    const cJSON *cancel = cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel");
    assert_int_equal(cJSON_GetArraySize(cancel), 1);
    rig_close(&rig);
}

static void test_scheduler_without_workers_says_so(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    assert_string_equal(rig_reason(&rig, job), "there are no workers");
    rig_close(&rig);
}

#define NOT_YET "is looked at when a worker next asks for work, within a second"

static void test_scheduler_reasons_are_true(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t first = rig_submit(&rig, RIG_SAMPLE), second = rig_submit(&rig, RIG_SAMPLE);
    int64_t third = rig_submit(&rig, RIG_SAMPLE);
    assert_string_equal(rig_reason(&rig, first), NOT_YET);
    assert_string_equal(rig_reason(&rig, third), NOT_YET);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_string_equal(rig_reason(&rig, first), "");
    assert_string_equal(rig_reason(&rig, third),
                        "needs 1 workers, 0 of 2 are free, others have job 1, 2");
    /* Held, but its task goes on: the worker is not free. */
    rig_order(&rig, NPO_MESSAGE_HOLD, second);
    assert_string_equal(rig_reason(&rig, third),
                        "needs 1 workers, 0 of 2 are free, others have job 1, 2");
    rig_done(&rig, &b);
    assert_string_equal(rig_reason(&rig, third), NOT_YET);
    /* Free workers of another class are of no use. */
    rig_hello(&rig, 3, "c", "other");
    int64_t gang = rig_submit(&rig, FUSED ",\"workers\":2,\"priority\":9");
    assert_true(rig_pull(&rig, &b) == false);
    assert_string_equal(rig_reason(&rig, gang),
                        "needs 2 workers, 1 of 2 are free, others have job 1");
    rig_close(&rig);
}

static void test_scheduler_holding_the_first_lets_the_others_go(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    int64_t big = rig_submit(&rig, FUSED ",\"workers\":2"), small = rig_submit(&rig, RIG_SAMPLE);
    assert_false(rig_pull(&rig, &b));
    rig_order(&rig, NPO_MESSAGE_HOLD, big);
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, small);
    rig_close(&rig);
}

/* However many jobs wait for what is not there, or busy, those behind them are found. */
static void test_scheduler_many_blocked_jobs_hide_nobody(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    for (int i = 0; i < 100; i++) {
        rig_submit(&rig, RIG_SAMPLE ",\"constraints\":{\"device\":\"cuda\"}");
        rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":60,\"constraints\":{\"device\":\"cuda\"}");
    }
    int64_t here = rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.job, here);
    rig_close(&rig);
}

static void test_scheduler_after_says_what_failed(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char more[128];
    rig_hello(&rig, 1, "a", "c");
    int64_t first = rig_submit(&rig, RIG_SAMPLE);
    snprintf(more, sizeof more, RIG_SAMPLE ",\"after\":[%lld]", (long long)first);
    int64_t second = rig_submit(&rig, more);
    rig_order(&rig, NPO_MESSAGE_CANCEL, first);
    assert_string_equal(rig_reason(&rig, second),
                        "waits for job 1 (cancelled: `npoctl retry 1`) to be done");
    rig_order(&rig, NPO_MESSAGE_RETRY, first);
    assert_string_equal(rig_reason(&rig, second), "waits for job 1 to be done");
    rig_close(&rig);
}

/* The wall clock is set back while npod is away: the job has not earned time by it. */
static void test_scheduler_time_limit_with_a_clock_set_back(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE ",\"time_limit_s\":10");
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    assert_true(rig_pull(&rig, &a));
    rig.now.wall_ms -= 3600000;
    rig_restart(&rig);
    rig_tick(&rig, 11000);
    assert_string_equal(rig_state(&rig, job), "failed");
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scheduler_gang_is_all_or_nothing),
        cmocka_unit_test(test_scheduler_gang_waits_for_ranks_that_are_busy),
        cmocka_unit_test(test_scheduler_shards_stay_with_their_worker),
        cmocka_unit_test(test_scheduler_takes_over_a_shard_whose_worker_is_silent),
        cmocka_unit_test(test_scheduler_higher_priority_goes_first),
        cmocka_unit_test(test_scheduler_reserves_for_the_first_and_backfills_behind_it),
        cmocka_unit_test(test_scheduler_a_job_that_cannot_run_blocks_nobody),
        cmocka_unit_test(test_scheduler_after_waits_until_done),
        cmocka_unit_test(test_scheduler_after_refuses_jobs_that_are_not_there),
        cmocka_unit_test(test_scheduler_constraints_choose_workers),
        cmocka_unit_test(test_scheduler_keeps_to_one_numeric_class),
        cmocka_unit_test(test_scheduler_a_class_once_used_is_kept),
        cmocka_unit_test(test_scheduler_time_limit_ends_the_job),
        cmocka_unit_test(test_scheduler_without_workers_says_so),
        cmocka_unit_test(test_scheduler_reasons_are_true),
        cmocka_unit_test(test_scheduler_holding_the_first_lets_the_others_go),
        cmocka_unit_test(test_scheduler_many_blocked_jobs_hide_nobody),
        cmocka_unit_test(test_scheduler_after_says_what_failed),
        cmocka_unit_test(test_scheduler_time_limit_with_a_clock_set_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
