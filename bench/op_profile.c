#include "bench/op_profile.h"

#include "common/clock.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/op-table.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 4096, TEXT_MAX = 160, FORWARD_SHOWN = 25, BACKWARD_SHOWN = 10 };

typedef struct {
    char text[TEXT_MAX];
    bool backward;
    int64_t count, ns;
    double flops;
} row;

struct npo_op_profile {
    const npo_cpu_kernels *kernels;
    int threads, runs;
    bool keep;
    double peak; /* multiply-adds of all threads, the best of the runs, flop/s */
    size_t count;
    row rows[ROWS_MAX];
};

npo_err npo_op_profile_new(const char *isa, int threads, npo_op_profile **ret_profile)
{
    npo_op_profile *profile = calloc(1, sizeof(*profile));
    if (!profile)
        return NPO_E_NOMEM;
    profile->kernels = npo_cpu_kernels_find(isa);
    profile->threads = threads;
    *ret_profile = profile;
    return NPO_OK;
}

void npo_op_profile_free(npo_op_profile *profile)
{
    free(profile);
}

static double measure_peak(const npo_op_profile *profile)
{
    enum { ROUNDS = 4000000 };
    double flops = 0;
    const int64_t start = npo_clock_ns();
#pragma omp parallel num_threads(profile->threads) reduction(+ : flops)
    flops += profile->kernels->multiply_adds(ROUNDS);
    return flops * 1e9 / (double)(npo_clock_ns() - start);
}

void npo_op_profile_begin(npo_op_profile *profile, bool keep)
{
    const double peak = measure_peak(profile);
    profile->keep = keep;
    profile->runs += keep;
    profile->peak = peak > profile->peak ? peak : profile->peak;
}

static void describe(const npo_op_time *time, char text[TEXT_MAX])
{
    char a[NPO_SHAPE_TEXT_MAX], b[NPO_SHAPE_TEXT_MAX] = "", out[NPO_SHAPE_TEXT_MAX];
    npo_shape_format(time->a, a);
    npo_shape_format(time->out, out);
    if (time->b)
        npo_shape_format(time->b, b);
    snprintf(text, TEXT_MAX, "%s %.40s %.40s -> %.40s", time->name, a, b, out);
}

void npo_op_profile_add(void *context, const npo_op_time *time)
{
    npo_op_profile *profile = context;
    char text[TEXT_MAX];
    size_t i = 0;
    if (!profile->keep)
        return;
    describe(time, text);
    while (i < profile->count && (profile->rows[i].backward != time->backward ||
                                  strcmp(profile->rows[i].text, text) != 0))
        i++;
    if (i == ROWS_MAX)
        return;
    row *r = &profile->rows[i];
    if (i == profile->count) {
        profile->count++;
        r->backward = time->backward;
        strcpy(r->text, text);
    }
    r->count++;
    r->ns += time->ns;
    r->flops += time->flops;
}

static int compare_rows(const void *a, const void *b)
{
    const row *x = a, *y = b;
    return (x->ns < y->ns) - (x->ns > y->ns);
}

static void print_rows(const npo_op_profile *profile, bool backward, int most, FILE *to)
{
    double all = 0;
    for (size_t i = 0; i < profile->count; i++)
        all += profile->rows[i].backward == backward ? (double)profile->rows[i].ns : 0;
    fprintf(to, "%s: %.1f ms\n%9s %6s %5s %8s %5s\n", backward ? "backward" : "forward",
            all / 1e6 / profile->runs, "ms", "share", "ops", "GFLOP/s", "peak");
    for (size_t i = 0; i < profile->count && most > 0; i++) {
        const row *r = &profile->rows[i];
        if (r->backward != backward)
            continue;
        const double rate = r->flops / (double)r->ns;
        fprintf(to, "%9.2f %5.1f%% %5lld %8.1f %4.0f%%  %s\n", (double)r->ns / 1e6 / profile->runs,
                (double)r->ns * 100 / all, (long long)(r->count / profile->runs), rate,
                rate * 1e11 / profile->peak, r->text);
        most--;
    }
}

void npo_op_profile_print(npo_op_profile *profile, FILE *to)
{
    qsort(profile->rows, profile->count, sizeof(*profile->rows), compare_rows);
    fprintf(to, "multiply-adds of %d threads: %.1f GFLOP/s\n", profile->threads,
            profile->peak / 1e9);
    print_rows(profile, false, FORWARD_SHOWN, to);
    print_rows(profile, true, BACKWARD_SHOWN, to);
}
