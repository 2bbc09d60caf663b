/* A small network that the tests of graphs run: a residual block with a time embedding, attention
 * and both kinds of join. */
#ifndef NPO_TESTS_UNIT_KERNELS_NETWORK_H
#define NPO_TESTS_UNIT_KERNELS_NETWORK_H

#include "kernels/op.h"

enum { SIDE = 6, IN = 16, WIDTH = 32 };

/* Of two threads, for all tests of a file: setup and teardown of its group open and close it. */
extern npo_backend *backend;
int network_setup(void **state);
int network_teardown(void **state);

typedef struct {
    npo_layout *layout;
    npo_graph *graph;
    npo_params *params, *grads;
    npo_plan_info info;
    int64_t n;
} network;

typedef struct {
    int64_t n;
    bool loss, named, input_grads;
    size_t packed_bytes;
    npo_compute compute;
    npo_layout *layout; /* NULL: a new one */
} network_options;

/* Records it. named: all values can be read afterwards, so that nothing is fused or written in
 * place. */
npo_value network_record(npo_graph *g, int64_t n, bool named);
void network_fill(float *x, size_t count, uint64_t seed, float scale);
/* Failures end the test. */
void network_open(network *net, network_options o);
void network_close(network *net);
void network_fill_params(npo_params *params, uint64_t seed);
/* Inputs of samples [first, first + n) of a batch that is the same for all tests. */
void network_feed(network *net, int64_t first);
void network_forward(network *net, const npo_params *params);
void network_backward(network *net, float scale);
/* Largest difference over the largest value of b. */
double network_difference(const float *a, const float *b, size_t n);
size_t network_output_floats(const network *net);
const float *network_output(const network *net);

#endif
