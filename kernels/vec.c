#include "kernels/vec.h"

#include "kernels/backend-ops.h"

double npo_vec_norm(npo_backend *be, size_t n, const float *x)
{
    be->ops->enter(be);
    double norm = be->ops->norm(be, n, x);
    be->ops->leave(be);
    return norm;
}

void npo_vec_scale(npo_backend *be, size_t n, float a, float *x)
{
    be->ops->enter(be);
    be->ops->scale(be, n, a, x);
    be->ops->leave(be);
}

void npo_vec_axpy(npo_backend *be, size_t n, float a, const float *x, float *y)
{
    be->ops->enter(be);
    be->ops->axpy(be, n, a, x, y);
    be->ops->leave(be);
}

void npo_vec_lerp(npo_backend *be, size_t n, float w, const float *x, float *y)
{
    be->ops->enter(be);
    be->ops->lerp(be, n, w, x, y);
    be->ops->leave(be);
}

void npo_vec_adamw(npo_backend *be, size_t n, npo_adamw hyper, const float *grad, float *param,
                   float *exp_avg, float *exp_avg_sq)
{
    be->ops->enter(be);
    be->ops->adamw(be, n, &hyper, grad, param, exp_avg, exp_avg_sq);
    be->ops->leave(be);
}
