/* metrics.json of an evaluation as a table. */
#ifndef NPO_CTL_TEXT_METRICS_H
#define NPO_CTL_TEXT_METRICS_H

#include "common/buf.h"
#include "common/json.h"

/* width: columns of the terminal, 0: unlimited. Errors: NPO_E_VERSION, NPO_E_FORMAT for what is no
 * metrics.json, NPO_E_NOMEM. */
npo_err npo_metrics_print(const cJSON *metrics, size_t width, npo_buf *ret_buf,
                          npo_error *error) NPO_MUST_CHECK;

#endif
