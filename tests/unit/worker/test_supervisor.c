#include "worker/supervisor/supervisor.h"

#include "common/bounds.h"
#include "tests/unit/cmocka.h"

#include <string.h>

typedef struct {
    npo_supervisor state;
    npo_supervisor_actions actions; /* of the last event */
    int64_t now_ms;
} fixture;

static void post(fixture *fix, npo_supervisor_event event)
{
    fix->actions.count = 0;
    npo_supervisor_handle(&fix->state, &event, fix->now_ms, &fix->actions);
}

static void post_kind(fixture *fix, npo_supervisor_event_kind kind)
{
    post(fix, (npo_supervisor_event){.kind = kind, .ticket = fix->state.ticket});
}

static void pass(fixture *fix, int64_t ms)
{
    fix->now_ms += ms;
    post_kind(fix, NPO_EVENT_TIMER);
}

static bool did(const fixture *fix, npo_supervisor_action_kind kind)
{
    for (int i = 0; i < fix->actions.count; i++)
        if (fix->actions.items[i].kind == kind)
            return true;
    return false;
}

static void expect(const fixture *fix, int count, npo_supervisor_action_kind kind)
{
    assert_int_equal(fix->actions.count, count);
    if (count > 0)
        assert_true(did(fix, kind));
}

/* ---- ways to every state ---- */

static void start(fixture *fix)
{
    *fix = (fixture){.now_ms = 1000000};
    npo_supervisor_init(&fix->state);
    post_kind(fix, NPO_EVENT_START);
    expect(fix, 1, NPO_ACTION_SPAWN);
}

static void become_ready(fixture *fix)
{
    start(fix);
    post_kind(fix, NPO_EVENT_EXECUTOR_READY);
    expect(fix, 1, NPO_ACTION_HELLO);
}

static void say_hello(fixture *fix)
{
    become_ready(fix);
    post(fix,
         (npo_supervisor_event){.kind = NPO_EVENT_HELLO_DONE, .worker = 5, .heartbeat_ms = 1000});
    expect(fix, 1, NPO_ACTION_PULL);
}

static const npo_fence fence = {.task = 41, .attempt = 2, .rank = 0};

static void take_task(fixture *fix, int64_t time_limit_ms)
{
    say_hello(fix);
    post(fix, (npo_supervisor_event){.kind = NPO_EVENT_PULL_DONE,
                                     .has_assignment = true,
                                     .fence = fence,
                                     .time_limit_ms = time_limit_ms});
    expect(fix, 1, NPO_ACTION_FETCH);
    assert_int_equal(fix->state.task, NPO_TASK_FETCHING);
}

static void run_task(fixture *fix, int64_t time_limit_ms)
{
    take_task(fix, time_limit_ms);
    post_kind(fix, NPO_EVENT_FETCHED);
    expect(fix, 1, NPO_ACTION_RUN);
}

static void publish(fixture *fix)
{
    run_task(fix, 0);
    post_kind(fix, NPO_EVENT_TASK_OUTPUT);
    expect(fix, 1, NPO_ACTION_UPLOAD);
    post_kind(fix, NPO_EVENT_TASK_DONE);
    expect(fix, 1, NPO_ACTION_FLUSH);
    assert_int_equal(fix->state.task, NPO_TASK_PUBLISHING);
}

static void report(fixture *fix)
{
    publish(fix);
    post_kind(fix, NPO_EVENT_STREAMS_SENT);
    expect(fix, 0, 0);
    post_kind(fix, NPO_EVENT_UPLOADED);
    expect(fix, 1, NPO_ACTION_DONE);
    assert_int_equal(fix->state.task, NPO_TASK_REPORTING);
}

static void cancel_task(fixture *fix)
{
    run_task(fix, 0);
    post(fix, (npo_supervisor_event){.kind = NPO_EVENT_HEARTBEAT_DONE,
                                     .known = true,
                                     .cancels = {fence},
                                     .cancel_count = 1});
    assert_true(did(fix, NPO_ACTION_DROP) && did(fix, NPO_ACTION_CANCEL));
    assert_int_equal(fix->state.executor, NPO_EXECUTOR_CANCELLING);
    assert_int_equal(fix->state.task, NPO_TASK_NONE);
}

/* ---- the usual course ---- */

