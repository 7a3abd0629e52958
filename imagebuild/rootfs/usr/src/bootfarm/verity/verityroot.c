/*
 * verityroot: a root file system whose blocks are checked as they are read, by dm-verity.
 *
 *   verityroot open NAME DEVICE TABLE
 *   verityroot close NAME
 *   verityroot watch /dev/dm-N SERVER PORT MAC BOOT
 *
 * open makes a device-mapper device over DEVICE, which holds file system and hash tree; TABLE is
 * bootfarm.verity= of the kernel command line. Then it reads block 0, since dm-verity itself
 * checks nothing before it is read: a wrong image is known at once. It prints the device.
 *
 * watch goes on in the background and tells the server (POST /beacon) of each block that the
 * kernel finds to be wrong, until the device is taken away. What is corrupted may be any program
 * or library of the root, so it uses none: it is static, locked into memory, and its argv[0]
 * begins with '@', which systemd takes as "leave me alone" (systemd.io/ROOT_STORAGE_DAEMONS).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "background.h"
#include "beacon.h"
#include "clock.h"
#include "corruption.h"
#include "dmverity.h"
#include "log.h"

/* Exit statuses of open, for boot/verity.sh; 1 is any other failure, 2 a wrong command line. */
#define EXIT_MISMATCH 3
#define EXIT_NO_VERITY 4

#define BLOCK 4096
#define UEVENT_MAX 8192
/* Uevents wait here while a report is on its way; the kernel tells of a hundred blocks at most. */
#define QUEUE_BYTES (1 << 20)
/* Between two reports: a broken disk has many blocks. */
#define PAUSE_MS 3000

static int usage(void)
{
	fprintf(stderr, "usage: verityroot open NAME DEVICE TABLE\n"
			"       verityroot close NAME\n"
			"       verityroot watch /dev/dm-N IPV4 PORT MAC BOOT\n");
	return 2;
}

/* ---- open, close ------------------------------------------------------------------------- */

/* Reads block 0 past all caches. 0, or -1 with errno. */
static int read_first(const char *device)
{
	void *block = NULL;
	int fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC), saved;
	ssize_t got = -1;

	if (fd < 0)
		return -1;
	if (posix_memalign(&block, BLOCK, BLOCK) == 0)
		got = pread(fd, block, BLOCK, 0);
	saved = got >= 0 ? EIO : errno;
	close(fd);
	free(block);
	errno = saved;
	return got == BLOCK ? 0 : -1;
}

/* Bytes of a block device, or -1 with errno. */
static off_t measure(const char *device)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC), saved;
	off_t size;

	if (fd < 0)
		return -1;
	size = lseek(fd, 0, SEEK_END);
	saved = errno;
	close(fd);
	errno = saved;
	return size;
}

static int open_root(const char *name, const char *device, const char *words)
{
	struct table table;
	char path[32];
	off_t size;
	int number, saved;

	if (read_table(words, device, &table) < 0) {
		say("bootfarm.verity=%.200s is no table of dm-verity", words);
		return 2;
	}
	size = measure(device);
	if (size < 0) {
		say("cannot open %s (%s)", device, strerror(errno));
		return 1;
	}
	if ((uint64_t)size < table.least) {
		say("%s has %llu bytes, and with its hash tree it has to have more than %llu",
		    device, (unsigned long long)size, (unsigned long long)table.least);
		return EXIT_MISMATCH;
	}
	number = make_device(name, &table);
	if (number < 0 && errno == E2BIG) {
		say("%s ends within its hash tree", device);
		return EXIT_MISMATCH;
	}
	if (number < 0) {
		saved = errno;
		say("the kernel makes no verity device of %s (%s)%s", device, strerror(saved),
		    saved == ENOENT || saved == ENXIO ? ": is the module dm-mod loaded?"
		    : saved == EINVAL		      ? ": is the module dm-verity there?"
						      : "");
		return saved == EBUSY ? 1 : EXIT_NO_VERITY;
	}
	snprintf(path, sizeof(path), "/dev/dm-%d", number);
	if (read_first(path) < 0) {
		saved = errno;
		remove_device(name);
		say("block 0 of %s cannot be read (%s)", device, strerror(saved));
		return saved == EIO ? EXIT_MISMATCH : 1;
	}
	printf("%s\n", path);
	return 0;
}

