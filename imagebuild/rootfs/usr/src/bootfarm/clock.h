/* Time that nobody sets. */
#ifndef BOOTFARM_CLOCK_H
#define BOOTFARM_CLOCK_H

/* Milliseconds of CLOCK_MONOTONIC. */
long long now_ms(void);

void sleep_ms(long ms);

/* A number from 0 to limit, another one each time. */
long jitter(long limit);

#endif
