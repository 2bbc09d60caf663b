#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- instruction sets ---- */

#if defined(__x86_64__)
extern const npo_cpu_kernels npo_cpu_kernels_avx512, npo_cpu_kernels_avx2;

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

extern const npo_cpu_kernels npo_cpu_kernels_portable;

static bool has_always(void)
{
    return true;
}

/* Best first. */
static const struct {
    const npo_cpu_kernels *kernels;
    bool (*present)(void);
    dnnl_cpu_isa_t dnnl_isa; /* the most that oneDNN may use beside it */
} isas[] = {
#if defined(__x86_64__)
    {&npo_cpu_kernels_avx512, has_avx512, dnnl_cpu_isa_all},
    {&npo_cpu_kernels_avx2, has_avx2, dnnl_cpu_isa_avx2},
#endif
    {&npo_cpu_kernels_portable, has_always, dnnl_cpu_isa_sse41},
};

enum { ISA_COUNT = sizeof isas / sizeof *isas };

static int find_isa(const char *isa)
{
    for (int i = 0; i < ISA_COUNT; i++)
        if ((!isa || strcmp(isa, isas[i].kernels->name) == 0) && isas[i].present())
            return i;
    return -1;
}

const npo_cpu_kernels *npo_cpu_kernels_find(const char *isa)
{
    int i = find_isa(isa);
    return i < 0 ? NULL : isas[i].kernels;
}

/* ---- opening ---- */

/* oneDNN takes its limit once a process, before it is first used; without it the numeric class
 * would name instructions that others compute beside. */
static npo_err bind_dnnl(int isa, npo_error *error)
{
    static int bound = -1;
    if (bound < 0 && isas[isa].dnnl_isa != dnnl_cpu_isa_all &&
        dnnl_set_max_cpu_isa(isas[isa].dnnl_isa) != dnnl_success)
        return npo_error_set(error, NPO_E_LIBRARY,
                             "instruction set '%s': oneDNN cannot be held to it",
                             isas[isa].kernels->name);
    if (bound < 0)
        bound = isa;
    if (bound == isa)
        return NPO_OK;
    return npo_error_set(error, NPO_E_STATE,
                         "instruction set '%s': this process already computes with '%s', expected "
                         "one for all its backends",
                         isas[isa].kernels->name, isas[bound].kernels->name);
}

static npo_err choose_products(npo_cpu *cpu, const char *name, npo_error *error)
{
    static const char *const names[] = {
        [NPO_PRODUCTS_BY_SIZE] = "auto", [NPO_PRODUCTS_OWN] = "own",
        [NPO_PRODUCTS_GEMM] = "gemm",    [NPO_PRODUCTS_WINOGRAD] = "winograd",
        [NPO_PRODUCTS_DNNL] = "dnnl",
    };
    for (int i = 0; name && i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(name, names[i]) == 0) {
            cpu->products = (npo_products)i;
            return NPO_OK;
        }
    if (!name)
        return NPO_OK;
    return npo_error_set(error, NPO_E_NOT_FOUND,
                         "products '%s', expected 'auto', 'own', 'gemm', 'winograd' or 'dnnl'",
                         name);
}

static npo_err cpu_open(npo_backend *be, const npo_backend_options *options, npo_error *error)
{
    int isa = find_isa(options->isa);
    if (isa < 0)
        return npo_error_set(error, NPO_E_NOT_FOUND, "instruction set '%s': not of this machine",
                             options->isa);
    if (options->threads < 0 || options->threads > 4096)
        return npo_error_set(error, NPO_E_RANGE, "%d threads, expected 0 to 4096",
                             options->threads);
    NPO_TRY(bind_dnnl(isa, error));
    npo_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return npo_error_set(error, NPO_E_NOMEM, "device 'cpu': out of memory");
    be->device = cpu;
    cpu->k = isas[isa].kernels;
    cpu->threads = options->threads ? options->threads : omp_get_num_procs();
    npo_err err = choose_products(cpu, options->products, error);
    if (!err &&
        (dnnl_engine_create(&cpu->engine, dnnl_cpu, 0) != dnnl_success ||
         dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags) != dnnl_success))
        err = npo_error_set(error, NPO_E_LIBRARY, "device 'cpu': oneDNN does not start");
    if (err) {
        be->ops->close(be);
        return err;
    }
    const dnnl_version_t *version = dnnl_version();
    snprintf(be->class_text, sizeof be->class_text, "cpu %s dnnl-%d.%d.%d threads-%d", cpu->k->name,
             version->major, version->minor, version->patch, cpu->threads);
    return NPO_OK;
}

static void cpu_close(npo_backend *be)
{
    npo_cpu *cpu = be->device;
    if (cpu->stream)
        dnnl_stream_destroy(cpu->stream);
    if (cpu->engine)
        dnnl_engine_destroy(cpu->engine);
    free(cpu);
}

/* Large pieces in large pages: with small ones the arena spends a third of its bandwidth on address
 * translation. */
