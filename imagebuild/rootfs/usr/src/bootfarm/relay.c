#include "relay.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "handshake.h"
#include "log.h"

#define NBD_CMD_READ 0U
#define NBD_CMD_WRITE 1U
#define NBD_CMD_DISC 2U
#define REQUEST_BYTES 28U
#define REPLY_BYTES 16U
#define MOST 256 /* requests at once; the driver's queue has 128 */
/* A server whose machine answers, and which lets requests wait so long, is left, too. */
#ifndef SILENT_MS
#define SILENT_MS 15000
#endif
/* How long the way home waits for the last answers of the server that is left. */
#define DRAIN_MS 2000
#define NOBODY (-1)

enum state { FREE, WAITING, SENT };

struct entry {
	uint64_t handle; /* the driver's, as it came */
	uint64_t offset;
	uint32_t length;
	uint16_t type;
	uint8_t state;
	uint8_t errors; /* servers that answered it with an error */
};

/* head: of the reply that is coming in. current: the entry that it answers, NOBODY between two.
 * left: bytes of it that are still to come. heard: when there last was a sign of life. */
struct link {
	int fd;
	int server;
	uint32_t generation;
	unsigned char out[MOST * REQUEST_BYTES];
	size_t out_length;
	unsigned char head[REPLY_BYTES];
	size_t head_length;
	int current;
	uint32_t left;
	long long heard;
};

/* partial: an entry of whose reply the driver has `done` bytes already: no other reply may come in
 * between, so its rest is asked for alone. next: the way home, once all is answered. */
static struct {
	int kernel;
	int scout;
	int servers;
	struct link link;
	struct offer next;
	long long drained_by;
	long long lost_at;
	struct entry entries[MOST];
	int used;
	int sent;
	int partial;
	uint32_t done;
	unsigned char request[REQUEST_BYTES];
	size_t request_length;
	uint32_t skipped; /* bytes of a write that is refused */
} r;

static void tell(enum news what, int reason, int waited)
{
	struct news_of news = {what, r.link.server, reason, waited};

	if (send(r.scout, &news, sizeof(news), MSG_NOSIGNAL) < 0)
		say("cannot ask for another server (%s)", strerror(errno));
}

