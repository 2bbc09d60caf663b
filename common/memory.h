/* How much memory this process uses and may use. */
#ifndef NPO_COMMON_MEMORY_H
#define NPO_COMMON_MEMORY_H

#include <stddef.h>

/* Bytes in memory now, and the most there ever were; 0 where the system does not say. */
size_t npo_memory_resident(void);
size_t npo_memory_peak(void);
/* Bytes that the machine can still give. */
size_t npo_memory_available(void);

/* What the process may use and what it uses, in bytes. */
typedef struct {
    size_t given, used;
} npo_memory;

/* limit: bytes the process was given, 0: what the machine has. reusable: bytes in use that what
 * comes next uses again, such as the arena that graphs share; they do not count as used. */
npo_memory npo_memory_now(size_t limit, size_t reusable);

#endif
