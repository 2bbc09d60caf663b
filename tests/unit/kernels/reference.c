#include "reference.h"

#include <math.h>

int64_t ref_count(const npo_shape *shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape->ndim; i++)
        n *= shape->dims[i];
    return n;
}

static int64_t last_of(const npo_shape *shape)
{
    return shape->dims[shape->ndim - 1];
}

static double act_of(npo_act act, double x)
{
    switch (act) {
    case NPO_ACT_NONE:
        break;
    case NPO_ACT_SILU:
        return x / (1 + exp(-x));
    case NPO_ACT_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case NPO_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case NPO_ACT_RELU:
        return x > 0 ? x : 0;
    }
    return x;
}

/* The value at (n, y, x, c) of an image, 0 outside. */
static double pixel(const ref_call *c, int64_t n, int64_t y, int64_t x, int64_t channel)
{
    const int64_t *d = c->in[0].dims;
    if (y < 0 || y >= d[1] || x < 0 || x >= d[2])
        return 0;
    return c->x[0][((n * d[1] + y) * d[2] + x) * d[3] + channel];
}

static double conv_at(const ref_call *c, int64_t n, int64_t y, int64_t x, int64_t o)
{
    const int64_t *w = c->in[1].dims;
    const npo_conv_options *a = &c->attrs.conv;
    double sum = c->x[2] ? c->x[2][o] : 0;
    for (int64_t i = 0; i < w[1]; i++)
        for (int64_t ky = 0; ky < w[2]; ky++)
            for (int64_t kx = 0; kx < w[3]; kx++)
                sum += c->x[1][((o * w[1] + i) * w[2] + ky) * w[3] + kx] *
                       pixel(c, n, y * a->stride + ky - a->pad_top,
                             x * a->stride + kx - a->pad_left, i);
    return sum;
}

void ref_conv2d(const ref_call *c, double *out)
{
    const int64_t *d = c->out.dims;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t y = 0; y < d[1]; y++)
            for (int64_t x = 0; x < d[2]; x++)
                for (int64_t o = 0; o < d[3]; o++)
                    *out++ = conv_at(c, n, y, x, o);
}

void ref_linear(const ref_call *c, double *out)
{
    int64_t width = last_of(&c->in[0]), outs = last_of(&c->out);
    for (int64_t r = 0; r < ref_count(&c->out) / outs; r++)
        for (int64_t o = 0; o < outs; o++) {
            double sum = c->x[2] ? c->x[2][o] : 0;
            for (int64_t i = 0; i < width; i++)
                sum += c->x[0][r * width + i] * c->x[1][o * width + i];
            *out++ = sum;
        }
}

void ref_group_norm(const ref_call *c, double *out)
{
    int64_t n = c->in[0].dims[0], channels = last_of(&c->in[0]), size = channels / c->attrs.groups;
    int64_t positions = ref_count(&c->in[0]) / n / channels;
    for (int64_t s = 0; s < n; s++)
        for (int64_t g = 0; g < c->attrs.groups; g++) {
            double mean = 0, variance = 0, count = (double)(positions * size);
            const double *x = c->x[0] + s * positions * channels + g * size;
            double *y = out + s * positions * channels + g * size;
            for (int64_t p = 0; p < positions; p++)
                for (int64_t k = 0; k < size; k++)
                    mean += x[p * channels + k] / count;
            for (int64_t p = 0; p < positions; p++)
                for (int64_t k = 0; k < size; k++)
                    variance += pow(x[p * channels + k] - mean, 2) / count;
            for (int64_t p = 0; p < positions; p++)
                for (int64_t k = 0; k < size; k++) {
                    double hat = (x[p * channels + k] - mean) / sqrt(variance + c->attrs.eps);
                    y[p * channels + k] =
                        act_of(c->attrs.act, hat * c->x[1][g * size + k] + c->x[2][g * size + k]);
                }
        }
}

void ref_layer_norm(const ref_call *c, double *out)
{
    int64_t width = last_of(&c->in[0]);
    for (int64_t r = 0; r < ref_count(&c->in[0]) / width; r++) {
        const double *x = c->x[0] + r * width;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < width; i++)
            mean += x[i] / (double)width;
        for (int64_t i = 0; i < width; i++)
            variance += pow(x[i] - mean, 2) / (double)width;
        for (int64_t i = 0; i < width; i++)
            *out++ = (x[i] - mean) / sqrt(variance + c->attrs.eps) * c->x[1][i] + c->x[2][i];
    }
}

void ref_activation(const ref_call *c, double *out)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = act_of(c->attrs.act, c->x[0][i]);
}

void ref_geglu(const ref_call *c, double *out)
{
    int64_t width = last_of(&c->out);
    for (int64_t r = 0; r < ref_count(&c->out) / width; r++)
        for (int64_t i = 0; i < width; i++)
            *out++ = c->x[0][r * 2 * width + i] *
                     act_of(NPO_ACT_GELU, c->x[0][r * 2 * width + width + i]);
}

void ref_add(const ref_call *c, double *out)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[0][i] + c->x[1][i];
}

void ref_add_channels(const ref_call *c, double *out)
{
    int64_t channels = last_of(&c->out), size = ref_count(&c->out) / c->out.dims[0];
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[0][i] + c->x[1][i / size * channels + i % channels];
}

