#include "worker/diffusion/trajectory/segment.h"

#include "worker/diffusion/trajectory/shard.h"

#include <assert.h>

#define COLUMN(member, type, ...)                                                                  \
    {                                                                                              \
        .name = #member, .dtype = NPO_TENSOR_##type, .offset = offsetof(npo_segment, member),      \
        __VA_ARGS__                                                                                \
    }

static const npo_shard_column columns[] = {
    COLUMN(slot, I64, .max = UINT32_MAX),
    COLUMN(lap, I32, .max = INT32_MAX),
    COLUMN(prompt, I32, .min = -1, .max = INT32_MAX),
    COLUMN(t_cut, I32, .max = INT32_MAX),
    COLUMN(x_cut, F32),
    COLUMN(x0_target, F32),
};

static_assert(NPO_SEGMENT_VERSION == 1, "the format below writes version 1");
static const npo_shard_format format = {"segment", "1", columns,
                                        sizeof columns / sizeof columns[0]};

size_t npo_latent_floats(npo_latent_shape shape)
{
    return (size_t)shape.height * (size_t)shape.width * (size_t)shape.channels;
}

npo_err npo_segment_init(npo_segment *segment, npo_latent_shape shape, int64_t count)
{
    *segment = (npo_segment){.shape = shape, .count = count};
    npo_err err = npo_shard_init(&format, shape, count, true, segment);
    if (err)
        npo_segment_fini(segment);
    return err;
}

void npo_segment_fini(npo_segment *segment)
{
    npo_shard_fini(&format, segment);
    segment->count = 0;
}

int64_t npo_segment_find(const npo_segment *segment, int64_t slot)
{
    for (int64_t i = 0; i < segment->count; i++)
        if (segment->slot[i] == slot)
            return i;
    return -1;
}

npo_err npo_segment_save(const npo_segment *segment, const char *path, npo_error *error)
{
    return npo_shard_save(&format, segment->shape, segment->count, segment, path, error);
}

npo_err npo_segment_load(const char *path, npo_latent_shape shape, npo_segment *ret_segment,
                         npo_error *error)
{
    npo_segment segment = {.shape = shape};
    NPO_TRY(npo_shard_load(&format, shape, path, &segment, &segment.count, error));
    *ret_segment = segment;
    return NPO_OK;
}
