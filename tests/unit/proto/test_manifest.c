#include "proto/manifest.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_A          "00112233445566778899aabbccddeeff"
#define FILE_A(path)    "{\"hash\":\"" HASH_A "\",\"path\":\"" path "\",\"size\":7}"
#define MANIFEST(files) "{\"files\":[" files "],\"format\":\"npo-manifest-1\"}"

static char dir[64];

static int setup(void **state)
{
    strcpy(dir, "/tmp/npo-manifest-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    return npo_file_remove(dir, NULL);
}

static void put(const char *name, const char *text)
{
    char *path = npo_file_join(dir, name), *parent = strdup(path);
    *strrchr(parent, '/') = '\0';
    assert_int_equal(npo_file_make_dirs(parent, NULL), NPO_OK);
    assert_int_equal(npo_file_write(path, text, strlen(text), 0644, NULL), NPO_OK);
    free(parent);
    free(path);
}

static void test_manifest_of_a_pipeline_leaves_out_what_is_beside_it(void **state)
{
    static const char *const expected[] = {"model_index.json", "unet/config.json",
                                           "unet/sub/weights"};
    npo_manifest manifest = {0};
    put("model_index.json", "{\"_class_name\": \"x\", \"unet\": [\"a\", \"b\"]}");
    put("unet/config.json", "{}");
    put("unet/sub/weights", "1");
    put("unet.ckpt", "1");
    put("job.json", "{}");
    put("classifier/model.safetensors", "1");
    put("_class_name/x", "1");
    assert_int_equal(npo_manifest_build(dir, &manifest, NULL), NPO_OK);
    assert_int_equal(manifest.count, 3);
    for (size_t i = 0; i < manifest.count; i++)
        assert_string_equal(manifest.files[i].path, expected[i]);
    npo_manifest_fini(&manifest);
}

static void test_manifest_of_a_pipeline_without_unet_weights_keeps_its_checkpoint(void **state)
{
    npo_manifest manifest = {0};
    put("model_index.json", "{\"unet\": [\"a\", \"b\"]}");
    put("unet/config.json", "{}");
    put("whole.safetensors", "1");
    put("classifier/model.safetensors", "1");
    assert_int_equal(npo_manifest_build(dir, &manifest, NULL), NPO_OK);
    assert_int_equal(manifest.count, 3);
    assert_string_equal(manifest.files[2].path, "whole.safetensors");
    npo_manifest_fini(&manifest);
    put("unet/diffusion_pytorch_model.fp16.safetensors", "1");
    assert_int_equal(npo_manifest_build(dir, &manifest, NULL), NPO_OK);
    assert_int_equal(manifest.count, 3);
    assert_string_equal(manifest.files[2].path, "unet/diffusion_pytorch_model.fp16.safetensors");
    npo_manifest_fini(&manifest);
}

static void test_manifest_refuses_a_broken_model_index(void **state)
{
    npo_manifest manifest = {0};
    npo_error error = {0};
    put("model_index.json", "{");
    put("unet/config.json", "{}");
    assert_int_not_equal(npo_manifest_build(dir, &manifest, &error), NPO_OK);
    assert_non_null(strstr(error.text, "model_index.json"));
    put("model_index.json", "[[]]");
    assert_int_equal(npo_manifest_build(dir, &manifest, &error), NPO_E_TYPE);
}

/* The hashes are python-xxhash's, the order and form docs/protocol.md's. */
static void test_manifest_of_a_folder_is_canonical(void **state)
{
    npo_manifest manifest = {0};
    npo_buf text = NPO_BUF_INIT;
    put("unet/config.json", "{}");
    put("a", "");
    put("unet.json", "{}");
    put(".hidden", "x");
    assert_int_equal(npo_manifest_build(dir, &manifest, NULL), NPO_OK);
    assert_int_equal(npo_manifest_print(&manifest, &text, NULL, NULL), NPO_OK);
    assert_string_equal(
        text.data,
        "{\"files\":["
        "{\"hash\":\"99aa06d3014798d86001c324468d497f\",\"path\":\"a\",\"size\":0},"
        "{\"hash\":\"dc7048f8f8747f561349cde127705c16\",\"path\":\"unet.json\",\"size\":2},"
        "{\"hash\":\"dc7048f8f8747f561349cde127705c16\",\"path\":\"unet/config.json\",\"size\":2}"
        "],\"format\":\"npo-manifest-1\"}");
    npo_manifest_fini(&manifest);
    npo_buf_fini(&text);
}

static void test_manifest_text_survives_reading(void **state)
{
    static const char text[] = MANIFEST(FILE_A("a") "," FILE_A("b/c") "," FILE_A("b/d"));
    npo_manifest manifest = {0};
    npo_buf again = NPO_BUF_INIT;
    npo_hash hash, expected = npo_hash_bytes(text, strlen(text));
    assert_int_equal(npo_manifest_parse(text, strlen(text), "m", &manifest, NULL), NPO_OK);
    assert_int_equal(manifest.count, 3);
    assert_string_equal(manifest.files[1].path, "b/c");
    assert_int_equal(manifest.files[1].size, 7);
    assert_int_equal(npo_manifest_print(&manifest, &again, &hash, NULL), NPO_OK);
    assert_string_equal(again.data, text);
    assert_true(npo_hash_equal(&hash, &expected));
    npo_manifest_fini(&manifest);
    npo_buf_fini(&again);
}

static void test_manifest_refuses_what_it_would_not_write(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {MANIFEST(""), "0 files"},
        {MANIFEST(FILE_A("b") "," FILE_A("a")), "'a' is out of order"},
        {MANIFEST(FILE_A("a") "," FILE_A("a")), "'a' is out of order"},
        {MANIFEST(FILE_A("a") "," FILE_A("a-b") "," FILE_A("a/b")), "'a/b' lies below a file"},
        {MANIFEST(FILE_A("")), "leaves the folder"},
        {MANIFEST(FILE_A("/a")), "leaves the folder"},
        {MANIFEST(FILE_A("..")), "leaves the folder"},
        {MANIFEST(FILE_A("a/../b")), "leaves the folder"},
        {MANIFEST(FILE_A("./a")), "leaves the folder"},
        {MANIFEST(FILE_A("a//b")), "leaves the folder"},
        {MANIFEST(FILE_A("a/")), "leaves the folder"},
        {" " MANIFEST(FILE_A("a")), "not in canonical form"},
        {"{\"format\":\"npo-manifest-1\",\"files\":[" FILE_A("a") "]}", "not in canonical form"},
        {"{\"files\":[" FILE_A("a") "],\"format\":\"npo-manifest-2\"}",
         "expected 'npo-manifest-1'"},
        {"{\"files\":[" FILE_A("a") "]}", "missing key 'm.format'"},
        {"{\"files\":{},\"format\":\"npo-manifest-1\"}", "expected a list"},
        {"{\"files\":[" FILE_A("a") "],\"format\":\"npo-manifest-1\",\"more\":1}", "unknown key"},
        {MANIFEST("{\"hash\":\"xyz\",\"path\":\"a\",\"size\":7}"), "expected 32 hex digits"},
        {MANIFEST("{\"hash\":\"" HASH_A "\",\"path\":\"a\",\"size\":-1}"), "size"},
        {MANIFEST("{\"hash\":\"" HASH_A "\",\"path\":\"a\",\"size\":1.5}"), "size"},
        {"[]", "expected an object"},
        {"", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        npo_manifest manifest = {0};
        npo_error error = {0};
        assert_int_not_equal(
            npo_manifest_parse(cases[i].text, strlen(cases[i].text), "m", &manifest, &error),
            NPO_OK);
        if (!strstr(error.text, cases[i].part))
            fail_msg("'%s': expected '%s'", error.text, cases[i].part);
    }
}

static void test_manifest_is_told_from_other_files(void **state)
{
    static const char text[] = MANIFEST(FILE_A("a"));
    char *path = npo_file_join(dir, "f");
    put("f", text);
    assert_true(npo_manifest_is_at(path));
    put("f", "{\"files\":[]}");
    assert_false(npo_manifest_is_at(path));
    put("f", "");
    assert_false(npo_manifest_is_at(path));
    free(path);
    assert_false(npo_manifest_is_at("/not/there"));
    assert_false(npo_manifest_is_text(text, strlen(text) - 1));
}

static void test_manifest_build_refuses_an_empty_folder(void **state)
{
    npo_manifest manifest = {0};
    npo_error error = {0};
    assert_int_equal(npo_manifest_build(dir, &manifest, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "holds no files"));
    assert_int_equal(npo_manifest_build("/not/there", &manifest, &error), NPO_E_NOT_FOUND);
}

static npo_err source(void *self, const npo_hash *hash, char **ret_path, npo_error *error)
{
    if (self)
        return npo_error_set(error, NPO_E_NOT_FOUND, "no such artifact");
    *ret_path = npo_file_join(dir, "stored");
    return NPO_OK;
}

static void test_manifest_materialises_by_hard_links(void **state)
{
    static const char text[] = MANIFEST(FILE_A("a") "," FILE_A("b/c"));
    npo_manifest manifest = {0};
    struct stat st;
    char *folder = npo_file_join(dir, "folder"), *file = npo_file_join(dir, "folder/b/c");
    put("stored", "content");
    assert_int_equal(npo_manifest_parse(text, strlen(text), "m", &manifest, NULL), NPO_OK);
    assert_int_equal(npo_manifest_materialise(&manifest, folder, source, NULL, NULL), NPO_OK);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_nlink, 3);
    /* again: it is there */
    assert_int_equal(npo_manifest_materialise(&manifest, folder, source, dir, NULL), NPO_OK);
    npo_manifest_fini(&manifest);
    free(folder);
    free(file);
}