static void test_supervisor_runs_a_task_and_pulls_the_next(void **state)
{
    fixture fix;
    report(&fix);
    post_kind(&fix, NPO_EVENT_REPORT_DONE);
    assert_int_equal(fix.actions.count, 2);
    assert_true(did(&fix, NPO_ACTION_DROP));
    assert_false(did(&fix, NPO_ACTION_PULL) && fix.actions.items[0].kind == NPO_ACTION_PULL);
    assert_true(did(&fix, NPO_ACTION_PULL));
}

static void test_supervisor_waits_as_long_as_npod_says(void **state)
{
    fixture fix;
    say_hello(&fix);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_PULL_DONE, .wait_ms = 400});
    expect(&fix, 0, 0);
    assert_int_equal(npo_supervisor_deadline(&fix.state), fix.now_ms + 400);
    pass(&fix, 399);
    expect(&fix, 0, 0);
    pass(&fix, 1);
    expect(&fix, 1, NPO_ACTION_PULL);
    pass(&fix, 100);
    expect(&fix, 0, 0); /* one is out */
}

static void test_supervisor_pulls_at_a_hint(void **state)
{
    fixture fix;
    say_hello(&fix);
    post_kind(&fix, NPO_EVENT_HINT);
    expect(&fix, 0, 0); /* one is out */
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_PULL_DONE, .wait_ms = 60000});
    post_kind(&fix, NPO_EVENT_HINT);
    expect(&fix, 1, NPO_ACTION_PULL);
}

static void test_supervisor_heartbeats_one_at_a_time(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    pass(&fix, 1000);
    expect(&fix, 1, NPO_ACTION_HEARTBEAT);
    pass(&fix, 5000); /* npod is away */
    expect(&fix, 0, 0);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_HEARTBEAT_DONE, .known = true});
    expect(&fix, 1, NPO_ACTION_HEARTBEAT);
    assert_int_equal(fix.state.task, NPO_TASK_RUNNING);
}

static void test_supervisor_says_hello_again_when_unknown(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    pass(&fix, 1000);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_HEARTBEAT_DONE, .known = false});
    expect(&fix, 1, NPO_ACTION_HELLO);
    assert_int_equal(fix.state.task, NPO_TASK_RUNNING); /* the executor goes on */
    post(&fix,
         (npo_supervisor_event){.kind = NPO_EVENT_HELLO_DONE, .worker = 6, .heartbeat_ms = 1000});
    expect(&fix, 1, NPO_ACTION_HEARTBEAT); /* which tells whether the task is still ours */
}

static void test_supervisor_retries_a_refused_hello(void **state)
{
    fixture fix;
    become_ready(&fix);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_HELLO_REFUSED, .code = NPO_E_BUSY});
    expect(&fix, 0, 0);
    pass(&fix, NPO_SUPERVISOR_HELLO_MS);
    expect(&fix, 1, NPO_ACTION_HELLO);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_HELLO_REFUSED, .code = NPO_E_VERSION});
    expect(&fix, 1, NPO_ACTION_TERMINATE);
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    expect(&fix, 1, NPO_ACTION_EXIT);
    assert_int_equal(fix.state.exit_code, 1);
}

static void test_supervisor_ignores_what_belongs_to_an_earlier_task(void **state)
{
    static const npo_supervisor_event_kind kinds[] = {
        NPO_EVENT_FETCHED,        NPO_EVENT_FETCH_FAILED, NPO_EVENT_UPLOADED,
        NPO_EVENT_UPLOAD_FAILED,  NPO_EVENT_STREAMS_SENT, NPO_EVENT_REPORT_DONE,
        NPO_EVENT_REPORT_REFUSED, NPO_EVENT_FENCED,       NPO_EVENT_TASK_OUTPUT,
        NPO_EVENT_TASK_DONE,      NPO_EVENT_TASK_FAILED,
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        fixture fix;
        run_task(&fix, 0);
        post(&fix, (npo_supervisor_event){.kind = kinds[i], .ticket = fix.state.ticket - 1});
        expect(&fix, 0, 0);
        assert_int_equal(fix.state.task, NPO_TASK_RUNNING);
        assert_int_equal(fix.state.executor, NPO_EXECUTOR_BUSY);
    }
}

/* ---- failures ---- */

static void expect_failure(fixture *fix, npo_err code, bool retry, const char *text)
{
    assert_int_equal(fix->state.task, NPO_TASK_FAILING);
    assert_int_equal(fix->state.failure.code, code);
    assert_int_equal(fix->state.failure.retry, retry);
    assert_string_equal(fix->state.failure.text, text);
}

