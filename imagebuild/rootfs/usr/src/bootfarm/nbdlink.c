#include "nbdlink.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

/* How long it then lets it wait for another link. */
#define DEAD_SECONDS (10ULL * 365 * 24 * 3600)

struct message {
	struct nlmsghdr header;
	struct genlmsghdr genl;
	unsigned char attributes[512];
};

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

int open_netlink(struct netlink *netlink)
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

int open_listener(uint32_t group)
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

int connect_device(struct netlink *netlink, uint32_t index,
		   const struct export *export, const int *fds, int count,
		   unsigned int request_seconds)
{
	struct message message;
	uint64_t block = export->size % 4096 == 0 ? 4096 : export->size % 1024 == 0 ? 1024 : 512;

	begin(&message, netlink->family, NBD_CMD_CONNECT);
	put_u32(&message, NBD_ATTR_INDEX, index);
	put_u64(&message, NBD_ATTR_SIZE_BYTES, export->size);
	put_u64(&message, NBD_ATTR_BLOCK_SIZE_BYTES, block);
	put_u64(&message, NBD_ATTR_TIMEOUT, request_seconds);
	put_u64(&message, NBD_ATTR_SERVER_FLAGS,
		export->flags | NBD_TFLAG_HAS_FLAGS | NBD_TFLAG_READ_ONLY);
	put_u64(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_SECONDS);
	put_sockets(&message, fds, count);
	return call(netlink, &message, NULL, NULL);
}

int reconfigure(struct netlink *netlink, uint32_t index, int fd)
{
	struct message message;

	begin(&message, netlink->family, NBD_CMD_RECONFIGURE);
	put_u32(&message, NBD_ATTR_INDEX, index);
	put_u64(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_SECONDS);
	put_sockets(&message, &fd, 1);
	return call(netlink, &message, NULL, NULL);
}

int disconnect(struct netlink *netlink, uint32_t index)
{
	struct message message;

	begin(&message, netlink->family, NBD_CMD_DISCONNECT);
	put_u32(&message, NBD_ATTR_INDEX, index);
	return call(netlink, &message, NULL, NULL);
}

int is_connected(struct netlink *netlink, uint32_t index)
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

bool heard_link_dead(const struct netlink *netlink, int listener, uint32_t device)
{
	unsigned char buffer[8192];
	bool dead = false;

	for (;;) {
		ssize_t got = recv(listener, buffer, sizeof(buffer), 0);
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

			if (header->nlmsg_type != netlink->family ||
			    header->nlmsg_len < (uint32_t)NLMSG_LENGTH(GENL_HDRLEN) ||
			    ((const struct genlmsghdr *)body)->cmd != NBD_CMD_LINK_DEAD)
				continue;
			index = find(body + GENL_HDRLEN,
				     header->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN),
				     NBD_ATTR_INDEX);
			if (index == NULL)
				continue;
			memcpy(&which, payload(index), sizeof(which));
			dead |= which == device;
		}
	}
}
