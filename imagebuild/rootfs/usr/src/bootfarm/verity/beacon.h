/* The node's report to the server (POST /beacon), without a program or file of the root. */
#ifndef BOOTFARM_BEACON_H
#define BOOTFARM_BEACON_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct reporter {
	struct sockaddr_in server;
	const char *address; /* of the server, as text */
	const char *mac;
	const char *boot; /* id of this boot */
};

/*
 * Tells that blocks of the root are corrupted. words: which. count: how many. False where the
 * server has not taken it: try again. Takes some seconds at most.
 */
bool report_corruption(const struct reporter *reporter, const char *words, unsigned int count);

#endif
