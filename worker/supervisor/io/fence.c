#include "worker/supervisor/io/fence.h"

bool npo_fence_add(cJSON *body, const npo_transfer_fence *fence)
{
    return cJSON_AddNumberToObject(body, "task", (double)fence->task) &&
           cJSON_AddNumberToObject(body, "attempt", fence->attempt) &&
           cJSON_AddNumberToObject(body, "rank", fence->rank);
}

cJSON *npo_fence_body(const npo_transfer_fence *fence)
{
    cJSON *body = cJSON_CreateObject();
    if (cJSON_AddNumberToObject(body, "worker", (double)fence->worker) &&
        npo_fence_add(body, fence))
        return body;
    cJSON_Delete(body);
    return NULL;
}
