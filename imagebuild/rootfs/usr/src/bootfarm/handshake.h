/* NBD's fixed newstyle handshake in user space (NBD protocol, "Fixed newstyle negotiation"). */
#ifndef BOOTFARM_HANDSHAKE_H
#define BOOTFARM_HANDSHAKE_H

#include <netinet/in.h>
#include <stdint.h>

#define EDGE 4096U

#define NBD_TFLAG_HAS_FLAGS 1U
#define NBD_TFLAG_READ_ONLY 2U
#define NBD_TFLAG_MULTI_CONN 256U

/* edges: the first and the last EDGE bytes, by which another image is known. */
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

/* A negotiated socket without time limits of its own, or -1 with errno set. */
int open_export(const struct target *target, struct export *export);

#endif
