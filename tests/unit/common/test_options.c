#include "common/options.h"

#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    bool verbose, hidden;
    int64_t threads, cache_bytes;
    double rate;
    const char *state;
    npo_option_list set;
} settings;

#define AT(member) offsetof(settings, member)

static const npo_option table[] = {
    {"verbose", 'v', NPO_OPTION_BOOL, 0, AT(verbose), NULL, "say more", 0, 0},
    {"threads", 't', NPO_OPTION_INT, 0, AT(threads), "N", "CPU threads", 1, 64},
    {"cache-bytes", 0, NPO_OPTION_BYTES, 0, AT(cache_bytes), "BYTES", "bound of the cache", 0,
     1e15},
    {"rate", 0, NPO_OPTION_NUMBER, 0, AT(rate), "X", "a rate", 0, 1},
    {"set", 0, NPO_OPTION_LIST, 0, AT(set), "KEY=VALUE", "change a key", 0, 0},
    {"hidden", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY | NPO_OPTION_HIDDEN, AT(hidden), NULL,
     "not shown", 0, 0},
};
static const npo_option common_table[] = {
    {"state", 0, NPO_OPTION_STRING, 0, AT(state), "DIR", "state folder", 0, 0},
};

static npo_options_spec spec = {
    .program = "npotest",
    .usage = "[OPTION...] FILE",
    .text = "Tests options.",
    .example = "npotest --threads 2 a.json",
    .options = table,
    .count = sizeof table / sizeof table[0],
    .common_options = common_table,
    .common_count = 1,
    .rest_max = 1,
};

static settings values;
static npo_options *options;
static npo_error error;
static char config[64];

static int setup(void **state)
{
    values = (settings){.threads = 4, .state = "here"};
    error = (npo_error){0};
    options = NULL;
    strcpy(config, "/tmp/npo-options-XXXXXX");
    int fd = mkstemp(config);
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"NPO_THREADS", "NPO_CACHE_BYTES", "NPO_SET",  "NPO_CONFIG",
                                        "NPO_VERBOSE", "NPO_HIDDEN",      "NPO_STATE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    npo_options_free(options);
    unlink(config);
    return 0;
}

