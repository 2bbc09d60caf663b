#include "tests/unit/model/support.h"

#include "common/json.h"
#include "worker/model/text/bpe.h"
#include "worker/model/text/tokenizer.h"

enum { IDS_MAX = 4096 };

static npo_tokenizer *published; /* CLIP's vocabulary */

static int load_published(void **state)
{
    if (scratch_setup(state))
        return -1;
    return npo_tokenizer_load(GOLDEN("clip-tokenizer"), &published, NULL) ? -1 : 0;
}

static int free_published(void **state)
{
    npo_tokenizer_free(published);
    return scratch_teardown(state);
}

static void check_ids(const npo_tokenizer *tokenizer, const char *text, size_t len,
                      const cJSON *expected)
{
    static int32_t ids[IDS_MAX];
    size_t count, i = 0;
    assert_ok(npo_tokenizer_encode(tokenizer, text, len, IDS_MAX, ids, &count, &error));
    assert_int_equal(count, cJSON_GetArraySize(expected));
    for (const cJSON *id = expected->child; id; id = id->next)
        assert_int_equal(ids[i++], (int32_t)id->valuedouble);
}

static void check_text(const npo_tokenizer *tokenizer, const char *text, const char *expected)
{
    cJSON *ids = cJSON_Parse(expected);
    check_ids(tokenizer, text, strlen(text), ids);
    cJSON_Delete(ids);
}

/* cJSON ends a string at an escaped NUL: the one case that has it is given by hand below. */
static void test_tokenizer_gives_the_published_ids(void **state)
{
    cJSON *cases = NULL;
    int checked = 0;
    assert_ok(npo_json_load(GOLDEN("clip-tokenizer/cases.json"), 1 << 20, &cases, &error));
    for (const cJSON *item = cases->child; item; item = item->next) {
        int32_t padded[77];
        const char *text = npo_json_string(item, "text", NULL);
        const cJSON *expected = cJSON_GetObjectItemCaseSensitive(item, "padded_77"), *id;
        int i = 0;
        size_t len = strcmp(text, "a") == 0 && checked > 10 ? 3 : strlen(text);
        text = len == 3 && strlen(text) == 1 ? "a\0b" : text;
        check_ids(published, text, len, cJSON_GetObjectItemCaseSensitive(item, "ids"));
        assert_ok(npo_tokenizer_encode_padded(published, text, len, 77, padded, &error));
        cJSON_ArrayForEach(id, expected) assert_int_equal(padded[i++], (int32_t)id->valuedouble);
        assert_int_equal(i, 77);
        checked++;
    }
    assert_int_equal(checked, 38);
    cJSON_Delete(cases);
}

/* Expected ids: transformers 5.23 with the same files. */
static void test_tokenizer_splits_spelled_out_specials(void **state)
{
    check_text(published, "<|ENDOFTEXT|>!! x", "[49406,27,347,40786,4160,91,285,748,343,49407]");
    check_text(published, "a!<|EndOfText|>b", "[49406,320,0,27,347,40786,4160,91,285,321,49407]");
    check_text(published, "''s'", "[49406,8445,338,262,49407]");
    check_text(published, "'S 'LL", "[49406,568,1342,49407]");
}

static void test_tokenizer_replaces_invalid_utf8(void **state)
{
    check_text(published,
               "x\xff"
               "y",
               "[49406,343,39802,344,49407]");
    check_text(published, "\xe2\x82\xc3", "[49406,47356,39802,49407]");
}

static void test_tokenizer_cuts_at_the_limit(void **state)
{
    int32_t ids[4] = {-1, -1, -1, -1};
    size_t count;
    const char text[] = "very very very very";
    assert_ok(npo_tokenizer_encode(published, text, strlen(text), 4, ids, &count, &error));
    assert_int_equal(count, 4);
    assert_memory_equal(ids, ((int32_t[]){49406, 1070, 1070, 49407}), sizeof ids);
    assert_ok(npo_tokenizer_encode(published, text, strlen(text), 2, ids, &count, &error));
    assert_int_equal(count, 2);
    assert_int_equal(ids[1], 49407);
    assert_int_equal(npo_tokenizer_max_length(published), 77);
    assert_int_equal(npo_tokenizer_vocab_size(published), 49408);
}

