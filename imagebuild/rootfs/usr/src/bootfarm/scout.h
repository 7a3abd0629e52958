/*
 * Finds the server that the relay goes on with: a thread of its own, so that reads never wait for
 * a server that does not answer while another one serves.
 */
#ifndef BOOTFARM_SCOUT_H
#define BOOTFARM_SCOUT_H

#include "handshake.h"

#define MOST_SERVERS 17 /* farm.yaml has 16 peers at most */
/* A link without a sign of life, also one that nothing is asked of, is given up after these. */
#define LINK_SILENCE_MS 2500

struct server {
	struct sockaddr_in address;
	int http;
	char name[INET_ADDRSTRLEN];
};

/* servers: in the order in which this machine prefers them. export: what all must serve alike.
 * home_seconds: how long a better server has to answer before the link moves back to it, and as
 * long again at most by the machine's address; 0: it never does. state: the directory of
 * lib/state.sh, or -1. */
struct farm {
	struct server servers[MOST_SERVERS];
	int count;
	const char *name;
	struct export export;
	int home_seconds;
	int state;
};

/* One of the farm's servers by "IP:HTTP:NBD". 0, or -1 where that is none, or one too many. */
int add_server(struct farm *farm, const char *text);

/* Starts the thread. relay: its end of the SOCK_SEQPACKET pair; it ends when the other one is
 * closed. serving: who gave the first link. The farm stays where it is. 0, or -1 with errno set. */
int start_scout(const struct farm *farm, int relay, int serving);

#endif
