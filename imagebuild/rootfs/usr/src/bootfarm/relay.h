/*
 * Between the kernel's nbd driver and one server of several. The driver holds one end of a socket
 * pair; the relay passes its requests on to the server, keeps what is unanswered, and asks the
 * next server for it when this one is gone: the driver only waits.
 */
#ifndef BOOTFARM_RELAY_H
#define BOOTFARM_RELAY_H

#include <stdbool.h>

/* What the relay tells the scout (scout.h). LOST: `server` is gone for this reason (an errno):
 * another link is wanted. SERVING: its link is used from now on, waited: milliseconds that there
 * was none. */
enum news { NEWS_LOST, NEWS_SERVING };

struct news_of {
	enum news what;
	int server;
	int reason;
	int waited;
};

/* A link that the scout has made. home: to a better server, while the present one serves. */
struct offer {
	int server;
	int fd;
	bool home;
};

/* Serves the driver until it lets the device go. kernel: our end of the socket pair. scout: our
 * end of a SOCK_SEQPACKET pair, news out and offers in. fd, server: the first link. servers: how
 * many there are. */
void relay(int kernel, int scout, int fd, int server, int servers);

#endif
