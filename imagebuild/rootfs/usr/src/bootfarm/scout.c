#include "scout.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "relay.h"

/* A server is given so long to take a connection, and to open the export; doubled with each round
 * in which nobody did, up to SLOWEST times as long. */
#ifndef CONNECT_MS
#define CONNECT_MS 500
#endif
#define OPEN_MS 3000
#define SLOWEST 8
#define PAUSE_MIN_MS 250
#define PAUSE_MAX_MS 5000
/* How often a better server is looked at. */
#ifndef LOOK_MS
#define LOOK_MS 20000
#endif
/* A server that was left again soon after the way home is waited for longer, up to these. */
#define HOME_MAX_MS (4 * 3600 * 1000)
#define STACK_BYTES (256 * 1024)
#define NOBODY (-1)

/* better: the first server that answers since `since`, NOBODY while none does. home_ms: how long it
 * has to. came_home: when it was that, 0 for never. owed: has served us, and is to be told that
 * another one does. */
struct scout {
	const struct farm *farm;
	int relay;
	int serving;
	int before;
	int reason;
	int better;
	long long since;
	long long home_ms;
	long long came_home;
	long long looked;
	bool owed[MOST_SERVERS];
};

static struct scout scout;

int add_server(struct farm *farm, const char *text)
{
	struct server *server = &farm->servers[farm->count];
	unsigned int http, nbd;
	char rest;

	if (farm->count >= MOST_SERVERS ||
	    sscanf(text, "%15[0-9.]:%5u:%5u%c", server->name, &http, &nbd, &rest) != 3 ||
	    inet_pton(AF_INET, server->name, &server->address.sin_addr) != 1 || http == 0 ||
	    http > 65535 || nbd == 0 || nbd > 65535)
		return -1;
	server->address.sin_family = AF_INET;
	server->address.sin_port = htons((uint16_t)nbd);
	server->http = (int)http;
	farm->count++;
	return 0;
}

/* What the relay says ends a handshake: it is more urgent. */
static struct target target_of(int server, int slow)
{
	return (struct target){
		.address = scout.farm->servers[server].address,
		.server = scout.farm->servers[server].name,
		.name = scout.farm->name,
		.connect_ms = CONNECT_MS * slow,
		.whole_ms = OPEN_MS * slow,
		.silence_ms = LINK_SILENCE_MS,
		.interrupt = scout.relay,
	};
}

/* A link to a server, in bounded time: `slow` times the usual one. -1 with errno set; ESTALE: it
 * gives another image. */
static int link_to(int server, int slow)
{
	const struct farm *farm = scout.farm;
	struct target target = target_of(server, slow);
	struct export export = {0};
	int fd = open_export(&target, &export);

	if (fd < 0)
		return -1;
	if (export.size != farm->export.size ||
	    memcmp(export.edges, farm->export.edges, sizeof(export.edges)) != 0) {
		say("%s gives another image as %s (%llu bytes, not %llu): not used. Publish the image "
		    "there that this node booted, or reboot the node",
		    target.server, target.name, (unsigned long long)export.size,
		    (unsigned long long)farm->export.size);
		close(fd);
		errno = ESTALE;
		return -1;
	}
	return fd;
}

/* ---- what the rest of the system is told -------------------------------------------------- */

/* A file of the state directory, whole or not at all. */
static void put_state(const char *name, const char *text)
{
	char beside[64];
	int fd;
	bool good;

	if (scout.farm->state < 0)
		return;
	snprintf(beside, sizeof(beside), "%s.new", name);
	fd = openat(scout.farm->state, beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	if (!good || renameat(scout.farm->state, beside, scout.farm->state, name) < 0)
		say("cannot write %s of the state directory (%s)", name, strerror(errno));
}

/* Who serves now, for everything that speaks with the server; and for tell-root that it changed. */
static void put_server(const char *why, int waited)
{
	const struct server *now = &scout.farm->servers[scout.serving];
	const struct server *before = &scout.farm->servers[scout.before];
	char text[256];

	snprintf(text, sizeof(text), "%s\n", now->name);
	put_state("server", text);
	snprintf(text, sizeof(text), "%d\n", now->http);
	put_state("http", text);
	snprintf(text, sizeof(text), "%u\n", ntohs(now->address.sin_port));
	put_state("nbd", text);
	snprintf(text, sizeof(text), "%s:%d %s:%d %d %s\n", now->name, now->http, before->name,
		 before->http, waited, why);
	put_state("root-moved", text);
}

static void put_elsewhere(int server)
{
	char text[128];
	const struct server *now = &scout.farm->servers[scout.serving];
	const struct server *back = &scout.farm->servers[server];

	snprintf(text, sizeof(text), "%s:%d %s:%d\n", now->name, now->http, back->name, back->http);
	put_state("root-elsewhere", text);
}

/* ---- finding a link ----------------------------------------------------------------------- */

static bool is_called(int ms)
{
	struct pollfd polled = {scout.relay, POLLIN, 0};

	return poll(&polled, 1, ms) > 0;
}

static bool offer(int server, int fd, bool home)
{
	struct offer found = {server, fd, home};

	if (send(scout.relay, &found, sizeof(found), MSG_NOSIGNAL) == (ssize_t)sizeof(found))
		return true;
	close(fd);
	return false;
}

/* Tries the servers in turn, from the one after that which is gone, until one gives a link or the
 * relay has something else to say. */
static void find_link(void)
{
	const struct farm *farm = scout.farm;
	long pause = PAUSE_MIN_MS;
	int slow = 1, reason = 0;
	bool told = false;

	for (;;) {
		for (int i = 1; i <= farm->count; i++) {
			int server = (scout.serving + i) % farm->count;
			int fd = is_called(0) ? NOBODY : link_to(server, slow);

			if (fd >= 0) {
				offer(server, fd, false);
				return;
			}
			if (is_called(0))
				return;
			reason = errno;
		}
		if (!told)
			say("none of %d servers gives %s (the last one: %s): reads wait, trying again "
			    "until one does", farm->count, farm->name, strerror(reason));
		told = true;
		if (is_called((int)(pause + jitter(pause / 2))))
			return;
		pause = pause * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : pause * 2;
		slow = slow * 2 > SLOWEST ? SLOWEST : slow * 2;
	}
}

/* ---- the way home ------------------------------------------------------------------------- */

/* The same for this machine each time: machines do not all move in one second. */
static long long own_share(long long of)
{
	struct sockaddr_in own = {0};
	socklen_t length = sizeof(own);
	uint32_t hash = 2166136261U; /* FNV-1a */
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		if (connect(fd, (const struct sockaddr *)&scout.farm->servers[0].address,
			    sizeof(own)) < 0 ||
		    getsockname(fd, (struct sockaddr *)&own, &length) < 0)
			own.sin_addr.s_addr = (in_addr_t)jitter(INT_MAX);
		close(fd);
	}
	for (unsigned int i = 0; i < 4; i++)
		hash = (hash ^ (own.sin_addr.s_addr >> (8 * i) & 255)) * 16777619U;
	return of > 0 ? (long long)(hash % (unsigned long long)of) : 0;
}