static void test_manifest_leaves_nothing_when_a_part_lacks(void **state)
{
    static const char text[] = MANIFEST(FILE_A("a"));
    npo_manifest manifest = {0};
    npo_file_list list = {0};
    char *folder = npo_file_join(dir, "folder");
    assert_int_equal(npo_manifest_parse(text, strlen(text), "m", &manifest, NULL), NPO_OK);
    assert_int_equal(npo_manifest_materialise(&manifest, folder, source, dir, NULL),
                     NPO_E_NOT_FOUND);
    assert_false(npo_file_exists(folder));
    assert_int_equal(npo_file_list_tree(dir, 10, &list, NULL), NPO_OK);
    assert_int_equal(list.count, 0);
    npo_manifest_fini(&manifest);
    free(folder);
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(test_manifest_of_a_folder_is_canonical),
        FOLDER_TEST(test_manifest_of_a_pipeline_leaves_out_what_is_beside_it),
        FOLDER_TEST(test_manifest_of_a_pipeline_without_unet_weights_keeps_its_checkpoint),
        FOLDER_TEST(test_manifest_refuses_a_broken_model_index),
        FOLDER_TEST(test_manifest_text_survives_reading),
        FOLDER_TEST(test_manifest_refuses_what_it_would_not_write),
        FOLDER_TEST(test_manifest_is_told_from_other_files),
        FOLDER_TEST(test_manifest_build_refuses_an_empty_folder),
        FOLDER_TEST(test_manifest_materialises_by_hard_links),
        FOLDER_TEST(test_manifest_leaves_nothing_when_a_part_lacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
