/* How much memory this process uses and may use. */
#ifndef NPO_COMMON_MEMORY_H
#define NPO_COMMON_MEMORY_H

#include <stddef.h>

/* Bytes in memory now, and the most there ever were; 0 where the system does not say. */
size_t npo_memory_resident(void);
size_t npo_memory_peak(void);
/* Bytes that the machine can still give. */
size_t npo_memory_available(void);

#endif
