#include "worker/train/metrics.h"

#include <math.h>

static void add_number(npo_buf *buf, const char *before, const char *key, double value)
{
    npo_buf_printf(buf, "%s\"%s\": ", before, key);
    if (isfinite(value))
        npo_buf_printf(buf, "%.9g", value);
    else
        npo_buf_str(buf, "null");
}

npo_err npo_metrics_line(npo_buf *buf, int64_t step, const npo_train_result *result,
                         double samples_per_s, const npo_offset_norms *norms)
{
    npo_buf_printf(buf, "{\"step\": %lld", (long long)step);
    add_number(buf, ", ", "loss", result->loss);
    add_number(buf, ", ", "grad_norm", result->grad_norm);
    add_number(buf, ", ", "lr", result->lr);
    add_number(buf, ", ", "samples_per_s", samples_per_s);
    if (norms) {
        add_number(buf, ", \"offset\": {", "total", norms->total);
        for (size_t i = 0; i < norms->count; i++)
            add_number(buf, ", ", norms->blocks[i].name, norms->blocks[i].relative);
        npo_buf_str(buf, "}");
    }
    npo_buf_str(buf, "}");
    return npo_buf_err(buf);
}
