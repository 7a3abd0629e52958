/*
 * nbdroot: keeps a root file system on NBD alive.
 *
 *   nbdroot attach DEVICE SERVER PORT EXPORT [PIDFILE [HOME_SECONDS IP:HTTP:NBD...]]
 *   nbdroot detach DEVICE
 *
 * attach makes the fixed newstyle handshake (NBD protocol, "Fixed newstyle negotiation") in user
 * space, hands the sockets to the kernel by generic netlink, prints what it got and goes on in the
 * background. There it waits for the kernel's NBD_CMD_LINK_DEAD, and for hang-ups of its own copies
 * of the sockets in case that message is lost, makes the handshake again and hands a new socket
 * over with NBD_CMD_RECONFIGURE: for ever, with back-off. The kernel meanwhile lets reads wait
 * (NBD_ATTR_DEAD_CONN_TIMEOUT). A server that comes back with another image under the same name
 * would corrupt the mounted file system, so the size and the first and last 4 KiB are compared
 * before a socket is handed over.
 *
 * Where the farm has more servers (IP:HTTP:NBD, of which SERVER and PORT are one), the driver gets
 * no socket of theirs: a driver's request that was on its way when a server died waits for its
 * timeout, half a minute. It gets a pipe to relay.c instead, which has the requests answered by
 * whichever server is there, and scout.c finds that one. Size, first and last 4 KiB and the
 * export's name, which holds the image's digest, must be the same. HOME_SECONDS: scout.h.
 *
 * The process must outlive the initramfs and be the last to go at shutdown: it is static, locked
 * into memory, holds no file of the root it serves, and its argv[0] begins with '@', which
 * systemd takes as "leave me alone" (systemd.io/ROOT_STORAGE_DAEMONS).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "background.h"
#include "clock.h"
#include "handshake.h"
#include "log.h"
#include "nbdlink.h"
#include "relay.h"
#include "scout.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define MAX_CONNECTIONS 2
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 5000
#define CHECK_MS 15000
/* How long the driver lets a request of a server's own link wait before it gives the link up. */
#define REQUEST_SECONDS 30U
#define BUSY_TRIES 50
#define BUSY_MS 100
/* Exit statuses of attach, for boot/nbd.sh; 1 is any other failure, 2 a wrong command line. */
#define EXIT_REFUSED 3
#define EXIT_NO_ANSWER 4
#define EXIT_NO_EXPORT 5

struct watch {
	struct netlink netlink;
	int listener;
	uint32_t index;
	struct target target;
	struct export export;
	int fds[MAX_CONNECTIONS];
	int count;
};

/* Waits for a sign that a link died. True if there was one, false after CHECK_MS without. */
static bool wait_for_death(const struct watch *watch)
{
	struct pollfd polled[1 + MAX_CONNECTIONS] = {{watch->listener, POLLIN, 0}};
	bool dead = false;

	for (int i = 0; i < watch->count; i++)
		polled[1 + i] = (struct pollfd){watch->fds[i], POLLRDHUP, 0};
	if (poll(polled, 1 + (nfds_t)watch->count, CHECK_MS) <= 0)
		return false;
	if (polled[0].revents != 0)
		dead = heard_link_dead(&watch->netlink, watch->listener, watch->index);
	for (int i = 0; i < watch->count; i++)
		dead |= polled[1 + i].revents != 0;
	return dead;
}

static bool is_hung_up(int fd)
{
	struct pollfd polled = {fd, POLLRDHUP, 0};

	return fd < 0 || (poll(&polled, 1, 0) > 0 && polled.revents != 0);
}

