/* Part of isa.c: a product of matrices that is added to what is there (kernels/matrix.h). */

static void matrix_add(const npo_matrix_product *p)
{
    product_run(&(product){.m = p->m,
                           .n = p->n,
                           .k = p->k,
                           .a = p->a,
                           .a_row = p->a_row,
                           .a_col = p->a_col,
                           .b = p->b,
                           .b_row = p->b_row,
                           .c = p->c,
                           .c_row = p->c_row,
                           .add = true});
}