static bool answers(int server)
{
	struct target target = target_of(server, 1);
	struct export export = {0};

	return ask_export(&target, &export) == 0 && export.size == scout.farm->export.size;
}

/* Looks at the servers before the present one. The first that answered long enough gets the link. */
static void look_home(void)
{
	int better = NOBODY, fd;

	for (int server = 0; server < scout.serving && better == NOBODY; server++)
		if (answers(server))
			better = server;
	if (better != scout.better) {
		scout.better = better;
		scout.since = now_ms();
	}
	if (better == NOBODY || scout.farm->home_seconds == 0 ||
	    now_ms() < scout.since + scout.home_ms + own_share(scout.home_ms))
		return;
	fd = link_to(better, 1);
	if (fd >= 0)
		offer(better, fd, true);
	else
		scout.better = NOBODY;
}

/* One server that has served us and is back, at most: tell-root reads one line. */
static void look_for_owed(void)
{
	for (int server = 0; server < scout.farm->count; server++) {
		if (!scout.owed[server] || !answers(server))
			continue;
		scout.owed[server] = false;
		put_elsewhere(server);
		return;
	}
}

static bool has_to_look(void)
{
	bool owes = false;

	for (int server = 0; server < scout.farm->count; server++)
		owes |= scout.owed[server];
	return owes || scout.serving != 0;
}

/* ---- news of the relay -------------------------------------------------------------------- */

static void hear_lost(const struct news_of *news)
{
	const struct server *lost = &scout.farm->servers[news->server];

	say("lost %s (%s): going on with the next server", lost->name, strerror(news->reason));
	scout.reason = news->reason;
	/* Home was no good place: it has to answer for longer before the next way there. */
	if (scout.came_home != 0 && now_ms() < scout.came_home + scout.home_ms) {
		scout.home_ms *= 2;
		if (scout.home_ms > HOME_MAX_MS)
			scout.home_ms = HOME_MAX_MS;
	}
	scout.came_home = 0;
	find_link();
}

static void hear_serving(const struct news_of *news)
{
	const struct server *now = &scout.farm->servers[news->server];
	bool home = scout.reason == 0;

	if (news->server == scout.serving && home)
		return; /* the first link */
	scout.before = scout.serving;
	scout.serving = news->server;
	scout.better = NOBODY;
	scout.owed[scout.before] = true;
	scout.owed[scout.serving] = false;
	if (home) {
		scout.came_home = now_ms();
		say("back with %s, from %s", now->name, scout.farm->servers[scout.before].name);
	} else {
		say("%s serves the root now, after %d.%03d s", now->name, news->waited / 1000,
		    news->waited % 1000);
	}
	put_server(home ? "it is back" : strerror(scout.reason), news->waited);
	scout.reason = 0;
}

static void *run_scout(void *unused)
{
	(void)unused;
	for (;;) {
		long long due = scout.looked + LOOK_MS - now_ms();
		struct news_of news;

		if (!has_to_look())
			due = -1;
		else if (due < 0)
			due = 0;
		if (!is_called((int)due)) {
			scout.looked = now_ms();
			look_for_owed();
			look_home();
			continue;
		}
		if (recv(scout.relay, &news, sizeof(news), 0) != (ssize_t)sizeof(news))
			return NULL; /* the device was detached */
		if (news.what == NEWS_LOST)
			hear_lost(&news);
		else
			hear_serving(&news);
	}
}

int start_scout(const struct farm *farm, int relay, int serving)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int problem;

	scout.farm = farm;
	scout.relay = relay;
	scout.serving = scout.before = serving;
	scout.better = NOBODY;
	scout.home_ms = farm->home_seconds * 1000LL;
	problem = pthread_attr_init(&attributes);
	if (problem == 0) {
		pthread_attr_setstacksize(&attributes, STACK_BYTES);
		problem = pthread_create(&thread, &attributes, run_scout, NULL);
		pthread_attr_destroy(&attributes);
	}
	errno = problem;
	return problem == 0 ? 0 : -1;
}
