#include "handshake.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define NBD_INIT_MAGIC 0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC 0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_REP_MAGIC 0x0003e889045565a9ULL
#define NBD_FLAG_FIXED_NEWSTYLE 1U
#define NBD_FLAG_NO_ZEROES 2U
#define NBD_OPT_EXPORT_NAME 1U
#define NBD_OPT_ABORT 2U
#define NBD_OPT_INFO 6U
#define NBD_OPT_GO 7U
#define NBD_REP_ACK 1U
#define NBD_REP_INFO 3U
#define NBD_REP_ERROR 0x80000000U
#define NBD_REP_ERR_UNSUP 0x80000001U
#define NBD_REP_ERR_UNKNOWN 0x80000006U
#define NBD_INFO_EXPORT 0U

#define MAX_GO_REPLIES 16 /* an honest server sends one NBD_REP_INFO and the ACK */

static long long deadline; /* of the handshake under way, ms of CLOCK_MONOTONIC */
static int patience;	   /* ms without a byte */
static int interrupt;	   /* the target's, or -1 */

/* Until the socket is ready for it, or the handshake's time is over (ETIMEDOUT). */
static int wait_for(int fd, short events)
{
	long long left = deadline - now_ms();
	struct pollfd polled[2] = {{fd, events, 0}, {interrupt, POLLIN, 0}};
	int ready;

	if (left > patience)
		left = patience;
	do
		ready = left > 0 ? poll(polled, 2, (int)left) : 0;
	while (ready < 0 && errno == EINTR);
	if (ready == 0)
		errno = ETIMEDOUT;
	if (ready > 0 && polled[0].revents == 0) {
		errno = ECANCELED;
		return -1;
	}
	return ready > 0 ? 0 : -1;
}

static int read_all(int fd, void *buffer, size_t length)
{
	unsigned char *at = buffer;

	while (length > 0) {
		ssize_t got;

		if (wait_for(fd, POLLIN) < 0)
			return -1;
		got = recv(fd, at, length, MSG_DONTWAIT);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got == 0)
			errno = ECONNRESET;
		if (got <= 0)
			return -1;
		at += got;
		length -= (size_t)got;
	}
	return 0;
}