static void test_supervisor_reports_a_failed_task_after_its_log(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_TASK_FAILED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_DIVERGED,
                                      .text = "loss is NaN",
                                      .is_final = true});
    expect(&fix, 1, NPO_ACTION_FLUSH);
    expect_failure(&fix, NPO_E_DIVERGED, false, "loss is NaN");
    post_kind(&fix, NPO_EVENT_STREAMS_SENT);
    expect(&fix, 1, NPO_ACTION_FAIL);
    post_kind(&fix, NPO_EVENT_REPORT_DONE);
    assert_true(did(&fix, NPO_ACTION_DROP) && did(&fix, NPO_ACTION_PULL));
}

static void test_supervisor_fails_the_task_of_a_dead_executor(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_EXECUTOR_EXITED, .text = "killed by 9"});
    assert_true(did(&fix, NPO_ACTION_FLUSH) && did(&fix, NPO_ACTION_SPAWN));
    expect_failure(&fix, NPO_E_PEER, true, "killed by 9");
    post_kind(&fix, NPO_EVENT_STREAMS_SENT);
    post_kind(&fix, NPO_EVENT_REPORT_DONE);
    expect(&fix, 1, NPO_ACTION_DROP); /* no pull before the new one is ready */
    post_kind(&fix, NPO_EVENT_EXECUTOR_READY);
    expect(&fix, 1, NPO_ACTION_PULL);
}

static void test_supervisor_goes_on_publishing_without_the_executor(void **state)
{
    fixture fix;
    publish(&fix);
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    expect(&fix, 1, NPO_ACTION_SPAWN);
    post_kind(&fix, NPO_EVENT_UPLOADED);
    post_kind(&fix, NPO_EVENT_STREAMS_SENT);
    expect(&fix, 1, NPO_ACTION_DONE);
}

static void test_supervisor_fails_when_a_transfer_does(void **state)
{
    fixture fix;
    take_task(&fix, 0);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_FETCH_FAILED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_FULL,
                                      .text = "disk full"});
    expect(&fix, 1, NPO_ACTION_FLUSH);
    expect_failure(&fix, NPO_E_FULL, true, "disk full");
    run_task(&fix, 0);
    post(&fix, (npo_supervisor_event){
                   .kind = NPO_EVENT_UPLOAD_FAILED, .ticket = fix.state.ticket, .code = NPO_E_IO});
    assert_true(did(&fix, NPO_ACTION_FLUSH) && did(&fix, NPO_ACTION_CANCEL));
    expect_failure(&fix, NPO_E_IO, true, "input/output error");
    publish(&fix);
    post(&fix, (npo_supervisor_event){
                   .kind = NPO_EVENT_UPLOAD_FAILED, .ticket = fix.state.ticket, .code = NPO_E_IO});
    expect(&fix, 0, 0); /* the streams are on their way already */
    post_kind(&fix, NPO_EVENT_STREAMS_SENT);
    expect(&fix, 1, NPO_ACTION_FAIL);
}

static void test_supervisor_drops_a_fenced_task_without_a_word(void **state)
{
    static const npo_supervisor_event_kind kinds[] = {NPO_EVENT_FETCH_FAILED, NPO_EVENT_FENCED,
                                                      NPO_EVENT_UPLOAD_FAILED};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        fixture fix;
        run_task(&fix, 0);
        post(&fix, (npo_supervisor_event){
                       .kind = kinds[i], .ticket = fix.state.ticket, .code = NPO_E_FENCED});
        assert_int_equal(fix.actions.count, 2);
        assert_true(did(&fix, NPO_ACTION_DROP) && did(&fix, NPO_ACTION_CANCEL));
        assert_int_equal(fix.state.task, NPO_TASK_NONE);
    }
}

static void test_supervisor_fails_a_done_that_is_refused(void **state)
{
    fixture fix;
    report(&fix);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_REPORT_REFUSED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_NOT_FOUND,
                                      .text = "no such artifact"});
    expect(&fix, 1, NPO_ACTION_FAIL);
    expect_failure(&fix, NPO_E_NOT_FOUND, true, "no such artifact");
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_REPORT_REFUSED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_STATE});
    assert_true(did(&fix, NPO_ACTION_DROP) && did(&fix, NPO_ACTION_PULL));
    report(&fix);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_REPORT_REFUSED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_FENCED});
    assert_true(did(&fix, NPO_ACTION_DROP) && !did(&fix, NPO_ACTION_FAIL));
}

/* ---- cancelling, hanging ---- */

