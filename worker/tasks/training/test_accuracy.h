/* A trained classifier against the test split of its data. */
#ifndef NPO_WORKER_TASKS_TRAINING_TEST_ACCURACY_H
#define NPO_WORKER_TASKS_TRAINING_TEST_ACCURACY_H

#include "worker/tasks/context.h"

/* NPO_E_SHAPE or NPO_E_RANGE where images or labels do not fit the classifier. */
npo_err npo_test_check_data(npo_context *ctx, const npo_dataset *data,
                            const char *path) NPO_MUST_CHECK;
/* Share of right answers of the classifier with these weights. Replaces the cached dataset. Errors:
 * NPO_E_NOT_FOUND, NPO_E_UNSUPPORTED where the data has no test split. */
npo_err npo_test_accuracy(npo_context *ctx, npo_layout *layout, const npo_params *params,
                          const char *data_path, double *ret_accuracy) NPO_MUST_CHECK;

#endif
