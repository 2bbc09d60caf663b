#include "kernels/matrix.h"

#include "kernels/backend-ops.h"

void npo_matrix_multiply(npo_backend *be, const npo_matrix_product *product)
{
    be->ops->enter(be);
    be->ops->multiply(be, product);
    be->ops->leave(be);
}