static int write_all(int fd, const void *buffer, size_t length)
{
	const unsigned char *at = buffer;

	while (length > 0) {
		ssize_t put;

		if (wait_for(fd, POLLOUT) < 0)
			return -1;
		put = send(fd, at, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (put < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (put < 0)
			return -1;
		at += put;
		length -= (size_t)put;
	}
	return 0;
}

static int skip(int fd, uint32_t length)
{
	unsigned char sink[256];

	while (length > 0) {
		uint32_t part = length < sizeof(sink) ? length : (uint32_t)sizeof(sink);

		if (read_all(fd, sink, part) < 0)
			return -1;
		length -= part;
	}
	return 0;
}

/* A server that loses power sends no FIN: keepalive and the user timeout notice within silence. */
static void set_liveness(int fd, int silence)
{
	unsigned int user = (unsigned int)silence;
	int on = 1, count = 2, idle = silence / 2000, interval = silence / 4000;

	if (idle < 1)
		idle = 1;
	if (interval < 1)
		interval = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user, sizeof(user));
}

static int send_option(int fd, uint32_t option, const void *data, uint32_t length)
{
	unsigned char head[16];
	uint64_t magic = htobe64(NBD_OPTS_MAGIC);
	uint32_t code = htobe32(option), size = htobe32(length);

	memcpy(head, &magic, 8);
	memcpy(head + 8, &code, 4);
	memcpy(head + 12, &size, 4);
	return write_all(fd, head, sizeof(head)) < 0 || write_all(fd, data, length) < 0 ? -1 : 0;
}

/* NBD_OPT_EXPORT_NAME: no error reply exists, an unknown name just ends the connection. */
static int open_by_name(int fd, const char *name, bool no_zeroes, struct export *export)
{
	unsigned char reply[10];

	if (send_option(fd, NBD_OPT_EXPORT_NAME, name, (uint32_t)strlen(name)) < 0 ||
	    read_all(fd, reply, sizeof(reply)) < 0 || (!no_zeroes && skip(fd, 124) < 0)) {
		int why = errno;

		say("the server does not give export %s (%s)", name, strerror(why));
		errno = why == ECONNRESET ? ENOENT : why;
		return -1;
	}
	memcpy(&export->size, reply, 8);
	memcpy(&export->flags, reply + 8, 2);
	export->size = be64toh(export->size);
	export->flags = be16toh(export->flags);
	return 0;
}

/* One reply to NBD_OPT_GO or NBD_OPT_INFO: 1 more to come, 0 done, -1 failed, -2 the server has no
 * such option. */
static int read_go_reply(int fd, uint32_t asked, const char *name, struct export *export,
			 bool *known)
{
	unsigned char head[20], info[12];
	uint64_t magic;
	uint32_t option, type, length;

	if (read_all(fd, head, sizeof(head)) < 0)
		return -1;
	memcpy(&magic, head, 8);
	memcpy(&option, head + 8, 4);
	memcpy(&type, head + 12, 4);
	memcpy(&length, head + 16, 4);
	type = be32toh(type);
	length = be32toh(length);
	if (be64toh(magic) != NBD_REP_MAGIC || be32toh(option) != asked || length > 65536) {
		errno = EPROTO;
		return -1;
	}
	if (type == NBD_REP_INFO && length == sizeof(info)) {
		uint16_t what;

		if (read_all(fd, info, sizeof(info)) < 0)
			return -1;
		memcpy(&what, info, 2);
		if (be16toh(what) != NBD_INFO_EXPORT)
			return 1;
		memcpy(&export->size, info + 2, 8);
		memcpy(&export->flags, info + 10, 2);
		export->size = be64toh(export->size);
		export->flags = be16toh(export->flags);
		*known = true;
		return 1;
	}
	if (skip(fd, length) < 0)
		return -1;
	if (type == NBD_REP_ERR_UNSUP)
		return -2;
	if (type == NBD_REP_ERR_UNKNOWN) {
		say("the server has no export %s", name);
		errno = ENOENT;
		return -1;
	}
	if (type & NBD_REP_ERROR) {
		say("the server refuses export %s (reply 0x%08x)", name, type);
		errno = EACCES;
		return -1;
	}
	if (type == NBD_REP_ACK) {
		errno = EPROTO;
		return *known ? 0 : -1;
	}
	return 1;
}

/* NBD_OPT_GO opens the export, NBD_OPT_INFO only asks for it; both answer alike. */
static int ask_for(int fd, uint32_t asked, const char *name, struct export *export)
{
	unsigned char data[4 + 4096 + 2];
	uint32_t length = (uint32_t)strlen(name), wire = htobe32(length);
	bool known = false;

	memcpy(data, &wire, 4);
	memcpy(data + 4, name, length);
	memset(data + 4 + length, 0, 2); /* no information requests */
	if (send_option(fd, asked, data, 4 + length + 2) < 0)
		return -1;
	for (int replies = 0; replies < MAX_GO_REPLIES; replies++) {
		int more = read_go_reply(fd, asked, name, export, &known);

		if (more <= 0)
			return more;
	}
	say("more than %d replies about export %s: that is no NBD server", MAX_GO_REPLIES, name);
	errno = EPROTO;
	return -1;
}

static int read_part(int fd, uint64_t offset, uint32_t length, unsigned char *into)
{
	unsigned char request[28] = {0}, reply[16];
	uint32_t magic = htobe32(NBD_REQUEST_MAGIC), size = htobe32(length), error;
	uint64_t from = htobe64(offset);

	memcpy(request, &magic, 4);
	memcpy(request + 16, &from, 8);
	memcpy(request + 24, &size, 4);
	if (write_all(fd, request, sizeof(request)) < 0 || read_all(fd, reply, sizeof(reply)) < 0)
		return -1;
	memcpy(&magic, reply, 4);
	memcpy(&error, reply + 4, 4);
	if (be32toh(magic) != NBD_SIMPLE_REPLY_MAGIC || error != 0) {
		errno = EIO;
		return -1;
	}
	return read_all(fd, into, length);
}

/* The server's greeting and our answer to it. Its flags, or -1. */
static int greet(int fd, const struct target *target)
{
	unsigned char greeting[18];
	uint64_t first, second;
	uint16_t flags;
	uint32_t answer = NBD_FLAG_FIXED_NEWSTYLE;

	if (read_all(fd, greeting, sizeof(greeting)) < 0)
		return -1;
	memcpy(&first, greeting, 8);
	memcpy(&second, greeting + 8, 8);
	memcpy(&flags, greeting + 16, 2);
	flags = be16toh(flags);
	if (be64toh(first) != NBD_INIT_MAGIC || be64toh(second) != NBD_OPTS_MAGIC ||
	    !(flags & NBD_FLAG_FIXED_NEWSTYLE)) {
		say("%s does not speak NBD's fixed newstyle on that port", target->server);
		errno = EPROTO;
		return -1;
	}
	answer |= flags & NBD_FLAG_NO_ZEROES;
	answer = htobe32(answer);
	return write_all(fd, &answer, sizeof(answer)) < 0 ? -1 : flags;
}

static int open_it(int fd, const struct target *target, struct export *export)
{
	int flags = greet(fd, target), done;

	if (flags < 0)
		return -1;
	done = ask_for(fd, NBD_OPT_GO, target->name, export);
	if (done == -2)
		done = open_by_name(fd, target->name, flags & NBD_FLAG_NO_ZEROES, export);
	if (done < 0)
		return -1;
	if (export->size < EDGE) {
		say("export %s is only %llu bytes long", target->name,
		    (unsigned long long)export->size);
		errno = EINVAL;
		return -1;
	}
	if (read_part(fd, 0, EDGE, export->edges) < 0 ||
	    read_part(fd, export->size - EDGE, EDGE, export->edges + EDGE) < 0)
		return -1;
	return 0;
}

static int ask_it(int fd, const struct target *target, struct export *export)
{
	int done = greet(fd, target) < 0 ? -1 : ask_for(fd, NBD_OPT_INFO, target->name, export);

	if (done == -2)
		errno = EOPNOTSUPP;
	return done < 0 ? -1 : send_option(fd, NBD_OPT_ABORT, NULL, 0);
}

/* Connects within the target's time. 0, or -1 with errno set. */
static int reach(int fd, const struct target *target)
{
	int error = 0;
	socklen_t length = sizeof(error);

	patience = target->connect_ms;
	if (connect(fd, (const struct sockaddr *)&target->address, sizeof(target->address)) == 0)
		return 0;
	if (errno != EINPROGRESS || wait_for(fd, POLLOUT) < 0)
		return -1;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		return -1;
	errno = error;
	return error == 0 ? 0 : -1;
}

static int converse(const struct target *asked, struct export *export,
		    int (*talk)(int, const struct target *, struct export *))
{
	struct target target = *asked;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), saved;

	if (fd < 0)
		return -1;
	if (target.connect_ms == 0)
		target.connect_ms = HANDSHAKE_MS;
	interrupt = target.interrupt ? target.interrupt : -1;
	deadline = now_ms() + (target.whole_ms ? target.whole_ms : WHOLE_HANDSHAKE_SECONDS * 1000);
	set_liveness(fd, target.silence_ms ? target.silence_ms : PEER_TIMEOUT_MS);
	if (reach(fd, &target) == 0) {
		patience = HANDSHAKE_MS;
		if (talk(fd, &target, export) == 0 && fcntl(fd, F_SETFL, 0) == 0)
			return fd;
	}
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

int open_export(const struct target *target, struct export *export)
{
	return converse(target, export, open_it);
}

int ask_export(const struct target *target, struct export *export)
{
	int fd = converse(target, export, ask_it);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}