static void test_tokenizer_refuses_a_huge_text(void **state)
{
    size_t len = ((size_t)1 << 20) + 1, count;
    char *text = malloc(len);
    int32_t *ids = malloc(len * sizeof *ids);
    memset(text, 'x', len);
    assert_fails(NPO_E_LIMIT, "prompt of 1048577 bytes, expected at most 1048576",
                 npo_tokenizer_encode(published, text, len, 77, ids, &count, &error));
    /* One word of a million letters takes a moment, not minutes. */
    assert_ok(npo_tokenizer_encode(published, text, len - 1, len, ids, &count, &error));
    assert_true(count > 1000 && count < len);
    free(text);
    free(ids);
}

/* ---- folders ---- */

static const char added[] = "{\"__type\":\"AddedToken\",\"content\":\"%s\",\"normalized\":true}";

static npo_err load_folder(const char *vocab, const char *merges, const char *config,
                           npo_tokenizer **ret_tokenizer, npo_error *error)
{
    assert_int_equal(npo_file_remove(scratch_path("tok"), NULL), NPO_OK);
    assert_int_equal(npo_file_make_dirs(scratch_path("tok"), NULL), NPO_OK);
    if (vocab)
        scratch_text("tok/vocab.json", vocab);
    else
        scratch_copy(GOLDEN("clip-tokenizer/vocab.json"), "tok/vocab.json");
    if (merges)
        scratch_text("tok/merges.txt", merges);
    else
        scratch_copy(GOLDEN("clip-tokenizer/merges.txt"), "tok/merges.txt");
    if (config)
        scratch_text("tok/tokenizer_config.json", config);
    return npo_tokenizer_load(scratch_path("tok"), ret_tokenizer, error);
}

static void test_tokenizer_finds_added_tokens_after_normalising(void **state)
{
    char bos[128], eos[128], config[512];
    npo_tokenizer *tokenizer = NULL;
    snprintf(bos, sizeof bos, added, "<|startoftext|>");
    snprintf(eos, sizeof eos, added, "<|endoftext|>");
    /* As the published file has it: pad_token, a plain string, makes the end token a plain one. */
    snprintf(config, sizeof config,
             "{\"bos_token\":%s,\"eos_token\":%s,\"unk_token\":%s,\"pad_token\":\"<|endoftext|>\"}",
             bos, eos, eos);
    assert_ok(load_folder(NULL, NULL, config, &tokenizer, &error));
    check_text(tokenizer, "a<|STARTOFTEXT|>b", "[49406,320,49406,321,49407]");
    check_text(tokenizer, "<|ENDOFTEXT|>!! x", "[49406,27,347,40786,4160,91,285,748,343,49407]");
    check_text(tokenizer, "x<|endoftext|>y", "[49406,343,49407,344,49407]");
    npo_tokenizer_free(tokenizer);
}

static void test_tokenizer_takes_defaults_without_a_config(void **state)
{
    npo_tokenizer *tokenizer = NULL;
    assert_ok(load_folder(NULL, NULL, NULL, &tokenizer, &error));
    assert_int_equal(npo_tokenizer_max_length(tokenizer), 0);
    check_text(tokenizer, "a photo", "[49406,320,1125,49407]");
    npo_tokenizer_free(tokenizer);
    assert_ok(load_folder(NULL, NULL, "{\"model_max_length\": 1e30}", &tokenizer, &error));
    assert_int_equal(npo_tokenizer_max_length(tokenizer), 0);
    npo_tokenizer_free(tokenizer);
}

