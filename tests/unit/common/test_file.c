#include "common/file.h"

#include "tests/unit/cmocka.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *in(void **state, const char *name)
{
    return npo_file_join(*state, name);
}

static int setup(void **state)
{
    char dir[] = "/tmp/npo-test-XXXXXX";
    *state = mkdtemp(dir) ? strdup(dir) : NULL;
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    npo_err err = npo_file_remove(*state, NULL);
    int gone = !npo_file_exists(*state);
    free(*state);
    return err == NPO_OK && gone ? 0 : -1;
}

static void assert_holds(const char *path, const char *text)
{
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(path, 100, &buf, NULL), NPO_OK);
    assert_string_equal(buf.data, text);
    npo_buf_fini(&buf);
}

static void test_file_copies_and_links(void **state)
{
    char *from = in(state, "a"), *copy = in(state, "b"), *name = in(state, "c");
    struct stat source, status;
    npo_error error = {0};
    assert_int_equal(npo_file_write(from, "text", 4, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_copy(from, copy, 0400, NULL), NPO_OK);
    assert_holds(copy, "text");
    assert_int_equal(stat(copy, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0400);
    assert_int_equal(npo_file_link_or_copy(from, name, 0444, NULL), NPO_OK);
    assert_int_equal(stat(from, &source), 0);
    assert_int_equal(stat(name, &status), 0);
    assert_int_equal(status.st_ino, source.st_ino);
    assert_int_not_equal(npo_file_link_or_copy(from, name, 0444, &error), NPO_OK);
    assert_non_null(strstr(error.text, name));
    assert_holds(name, "text");
    free(from);
    free(copy);
    free(name);
}

/* Where a name of the same file cannot be: on another file system. */
static void test_file_copies_to_another_file_system(void **state)
{
    char dir[] = "/dev/shm/npo-test-XXXXXX";
    struct stat here, there;
    if (stat(*state, &here) < 0 || stat("/dev/shm", &there) < 0 || here.st_dev == there.st_dev)
        skip(); /* there is only one */
    assert_non_null(mkdtemp(dir));
    char *from = in(state, "a"), *to = npo_file_join(dir, "b");
    assert_int_equal(npo_file_write(from, "text", 4, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_link_or_copy(from, to, 0444, NULL), NPO_OK);
    assert_holds(to, "text");
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    free(from);
    free(to);
}

static void test_file_write_replaces_whole(void **state)
{
    char *path = in(state, "a");
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_file_write(path, "longer", 6, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_write(path, "new", 3, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_read(path, 100, &buf, NULL), NPO_OK);
    assert_string_equal(buf.data, "new");
    npo_file_list list;
    assert_int_equal(npo_file_list_tree(*state, 10, &list, NULL), NPO_OK);
    assert_int_equal(list.count, 1); /* no temporary file left */
    npo_file_list_fini(&list);
    npo_buf_fini(&buf);
    free(path);
}

static void test_file_write_to_a_full_disk_keeps_the_old(void **state)
{
    npo_error error = {0};
    assert_int_equal(npo_file_write("/dev/full/x", "a", 1, 0600, &error), NPO_E_IO);
    int fd = open("/dev/full", O_WRONLY);
    assert_int_equal(npo_file_pwrite(fd, "a", 1, 0, &error), NPO_E_FULL);
    close(fd);
}

static void test_file_read_refuses_missing_large_and_folders(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_error error = {0};
    char *path = in(state, "a");
    assert_int_equal(npo_file_read(path, 10, &buf, &error), NPO_E_NOT_FOUND);
    assert_int_equal(npo_file_write(path, "12345678901", 11, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_read(path, 10, &buf, &error), NPO_E_LIMIT);
    assert_non_null(strstr(error.text, "11 bytes, at most 10"));
    assert_int_equal(npo_file_read(*state, 10, &buf, &error), NPO_E_TYPE);
    npo_buf_fini(&buf);
    free(path);
}

static void test_file_pread_past_the_end_is_an_error(void **state)
{
    char *path = in(state, "a");
    char data[8];
    assert_int_equal(npo_file_write(path, "1234", 4, 0600, NULL), NPO_OK);
    int fd = open(path, O_RDONLY);
    assert_int_equal(npo_file_pread(fd, data, 4, 0, NULL), NPO_OK);
    assert_int_equal(npo_file_pread(fd, data, 4, 1, NULL), NPO_E_FORMAT);
    close(fd);
    free(path);
}

static void test_file_make_dirs_and_list(void **state)
{
    char *dir = in(state, "x/y/z"), *b = in(state, "x/y/z/b"), *a = in(state, "x/a"),
         *hidden = in(state, "x/.hidden"), *link_path = in(state, "link");
    assert_int_equal(npo_file_make_dirs(dir, NULL), NPO_OK);
    assert_int_equal(npo_file_make_dirs(dir, NULL), NPO_OK);
    assert_int_equal(npo_file_write(a, "", 0, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_write(b, "", 0, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_write(hidden, "", 0, 0600, NULL), NPO_OK);
    assert_int_equal(symlink("/etc/passwd", link_path), 0);
    npo_file_list list;
    assert_int_equal(npo_file_list_tree(*state, 10, &list, NULL), NPO_OK);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.paths[0], "x/a");
    assert_string_equal(list.paths[1], "x/y/z/b");
    npo_file_list_fini(&list);
    assert_int_equal(npo_file_list_tree(*state, 1, &list, NULL), NPO_E_LIMIT);
    assert_int_equal(npo_file_make_dirs(a, NULL), NPO_E_EXISTS);
    free(dir), free(b), free(a), free(hidden), free(link_path);
}

static void test_file_remove_does_not_follow_links(void **state)
{
    char *keep = in(state, "keep"), *kept = in(state, "keep/file"), *dir = in(state, "dir"),
         *link_path = in(state, "dir/link");
    assert_int_equal(npo_file_make_dirs(keep, NULL), NPO_OK);
    assert_int_equal(npo_file_make_dirs(dir, NULL), NPO_OK);
    assert_int_equal(npo_file_write(kept, "", 0, 0600, NULL), NPO_OK);
    assert_int_equal(symlink(keep, link_path), 0);
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK);
    assert_true(npo_file_exists(kept));
    assert_int_equal(npo_file_remove(dir, NULL), NPO_OK); /* already gone */
    free(keep), free(kept), free(dir), free(link_path);
}

static void test_file_map_shows_content(void **state)
{
    char *path = in(state, "a");
    npo_file_map map;
    assert_int_equal(npo_file_write(path, "abc", 3, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_map_open(path, &map, NULL), NPO_OK);
    assert_int_equal(map.size, 3);
    assert_memory_equal(map.data, "abc", 3);
    npo_file_map_close(&map);
    assert_int_equal(npo_file_write(path, "", 0, 0600, NULL), NPO_OK);
    assert_int_equal(npo_file_map_open(path, &map, NULL), NPO_OK);
    assert_null(map.data);
    npo_file_map_close(&map);
    assert_int_equal(npo_file_map_open(*state, &map, NULL), NPO_E_TYPE);
    free(path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_file_copies_and_links),
        TEST(test_file_copies_to_another_file_system),
        TEST(test_file_write_replaces_whole),
        TEST(test_file_write_to_a_full_disk_keeps_the_old),
        TEST(test_file_read_refuses_missing_large_and_folders),
        TEST(test_file_pread_past_the_end_is_an_error),
        TEST(test_file_make_dirs_and_list),
        TEST(test_file_remove_does_not_follow_links),
        TEST(test_file_map_shows_content),
    };
    return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