static void test_supervisor_cancel_frees_an_obedient_executor(void **state)
{
    fixture fix;
    cancel_task(&fix);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_TASK_FAILED,
                                      .ticket = fix.state.ticket,
                                      .code = NPO_E_CANCELLED});
    expect(&fix, 1, NPO_ACTION_PULL);
    assert_int_equal(fix.state.executor, NPO_EXECUTOR_IDLE);
}

static void test_supervisor_cancel_kills_a_deaf_executor(void **state)
{
    fixture fix;
    cancel_task(&fix);
    fix.now_ms += NPO_CANCEL_GRACE_MS;
    post_kind(&fix, NPO_EVENT_EXECUTOR_ALIVE); /* alive is not obedient */
    assert_true(did(&fix, NPO_ACTION_TERMINATE));
    fix.now_ms += NPO_CANCEL_GRACE_MS;
    post_kind(&fix, NPO_EVENT_TIMER);
    assert_true(did(&fix, NPO_ACTION_KILL));
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    assert_true(did(&fix, NPO_ACTION_SPAWN));
    assert_false(did(&fix, NPO_ACTION_FAIL));
}

static void test_supervisor_cancel_is_about_one_attempt(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_HEARTBEAT_DONE,
                                      .known = true,
                                      .cancels = {{41, 1, 0}, {40, 2, 0}},
                                      .cancel_count = 2});
    expect(&fix, 0, 0);
    assert_int_equal(fix.state.task, NPO_TASK_RUNNING);
}

static void test_supervisor_kills_a_silent_executor(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    fix.state.heartbeat_at_ms = INT64_MAX; /* not what this is about */
    fix.now_ms += NPO_SUPERVISOR_SILENT_MS - 1;
    post_kind(&fix, NPO_EVENT_EXECUTOR_ALIVE);
    expect(&fix, 0, 0);
    assert_int_equal(npo_supervisor_deadline(&fix.state), fix.now_ms + NPO_SUPERVISOR_SILENT_MS);
    pass(&fix, NPO_SUPERVISOR_SILENT_MS);
    expect(&fix, 1, NPO_ACTION_KILL);
    assert_int_equal(fix.state.task, NPO_TASK_RUNNING);
    post(&fix, (npo_supervisor_event){.kind = NPO_EVENT_EXECUTOR_EXITED, .text = "hung"});
    expect_failure(&fix, NPO_E_PEER, true, "hung");
}

static void test_supervisor_ends_a_task_at_its_time_limit(void **state)
{
    fixture fix;
    run_task(&fix, 2500);
    fix.state.heartbeat_at_ms = INT64_MAX;
    assert_int_equal(npo_supervisor_deadline(&fix.state), fix.now_ms + 2500);
    pass(&fix, 2500);
    assert_int_equal(fix.actions.count, 2);
    assert_true(did(&fix, NPO_ACTION_FLUSH) && did(&fix, NPO_ACTION_CANCEL));
    expect_failure(&fix, NPO_E_TIMEOUT, false, "the task ran longer than its limit of 2.5 s");
}

static void test_supervisor_gives_up_on_an_executor_that_never_starts(void **state)
{
    fixture fix;
    start(&fix);
    for (int i = 1; i < NPO_SUPERVISOR_STARTS_MAX; i++) {
        post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
        expect(&fix, 0, 0);
        int64_t wait_ms = npo_supervisor_deadline(&fix.state) - fix.now_ms;
        assert_true(wait_ms >= NPO_SUPERVISOR_RESPAWN_MS);
        assert_true(wait_ms <= NPO_SUPERVISOR_RESPAWN_MAX_MS);
        pass(&fix, wait_ms);
        expect(&fix, 1, NPO_ACTION_SPAWN);
    }
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    expect(&fix, 1, NPO_ACTION_EXIT);
    assert_int_equal(fix.state.exit_code, 1);
}

static void test_supervisor_kills_an_executor_that_does_not_get_ready(void **state)
{
    fixture fix;
    start(&fix);
    pass(&fix, NPO_SUPERVISOR_START_MS);
    expect(&fix, 1, NPO_ACTION_KILL);
}

/* ---- leaving ---- */

