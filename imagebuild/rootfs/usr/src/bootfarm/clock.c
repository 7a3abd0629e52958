#include "clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_ms(long ms)
{
	struct timespec pause = {ms / 1000, (ms % 1000) * 1000000L};

	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
}

long jitter(long limit)
{
	unsigned int random = 0;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
		random = (unsigned int)getpid() + (unsigned int)now_ms();
	return (long)(random % (unsigned long)(limit + 1));
}