static npo_err cpu_alloc(npo_backend *be, size_t bytes, void **ret_memory)
{
    enum { PAGE = 2 << 20 };
    size_t rounded, align = bytes >= PAGE ? PAGE : 64;
    if (__builtin_add_overflow(bytes, align - 1, &rounded))
        return NPO_E_NOMEM;
    rounded = rounded / align * align;
    void *memory = aligned_alloc(align, rounded ? rounded : align);
    if (!memory)
        return NPO_E_NOMEM;
    if (align == PAGE)
        madvise(memory, rounded, MADV_HUGEPAGE);
    memset(memory, 0, bytes);
    *ret_memory = memory;
    return NPO_OK;
}

static void cpu_release(npo_backend *be, void *memory)
{
    free(memory);
}

static void cpu_enter(npo_backend *be)
{
    npo_cpu *cpu = be->device;
    cpu->outer_threads = omp_get_max_threads();
    omp_set_num_threads(cpu->threads);
}

static void cpu_leave(npo_backend *be)
{
    npo_cpu *cpu = be->device;
    omp_set_num_threads(cpu->outer_threads);
}

/* ---- threads ---- */

int npo_cpu_team(const npo_cpu *cpu, size_t elements)
{
    enum { WORTH = 8192 };
    size_t most = elements / WORTH + 1;
    return most < (size_t)cpu->threads ? (int)most : cpu->threads;
}

npo_cpu_part npo_cpu_part_of(size_t n, size_t grain)
{
    size_t team = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
    size_t grains = (n + grain - 1) / grain;
    npo_cpu_part part = {grains * me / team * grain, grains * (me + 1) / team * grain};
    if (part.last > n)
        part.last = n;
    return part;
}

void npo_cpu_accumulate(const npo_cpu *cpu, size_t n, float a, const float *x, const float *prev,
                        float *y)
{
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->accumulate(p.last - p.first, a, x + p.first, npo_at(prev, p.first), y + p.first);
    }
}

void npo_cpu_sum_parts(size_t count, size_t c, size_t stride, const float *parts, const float *prev,
                       float *y)
{
    for (size_t i = 0; i < c; i++) {
        double sum = 0;
        for (size_t part = 0; part < count; part++)
            sum += (double)parts[part * stride + i];
        y[i] = (prev ? prev[i] : 0) + (float)sum;
    }
}

/* ---- ops ---- */

static const npo_cpu_op *const ops[] = {
#define NPO_OP(KIND, name, ...) &npo_cpu_##name,
#include "kernels/op.def"
#undef NPO_OP
};

static bool cpu_op_fuses(npo_backend *be, const npo_op_desc *desc, npo_op_kind add)
{
    const npo_cpu_op *op = ops[desc->kind];
    return op->fuses && op->fuses(be->device, desc, add);
}

static npo_err cpu_op_prepare(npo_backend *be, npo_op_work *work, npo_error *error)
{
    const npo_cpu_op *op = ops[work->desc.kind];
    return op->prepare ? op->prepare(be->device, work, error) : NPO_OK;
}

static void cpu_op_finish(npo_backend *be, npo_op_work *work)
{
    const npo_cpu_op *op = ops[work->desc.kind];
    if (op->finish)
        op->finish(work);
}

static npo_err cpu_op_pack(npo_backend *be, const npo_op_work *work, npo_pack_side side,
                           const float *weight, void *packed)
{
    return ops[work->desc.kind]->pack(be->device, work, side, weight, packed);
}

static npo_err cpu_op_forward(npo_backend *be, const npo_op_work *work, const npo_op_args *args,
                              npo_error *error)
{
    return ops[work->desc.kind]->forward(be->device, work, args, error);
}

static npo_err cpu_op_backward(npo_backend *be, const npo_op_work *work, const npo_op_args *args,
                               npo_error *error)
{
    return ops[work->desc.kind]->backward(be->device, work, args, error);
}

static void cpu_put(npo_backend *be, float value, float *at)
{
    *at = value;
}

const npo_backend_ops npo_cpu_backend_ops = {
    .device = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .enter = cpu_enter,
    .leave = cpu_leave,
    .op_fuses = cpu_op_fuses,
    .op_prepare = cpu_op_prepare,
    .op_finish = cpu_op_finish,
    .op_pack = cpu_op_pack,
    .op_forward = cpu_op_forward,
    .op_backward = cpu_op_backward,
    .norm = npo_cpu_norm,
    .scale = npo_cpu_scale_vector,
    .axpy = npo_cpu_axpy,
    .lerp = npo_cpu_lerp,
    .update = npo_cpu_update,
    .update8 = npo_cpu_update8,
    .multiply = npo_cpu_multiply,
    .put = cpu_put,
    .widen_bf16 = npo_cpu_widen_bf16,
    .narrow_bf16 = npo_cpu_narrow_bf16,
    .round_bf16 = npo_cpu_round_bf16,
};
