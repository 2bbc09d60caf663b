#include "tests/unit/cmocka.h"
#include "tests/unit/ctl/folder.h"

#include "ctl/job/prompt_file.h"

static npo_err read_file(const char *dir, const char *name, const char *text, size_t len,
                         npo_prompt_file *ret_file, npo_error *error)
{
    char *path = npo_file_join(dir, name);
    assert_int_equal(npo_file_write(path, text, len, 0644, NULL), NPO_OK);
    npo_err err = npo_prompt_file_read(path, ret_file, error);
    free(path);
    return err;
}

static void expect_refused(const char *dir, const char *name, const char *text, size_t len,
                           npo_err code, const char *sentence)
{
    npo_prompt_file file = {0};
    npo_error error = {0};
    npo_err err = read_file(dir, name, text, len, &file, &error);
    if (err != code || !strstr(error.text, sentence))
        fail_msg("found %s '%s', expected %s '%s'", npo_err_name(err), error.text,
                 npo_err_name(code), sentence);
}

static const char *text_at(const cJSON *list, int i)
{
    return cJSON_GetArrayItem(list, i)->valuestring;
}

static void test_prompt_file_reads_lines(void **state)
{
    static const char text[] = "\xEF\xBB\xBF"
                               "a bag\r\n\n Größe \nlast";
    npo_prompt_file file;
    npo_error error = {0};
    assert_int_equal(read_file(*state, "p.txt", text, strlen(text), &file, &error), NPO_OK);
    assert_int_equal(cJSON_GetArraySize(file.prompts), 3);
    assert_string_equal(text_at(file.prompts, 0), "a bag");
    assert_string_equal(text_at(file.prompts, 1), " Größe ");
    assert_string_equal(text_at(file.prompts, 2), "last");
    assert_null(file.negatives);
    assert_null(file.seeds);
    npo_prompt_file_fini(&file);
}

static void test_prompt_file_reads_json_lines(void **state)
{
    static const char text[] = "{\"prompt\": \"a\", \"seed\": 7}\n\n  \n"
                               "{\"prompt\": \"b\", \"negative_prompt\": \"grey\"}\r\n"
                               "{\"prompt\": \"\"}";
    npo_prompt_file file;
    npo_error error = {0};
    assert_int_equal(read_file(*state, "p.jsonl", text, strlen(text), &file, &error), NPO_OK);
    assert_int_equal(cJSON_GetArraySize(file.prompts), 3);
    assert_string_equal(text_at(file.prompts, 1), "b");
    assert_string_equal(text_at(file.negatives, 0), "");
    assert_string_equal(text_at(file.negatives, 1), "grey");
    assert_int_equal(cJSON_GetArraySize(file.seeds), 3);
    assert_true(cJSON_GetArrayItem(file.seeds, 0)->valuedouble == 7);
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(file.seeds, 2)));
    npo_prompt_file_fini(&file);
}

static void test_prompt_file_knows_captions_by_three_names(void **state)
{
    static const char text[] = "{\"caption\": \"a\"}\n{\"text\": \"b\"}\n{\"prompt\": \"c\"}";
    npo_prompt_file file;
    npo_error error = {0};
    assert_int_equal(read_file(*state, "p.jsonl", text, strlen(text), &file, &error), NPO_OK);
    assert_int_equal(cJSON_GetArraySize(file.prompts), 3);
    assert_string_equal(text_at(file.prompts, 0), "a");
    assert_string_equal(text_at(file.prompts, 1), "b");
    npo_prompt_file_fini(&file);
}

static void test_prompt_file_reads_a_folder_of_captions(void **state)
{
    npo_prompt_file file;
    npo_error error = {0};
    char *broken = npo_file_join(*state, "b.txt");
    assert_int_equal(npo_prompt_file_read(*state, &file, &error), NPO_E_USAGE);
    assert_non_null(strstr(error.text, "holds no captions, expected *.txt files"));
    folder_write(*state, "b.txt", "a bag\r\nsecond line");
    folder_write(*state, "a.txt",
                 "\xEF\xBB\xBF"
                 "a shoe");
    folder_write(*state, "a.png", "no caption");
    folder_write(*state, "c.txt", "");
    assert_int_equal(npo_prompt_file_read(*state, &file, &error), NPO_OK);
    assert_int_equal(cJSON_GetArraySize(file.prompts), 2);
    assert_string_equal(text_at(file.prompts, 0), "a shoe");
    assert_string_equal(text_at(file.prompts, 1), "a bag");
    npo_prompt_file_fini(&file);
    folder_write(*state, "b.txt", "a b\xFF");
    assert_int_equal(npo_prompt_file_read(*state, &file, &error), NPO_E_FORMAT);
    assert_non_null(strstr(error.text, broken));
    assert_non_null(strstr(error.text, "line 1: found byte 0xff at byte 4"));
    free(broken);
}

static void test_prompt_file_names_broken_text(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        const char *sentence;
    } rows[] = {
        {"good\nbad \xff here\n", 16, "line 2: found byte 0xff at byte 5, expected UTF-8"},
        {"cut \xc3", 5, "line 1: found byte 0xc3 at byte 5"},
        {"cut \xc3\nnext", 10, "line 1: found byte 0xc3 at byte 5"},
        {"\xed\xa0\x80", 3, "line 1: found byte 0xed at byte 1"},
        {"a\0b", 3, "line 1: found byte 0x00 at byte 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refused(*state, "p.txt", rows[i].text, rows[i].len, NPO_E_FORMAT, rows[i].sentence);
    expect_refused(*state, "p.jsonl", "{\"prompt\": \"\xff\"}", 15, NPO_E_FORMAT,
                   "line 1: found byte 0xff at byte 13");
}

static void test_prompt_file_refuses_other_objects(void **state)
{
    static const struct {
        const char *text;
        npo_err code;
        const char *sentence;
    } rows[] = {
        {"{\"prompt\": \"a\"}\n{\"prompt\": }", NPO_E_FORMAT, "line 2"},
        {"[1]", NPO_E_TYPE, "line 1: expected an object"},
        {"{}", NPO_E_USAGE, "line 1: missing key 'prompt', 'caption' or 'text'"},
        {"{\"prompt\": 3}", NPO_E_TYPE, "prompt: found 3"},
        {"{\"prompt\": \"a\", \"negativ_prompt\": \"b\"}", NPO_E_USAGE,
         "did you mean 'negative_prompt'?"},
        {"{\"prompt\": \"a\", \"seed\": -1}", NPO_E_TYPE, "line 1: seed: expected a whole number"},
        {"{\"prompt\": \"a\", \"seed\": 1e300}", NPO_E_TYPE, "seed"},
        {"\n\n", NPO_E_USAGE, "holds none"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refused(*state, "p.jsonl", rows[i].text, strlen(rows[i].text), rows[i].code,
                       rows[i].sentence);
    npo_prompt_file file;
    npo_error error = {0};
    assert_int_equal(npo_prompt_file_read("/nonexistent", &file, &error), NPO_E_NOT_FOUND);
}

#define IN_FOLDER(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_prompt_file_reads_lines),
        IN_FOLDER(test_prompt_file_reads_json_lines),
        IN_FOLDER(test_prompt_file_knows_captions_by_three_names),
        IN_FOLDER(test_prompt_file_reads_a_folder_of_captions),
        IN_FOLDER(test_prompt_file_names_broken_text),
        IN_FOLDER(test_prompt_file_refuses_other_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