static void test_supervisor_stop_says_goodbye_and_ends_the_executor(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    post_kind(&fix, NPO_EVENT_STOP);
    assert_true(did(&fix, NPO_ACTION_GOODBYE) && did(&fix, NPO_ACTION_DROP) &&
                did(&fix, NPO_ACTION_TERMINATE));
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    expect(&fix, 0, 0); /* goodbye is not answered yet */
    post_kind(&fix, NPO_EVENT_GOODBYE_DONE);
    expect(&fix, 1, NPO_ACTION_EXIT);
    assert_int_equal(fix.state.exit_code, 0);
    assert_true(npo_supervisor_deadline(&fix.state) == INT64_MAX);
}

static void test_supervisor_stop_does_not_wait_for_an_absent_npod(void **state)
{
    fixture fix;
    say_hello(&fix);
    post_kind(&fix, NPO_EVENT_STOP);
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    pass(&fix, NPO_SUPERVISOR_GOODBYE_MS);
    expect(&fix, 1, NPO_ACTION_EXIT);
}

static void test_supervisor_stop_gives_back_what_comes_late(void **state)
{
    fixture fix;
    say_hello(&fix);
    post_kind(&fix, NPO_EVENT_STOP);
    post(&fix, (npo_supervisor_event){
                   .kind = NPO_EVENT_PULL_DONE, .has_assignment = true, .fence = fence});
    expect(&fix, 0, 0);
    assert_int_equal(fix.state.task, NPO_TASK_NONE);
}

static void test_supervisor_stop_twice_does_not_wait(void **state)
{
    fixture fix;
    run_task(&fix, 0);
    post_kind(&fix, NPO_EVENT_STOP);
    post_kind(&fix, NPO_EVENT_STOP);
    expect(&fix, 1, NPO_ACTION_KILL);
    post_kind(&fix, NPO_EVENT_EXECUTOR_EXITED);
    expect(&fix, 1, NPO_ACTION_EXIT);
}

/* ---- every state with every event ---- */

static void idle(fixture *fix)
{
    say_hello(fix);
    post(fix, (npo_supervisor_event){.kind = NPO_EVENT_PULL_DONE, .wait_ms = 1000});
}

static void fetch(fixture *fix)
{
    take_task(fix, 0);
}

static void run_forever(fixture *fix)
{
    run_task(fix, 1000);
}

static void fail_task(fixture *fix)
{
    run_task(fix, 0);
    post(fix, (npo_supervisor_event){
                  .kind = NPO_EVENT_TASK_FAILED, .ticket = fix->state.ticket, .code = NPO_E_IO});
}

static void report_failure(fixture *fix)
{
    fail_task(fix);
    post_kind(fix, NPO_EVENT_STREAMS_SENT);
}

static void terminate_executor(fixture *fix)
{
    cancel_task(fix);
    pass(fix, NPO_CANCEL_GRACE_MS);
}

static void kill_busy_executor(fixture *fix)
{
    run_task(fix, 0);
    pass(fix, NPO_SUPERVISOR_SILENT_MS);
}

static void lose_executor(fixture *fix)
{
    start(fix);
    post_kind(fix, NPO_EVENT_EXECUTOR_EXITED);
}

static void stop_busy(fixture *fix)
{
    run_task(fix, 0);
    post_kind(fix, NPO_EVENT_STOP);
}

static void leave(fixture *fix)
{
    stop_busy(fix);
    post_kind(fix, NPO_EVENT_EXECUTOR_EXITED);
    post_kind(fix, NPO_EVENT_GOODBYE_DONE);
}

static void (*const ways[])(fixture *fix) = {
    start,
    become_ready,
    say_hello,
    idle,
    fetch,
    run_forever,
    publish,
    report,
    fail_task,
    report_failure,
    cancel_task,
    terminate_executor,
    kill_busy_executor,
    lose_executor,
    stop_busy,
    leave,
};
enum { WAY_COUNT = sizeof ways / sizeof ways[0] };

static npo_supervisor_event event_of(const fixture *fix, int kind)
{
    return (npo_supervisor_event){.kind = (npo_supervisor_event_kind)kind,
                                  .ticket = fix->state.ticket,
                                  .code = NPO_E_IO,
                                  .text = "why",
                                  .worker = 9,
                                  .heartbeat_ms = 500,
                                  .wait_ms = 100,
                                  .has_assignment = true,
                                  .known = kind % 2 == 0,
                                  .fence = {50, 1, 0},
                                  .cancels = {fence},
                                  .cancel_count = 1};
}

