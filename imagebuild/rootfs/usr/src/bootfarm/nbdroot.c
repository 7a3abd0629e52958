/*
 * nbdroot: keeps a root file system on NBD alive.
 *
 *   nbdroot attach DEVICE SERVER PORT EXPORT [PIDFILE]
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
 * The process must outlive the initramfs and be the last to go at shutdown: it is static, locked
 * into memory, holds no file of the root it serves, and its argv[0] begins with '@', which
 * systemd takes as "leave me alone" (systemd.io/ROOT_STORAGE_DAEMONS).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NBD_INIT_MAGIC 0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC 0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_REP_MAGIC 0x0003e889045565a9ULL
#define NBD_REQUEST_MAGIC 0x25609513U
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698U
#define NBD_FLAG_FIXED_NEWSTYLE 1U
#define NBD_FLAG_NO_ZEROES 2U
#define NBD_OPT_EXPORT_NAME 1U
#define NBD_OPT_GO 7U
#define NBD_REP_ACK 1U
#define NBD_REP_INFO 3U
#define NBD_REP_ERROR 0x80000000U
#define NBD_REP_ERR_UNSUP 0x80000001U
#define NBD_REP_ERR_UNKNOWN 0x80000006U
#define NBD_INFO_EXPORT 0U
#define NBD_TFLAG_HAS_FLAGS 1U
#define NBD_TFLAG_READ_ONLY 2U
#define NBD_TFLAG_MULTI_CONN 256U

#define MAX_CONNECTIONS 2
#define EDGE 4096U
#define HANDSHAKE_SECONDS 10
#define PEER_TIMEOUT_MS 20000U
#define REQUEST_SECONDS 30ULL
#define DEAD_SECONDS (10ULL * 365 * 24 * 3600)
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 5000
#define CHECK_MS 15000

struct export {
	uint64_t size;
	uint16_t flags;
	unsigned char edges[2 * EDGE];
};

struct target {
	struct sockaddr_in address;
	const char *server;
	const char *name;
};

struct netlink {
	int fd;
	uint16_t family;
	uint32_t group;
	uint32_t sequence;
};

struct message {
	struct nlmsghdr header;
	struct genlmsghdr genl;
	unsigned char attributes[512];
};

static int kmsg = -1;

static void say(const char *format, ...)
{
	char text[512] = "<4>nbdroot: ";
	const size_t start = strlen(text);
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text + start, sizeof(text) - start - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	length += (int)start;
	if (length > (int)sizeof(text) - 2)
		length = (int)sizeof(text) - 2;
	text[length++] = '\n';
	if (kmsg >= 0) {
		if (write(kmsg, text, (size_t)length) < 0)
			return;
	} else {
		fputs(text + 3, stderr);
	}
}

static void sleep_ms(long ms)
{
	struct timespec pause = {ms / 1000, (ms % 1000) * 1000000L};

	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
}

/* ---- the wire ---------------------------------------------------------------------------- */

