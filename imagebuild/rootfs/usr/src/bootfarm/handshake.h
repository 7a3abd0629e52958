/* NBD's fixed newstyle handshake in user space (NBD protocol, "Fixed newstyle negotiation"). */
#ifndef BOOTFARM_HANDSHAKE_H
#define BOOTFARM_HANDSHAKE_H

#include <netinet/in.h>
#include <stdint.h>

#define EDGE 4096U

#define NBD_TFLAG_HAS_FLAGS 1U
#define NBD_TFLAG_READ_ONLY 2U
#define NBD_TFLAG_MULTI_CONN 256U

#define NBD_REQUEST_MAGIC 0x25609513U
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698U

/* Without a byte, and from the first to the last: a server that lies, or drips, holds no boot. */
#define HANDSHAKE_MS 10000
#ifndef WHOLE_HANDSHAKE_SECONDS
#define WHOLE_HANDSHAKE_SECONDS 30
#endif
/* Until an attached server that says nothing, not even by TCP, counts as gone. */
#define PEER_TIMEOUT_MS 20000

/* edges: the first and the last EDGE bytes, by which another image is known. */
struct export {
	uint64_t size;
	uint16_t flags;
	unsigned char edges[2 * EDGE];
};

/* Times in milliseconds, 0 for the usual ones: connect_ms until the server takes the connection,
 * whole_ms for the whole handshake, silence_ms until a link without a sign of life is given up.
 * interrupt: a descriptor that ends the handshake (ECANCELED) when it can be read, 0 for none. */
struct target {
	struct sockaddr_in address;
	const char *server;
	const char *name;
	int connect_ms;
	int whole_ms;
	int silence_ms;
	int interrupt;
};

/* A negotiated socket without time limits of its own, or -1 with errno set. By one thread. */
int open_export(const struct target *target, struct export *export);

/* Whether the server has the export: its size and flags, without opening it (NBD_OPT_INFO).
 * 0, or -1 with errno set. */
int ask_export(const struct target *target, struct export *export);

#endif