static void test_tokenizer_refuses_bad_folders(void **state)
{
    static const struct {
        const char *vocab, *merges, *config, *sentence;
        npo_err code;
    } cases[] = {
        {"[]", NULL, NULL, "vocab.json': expected an object", NPO_E_FORMAT},
        {"{\"a\":-1}", NULL, NULL, "token 'a': expected an id from 0", NPO_E_FORMAT},
        {"{\"a\":\"b\"}", NULL, NULL, "token 'a': expected an id from 0", NPO_E_FORMAT},
        {"{\"a\":0}", NULL, NULL, "no token for byte 0x00 and no unknown token", NPO_E_FORMAT},
        {"{\"a\":0,\"a\":1}", NULL, NULL, "key 'a' stands twice", NPO_E_FORMAT},
        {NULL, "#version: 0.2\na b\nx", NULL, "line 3: found 'x', expected two tokens",
         NPO_E_FORMAT},
        {NULL, "a b c\n", NULL, "line 1: found 'a b c', expected two tokens", NPO_E_FORMAT},
        {NULL, "qq zzz\n", NULL, "line 1: the merge to 'qqzzz' has a token", NPO_E_FORMAT},
        {NULL, NULL, "{\"bos_token\": 3}", "bos_token: expected a string or an object", NPO_E_TYPE},
        {NULL, NULL, "{\"eos_token\": {}}", "eos_token: is empty", NPO_E_FORMAT},
        {NULL, NULL, "{\"pad_token\": \"<pad>\"}", "no token '<pad>' for pad_token",
         NPO_E_NOT_FOUND},
        {NULL, NULL, "{", "not JSON", NPO_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_tokenizer *tokenizer = NULL;
        assert_fails(
            cases[i].code, cases[i].sentence,
            load_folder(cases[i].vocab, cases[i].merges, cases[i].config, &tokenizer, &error));
    }
    npo_tokenizer *tokenizer = NULL;
    assert_fails(NPO_E_NOT_FOUND, "vocab.json'",
                 npo_tokenizer_load(scratch_path("none"), &tokenizer, &error));
}

/* ---- merging ---- */

/* A vocabulary without any byte but with an unknown token, which then stands for all of them. */
static void test_bpe_merges_lowest_rank_leftmost_first(void **state)
{
    static const char vocab[] = "{\"?\":0,\"a\":1,\"a</w>\":2,\"b\":3,\"b</w>\":4,\"ab\":5,"
                                "\"aa\":6,\"ba</w>\":7,\"aab\":8,\"aa</w>\":9}";
    static const char merges[] = "#version: 0.2\na b\na a\nb a</w>\naa b\na a</w>\r\n";
    static const struct {
        const char *word;
        int32_t ids[8];
        size_t count;
    } cases[] = {
        {"aab", {6, 4}, 2},     /* the last letter is b</w>, which ab does not take */
        {"aabb", {1, 5, 4}, 3}, /* ab before aa */
        {"aaa", {6, 2}, 2},     /* the left pair of two equals */
        {"aaaa", {6, 9}, 2},    {"ba", {7}, 1}, {"aba", {5, 2}, 2},
        {"aaba", {1, 5, 2}, 3}, {"x", {0}, 1},  {"", {0}, 0},
    };
    npo_bpe *bpe = NULL;
    scratch_text("v.json", vocab);
    scratch_text("m.txt", merges);
    assert_ok(npo_bpe_load(scratch_path("v.json"), scratch_path("m.txt"), "?", &bpe, &error));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t ids[8];
        size_t count;
        assert_int_equal(npo_bpe_encode(bpe, cases[i].word, strlen(cases[i].word), ids, &count),
                         NPO_OK);
        assert_int_equal(count, cases[i].count);
        assert_memory_equal(ids, cases[i].ids, count * sizeof *ids);
    }
    assert_int_equal(npo_bpe_id(bpe, "aab"), 8);
    assert_int_equal(npo_bpe_id(bpe, "zz"), -1);
    npo_bpe_free(bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_gives_the_published_ids),
        cmocka_unit_test(test_tokenizer_splits_spelled_out_specials),
        cmocka_unit_test(test_tokenizer_replaces_invalid_utf8),
        cmocka_unit_test(test_tokenizer_cuts_at_the_limit),
        cmocka_unit_test(test_tokenizer_refuses_a_huge_text),
        cmocka_unit_test(test_tokenizer_finds_added_tokens_after_normalising),
        cmocka_unit_test(test_tokenizer_takes_defaults_without_a_config),
        cmocka_unit_test(test_tokenizer_refuses_bad_folders),
        cmocka_unit_test(test_bpe_merges_lowest_rank_leftmost_first),
    };
    return cmocka_run_group_tests(tests, load_published, free_published);
}