void ref_scale(const ref_call *c, double *out)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[0][i] * c->attrs.factor;
}

void ref_concat(const ref_call *c, double *out)
{
    int64_t a = last_of(&c->in[0]), b = last_of(&c->in[1]);
    for (int64_t r = 0; r < ref_count(&c->out) / (a + b); r++) {
        for (int64_t i = 0; i < a; i++)
            *out++ = c->x[0][r * a + i];
        for (int64_t i = 0; i < b; i++)
            *out++ = c->x[1][r * b + i];
    }
}

void ref_upsample(const ref_call *c, double *out)
{
    const int64_t *d = c->out.dims, *s = c->in[0].dims;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t y = 0; y < d[1]; y++)
            for (int64_t x = 0; x < d[2]; x++)
                for (int64_t k = 0; k < d[3]; k++)
                    *out++ = pixel(c, n, y * s[1] / d[1], x * s[2] / d[2], k);
}

static void attention_row(const ref_call *c, int64_t n, int64_t i, int64_t h, double *out)
{
    int64_t lq = c->in[0].dims[1], lk = c->in[1].dims[1], width = c->in[0].dims[2];
    int64_t dim = width / c->attrs.heads;
    const double *q = c->x[0] + (n * lq + i) * width + h * dim;
    const double *k = c->x[1] + n * lk * width + h * dim, *v = c->x[2] + n * lk * width + h * dim;
    double total = 0;
    for (int64_t d = 0; d < dim; d++)
        out[d] = 0;
    for (int64_t j = 0; j < (c->attrs.causal ? i + 1 : lk) && j < lk; j++) {
        double score = 0;
        for (int64_t d = 0; d < dim; d++)
            score += q[d] * k[j * width + d];
        double weight = exp(score / sqrt((double)dim));
        total += weight;
        for (int64_t d = 0; d < dim; d++)
            out[d] += weight * v[j * width + d];
    }
    for (int64_t d = 0; d < dim; d++)
        out[d] /= total;
}

void ref_attention(const ref_call *c, double *out)
{
    const int64_t *d = c->in[0].dims;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < d[1]; i++)
            for (int64_t h = 0; h < c->attrs.heads; h++)
                attention_row(c, n, i, h,
                              out + (n * d[1] + i) * d[2] + h * (d[2] / c->attrs.heads));
}

void ref_timestep(const ref_call *c, double *out)
{
    int64_t channels = c->attrs.channels, half = channels / 2;
    for (int64_t n = 0; n < c->in[0].dims[0]; n++)
        for (int64_t i = 0; i < channels; i++) {
            double frequency =
                exp(-log(10000.0) * (double)(i % half) / ((double)half - c->attrs.factor));
            double angle = c->x[0][n] * frequency;
            bool sine = (i < half) != c->attrs.flip;
            out[n * channels + i] = i >= 2 * half ? 0 : sine ? sin(angle) : cos(angle);
        }
}

void ref_embedding(const ref_call *c, double *out)
{
    int64_t width = last_of(&c->in[1]);
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[1][(int64_t)c->x[0][i / width] * width + i % width];
}

void ref_add_rows(const ref_call *c, double *out)
{
    int64_t size = ref_count(&c->out) / c->out.dims[0];
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[0][i] + c->x[1][i % size];
}

void ref_max_pool(const ref_call *c, double *out)
{
    const int64_t *d = c->out.dims;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t y = 0; y < d[1]; y++)
            for (int64_t x = 0; x < d[2]; x++)
                for (int64_t k = 0; k < d[3]; k++)
                    *out++ =
                        fmax(fmax(pixel(c, n, 2 * y, 2 * x, k), pixel(c, n, 2 * y, 2 * x + 1, k)),
                             fmax(pixel(c, n, 2 * y + 1, 2 * x, k),
                                  pixel(c, n, 2 * y + 1, 2 * x + 1, k)));
}

void ref_mix(const ref_call *c, double *out)
{
    int64_t size = ref_count(&c->out) / c->out.dims[0];
    for (int64_t i = 0; i < ref_count(&c->out); i++)
        out[i] = c->x[2][i / size] * c->x[0][i] + c->x[3][i / size] * c->x[1][i];
}

void ref_mse_loss(const ref_call *c, double *out)
{
    int64_t n = ref_count(&c->in[0]);
    *out = 0;
    for (int64_t i = 0; i < n; i++)
        *out += pow(c->x[0][i] - c->x[1][i], 2) / (double)n;
}

void ref_pseudo_huber_loss(const ref_call *c, double *out)
{
    int64_t n = ref_count(&c->in[0]);
    double h = c->attrs.factor;
    *out = 0;
    for (int64_t i = 0; i < n; i++)
        *out += (sqrt(pow(c->x[0][i] - c->x[1][i], 2) + h * h) - h) / (double)n;
}

void ref_cross_entropy_loss(const ref_call *c, double *out)
{
    int64_t n = c->in[0].dims[0], k = c->in[0].dims[1];
    *out = 0;
    for (int64_t i = 0; i < n; i++) {
        double total = 0;
        for (int64_t j = 0; j < k; j++)
            total += exp(c->x[0][i * k + j]);
        *out -= log(exp(c->x[0][i * k + (int64_t)c->x[1][i]]) / total) / (double)n;
    }
}
