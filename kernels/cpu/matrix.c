/* Products of matrices over threads: each takes whole rows of c, so that the number of threads does
 * not show in the bits. */
#include "kernels/cpu/cpu.h"

enum { ROWS = 48, DEPTH = 256 }; /* a block of a stays in the first cache, one of b in the second */

static void multiply_rows(const npo_cpu *cpu, const npo_matrix_product *p, size_t first,
                          size_t rows)
{
    npo_matrix_product part = *p;
    part.m = rows;
    part.c = p->c + first * p->c_row;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < p->n; j++)
            part.c[i * p->c_row + j] = 0;
    for (size_t k = 0; k < p->k; k += DEPTH) {
        part.k = p->k - k < DEPTH ? p->k - k : (size_t)DEPTH;
        part.a = p->a + first * p->a_row + k * p->a_col;
        part.b = p->b + k * p->b_row;
        cpu->k->matrix_add(&part);
    }
}

void npo_cpu_multiply(npo_backend *be, const npo_matrix_product *p)
{
    const npo_cpu *cpu = be->device;
    size_t blocks = (p->m + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, p->m * p->n))
    for (size_t i = 0; i < blocks; i++)
        multiply_rows(cpu, p, i * ROWS, p->m - i * ROWS < ROWS ? p->m - i * ROWS : (size_t)ROWS);
}