/* To the driver, all of it. False when it has let the device go. */
static bool give(struct iovec *parts, int count)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};

	while (message.msg_iovlen > 0) {
		ssize_t put = sendmsg(r.kernel, &message, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		while (message.msg_iovlen > 0 && (size_t)put >= message.msg_iov->iov_len) {
			put -= (ssize_t)message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (message.msg_iovlen > 0) {
			message.msg_iov->iov_base = (unsigned char *)message.msg_iov->iov_base + put;
			message.msg_iov->iov_len -= (size_t)put;
		}
	}
	return true;
}

static void pack_reply(unsigned char *head, uint64_t handle, uint32_t error)
{
	uint32_t magic = htobe32(NBD_SIMPLE_REPLY_MAGIC), wire = htobe32(error);

	memcpy(head, &magic, 4);
	memcpy(head + 4, &wire, 4);
	memcpy(head + 8, &handle, 8);
}

static bool answer(uint64_t handle, uint32_t error)
{
	unsigned char head[REPLY_BYTES];
	struct iovec part = {head, sizeof(head)};

	pack_reply(head, handle, error);
	return give(&part, 1);
}

static void free_entry(int index)
{
	struct entry *entry = &r.entries[index];

	if (entry->state == SENT)
		r.sent--;
	entry->state = FREE;
	r.used--;
	if (r.partial == index)
		r.partial = NOBODY;
}

/* ---- towards the server ------------------------------------------------------------------ */

static void queue(int index, uint32_t done)
{
	struct entry *entry = &r.entries[index];
	unsigned char *at = r.link.out + r.link.out_length;
	uint32_t magic = htobe32(NBD_REQUEST_MAGIC);
	uint16_t flags = 0, type = htobe16(entry->type);
	uint64_t cookie = htobe64((uint64_t)r.link.generation << 32 | (uint32_t)index);
	uint64_t offset = htobe64(entry->offset + done);
	uint32_t length = htobe32(entry->length - done);

	memcpy(at, &magic, 4);
	memcpy(at + 4, &flags, 2);
	memcpy(at + 6, &type, 2);
	memcpy(at + 8, &cookie, 8);
	memcpy(at + 16, &offset, 8);
	memcpy(at + 24, &length, 4);
	r.link.out_length += REQUEST_BYTES;
	if (r.sent++ == 0)
		r.link.heard = now_ms();
	entry->state = SENT;
}

/* All that waits goes out, unless the rest of a reply has to come first, or the link is left. */
static void queue_waiting(void)
{
	if (r.link.fd < 0 || r.next.fd >= 0)
		return;
	if (r.partial != NOBODY) {
		if (r.entries[r.partial].state == WAITING)
			queue(r.partial, r.done);
		return;
	}
	for (int i = 0; i < MOST && r.sent < r.used; i++)
		if (r.entries[i].state == WAITING &&
		    r.link.out_length + REQUEST_BYTES <= sizeof(r.link.out))
			queue(i, 0);
}

static void adopt(int fd, int server)
{
	long long now = now_ms();

	r.link.fd = fd;
	r.link.server = server;
	r.link.generation++;
	r.link.out_length = r.link.head_length = 0;
	r.link.current = NOBODY;
	r.link.heard = now;
	queue_waiting();
	tell(NEWS_SERVING, 0, (int)(now - r.lost_at));
}

/* The link is no more; what it did not answer waits for another one. */
static void leave(void)
{
	int current = r.link.current;

	close(r.link.fd);
	r.link.fd = -1;
	r.lost_at = now_ms();
	for (int i = 0; i < MOST; i++)
		if (r.entries[i].state == SENT)
			r.entries[i].state = WAITING;
	r.sent = 0;
	if (current != NOBODY && r.link.left < r.entries[current].length) {
		r.partial = current;
		r.done = r.entries[current].length - r.link.left;
	}
}

/* Tells the server that this is the end of it, and no fault. */
static void say_goodbye(void)
{
	unsigned char request[REQUEST_BYTES] = {0};
	uint32_t magic = htobe32(NBD_REQUEST_MAGIC);
	uint16_t type = htobe16(NBD_CMD_DISC);

	memcpy(request, &magic, 4);
	memcpy(request + 6, &type, 2);
	if (r.link.fd >= 0 && r.link.out_length == 0 &&
	    send(r.link.fd, request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it is gone already */
}

static void go_home(void)
{
	struct offer next = r.next;

	say_goodbye();
	leave();
	r.next.fd = -1;
	adopt(next.fd, next.server);
}

static void lose(int reason)
{
	if (r.next.fd >= 0) {
		go_home();
		return;
	}
	leave();
	tell(NEWS_LOST, reason, 0);
}

static void flush(void)
{
	while (r.link.fd >= 0 && r.link.out_length > 0) {
		ssize_t put = send(r.link.fd, r.link.out, r.link.out_length,
				   MSG_DONTWAIT | MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			return;
		if (put < 0) {
			lose(errno);
			return;
		}
		r.link.out_length -= (size_t)put;
		memmove(r.link.out, r.link.out + put, r.link.out_length);
	}
}

/* ---- from the server --------------------------------------------------------------------- */

/* The reply's head is whole. 0, or an errno for which the link is given up. */
static int begin_reply(void)
{
	uint32_t magic, error, index;
	uint64_t cookie;
	struct entry *entry;

	memcpy(&magic, r.link.head, 4);
	memcpy(&error, r.link.head + 4, 4);
	memcpy(&cookie, r.link.head + 8, 8);
	cookie = be64toh(cookie);
	error = be32toh(error);
	index = (uint32_t)cookie;
	r.link.head_length = 0;
	if (be32toh(magic) != NBD_SIMPLE_REPLY_MAGIC || index >= MOST ||
	    cookie >> 32 != r.link.generation || r.entries[index].state != SENT)
		return EPROTO;
	entry = &r.entries[index];
	if (error != 0) {
		/* Another server may have what this one cannot read. */
		if (++entry->errors < r.servers || r.partial == (int)index)
			return EIO;
		error = answer(entry->handle, error) ? 0 : EPIPE;
		free_entry((int)index);
		return (int)error;
	}
	r.link.current = (int)index;
	r.link.left = entry->length - (r.partial == (int)index ? r.done : 0);
	if (entry->type != NBD_CMD_READ || entry->length == 0) {
		r.link.current = NOBODY;
		error = answer(entry->handle, 0) ? 0 : EPIPE;
		free_entry((int)index);
		return (int)error;
	}
	return 0;
}

/* Some bytes of the present reply's data, with its head before the first of them. */
static bool pass_on(unsigned char *data, size_t length)
{
	struct entry *entry = &r.entries[r.link.current];
	unsigned char head[REPLY_BYTES];
	struct iovec parts[2] = {{head, sizeof(head)}, {data, length}};
	bool first = r.link.left == entry->length;

	pack_reply(head, entry->handle, 0);
	r.link.left -= (uint32_t)length;
	if (!give(first ? parts : parts + 1, first ? 2 : 1))
		return false;
	if (r.link.left == 0) {
		free_entry(r.link.current);
		r.link.current = NOBODY;
	}
	return true;
}

/* False when the driver has let the device go. */
static bool take_replies(void)
{
	static unsigned char buffer[256 * 1024];
	ssize_t got = recv(r.link.fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	unsigned char *at = buffer;

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (got <= 0) {
		lose(got < 0 ? errno : ECONNRESET);
		return true;
	}
	r.link.heard = now_ms();
	while (got > 0) {
		size_t part;

		if (r.link.current == NOBODY) {
			int problem;

			part = REPLY_BYTES - r.link.head_length;
			part = part < (size_t)got ? part : (size_t)got;
			memcpy(r.link.head + r.link.head_length, at, part);
			r.link.head_length += part;
			problem = r.link.head_length == REPLY_BYTES ? begin_reply() : 0;
			if (problem == EPIPE)
				return false;
			if (problem != 0) {
				lose(problem);
				return true;
			}
		} else {
			part = r.link.left < (size_t)got ? r.link.left : (size_t)got;
			if (!pass_on(at, part))
				return false;
		}
		at += part;
		got -= (ssize_t)part;
	}
	return true;
}

/* ---- from the driver --------------------------------------------------------------------- */

static int take_entry(void)
{
	for (int i = 0; i < MOST; i++)
		if (r.entries[i].state == FREE)
			return i;
	return NOBODY;
}

/* False when it lets the device go. */
static bool take_request(void)
{
	uint32_t magic, length;
	uint16_t type;
	struct entry entry = {.state = WAITING};
	int index = take_entry();

	memcpy(&magic, r.request, 4);
	memcpy(&type, r.request + 6, 2);
	memcpy(&entry.handle, r.request + 8, 8);
	memcpy(&entry.offset, r.request + 16, 8);
	memcpy(&length, r.request + 24, 4);
	entry.type = be16toh(type);
	entry.offset = be64toh(entry.offset);
	entry.length = be32toh(length);
	if (be32toh(magic) != NBD_REQUEST_MAGIC || entry.type == NBD_CMD_DISC || index == NOBODY)
		return false;
	if (entry.type == NBD_CMD_WRITE) {
		r.skipped = entry.length;
		return answer(entry.handle, EPERM);
	}
	if (entry.type != NBD_CMD_READ)
		entry.length = 0;
	r.entries[index] = entry;
	r.used++;
	return true;
}

static bool take_requests(void)
{
	unsigned char buffer[16 * REQUEST_BYTES];
	size_t most = (size_t)(MOST - r.used) * REQUEST_BYTES - r.request_length;
	ssize_t got = recv(r.kernel, buffer, most < sizeof(buffer) ? most : sizeof(buffer),
			   MSG_DONTWAIT);

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (got <= 0)
		return false;
	for (unsigned char *at = buffer; got > 0;) {
		size_t part = r.skipped ? r.skipped : REQUEST_BYTES - r.request_length;

		part = part < (size_t)got ? part : (size_t)got;
		if (r.skipped) {
			r.skipped -= (uint32_t)part;
		} else {
			memcpy(r.request + r.request_length, at, part);
			r.request_length += part;
			if (r.request_length == REQUEST_BYTES) {
				r.request_length = 0;
				if (!take_request())
					return false;
			}
		}
		at += part;
		got -= (ssize_t)part;
	}
	return true;
}

/* ---- from the scout ---------------------------------------------------------------------- */

static void take_offer(void)
{
	struct offer offer;

	if (recv(r.scout, &offer, sizeof(offer), MSG_DONTWAIT) != (ssize_t)sizeof(offer))
		return;
	if (r.link.fd < 0) {
		adopt(offer.fd, offer.server);
	} else if (offer.home && r.next.fd < 0) {
		r.next = offer;
		r.drained_by = now_ms() + DRAIN_MS;
	} else {
		close(offer.fd); /* a link was found meanwhile */
	}
}

/* Milliseconds until something is due, or -1. */
static int next_due(void)
{
	long long due;

	if (r.link.fd < 0 || (r.sent == 0 && r.next.fd < 0))
		return -1;
	due = r.link.heard + SILENT_MS;
	if (r.next.fd >= 0 && r.drained_by < due)
		due = r.drained_by;
	due -= now_ms();
	return due > 0 ? (int)due : 0;
}

void relay(int kernel, int scout, int fd, int server, int servers)
{
	r.kernel = kernel;
	r.scout = scout;
	r.servers = servers;
	r.next.fd = -1;
	r.partial = NOBODY;
	r.lost_at = now_ms();
	adopt(fd, server);
	for (;;) {
		struct pollfd polled[3] = {
			{kernel, r.used < MOST ? POLLIN : 0, 0},
			{scout, POLLIN, 0},
			{r.link.fd, r.link.out_length > 0 ? POLLIN | POLLOUT : POLLIN, 0},
		};
		int ready = poll(polled, 3, next_due());

		if (ready < 0 && errno == EINTR)
			continue;
		if (polled[2].revents != 0 && !take_replies())
			break;
		if (polled[1].revents != 0)
			take_offer();
		if (polled[0].revents & ~POLLIN ||
		    (polled[0].revents & POLLIN && !take_requests()))
			break;
		if (polled[2].revents == 0 && r.link.fd >= 0 && r.sent > 0 &&
		    now_ms() >= r.link.heard + SILENT_MS)
			lose(ETIMEDOUT);
		if (r.next.fd >= 0 && (r.sent == 0 || now_ms() >= r.drained_by))
			go_home();
		queue_waiting();
		flush();
	}
	say_goodbye();
}