/* One new link in place of slot's. 0 done, -1 try again later. */
static int revive(struct watch *watch, int slot)
{
	struct export export = {0};
	int fd = open_export(&watch->target, &export);

	if (fd < 0)
		return -1;
	if (export.size != watch->export.size ||
	    memcmp(export.edges, watch->export.edges, sizeof(export.edges)) != 0) {
		say("%s now gives another image as %s (%llu bytes, was %llu): not using it, "
		    "reads wait. Publish the image that this node booted again, or reboot the node",
		    watch->target.server, watch->target.name, (unsigned long long)export.size,
		    (unsigned long long)watch->export.size);
		close(fd);
		errno = ESTALE;
		return -1;
	}
	if (reconfigure(&watch->netlink, watch->index, fd) < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	if (watch->fds[slot] >= 0)
		close(watch->fds[slot]);
	watch->fds[slot] = fd;
	return 0;
}

/* Tries until every link is back. False if the kernel gave the device up on purpose. */
static bool recover(struct watch *watch)
{
	long long since = now_ms();
	long backoff = BACKOFF_MIN_MS;
	bool told = false, speculative = true;
	int reason = 0;

	sleep_ms(BACKOFF_MIN_MS); /* let the kernel see that the link is dead, too */
	for (;;) {
		bool all = true;

		for (int i = 0; i < watch->count && all; i++) {
			/* A LINK_DEAD without a hang-up of ours: offer one socket all the same;
			 * the kernel ignores it if it needs none. */
			bool hung = is_hung_up(watch->fds[i]);

			if (!hung && !(speculative && i == watch->count - 1))
				continue;
			if (revive(watch, i) < 0) {
				reason = errno;
				all = false;
			}
			speculative = false;
		}
		heard_link_dead(&watch->netlink, watch->listener, watch->index);
		if (all) {
			say("connected to %s again after %lld s", watch->target.server,
			    (now_ms() - since) / 1000);
			return true;
		}
		if (!told)
			say("lost %s (%s): reads wait, trying again until it is back",
			    watch->target.server, strerror(reason));
		told = true;
		if (is_connected(&watch->netlink, watch->index) == 0)
			return false;
		sleep_ms(backoff + jitter(backoff / 2));
		backoff = backoff * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff * 2;
	}
}

static void watch_links(struct watch *watch)
{
	for (;;) {
		if (wait_for_death(watch)) {
			if (is_connected(&watch->netlink, watch->index) == 0 || !recover(watch))
				break;
		} else if (is_connected(&watch->netlink, watch->index) == 0) {
			break;
		}
	}
	say("/dev/nbd%u was detached: done", watch->index);
}

static int write_pid(const char *path, pid_t pid)
{
	FILE *file = fopen(path, "we");

	if (file == NULL)
		return -1;
	fprintf(file, "%d\n", (int)pid);
	return fclose(file);
}

/* ---- the command line -------------------------------------------------------------------- */

/* udev looks into a new device, and while it has it open the kernel says EBUSY. */
static int take_device(struct watch *watch, unsigned int request_seconds)
{
	for (int try = 0;; try++) {
		if (connect_device(&watch->netlink, watch->index, &watch->export, watch->fds,
				   watch->count, request_seconds) == 0)
			return 0;
		if (errno != EBUSY || try == BUSY_TRIES)
			return -1;
		sleep_ms(BUSY_MS);
	}
}

static int status_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return EXIT_REFUSED;
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return EXIT_NO_ANSWER;
	case ENOENT:
		return EXIT_NO_EXPORT;
	default:
		return 1;
	}
}

static int usage(void)
{
	fprintf(stderr, "usage: nbdroot attach /dev/nbdN IPV4 PORT EXPORT "
			"[PIDFILE [HOME_SECONDS IPV4:HTTP:NBD...]]\n"
			"       nbdroot detach /dev/nbdN\n");
	return 2;
}

/* The first links to the one server. 0, or the exit status. */
static int open_links(struct watch *watch, bool more)
{
	do {
		struct export again = {0};
		struct export *export = watch->count == 0 ? &watch->export : &again;
		int fd = open_export(&watch->target, export);

		if (fd < 0 && watch->count == 0) {
			int status = status_of(errno);

			say("no export %s from %s port %u (%s)", watch->target.name,
			    watch->target.server, ntohs(watch->target.address.sin_port),
			    strerror(errno));
			return status;
		}
		if (fd < 0 || export->size != watch->export.size)
			break; /* one connection is enough to go on with */
		watch->fds[watch->count++] = fd;
	} while (more && watch->count < MAX_CONNECTIONS &&
		 watch->export.flags & NBD_TFLAG_MULTI_CONN);
	return 0;
}

/* The farm's servers by the command line. Which of them is the target; -1: none. */
static int read_farm(struct farm *farm, const struct target *target, char **words, int count)
{
	int serving = -1;

	for (int i = 0; i < count; i++) {
		const struct sockaddr_in *address = &farm->servers[farm->count].address;

		if (add_server(farm, words[i]) < 0)
			return -1;
		if (address->sin_addr.s_addr == target->address.sin_addr.s_addr &&
		    address->sin_port == target->address.sin_port)
			serving = farm->count - 1;
	}
	return serving;
}