static int read_all(int fd, void *buffer, size_t length)
{
	unsigned char *at = buffer;

	while (length > 0) {
		ssize_t got = recv(fd, at, length, 0);

		if (got < 0 && errno == EINTR)
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
		ssize_t put = send(fd, at, length, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
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

static void set_timeouts(int fd, long seconds)
{
	struct timeval limit = {seconds, 0};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* A server that loses power sends no FIN: keepalive and the user timeout notice within 20 s. */
static void set_liveness(int fd)
{
	int on = 1, idle = 10, interval = 5, count = 2;
	unsigned int user = PEER_TIMEOUT_MS;

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
		say("the server does not give export %s (%s)", name, strerror(errno));
		return -1;
	}
	memcpy(&export->size, reply, 8);
	memcpy(&export->flags, reply + 8, 2);
	export->size = be64toh(export->size);
	export->flags = be16toh(export->flags);
	return 0;
}

/* One reply to NBD_OPT_GO: 1 more to come, 0 done, -1 failed, -2 the server has no NBD_OPT_GO. */
static int read_go_reply(int fd, const char *name, struct export *export, bool *known)
{
	unsigned char head[20], info[12];
	uint64_t magic;
	uint32_t type, length;

	if (read_all(fd, head, sizeof(head)) < 0)
		return -1;
	memcpy(&magic, head, 8);
	memcpy(&type, head + 12, 4);
	memcpy(&length, head + 16, 4);
	type = be32toh(type);
	length = be32toh(length);
	if (be64toh(magic) != NBD_REP_MAGIC || length > 65536) {
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

static int open_by_go(int fd, const char *name, struct export *export)
{
	unsigned char data[4 + 4096 + 2];
	uint32_t length = (uint32_t)strlen(name), wire = htobe32(length);
	bool known = false;
	int more;

	memcpy(data, &wire, 4);
	memcpy(data + 4, name, length);
	memset(data + 4 + length, 0, 2); /* no information requests */
	if (send_option(fd, NBD_OPT_GO, data, 4 + length + 2) < 0)
		return -1;
	do
		more = read_go_reply(fd, name, export, &known);
	while (more > 0);
	return more;
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

static int negotiate(int fd, const struct target *target, struct export *export)
{
	unsigned char greeting[18];
	uint64_t first, second;
	uint16_t flags;
	uint32_t answer = NBD_FLAG_FIXED_NEWSTYLE;
	int done;

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
	if (write_all(fd, &answer, sizeof(answer)) < 0)
		return -1;
	done = open_by_go(fd, target->name, export);
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

/* A negotiated socket without time limits of its own, or -1 with errno set. */
static int open_export(const struct target *target, struct export *export)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), saved;

	if (fd < 0)
		return -1;
	set_timeouts(fd, HANDSHAKE_SECONDS);
	set_liveness(fd);
	if (connect(fd, (const struct sockaddr *)&target->address, sizeof(target->address)) == 0 &&
	    negotiate(fd, target, export) == 0) {
		set_timeouts(fd, 0);
		return fd;
	}
	saved = errno == EINPROGRESS || errno == EAGAIN ? ETIMEDOUT : errno;
	close(fd);
	errno = saved;
	return -1;
}

/* ---- generic netlink --------------------------------------------------------------------- */

static void begin(struct message *message, uint16_t family, uint8_t command)
{
	memset(message, 0, sizeof(*message));
	message->header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	message->header.nlmsg_type = family;
	message->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	message->genl.cmd = command;
	message->genl.version = 1;
}

static struct nlattr *put(struct message *message, uint16_t type, const void *data, size_t length)
{
	struct nlattr *attribute =
		(struct nlattr *)((unsigned char *)message + message->header.nlmsg_len);

	attribute->nla_type = type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
	if (length > 0)
		memcpy((unsigned char *)attribute + NLA_HDRLEN, data, length);
	message->header.nlmsg_len += (uint32_t)NLA_ALIGN(NLA_HDRLEN + length);
	return attribute;
}

static void put_u32(struct message *message, uint16_t type, uint32_t value)
{
	put(message, type, &value, sizeof(value));
}

static void put_u64(struct message *message, uint16_t type, uint64_t value)
{
	put(message, type, &value, sizeof(value));
}

static void end_nested(struct message *message, struct nlattr *nested)
{
	nested->nla_type |= NLA_F_NESTED;
	nested->nla_len = (uint16_t)((unsigned char *)message + message->header.nlmsg_len -
				     (unsigned char *)nested);
}

static void put_sockets(struct message *message, const int *fds, int count)
{
	struct nlattr *list = put(message, NBD_ATTR_SOCKETS, NULL, 0);

	for (int i = 0; i < count; i++) {
		struct nlattr *item = put(message, NBD_SOCK_ITEM, NULL, 0);

		put_u32(message, NBD_SOCK_FD, (uint32_t)fds[i]);
		end_nested(message, item);
	}
	end_nested(message, list);
}

static const struct nlattr *find(const void *start, size_t length, uint16_t type)
{
	const unsigned char *at = start;

	while (length >= sizeof(struct nlattr)) {
		const struct nlattr *attribute = (const struct nlattr *)at;
		size_t step = NLA_ALIGN(attribute->nla_len);

		if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > length)
			return NULL;
		if ((attribute->nla_type & NLA_TYPE_MASK) == type)
			return attribute;
		if (step >= length)
			return NULL;
		at += step;
		length -= step;
	}
	return NULL;
}

static const void *payload(const struct nlattr *attribute)
{
	return (const unsigned char *)attribute + NLA_HDRLEN;
}

static size_t payload_length(const struct nlattr *attribute)
{
	return attribute->nla_len - (size_t)NLA_HDRLEN;
}

/* Sends, and waits for the answer. The answer's attributes go to *reply when asked for. */
static int call(struct netlink *netlink, struct message *message, unsigned char *reply,
		size_t *reply_length)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	unsigned char buffer[8192];

	message->header.nlmsg_seq = ++netlink->sequence;
	if (sendto(netlink->fd, message, message->header.nlmsg_len, 0, (struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0)
		return -1;
	for (;;) {
		ssize_t got = recv(netlink->fd, buffer, sizeof(buffer), 0);
		const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		for (; NLMSG_OK(header, (size_t)got); header = NLMSG_NEXT(header, got)) {
			if (header->nlmsg_seq != netlink->sequence)
				continue;
			if (header->nlmsg_type == NLMSG_ERROR) {
				int error = ((const struct nlmsgerr *)NLMSG_DATA(header))->error;

				errno = -error;
				return error == 0 ? 0 : -1;
			}
			if (reply != NULL &&
			    header->nlmsg_len >= (uint32_t)NLMSG_LENGTH(GENL_HDRLEN)) {
				size_t length = header->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN);

				if (length > *reply_length)
					length = *reply_length;
				memcpy(reply, (const unsigned char *)header + NLMSG_LENGTH(GENL_HDRLEN),
				       length);
				*reply_length = length;
			}
		}
	}
}

/* Finds the kernel's nbd family and its multicast group. */
static int open_netlink(struct netlink *netlink)
{
	struct sockaddr_nl local = {.nl_family = AF_NETLINK};
	struct message message;
	unsigned char reply[4096];
	size_t length = sizeof(reply);
	const struct nlattr *id, *groups;
	struct timeval limit = {60, 0};

	memset(netlink, 0, sizeof(*netlink));
	netlink->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (netlink->fd < 0 ||
	    bind(netlink->fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		return -1;
	setsockopt(netlink->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	begin(&message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	put(&message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME,
	    sizeof(NBD_GENL_FAMILY_NAME));
	if (call(netlink, &message, reply, &length) < 0)
		return -1;
	id = find(reply, length, CTRL_ATTR_FAMILY_ID);
	groups = find(reply, length, CTRL_ATTR_MCAST_GROUPS);
	if (id == NULL) {
		errno = ENOENT;
		return -1;
	}
	memcpy(&netlink->family, payload(id), sizeof(netlink->family));
	if (groups != NULL) {
		/* The nested entries are numbered from 1; nbd has one group. */
		const struct nlattr *entry = find(payload(groups), payload_length(groups), 1);
		const struct nlattr *group =
			entry ? find(payload(entry), payload_length(entry), CTRL_ATTR_MCAST_GRP_ID)
			      : NULL;

		if (group != NULL)
			memcpy(&netlink->group, payload(group), sizeof(netlink->group));
	}
	return 0;
}

static int open_listener(uint32_t group)
{
	struct sockaddr_nl local = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC);

	if (fd < 0 || bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		return -1;
	if (group != 0 && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group,
				     sizeof(group)) < 0)
		return -1;
	return fd;
}

static int connect_device(struct netlink *netlink, uint32_t index, const struct target *target,
			  const struct export *export, const int *fds, int count)
{
	struct message message;
	uint64_t block = export->size % 4096 == 0 ? 4096 : export->size % 1024 == 0 ? 1024 : 512;

	begin(&message, netlink->family, NBD_CMD_CONNECT);
	put_u32(&message, NBD_ATTR_INDEX, index);
	put_u64(&message, NBD_ATTR_SIZE_BYTES, export->size);
	put_u64(&message, NBD_ATTR_BLOCK_SIZE_BYTES, block);
	put_u64(&message, NBD_ATTR_TIMEOUT, REQUEST_SECONDS);
	put_u64(&message, NBD_ATTR_SERVER_FLAGS,
		export->flags | NBD_TFLAG_HAS_FLAGS | NBD_TFLAG_READ_ONLY);
	put_u64(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_SECONDS);
	put_sockets(&message, fds, count);
	(void)target;
	return call(netlink, &message, NULL, NULL);
}

static int reconfigure(struct netlink *netlink, uint32_t index, int fd)
{
	struct message message;

	begin(&message, netlink->family, NBD_CMD_RECONFIGURE);
	put_u32(&message, NBD_ATTR_INDEX, index);
	put_u64(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_SECONDS);
	put_sockets(&message, &fd, 1);
	return call(netlink, &message, NULL, NULL);
}

static int disconnect(struct netlink *netlink, uint32_t index)
{
	struct message message;

	begin(&message, netlink->family, NBD_CMD_DISCONNECT);
	put_u32(&message, NBD_ATTR_INDEX, index);
	return call(netlink, &message, NULL, NULL);
}

/* Whether the kernel still holds a configuration for the device: 1, 0, or -1 if it cannot say. */
static int is_connected(struct netlink *netlink, uint32_t index)
{
	struct message message;
	unsigned char reply[2048];
	size_t length = sizeof(reply);
	const struct nlattr *list, *item, *connected;

	begin(&message, netlink->family, NBD_CMD_STATUS);
	put_u32(&message, NBD_ATTR_INDEX, index);
	if (call(netlink, &message, reply, &length) < 0)
		return -1;
	list = find(reply, length, NBD_ATTR_DEVICE_LIST);
	item = list ? find(payload(list), payload_length(list), NBD_DEVICE_ITEM) : NULL;
	connected = item ? find(payload(item), payload_length(item), NBD_DEVICE_CONNECTED) : NULL;
	return connected ? *(const uint8_t *)payload(connected) != 0 : -1;
}

/* ---- the watch --------------------------------------------------------------------------- */

struct watch {
	struct netlink netlink;
	int listener;
	uint32_t index;
	struct target target;
	struct export export;
	int fds[MAX_CONNECTIONS];
	int count;
};

/* Empties the listener. True if a link of ours died, or if messages were lost. */
static bool heard_link_dead(const struct watch *watch)
{
	unsigned char buffer[8192];
	bool dead = false;

	for (;;) {
		ssize_t got = recv(watch->listener, buffer, sizeof(buffer), 0);
		const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == ENOBUFS) {
			dead = true;
			continue;
		}
		if (got < 0)
			return dead;
		for (; NLMSG_OK(header, (size_t)got); header = NLMSG_NEXT(header, got)) {
			const unsigned char *body = NLMSG_DATA(header);
			const struct nlattr *index;
			uint32_t which;

			if (header->nlmsg_type != watch->netlink.family ||
			    header->nlmsg_len < (uint32_t)NLMSG_LENGTH(GENL_HDRLEN) ||
			    ((const struct genlmsghdr *)body)->cmd != NBD_CMD_LINK_DEAD)
				continue;
			index = find(body + GENL_HDRLEN,
				     header->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN),
				     NBD_ATTR_INDEX);
			if (index == NULL)
				continue;
			memcpy(&which, payload(index), sizeof(which));
			dead |= which == watch->index;
		}
	}
}

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
		dead = heard_link_dead(watch);
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

static long jitter(long limit)
{
	unsigned int random = 0;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
		random = (unsigned int)getpid();
	return (long)(random % (unsigned long)(limit + 1));
}

static long uptime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* Tries until every link is back. False if the kernel gave the device up on purpose. */
static bool recover(struct watch *watch)
{
	long since = uptime(), backoff = BACKOFF_MIN_MS;
	bool told = false, speculative = true;

	sleep_ms(BACKOFF_MIN_MS); /* let the kernel see that the link is dead, too */
	for (;;) {
		bool all = true;

		for (int i = 0; i < watch->count && all; i++) {
			/* A LINK_DEAD without a hang-up of ours: offer one socket all the same;
			 * the kernel ignores it if it needs none. */
			bool hung = is_hung_up(watch->fds[i]);

			if (!hung && !(speculative && i == watch->count - 1))
				continue;
			if (revive(watch, i) < 0)
				all = false;
			speculative = false;
		}
		heard_link_dead(watch);
		if (all) {
			say("connected to %s again after %ld s", watch->target.server,
			    uptime() - since);
			return true;
		}
		if (!told)
			say("lost %s (%s): reads wait, trying again until it is back",
			    watch->target.server, strerror(errno));
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

static void detach_from_terminal(char *name)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
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

static int write_pid(const char *path, pid_t pid)
{
	FILE *file = fopen(path, "we");

	if (file == NULL)
		return -1;
	fprintf(file, "%d\n", (int)pid);
	return fclose(file);
}

/* ---- the command line -------------------------------------------------------------------- */

static int attach(char **argv, int argc)
{
	static struct watch watch;
	pid_t pid;

	if (argc < 6 || sscanf(argv[2], "/dev/nbd%u", &watch.index) != 1 ||
	    strlen(argv[5]) > 4000 ||
	    inet_pton(AF_INET, argv[3], &watch.target.address.sin_addr) != 1 ||
	    atoi(argv[4]) <= 0 || atoi(argv[4]) > 65535) {
		fprintf(stderr, "usage: nbdroot attach /dev/nbdN IPV4 PORT EXPORT [PIDFILE]\n"
				"       nbdroot detach /dev/nbdN\n");
		return 2;
	}
	watch.target.address.sin_family = AF_INET;
	watch.target.address.sin_port = htons((uint16_t)atoi(argv[4]));
	watch.target.server = argv[3];
	watch.target.name = argv[5];
	if (open_netlink(&watch.netlink) < 0 ||
	    (watch.listener = open_listener(watch.netlink.group)) < 0) {
		say("the kernel has no nbd netlink family (%s): is the module nbd loaded?",
		    strerror(errno));
		return 1;
	}
	do {
		struct export again = {0};
		struct export *export = watch.count == 0 ? &watch.export : &again;
		int fd = open_export(&watch.target, export);

		if (fd < 0 && watch.count == 0) {
			say("no export %s from %s port %s (%s)", argv[5], argv[3], argv[4],
			    strerror(errno));
			return 1;
		}
		if (fd < 0 || export->size != watch.export.size)
			break; /* one connection is enough to go on with */
		watch.fds[watch.count++] = fd;
	} while (watch.count < MAX_CONNECTIONS && watch.export.flags & NBD_TFLAG_MULTI_CONN);
	if (connect_device(&watch.netlink, watch.index, &watch.target, &watch.export, watch.fds,
			   watch.count) < 0) {
		say("the kernel does not take %s (%s)", argv[2],
		    errno == EBUSY ? "it is attached already" : strerror(errno));
		return 1;
	}
	printf("size=%llu connections=%d\n", (unsigned long long)watch.export.size, watch.count);
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
	watch_links(&watch);
	return 0;
}

static int detach(const char *device)
{
	struct netlink netlink;
	unsigned int index;

	if (sscanf(device, "/dev/nbd%u", &index) != 1) {
		fprintf(stderr, "usage: nbdroot detach /dev/nbdN\n");
		return 2;
	}
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
	fprintf(stderr, "usage: nbdroot attach /dev/nbdN IPV4 PORT EXPORT [PIDFILE]\n"
			"       nbdroot detach /dev/nbdN\n");
	return 2;
}
