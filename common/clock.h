/* Clocks. Leases and time-outs run on monotonic time; wall time is for people only. */
#ifndef NPO_COMMON_CLOCK_H
#define NPO_COMMON_CLOCK_H

#include <stdint.h>

int64_t npo_clock_ms(void);      /* CLOCK_MONOTONIC, milliseconds */
int64_t npo_clock_ns(void);      /* CLOCK_MONOTONIC, nanoseconds */
int64_t npo_clock_wall_ms(void); /* CLOCK_REALTIME, milliseconds since 1970 */

#endif
