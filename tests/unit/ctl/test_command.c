#include "tests/unit/cmocka.h"
#include "tests/unit/ctl/capture.h"

#include "common/file.h"
#include "ctl/command.h"
#include "ctl/commands/help.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    npo_exit code;
    npo_buf out, err;
} outcome;

static outcome run(const npo_command *command, const char *const *arguments)
{
    char *argv[8] = {(char *)command->name};
    int argc = 1;
    npo_capture capture;
    outcome done = {0};
    for (; arguments && *arguments; arguments++)
        argv[argc++] = (char *)*arguments;
    npo_capture_start(&capture);
    done.code = npo_command_run(command, argc, argv);
    npo_capture_stop(&capture, &done.out, &done.err);
    return done;
}

static void outcome_fini(outcome *done)
{
    npo_buf_fini(&done->out);
    npo_buf_fini(&done->err);
}

#define ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void expect_usage(const npo_command *command, const char *const *arguments,
                         const char *sentence)
{
    outcome done = run(command, arguments);
    assert_int_equal(done.code, NPO_EXIT_USAGE);
    assert_int_equal(done.out.len, 0);
    if (strncmp(done.err.data, sentence, strlen(sentence)) != 0)
        fail_msg("found '%s', expected '%s'", done.err.data, sentence);
    outcome_fini(&done);
}

static void test_command_help_has_an_example_of_every_one(void **state)
{
    for (size_t i = 0; npo_commands[i]; i++) {
        const npo_command *command = npo_commands[i];
        char start[64];
        outcome done = run(command, ARGUMENTS("--help"));
        assert_int_equal(done.code, NPO_EXIT_OK);
        assert_int_equal(done.err.len, 0);
        snprintf(start, sizeof start, "\nExample:\n  npoctl %s", command->name);
        assert_non_null(strstr(done.out.data, start));
        snprintf(start, sizeof start, "Usage: npoctl %s", command->name);
        assert_int_equal(strncmp(done.out.data, start, strlen(start)), 0);
        assert_ptr_equal(npo_command_find(command->name), command);
        outcome_fini(&done);
    }
    assert_null(npo_command_find("no-such-command"));
}

static void test_command_refuses_unknown_options_of_every_one(void **state)
{
    for (size_t i = 0; npo_commands[i]; i++)
        expect_usage(npo_commands[i], ARGUMENTS("--no-such-option-anywhere"),
                     "npoctl: unknown option '--no-such-option-anywhere'");
}

static void test_command_refuses_missing_arguments(void **state)
{
    static const npo_command *const needy[] = {
        &npo_command_submit,  &npo_command_logs,  &npo_command_cancel, &npo_command_hold,
        &npo_command_release, &npo_command_retry, &npo_command_rm,     &npo_command_import,
        &npo_command_export,  &npo_command_get};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(needy); i++)
        expect_usage(needy[i], NULL, "npoctl: missing argument: npoctl ");
    expect_usage(&npo_command_export, ARGUMENTS("3"), "npoctl: missing argument: npoctl export ");
    expect_usage(&npo_command_sample, NULL, "npoctl: missing --prompt TEXT");
    expect_usage(&npo_command_evaluate, ARGUMENTS("-m", "x"), "npoctl: missing --negative");
}

static void test_command_refuses_surplus_arguments(void **state)
{
    expect_usage(&npo_command_up, ARGUMENTS("x"), "npoctl: unexpected argument 'x'");
    expect_usage(&npo_command_status, ARGUMENTS("1", "2"), "npoctl: unexpected argument '2'");
    expect_usage(&npo_command_version, ARGUMENTS("x"), "npoctl: unexpected argument 'x'");
}

static void test_command_refuses_values_out_of_range(void **state)
{
    expect_usage(&npo_command_up, ARGUMENTS("--workers", "-1"), "npoctl: --workers");
    expect_usage(&npo_command_status, ARGUMENTS("--limit", "0"), "npoctl: --limit");
    expect_usage(&npo_command_sample, ARGUMENTS("-p", "x", "-g", "hot"), "npoctl: -g");
    expect_usage(&npo_command_logs, ARGUMENTS("1", "--stream", "sounds"),
                 "npoctl: --stream: found 'sounds', expected log, metrics or events");
}

