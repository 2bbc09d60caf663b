/* Named crash points for the kill tests: `NPO_CRASH_AT=store.commit.before:3` makes the process
 * kill itself (SIGKILL, no clean-up) the third time it passes
 * npo_crash_point("store.commit.before"). A restarted process inherits the variable and would be
 * killed again: with NPO_CRASH_ONCE=FILE only the process that creates FILE is. Costs one pointer
 * test when the variable is not set. `npod --crash-points` (likewise the other commands) prints the
 * names in common/crash-points.def, so that a test can choose among all. */
#ifndef NPO_COMMON_CRASH_H
#define NPO_COMMON_CRASH_H

/* The name must stand in common/crash-points.def (asserted). Thread safe. */
void npo_crash_point(const char *name);
/* NULL-terminated list of the points of one program ("npod", "npoworker", "executor"). */
const char *const *npo_crash_points(const char *program);

#endif
