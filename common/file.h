/* Files: the one module that writes them, so that a full disk or a crash can be injected here.
 * A durable write is: temporary file in the same folder, write, fsync, rename, fsync of the folder;
 * readers see the old content or the new, never a part. */
#ifndef NPO_COMMON_FILE_H
#define NPO_COMMON_FILE_H

#include "common/buf.h"
#include "common/err.h"
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads the whole file; more than limit bytes is NPO_E_LIMIT. Appends to ret_buf. */
npo_err npo_file_read(const char *path, size_t limit, npo_buf *ret_buf,
                      npo_error *error) NPO_MUST_CHECK;
/* Durable, atomic replace (see above). mode: permission bits of the new file. */
npo_err npo_file_write(const char *path, const void *data, size_t len, mode_t mode,
                       npo_error *error) NPO_MUST_CHECK;
/* The same for content that comes in pieces. The file appears under its name with commit only;
 * commit and abort (NULL-safe) free the writer, commit also on failure. */
typedef struct npo_file_writer npo_file_writer;

npo_err npo_file_writer_new(const char *path, mode_t mode, npo_file_writer **ret_writer,
                            npo_error *error) NPO_MUST_CHECK;
npo_err npo_file_writer_add(npo_file_writer *writer, const void *data, size_t len,
                            npo_error *error) NPO_MUST_CHECK;
npo_err npo_file_writer_commit(npo_file_writer *writer_take, npo_error *error) NPO_MUST_CHECK;
void npo_file_writer_abort(npo_file_writer *writer_take);
/* As mkdir -p. */
npo_err npo_file_make_dirs(const char *path, npo_error *error) NPO_MUST_CHECK;
/* Removes a file or a whole folder; a missing path is fine. Does not follow links. */
npo_err npo_file_remove(const char *path, npo_error *error) NPO_MUST_CHECK;
/* fsync of a folder, so that a rename or create in it is durable. */
npo_err npo_file_sync_dir(const char *path, npo_error *error) NPO_MUST_CHECK;
/* All of len bytes at offset, EINTR and short counts handled. */
npo_err npo_file_pwrite(int fd, const void *data, size_t len, uint64_t offset,
                        npo_error *error) NPO_MUST_CHECK;
/* Exactly len bytes; a file that ends before is NPO_E_FORMAT. */
npo_err npo_file_pread(int fd, void *ret_data, size_t len, uint64_t offset,
                       npo_error *error) NPO_MUST_CHECK;
/* A copy, written as npo_file_write does. mode: permission bits of the new file. */
npo_err npo_file_copy(const char *from, const char *to, mode_t mode,
                      npo_error *error) NPO_MUST_CHECK;
/* Another name of the same file, or a copy with these permission bits where it cannot have one
 * (other file system, too many links, not allowed). `to` must not exist. */
npo_err npo_file_link_or_copy(const char *from, const char *to, mode_t mode,
                              npo_error *error) NPO_MUST_CHECK;
int npo_file_exists(const char *path);
npo_err npo_file_size(const char *path, uint64_t *ret_size, npo_error *error) NPO_MUST_CHECK;
/* "dir/name" as a new string, or NULL when out of memory. */
char *npo_file_join(const char *dir, const char *name);

/* Read-only memory map of a whole file. */
typedef struct {
    const uint8_t *data; /* NULL when the file is empty */
    size_t size;         /* bytes */
} npo_file_map;

npo_err npo_file_map_open(const char *path, npo_file_map *ret_map, npo_error *error) NPO_MUST_CHECK;
void npo_file_map_close(npo_file_map *map);

/* Sorted list of the regular files below dir, paths relative to dir with '/' between. Links and
 * hidden names (leading '.') are left out. More than limit files is NPO_E_LIMIT. */
typedef struct {
    char **paths;
    size_t count;
} npo_file_list;

npo_err npo_file_list_tree(const char *dir, size_t limit, npo_file_list *ret_list,
                           npo_error *error) NPO_MUST_CHECK;
void npo_file_list_fini(npo_file_list *list);

#endif
