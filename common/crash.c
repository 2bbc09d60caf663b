#include "common/crash.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *program;
    const char *name;
} points[] = {
#define NPO_CRASH_POINT(program, name) {program, name},
#include "common/crash-points.def"
#undef NPO_CRASH_POINT
};
enum { POINT_COUNT = sizeof points / sizeof points[0] };

static pthread_once_t parse_once = PTHREAD_ONCE_INIT;
static char *armed_name;     /* NULL: nothing armed */
static atomic_int remaining; /* passes left before the kill */

static void parse(void)
{
    const char *spec = getenv("NPO_CRASH_AT");
    if (!spec)
        return;
    armed_name = strdup(spec);
    if (!armed_name)
        return;
    int count = 1;
    char *colon = strrchr(armed_name, ':');
    if (colon) {
        *colon = '\0';
        count = atoi(colon + 1);
    }
    atomic_store(&remaining, count);
}

/* True unless another process of this test was killed already. */
static int is_first(void)
{
    const char *mark = getenv("NPO_CRASH_ONCE");
    return !mark || open(mark, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) >= 0;
}

static int is_known(const char *name)
{
    for (int i = 0; i < POINT_COUNT; i++)
        if (strcmp(points[i].name, name) == 0)
            return 1;
    return 0;
}

void npo_crash_point(const char *name)
{
    pthread_once(&parse_once, parse);
    if (!armed_name)
        return;
    assert(is_known(name));
    if (strcmp(armed_name, name) == 0 && atomic_fetch_sub(&remaining, 1) == 1 && is_first())
        kill(getpid(), SIGKILL);
}

const char *const *npo_crash_points(const char *program)
{
    static const char *list[POINT_COUNT + 1];
    int n = 0;
    for (int i = 0; i < POINT_COUNT; i++)
        if (strcmp(points[i].program, program) == 0)
            list[n++] = points[i].name;
    list[n] = NULL;
    return list;
}
