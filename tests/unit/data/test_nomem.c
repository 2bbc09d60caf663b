/* Every allocation of reading data, drawing and reporting fails in turn: the operation returns an
 * error and leaks nothing, or it did without that allocation and gives the same output as ever. The
 * sanitizers bring their own malloc, so the test stands aside there. */
#include "tests/unit/data/scratch.h"

#include "common/hash.h"
#include "tests/unit/eval/cells.h"
#include "worker/data/dataset.h"
#include "worker/data/order.h"
#include "worker/eval/frechet.h"
#include "worker/eval/page/page.h"
#include "worker/image/grid.h"
#include "worker/image/png.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0
#elif defined(__has_feature)
#define OWN_MALLOC !(__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define OWN_MALLOC 1
#endif

static long fail_at = -1; /* allocations left until one fails; -1: none does */
static long outstanding;

#if OWN_MALLOC
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *memory);

static bool fails(void)
{
    return fail_at >= 0 && fail_at-- == 0;
}

__attribute__((visibility("default"))) void *malloc(size_t size)
{
    void *memory = fails() ? NULL : __libc_malloc(size);
    outstanding += memory != NULL;
    return memory;
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t size)
{
    void *memory = fails() ? NULL : __libc_calloc(count, size);
    outstanding += memory != NULL;
    return memory;
}

__attribute__((visibility("default"))) void *realloc(void *old, size_t size)
{
    void *memory = fails() ? NULL : __libc_realloc(old, size);
    outstanding += memory && !old;
    return memory;
}

__attribute__((visibility("default"))) void free(void *memory)
{
    outstanding -= memory != NULL;
    __libc_free(memory);
}
#endif

/* ---- operations: each tells its output as a hash ---- */

static const char *folder_idx, *folder_png, *picture;

static npo_err open_dataset(const char *path, npo_hash *ret_hash)
{
    static const char *const prompts[] = {"a", "b", "c"};
    npo_dataset_options options = {NPO_SPLIT_TRAIN, strstr(path, "idx") ? prompts : NULL, 3};
    npo_dataset *ds;
    npo_error error = {0};
    npo_err err = npo_dataset_open(path, &options, &ds, &error);
    if (err != NPO_OK) {
        assert_true(*error.text);
        return err;
    }
    float sum[2] = {(float)npo_dataset_count(ds), (float)npo_dataset_prompt_count(ds)};
    *ret_hash = npo_hash_bytes(sum, sizeof sum);
    npo_dataset_free(ds);
    return NPO_OK;
}

static npo_err open_idx(npo_hash *ret_hash)
{
    return open_dataset(folder_idx, ret_hash);
}

static npo_err open_png(npo_hash *ret_hash)
{
    return open_dataset(folder_png, ret_hash);
}

static npo_err shuffle(npo_hash *ret_hash)
{
    npo_order *order;
    NPO_TRY(npo_order_new(1, 10, &order));
    int64_t first = npo_order_at(order, 0);
    *ret_hash = npo_hash_bytes(&first, sizeof first);
    npo_order_free(order);
    return NPO_OK;
}

static npo_err read_png(npo_hash *ret_hash)
{
    npo_image image;
    NPO_TRY(npo_png_read(picture, &image, NULL));
    *ret_hash = npo_hash_bytes(image.pixels, npo_image_bytes(&image));
    npo_image_fini(&image);
    return NPO_OK;
}

static npo_err draw_grid(npo_hash *ret_hash)
{
    static const float pixels[2 * 4] = {0};
    const char *labels[] = {"one", "two"};
    npo_grid_options options = {.columns = 2,
                                .rows = 1,
                                .width = 2,
                                .height = 2,
                                .channels = 1,
                                .zoom = 2,
                                .column_labels = labels};
    npo_png_text texts[] = {{"npo.settings", "{}"}, {"npo.prompt", "caf\xc3\xa9"}};
    npo_image image;
    npo_buf buf = NPO_BUF_INIT;
    NPO_TRY(npo_grid_draw(&options, pixels, &image));
    npo_err err = npo_png_encode(&image, texts, 2, &buf, NULL);
    if (err == NPO_OK)
        *ret_hash = npo_hash_bytes(buf.data, buf.len);
    npo_buf_fini(&buf);
    npo_image_fini(&image);
    return err;
}