static int open_directory_of(const char *path)
{
	char directory[256];
	const char *slash = strrchr(path, '/');

	snprintf(directory, sizeof(directory), "%.*s", slash ? (int)(slash - path) : 1,
		 slash ? path : ".");
	return open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* In the background: until the device is detached. */
static void relay_links(const struct farm *farm, int kernel, int fd, int serving)
{
	int pair[2];

	/* We are part of the way to the root: nothing of ours may wait for pages of it. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		say("cannot be a flusher (%s)", strerror(errno));
	if (setpriority(PRIO_PROCESS, 0, -10) < 0)
		say("cannot set the priority (%s)", strerror(errno));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    start_scout(farm, pair[1], serving) < 0)
		say("no scout (%s): the root stays with %s", strerror(errno),
		    farm->servers[serving].name);
	relay(kernel, pair[0], fd, serving, farm->count);
}

static int attach(char **argv, int argc)
{
	static struct watch watch;
	static struct farm farm;
	int status, serving = 0, pair[2] = {-1, -1}, link;
	bool many = argc > 8;
	pid_t pid;

	if (argc < 6 || sscanf(argv[2], "/dev/nbd%u", &watch.index) != 1 ||
	    strlen(argv[5]) > 4000 ||
	    inet_pton(AF_INET, argv[3], &watch.target.address.sin_addr) != 1 ||
	    atoi(argv[4]) <= 0 || atoi(argv[4]) > 65535)
		return usage();
	watch.target.address.sin_family = AF_INET;
	watch.target.address.sin_port = htons((uint16_t)atoi(argv[4]));
	watch.target.server = argv[3];
	watch.target.name = argv[5];
	if (many) {
		serving = read_farm(&farm, &watch.target, argv + 8, argc - 8);
		farm.name = argv[5];
		farm.home_seconds = atoi(argv[7]);
		farm.state = open_directory_of(argv[6]);
		if (serving < 0 || farm.home_seconds < 0)
			return usage();
		watch.target.silence_ms = LINK_SILENCE_MS;
	}
	if (open_netlink(&watch.netlink) < 0 ||
	    (watch.listener = open_listener(watch.netlink.group)) < 0) {
		say("the kernel has no nbd netlink family (%s): is the module nbd loaded?",
		    strerror(errno));
		return 1;
	}
	status = open_links(&watch, !many);
	if (status != 0)
		return status;
	link = watch.fds[0];
	farm.export = watch.export;
	if (many) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
			say("no pipe for the kernel (%s)", strerror(errno));
			return 1;
		}
		watch.fds[0] = pair[1];
		watch.export.flags = 0;
	}
	if (take_device(&watch, many ? 0 : REQUEST_SECONDS) < 0) {
		say("the kernel does not take %s (%s)", argv[2],
		    errno == EBUSY ? "it is attached already" : strerror(errno));
		return 1;
	}
	if (many)
		printf("size=%llu servers=%d\n", (unsigned long long)watch.export.size, farm.count);
	else
		printf("size=%llu connections=%d\n", (unsigned long long)watch.export.size,
		       watch.count);
	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		say("cannot fork (%s)", strerror(errno));
		disconnect(&watch.netlink, watch.index);
		return 1;
	}
	if (pid > 0) {
		if (argc > 6 && write_pid(argv[6], pid) < 0)
			say("cannot write %s (%s)", argv[6], strerror(errno));
		return 0;
	}
	detach_from_terminal(argv[0]);
	if (many) {
		close(pair[1]);
		relay_links(&farm, pair[0], link, serving);
		say("/dev/nbd%u was detached: done", watch.index);
	} else {
		watch_links(&watch);
	}
	return 0;
}

static int detach(const char *device)
{
	struct netlink netlink;
	unsigned int index;

	if (sscanf(device, "/dev/nbd%u", &index) != 1)
		return usage();
	if (open_netlink(&netlink) < 0 || disconnect(&netlink, index) < 0) {
		say("cannot detach %s (%s)", device, strerror(errno));
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "detach") == 0)
		return detach(argv[2]);
	if (argc >= 2 && strcmp(argv[1], "attach") == 0)
		return attach(argv, argc);
	return usage();
}