static int close_root(const char *name)
{
	if (remove_device(name) == 0)
		return 0;
	say("cannot take %s away (%s)", name, strerror(errno));
	return 1;
}

/* ---- watch ------------------------------------------------------------------------------- */

/* A socket that hears the kernel's uevents (kernel: lib/kobject_uevent.c, group 1). */
static int hear_uevents(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int bytes = QUEUE_BYTES;
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			NETLINK_KOBJECT_UEVENT);

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
		say("cannot have a larger queue (%s)", strerror(errno));
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Takes in all that has come. NEWS_BLOCK where a block is new, NEWS_REMOVED at the end. */
static enum news take_uevents(int fd, int number, struct corruption *corruption)
{
	static char data[UEVENT_MAX];
	enum news found = NEWS_NONE;

	for (;;) {
		struct sockaddr_nl from = {0};
		socklen_t length = sizeof(from);
		struct block block;
		ssize_t got = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from,
				       &length);

		if (got < 0 && (errno == EINTR || errno == ENOBUFS))
			continue; /* some were lost: the next read of such a block says it again */
		if (got < 0)
			return found;
		if (from.nl_pid != 0)
			continue; /* a process's own, not the kernel's */
		switch (read_uevent(data, (size_t)got, number, &block)) {
		case NEWS_REMOVED:
			return NEWS_REMOVED;
		case NEWS_BLOCK:
			if (note_block(corruption, &block))
				found = NEWS_BLOCK;
			break;
		case NEWS_NONE:
			break;
		}
	}
}

/* Until the device is taken away. A report that fails is made again, with all that came since. */
static void watch_blocks(int fd, int number, const struct reporter *reporter)
{
	static struct corruption corruption;
	static char words[WORDS_MAX];
	long long next = now_ms();
	bool untold = false;

	for (;;) {
		struct pollfd polled = {fd, POLLIN, 0};
		long long left = untold ? next - now_ms() : -1;
		enum news news = NEWS_NONE;

		if (poll(&polled, 1, untold && left < 0 ? 0 : (int)left) > 0)
			news = take_uevents(fd, number, &corruption);
		if (news == NEWS_REMOVED)
			return;
		untold |= news == NEWS_BLOCK;
		if (!untold || now_ms() < next)
			continue;
		describe_blocks(&corruption, words);
		untold = !report_corruption(reporter, words, corruption.count);
		next = now_ms() + PAUSE_MS;
	}
}

static int watch_root(char **argv)
{
	struct reporter reporter = {.address = argv[3], .mac = argv[5], .boot = argv[6]};
	int number, port = atoi(argv[4]), fd;
	pid_t pid;

	if (sscanf(argv[2], "/dev/dm-%d", &number) != 1 || port <= 0 || port > 65535 ||
	    inet_pton(AF_INET, argv[3], &reporter.server.sin_addr) != 1)
		return usage();
	reporter.server.sin_family = AF_INET;
	reporter.server.sin_port = htons((uint16_t)port);
	fd = hear_uevents();
	if (fd < 0) {
		say("cannot hear of corrupted blocks (%s)", strerror(errno));
		return 1;
	}
	pid = fork();
	if (pid < 0) {
		say("cannot fork (%s)", strerror(errno));
		return 1;
	}
	if (pid > 0)
		return 0;
	detach_from_terminal(argv[0]);
	watch_blocks(fd, number, &reporter);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "open") == 0)
		return open_root(argv[2], argv[3], argv[4]);
	if (argc == 3 && strcmp(argv[1], "close") == 0)
		return close_root(argv[2]);
	if (argc == 7 && strcmp(argv[1], "watch") == 0)
		return watch_root(argv);
	return usage();
}
