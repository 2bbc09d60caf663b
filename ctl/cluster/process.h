/* Child processes of `npoctl up`: found, started so that they cannot outlive this process, swept
 * up. */
#ifndef NPO_CTL_CLUSTER_PROCESS_H
#define NPO_CTL_CLUSTER_PROCESS_H

#include "common/err.h"
#include <stdint.h>
#include <sys/types.h>

/* Path of a program of this project: `given` if not NULL, else beside this program, in its sibling
 * folder of a build tree, or in PATH. malloc'ed. Errors: NPO_E_NOT_FOUND. */
npo_err npo_process_find(const char *name, const char *sibling, const char *given, char **ret_path,
                         npo_error *error) NPO_MUST_CHECK;
/* Starts argv[0] in a process group of its own, stdout and stderr appended to log_path, which is
 * set aside as log_path.old when it has grown large. The kernel kills it when the calling thread
 * ends. Its signal mask is empty. Errors: those of fork and exec. */
npo_err npo_process_start(char *const *argv, const char *log_path, pid_t *ret_pid,
                          npo_error *error) NPO_MUST_CHECK;
/* For a process just forked: dies with its parent. */
void npo_process_bind(pid_t parent);
/* Takes the exit of any child, after killing what is left of its process group. False: none has
 * ended. */
int npo_process_reap(pid_t *ret_pid, int *ret_status);
/* "exit code 1", "signal 9 (Killed)" */
void npo_process_describe(int status, char *ret_text, size_t size);
/* The last line of a file, without what stands before the sentence in a log line; "" where there is
 * none. */
void npo_process_last_line(const char *log_path, char *ret_text, size_t size);

#endif
