/* The kernel's nbd driver by generic netlink (linux/nbd-netlink.h). */
#ifndef BOOTFARM_NBDLINK_H
#define BOOTFARM_NBDLINK_H

#include <stdbool.h>
#include <stdint.h>

#include "handshake.h"

struct netlink {
	int fd;
	uint16_t family;
	uint32_t group;
	uint32_t sequence;
};

/* Finds the kernel's nbd family and its multicast group. 0, or -1 with errno set; as all here. */
int open_netlink(struct netlink *netlink);

/* A socket that hears the driver's multicast messages. */
int open_listener(uint32_t group);

/* Empties the listener. True if a link of this device died, or if messages were lost. */
bool heard_link_dead(const struct netlink *netlink, int listener, uint32_t device);

/* request_seconds: how long the driver lets a request wait for its reply before it gives the link
 * up; 0: for ever. */
int connect_device(struct netlink *netlink, uint32_t index, const struct export *export,
		   const int *fds, int count, unsigned int request_seconds);
int reconfigure(struct netlink *netlink, uint32_t index, int fd);
int disconnect(struct netlink *netlink, uint32_t index);

/* Whether the kernel still holds a configuration for the device: 1, 0, or -1 if it cannot say. */
int is_connected(struct netlink *netlink, uint32_t index);

#endif