static void write_config(const char *text)
{
    FILE *file = fopen(config, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* args: blank-separated, without the program's name. */
static npo_err read_args(const char *args)
{
    static char copy[512], *argv[32];
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", args);
    argv[0] = (char *)"npotest";
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    return npo_options_read(&spec, argc, argv, &values, &options, &error);
}

static void expect_refusal(const char *args, const char *part)
{
    assert_int_equal(read_args(args), NPO_E_USAGE);
    assert_null(options);
    if (!strstr(error.text, part))
        fail_msg("'%s': expected '%s'", error.text, part);
}

static void test_options_keep_defaults(void **state)
{
    assert_int_equal(read_args(""), NPO_OK);
    assert_int_equal(values.threads, 4);
    assert_string_equal(values.state, "here");
    assert_int_equal(npo_options_requested(options), NPO_OPTIONS_RUN);
}

static void test_options_take_every_form_of_flag(void **state)
{
    int count;
    assert_int_equal(read_args("--threads 2 --cache-bytes=3K -v --rate 0.25 file --state=x"),
                     NPO_OK);
    assert_int_equal(values.threads, 2);
    assert_int_equal(values.cache_bytes, 3072);
    assert_true(values.verbose);
    assert_true(values.rate == 0.25);
    assert_string_equal(values.state, "x");
    assert_string_equal(npo_options_rest(options, &count)[0], "file");
    assert_int_equal(count, 1);
    npo_options_free(options);
    assert_int_equal(read_args("-vt7 --no-verbose -- --file"), NPO_OK);
    assert_int_equal(values.threads, 7);
    assert_false(values.verbose);
    assert_string_equal(npo_options_rest(options, &count)[0], "--file");
}

static void test_options_rank_flag_environment_file_default(void **state)
{
    char args[128];
    write_config(
        "{\"threads\": 10, \"cache_bytes\": \"1M\", \"verbose\": true, \"_why\": \"a comment\"}");
    setenv("NPO_CONFIG", config, 1);
    assert_int_equal(read_args(""), NPO_OK);
    assert_int_equal(values.threads, 10);
    assert_int_equal(values.cache_bytes, 1 << 20);
    assert_true(values.verbose);
    npo_options_free(options);
    setenv("NPO_THREADS", "20", 1);
    setenv("NPO_CACHE_BYTES", "", 1); /* empty is not given */
    assert_int_equal(read_args(""), NPO_OK);
    assert_int_equal(values.threads, 20);
    assert_int_equal(values.cache_bytes, 1 << 20);
    npo_options_free(options);
    unsetenv("NPO_CONFIG");
    snprintf(args, sizeof args, "--config %s --threads 30", config);
    assert_int_equal(read_args(args), NPO_OK);
    assert_int_equal(values.threads, 30);
}

static void test_options_list_of_a_higher_source_replaces(void **state)
{
    char args[128];
    write_config("{\"set\": [\"a=1\", \"b=2\"]}");
    snprintf(args, sizeof args, "--config %s", config);
    assert_int_equal(read_args(args), NPO_OK);
    assert_int_equal(values.set.count, 2);
    assert_string_equal(values.set.items[1], "b=2");
    npo_options_free(options);
    snprintf(args, sizeof args, "--config %s --set c=3 --set d=4 --set e=5", config);
    assert_int_equal(read_args(args), NPO_OK);
    assert_int_equal(values.set.count, 3);
    assert_string_equal(values.set.items[0], "c=3");
}

static void test_options_refuse_bad_flags(void **state)
{
    expect_refusal("--thread 2", "unknown option '--thread', did you mean '--threads'?");
    expect_refusal("-q", "unknown option '-q'");
    expect_refusal("--threads", "--threads: a value is missing (N)");
    expect_refusal("--threads 0", "--threads: found '0', expected a whole number from 1 to 64");
    expect_refusal("--threads 2x", "found '2x', expected a whole number");
    expect_refusal("--threads 99999999999999999999", "expected a whole number");
    expect_refusal("--cache-bytes 3Q", "expected bytes such as");
    expect_refusal("--cache-bytes 9999999T", "expected bytes");
    expect_refusal("--rate nan", "expected a number");
    expect_refusal("--verbose=perhaps", "expected true or false");
    expect_refusal("--no-threads", "unknown option '--no-threads'");
    expect_refusal("a b", "unexpected argument 'b'");
}

static void test_options_refuse_bad_environment_and_file(void **state)
{
    char args[128];
    setenv("NPO_THREADS", "many", 1);
    expect_refusal("", "NPO_THREADS: found 'many', expected a whole number");
    unsetenv("NPO_THREADS");
    snprintf(args, sizeof args, "--config %s", config);
    write_config("{\"cache_byte\": 1}");
    expect_refusal(args, "did you mean");
    write_config("{\"threads\": \"x\"}");
    expect_refusal(args, "threads: found 'x'");
    write_config("{\"hidden\": true}"); /* an order, not a setting */
    expect_refusal(args, "unknown option");
    assert_int_equal(read_args("--config /not/there"), NPO_E_NOT_FOUND);
    write_config("[]");
    assert_int_equal(read_args(args), NPO_E_TYPE);
    write_config("{");
    assert_int_equal(read_args(args), NPO_E_FORMAT);
}

static void test_options_flag_only_is_not_read_from_the_environment(void **state)
{
    setenv("NPO_HIDDEN", "true", 1);
    assert_int_equal(read_args(""), NPO_OK);
    assert_false(values.hidden);
    npo_options_free(options);
    assert_int_equal(read_args("--hidden"), NPO_OK);
    assert_true(values.hidden);
}

static void test_options_stop_at_rest_leaves_the_command_its_own(void **state)
{
    int count;
    spec.stop_at_rest = true;
    assert_int_equal(read_args("-v submit --wait x"), NPO_OK);
    char **rest = npo_options_rest(options, &count);
    assert_int_equal(count, 3);
    assert_string_equal(rest[0], "submit");
    assert_string_equal(rest[1], "--wait");
    spec.stop_at_rest = false;
}

static char *print(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    assert_true(npo_options_answer(&spec, options, &values, to));
    fclose(to);
    return text;
}

static void test_options_help_names_all_but_hidden(void **state)
{
    assert_int_equal(read_args("--help --threads"), NPO_E_USAGE); /* still a sentence */
    assert_int_equal(read_args("-h"), NPO_OK);
    char *text = print();
    for (size_t i = 0; i < spec.count; i++)
        assert_int_equal(strstr(text, table[i].help) != NULL, table[i].offset != AT(hidden));
    assert_non_null(strstr(text, "[NPO_CACHE_BYTES]"));
    assert_non_null(strstr(text, spec.example));
    assert_non_null(strstr(text, "--state DIR"));
    free(text);
}

static void test_options_version_is_one_line(void **state)
{
    assert_int_equal(read_args("--version"), NPO_OK);
    char *text = print();
    assert_string_equal(text, "npotest " NPO_VERSION "\n");
    free(text);
}

static void test_options_printed_config_reads_back(void **state)
{
    char args[128];
    assert_int_equal(read_args("--print-config --threads 9 --set a=1 --set b=2 --rate 0.1"),
                     NPO_OK);
    char *text = print();
    assert_non_null(strstr(text, "\"_threads\":\t\"flag\""));
    assert_non_null(strstr(text, "\"_state\":\t\"default\""));
    assert_null(strstr(text, "hidden"));
    write_config(text);
    free(text);
    npo_options_free(options);
    values = (settings){0};
    snprintf(args, sizeof args, "--config %s", config);
    assert_int_equal(read_args(args), NPO_OK);
    assert_int_equal(values.threads, 9);
    assert_int_equal(values.set.count, 2);
    assert_true(values.rate == 0.1);
    assert_string_equal(values.state, "here");
}

#define OPTIONS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPTIONS_TEST(test_options_keep_defaults),
        OPTIONS_TEST(test_options_take_every_form_of_flag),
        OPTIONS_TEST(test_options_rank_flag_environment_file_default),
        OPTIONS_TEST(test_options_list_of_a_higher_source_replaces),
        OPTIONS_TEST(test_options_refuse_bad_flags),
        OPTIONS_TEST(test_options_refuse_bad_environment_and_file),
        OPTIONS_TEST(test_options_flag_only_is_not_read_from_the_environment),
        OPTIONS_TEST(test_options_stop_at_rest_leaves_the_command_its_own),
        OPTIONS_TEST(test_options_help_names_all_but_hidden),
        OPTIONS_TEST(test_options_version_is_one_line),
        OPTIONS_TEST(test_options_printed_config_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
