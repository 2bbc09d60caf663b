/* The disk is full, memory is short: everything or nothing, and it goes on when that is mended. */
#include "common/bounds.h"
#include "common/file.h"
#include "server/lock.h"
#include "tests/unit/server/rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGED                                                                                     \
    "\"recipe\":\"self-npo\",\"workers\":2,\"round_steps\":1,\"prompts\":[\"a\"],"                 \
    "\"train\":{\"steps\":%d,\"batch\":4}"

static int64_t pages_of(const npo_rig *rig)
{
    uint64_t size;
    assert_int_equal(npo_file_size(rig->path, &size, NULL), NPO_OK);
    return (int64_t)(size / 4096);
}

/* Reopens with room for so many pages more. */
static void leave_room(npo_rig *rig, int64_t pages)
{
    rig->pages_max = 0;
    rig_restart(rig); /* what is in the log goes to the database */
    rig->pages_max = pages < 0 ? 0 : pages_of(rig) + pages;
    rig_restart(rig);
}

static void test_faults_submit_on_a_full_disk_leaves_nothing(void **state)
{
    npo_rig rig = {0};
    char more[256];
    rig_open(&rig);
    rig_publish(&rig, 999, "the model");
    snprintf(more, sizeof more, STAGED, 500);
    rig.may_fail = true;
    leave_room(&rig, 12);
    rig_submit(&rig, more);
    assert_int_equal(rig.commit_err, NPO_E_FULL);
    rig_ask(&rig, 9, NPO_MESSAGE_JOBS, "{}");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "jobs")), 0);
    assert_int_equal(npo_store_check(rig.store, NULL), NPO_OK);
    leave_room(&rig, -1);
    rig.may_fail = false;
    int64_t job = rig_submit(&rig, more);
    rig_worker workers[2] = {rig_hello(&rig, 1, "a", "c"), rig_hello(&rig, 2, "b", "c")};
    assert_true(rig_pull(&rig, &workers[0]) && rig_pull(&rig, &workers[1]));
    assert_string_equal(rig_state(&rig, job), "running");
    rig_close(&rig);
}

/* Sends a request until a commit succeeds, as a worker does. After some refusals there is a little
 * more room; after many, all of it. */
static void insist(npo_rig *rig, uint64_t boot, npo_message id, const char *json, int *refused)
{
    uint64_t request = ++rig->requests;
    for (;;) {
        rig_ask_as(rig, boot, request, id, json);
        if (rig->commit_err == NPO_OK)
            return;
        assert_int_equal(rig->commit_err, NPO_E_FULL);
        if (++*refused % 4 == 0)
            leave_room(rig, *refused < 80 ? 1 : -1);
    }
}

static void test_faults_job_survives_a_disk_that_fills_up(void **state)
{
    npo_rig rig = {0};
    char more[256], json[1024];
    int refused = 0, idle = 0;
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "a", "c"), rig_hello(&rig, 2, "b", "c")};
    snprintf(more, sizeof more, STAGED, 20);
    int64_t job = rig_submit(&rig, more);
    const char *hash = rig_publish(&rig, 1, "x");
    rig.may_fail = true;
    leave_room(&rig, 0);
    for (int turn = 0; idle < 4; turn++) {
        const rig_worker *worker = &workers[turn % 2];
        snprintf(json, sizeof json, "{\"worker\":%lld}", (long long)worker->id);
        insist(&rig, worker->boot, NPO_MESSAGE_PULL, json, &refused);
        const cJSON *assignment = cJSON_GetObjectItem(rig.last, "assignment");
        idle = cJSON_IsObject(assignment) ? 0 : idle + 1;
        if (idle)
            continue;
        int64_t attempt = npo_json_int(assignment, "attempt", 0);
        assert_int_equal(attempt, 1);
        snprintf(json, sizeof json,
                 "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":%lld,\"outputs\":["
                 "{\"name\":\"pool\",\"hash\":\"%s\",\"size\":1},"
                 "{\"name\":\"segment\",\"hash\":\"%s\",\"size\":1},"
                 "{\"name\":\"checkpoint\",\"hash\":\"%s\",\"size\":1}]}",
                 (long long)worker->id, (long long)npo_json_int(assignment, "task", 0),
                 (long long)attempt, (long long)npo_json_int(assignment, "rank", 0), hash, hash,
                 hash);
        insist(&rig, worker->boot, NPO_MESSAGE_DONE, json, &refused);
        assert_string_equal(rig_code(&rig), "");
    }
    assert_true(refused > 20);
    assert_string_equal(rig_state(&rig, job), "done");
    assert_int_equal(npo_store_check(rig.store, NULL), NPO_OK);
    rig_close(&rig);
}

static void test_faults_failed_commit_forgets_what_it_remembered(void **state)
{
    npo_rig rig = {0};
    char json[64];
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
    rig.may_fail = true;
    leave_room(&rig, 0);
    int turn = 0;
    do { /* some pages have room left */
        turn++;
        rig_ask_as(&rig, 5, (uint64_t)turn, turn % 2 ? NPO_MESSAGE_HOLD : NPO_MESSAGE_RELEASE,
                   json);
    } while (rig.commit_err == NPO_OK && turn < 10000);
    assert_int_equal(rig.commit_err, NPO_E_FULL);
    assert_string_equal(rig_state(&rig, job), turn % 2 ? "pending" : "held");
    leave_room(&rig, -1);
    rig_ask_as(&rig, 5, (uint64_t)turn, turn % 2 ? NPO_MESSAGE_HOLD : NPO_MESSAGE_RELEASE, json);
    assert_string_equal(rig_code(&rig), "");
    assert_string_equal(rig_state(&rig, job), turn % 2 ? "held" : "pending");
    rig_close(&rig);
}

static void test_faults_lock_is_for_one(void **state)
{
    char dir[] = "/tmp/npo-test-lock-XXXXXX";
    npo_error error = {0};
    int first, second, pid;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(npo_lock_take(dir, &first, &error), NPO_OK);
    assert_int_equal(npo_lock_take(dir, &second, &error), NPO_E_BUSY);
    assert_int_equal(sscanf(strstr(error.text, "(process "), "(process %d)", &pid), 1);
    assert_int_equal(pid, getpid());
    close(first);
    assert_int_equal(npo_lock_take(dir, &second, &error), NPO_OK);
    close(second);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    assert_int_equal(npo_lock_take(dir, &second, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, dir));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_submit_on_a_full_disk_leaves_nothing),
        cmocka_unit_test(test_faults_job_survives_a_disk_that_fills_up),
        cmocka_unit_test(test_faults_failed_commit_forgets_what_it_remembered),
        cmocka_unit_test(test_faults_lock_is_for_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
