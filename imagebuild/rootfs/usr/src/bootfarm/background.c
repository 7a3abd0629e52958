#define _GNU_SOURCE
#include "background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

void detach_from_terminal(char *name)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	log_to_kernel();
	if (score >= 0) {
		if (write(score, "-1000\n", 6) < 0)
			say("cannot set oom_score_adj (%s)", strerror(errno));
		close(score);
	}
	setsid();
	if (chdir("/") < 0)
		say("cannot change to / (%s)", strerror(errno));
	name[0] = '@';
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		say("cannot lock memory (%s)", strerror(errno));
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
	}
}