static void test_command_refuses_what_is_no_job(void **state)
{
    static const char *const bad[] = {"x",  "",   "0",   "-1",
                                      "1x", "1@", "1@x", "99999999999999999999"};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(bad); i++) {
        int64_t job = -7, step = -7;
        npo_capture capture;
        npo_capture_start(&capture);
        npo_exit code = npo_command_parse_job(bad[i], &job, &step);
        npo_capture_stop(&capture, NULL, NULL);
        assert_int_equal(code, NPO_EXIT_USAGE);
        assert_int_equal(job, -7);
    }
    expect_usage(&npo_command_watch, ARGUMENTS("3@5"),
                 "npoctl: job '3@5': expected a number, as npoctl status shows");
    expect_usage(&npo_command_export, ARGUMENTS("3@", "dir"),
                 "npoctl: job '3@': expected a number or NUMBER@STEP");
}

static void test_command_reads_jobs_and_steps(void **state)
{
    int64_t job = 0, step = 0;
    assert_int_equal(npo_command_parse_job("12", &job, &step), NPO_EXIT_OK);
    assert_int_equal(job, 12);
    assert_int_equal(step, -1);
    assert_int_equal(npo_command_parse_job("12@150", &job, &step), NPO_EXIT_OK);
    assert_int_equal(step, 150);
    assert_int_equal(npo_command_parse_job("7", &job, NULL), NPO_EXIT_OK);
    assert_int_equal(job, 7);
}

static void test_command_help_names_the_closest(void **state)
{
    npo_capture capture;
    npo_buf text = NPO_BUF_INIT;
    npo_capture_start(&capture);
    npo_exit code = npo_help_unknown("submitt");
    npo_capture_stop(&capture, NULL, &text);
    assert_int_equal(code, NPO_EXIT_USAGE);
    assert_string_equal(text.data, "npoctl: unknown command 'submitt', did you mean 'submit'?\n");
    npo_buf_fini(&text);
}

static void test_command_errors_are_one_line(void **state)
{
    npo_capture capture;
    npo_buf text = NPO_BUF_INIT;
    npo_capture_start(&capture);
    npo_exit code = npo_exit_with(NPO_EXIT_REFUSED, "npod says '%s'", "a\nb\x1b[2J");
    npo_capture_stop(&capture, NULL, &text);
    assert_int_equal(code, 5);
    assert_string_equal(text.data, "npoctl: npod says 'a b [2J'\n");
    npo_buf_fini(&text);
}

static void test_command_document_lists_the_commands(void **state)
{
    npo_buf text = NPO_BUF_INIT;
    size_t rows = 0, commands = 0;
    assert_int_equal(npo_file_read(NPO_DOCS "/npoctl.md", 1 << 20, &text, NULL), NPO_OK);
    const char *table = strstr(text.data, "| command | what it does |");
    const char *end = table ? strstr(table, "\n\n") : NULL;
    assert_non_null(end);
    for (const char *at = table; (at = strstr(at, "\n| `")) && at < end; at++)
        rows++;
    for (; npo_commands[commands]; commands++) {
        char row[200];
        snprintf(row, sizeof row, "\n| `%s` | %s |\n", npo_commands[commands]->name,
                 npo_commands[commands]->summary);
        if (!strstr(table, row))
            fail_msg("docs/npoctl.md lacks the row%s", row);
    }
    assert_int_equal(rows, commands);
    npo_buf_fini(&text);
}

static void test_command_document_lists_the_exit_codes(void **state)
{
    static const int codes[] = {NPO_EXIT_OK,         NPO_EXIT_FAILED,      NPO_EXIT_USAGE,
                                NPO_EXIT_CANCELLED,  NPO_EXIT_UNREACHABLE, NPO_EXIT_REFUSED,
                                NPO_EXIT_INTERRUPTED};
    static const int expected[] = {0, 1, 2, 3, 4, 5, 130};
    npo_buf text = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(NPO_DOCS "/npoctl.md", 1 << 20, &text, NULL), NPO_OK);
    for (size_t i = 0; i < NPO_ARRAY_COUNT(codes); i++) {
        char row[16];
        assert_int_equal(codes[i], expected[i]);
        snprintf(row, sizeof row, "\n| %d | ", codes[i]);
        assert_non_null(strstr(text.data, row));
    }
    npo_buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_help_has_an_example_of_every_one),
        cmocka_unit_test(test_command_refuses_unknown_options_of_every_one),
        cmocka_unit_test(test_command_refuses_missing_arguments),
        cmocka_unit_test(test_command_refuses_surplus_arguments),
        cmocka_unit_test(test_command_refuses_values_out_of_range),
        cmocka_unit_test(test_command_refuses_what_is_no_job),
        cmocka_unit_test(test_command_reads_jobs_and_steps),
        cmocka_unit_test(test_command_help_names_the_closest),
        cmocka_unit_test(test_command_errors_are_one_line),
        cmocka_unit_test(test_command_document_lists_the_commands),
        cmocka_unit_test(test_command_document_lists_the_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