/* npo_supervisor_check asserts after every event; here also that nobody waits for nothing. */
static void expect_not_stuck(const fixture *fix)
{
    const npo_supervisor *state = &fix->state;
    if (state->exited)
        return;
    bool waits_for_executor = state->executor != NPO_EXECUTOR_NONE;
    bool has_deadline = npo_supervisor_deadline(state) != INT64_MAX;
    bool waits_for_npod = state->link == NPO_LINK_HELLO || state->heartbeat_open ||
                          state->pull_open || state->report_open;
    assert_true(waits_for_executor || has_deadline || waits_for_npod);
}

static void test_supervisor_takes_every_event_in_every_state(void **state)
{
    bool seen_task[NPO_TASK_STATE_COUNT] = {0}, seen_executor[NPO_EXECUTOR_STATE_COUNT] = {0},
         seen_link[NPO_LINK_STATE_COUNT] = {0};
    for (int way = 0; way < WAY_COUNT; way++) {
        for (int first = 0; first < NPO_EVENT_COUNT; first++) {
            for (int second = 0; second < NPO_EVENT_COUNT; second++) {
                fixture fix;
                ways[way](&fix);
                seen_task[fix.state.task] = seen_executor[fix.state.executor] = true;
                seen_link[fix.state.link] = true;
                post(&fix, event_of(&fix, first));
                expect_not_stuck(&fix);
                fix.now_ms += 700;
                post(&fix, event_of(&fix, second));
                expect_not_stuck(&fix);
            }
        }
    }
    for (int i = 0; i < NPO_TASK_STATE_COUNT; i++)
        assert_true(seen_task[i]);
    for (int i = 0; i < NPO_EXECUTOR_STATE_COUNT; i++)
        assert_true(seen_executor[i]);
    for (int i = 0; i < NPO_LINK_STATE_COUNT; i++)
        assert_true(seen_link[i]);
}

static void test_supervisor_survives_random_events(void **state)
{
    uint64_t seed = 0x9e3779b97f4a7c15u;
    for (int run = 0; run < 300; run++) {
        fixture fix;
        start(&fix);
        for (int i = 0; i < 300 && !fix.state.exited; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            int kind = (int)(seed % NPO_EVENT_COUNT);
            if (kind == NPO_EVENT_STOP && seed >> 32 & 7)
                continue;
            post(&fix, event_of(&fix, kind));
            expect_not_stuck(&fix);
            fix.now_ms += (int64_t)(seed >> 20 & 1023);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supervisor_runs_a_task_and_pulls_the_next),
        cmocka_unit_test(test_supervisor_waits_as_long_as_npod_says),
        cmocka_unit_test(test_supervisor_pulls_at_a_hint),
        cmocka_unit_test(test_supervisor_heartbeats_one_at_a_time),
        cmocka_unit_test(test_supervisor_says_hello_again_when_unknown),
        cmocka_unit_test(test_supervisor_retries_a_refused_hello),
        cmocka_unit_test(test_supervisor_ignores_what_belongs_to_an_earlier_task),
        cmocka_unit_test(test_supervisor_reports_a_failed_task_after_its_log),
        cmocka_unit_test(test_supervisor_fails_the_task_of_a_dead_executor),
        cmocka_unit_test(test_supervisor_goes_on_publishing_without_the_executor),
        cmocka_unit_test(test_supervisor_fails_when_a_transfer_does),
        cmocka_unit_test(test_supervisor_drops_a_fenced_task_without_a_word),
        cmocka_unit_test(test_supervisor_fails_a_done_that_is_refused),
        cmocka_unit_test(test_supervisor_cancel_frees_an_obedient_executor),
        cmocka_unit_test(test_supervisor_cancel_kills_a_deaf_executor),
        cmocka_unit_test(test_supervisor_cancel_is_about_one_attempt),
        cmocka_unit_test(test_supervisor_kills_a_silent_executor),
        cmocka_unit_test(test_supervisor_ends_a_task_at_its_time_limit),
        cmocka_unit_test(test_supervisor_gives_up_on_an_executor_that_never_starts),
        cmocka_unit_test(test_supervisor_kills_an_executor_that_does_not_get_ready),
        cmocka_unit_test(test_supervisor_stop_says_goodbye_and_ends_the_executor),
        cmocka_unit_test(test_supervisor_stop_does_not_wait_for_an_absent_npod),
        cmocka_unit_test(test_supervisor_stop_gives_back_what_comes_late),
        cmocka_unit_test(test_supervisor_stop_twice_does_not_wait),
        cmocka_unit_test(test_supervisor_takes_every_event_in_every_state),
        cmocka_unit_test(test_supervisor_survives_random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