static npo_err write_report(npo_hash *ret_hash)
{
    npo_offset_block block = {"conv_in", 0.1};
    npo_page_picture png = {"scale 2", "\x89PNG", 4};
    npo_results results = {.title = "t",
                           .settings = "{}",
                           .cells = cells,
                           .cell_count = CELL_COUNT,
                           .blocks = &block,
                           .block_count = 1};
    npo_buf buf = NPO_BUF_INIT;
    npo_results_json(&results, &buf);
    npo_page_write(&results, &png, 1, &buf);
    npo_err err = npo_buf_err(&buf);
    if (err == NPO_OK)
        *ret_hash = npo_hash_bytes(buf.data, buf.len);
    npo_buf_fini(&buf);
    return err;
}

static npo_err measure_distance(npo_hash *ret_hash)
{
    static const float x[] = {1, 2, 3, 5, 4, 2, 0, 1};
    npo_gaussian a = {0}, b = {0};
    double distance = 0;
    npo_err err = npo_gaussian_fit(x, 4, 2, &a);
    if (err == NPO_OK)
        err = npo_gaussian_fit(x, 3, 2, &b);
    if (err == NPO_OK)
        err = npo_frechet_distance(&a, &b, &distance);
    npo_gaussian_fini(&a);
    npo_gaussian_fini(&b);
    if (err == NPO_OK)
        *ret_hash = npo_hash_bytes(&distance, sizeof distance);
    return err;
}

static void test_nomem_is_an_error_or_nothing(void **state)
{
    static const struct {
        const char *name;
        npo_err (*run)(npo_hash *ret_hash);
        long refused_min;
    } operations[] = {
        {"open_idx", open_idx, 10},
        {"open_png", open_png, 20},
        {"shuffle", shuffle, 2},
        {"read_png", read_png, 4},
        {"draw_grid", draw_grid, 4},
        {"write_report", write_report, 4},
        {"measure_distance", measure_distance, 4},
    };
    if (!OWN_MALLOC)
        skip();
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        npo_hash expected, found;
        long refused = 0;
        assert_int_equal(operations[i].run(&expected), NPO_OK);
        for (long n = 0;; n++) {
            long before = outstanding;
            fail_at = n;
            npo_err err = operations[i].run(&found);
            bool reached = fail_at < 0;
            fail_at = -1;
            if (outstanding != before || (err == NPO_OK && !npo_hash_equal(&expected, &found)))
                fail_msg("%s, allocation %ld: %s, %ld leaked", operations[i].name, n,
                         npo_err_name(err), outstanding - before);
            refused += err != NPO_OK;
            if (!reached)
                break;
        }
        if (refused < operations[i].refused_min)
            fail_msg("%s was refused %ld times only", operations[i].name, refused);
    }
}

static int setup(void **state)
{
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 7, 8, 9};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1};
    static const char lines[] = "{\"file\":\"a.png\",\"caption\":\"x\"}\n"
                                "{\"file\":\"a.png\",\"caption\":\"y\"}\n";
    npo_image image;
    if (scratch_setup(state))
        return -1;
    folder_idx = scratch_path("idx");
    folder_png = scratch_path("png");
    picture = scratch_path("png/a.png");
    assert_int_equal(npo_file_make_dirs(folder_idx, NULL), NPO_OK);
    assert_int_equal(npo_file_make_dirs(folder_png, NULL), NPO_OK);
    scratch_write_gz("idx/train-images-idx3-ubyte.gz", images, sizeof images);
    scratch_write("idx/train-labels-idx1-ubyte", labels, sizeof labels);
    scratch_write("png/captions.jsonl", lines, sizeof lines - 1);
    assert_int_equal(npo_image_init(&image, 3, 2, 3, 9), NPO_OK);
    assert_int_equal(npo_png_write(picture, &image, NULL, 0, NULL), NPO_OK);
    npo_image_fini(&image);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nomem_is_an_error_or_nothing),
    };
    return cmocka_run_group_tests_name("data-nomem", tests, setup, scratch_teardown);
}
