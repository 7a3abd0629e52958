#define _GNU_SOURCE
#include "beacon.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

#define BODY_MAX 3000
#define REQUEST_MAX 3500
#define SECONDS 5

/* Waits until the socket is ready, no longer than until `end`. */
static bool wait_for(int fd, short events, long long end)
{
	struct pollfd polled = {fd, events, 0};
	long long left = end - now_ms();

	return left > 0 && poll(&polled, 1, (int)left) > 0;
}

static int connect_by(const struct sockaddr_in *server, long long end)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error = 0;
	socklen_t length = sizeof(error);

	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)server, sizeof(*server)) == 0)
		return fd;
	if (errno == EINPROGRESS && wait_for(fd, POLLOUT, end) &&
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0)
		return fd;
	close(fd);
	return -1;
}

static bool send_by(int fd, const char *data, size_t length, long long end)
{
	while (length > 0) {
		ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);

		if (sent > 0) {
			data += sent;
			length -= (size_t)sent;
		} else if (errno != EAGAIN || !wait_for(fd, POLLOUT, end)) {
			return false;
		}
	}
	return true;
}

/* The status of the answer, or 0 where none came. */
static int read_status(int fd, long long end)
{
	char answer[64];
	size_t length = 0;
	int status = 0;

	while (length < 12 && wait_for(fd, POLLIN, end)) {
		ssize_t got = recv(fd, answer + length, sizeof(answer) - 1 - length, 0);

		if (got <= 0)
			break;
		length += (size_t)got;
	}
	answer[length] = '\0';
	return sscanf(answer, "HTTP/1.%*1d %3d", &status) == 1 ? status : 0;
}

static int post(const struct reporter *reporter, const char *body)
{
	char request[REQUEST_MAX];
	const long long end = now_ms() + SECONDS * 1000L;
	int fd, status = 0;
	int length = snprintf(request, sizeof(request),
			      "POST /beacon HTTP/1.1\r\nHost: %s:%u\r\nConnection: close\r\n"
			      "Content-Type: application/x-www-form-urlencoded\r\n"
			      "Content-Length: %zu\r\n\r\n%s",
			      reporter->address, (unsigned int)ntohs(reporter->server.sin_port),
			      strlen(body), body);

	if (length < 0 || (size_t)length >= sizeof(request))
		return 0;
	fd = connect_by(&reporter->server, end);
	if (fd < 0)
		return 0;
	if (send_by(fd, request, (size_t)length, end))
		status = read_status(fd, end);
	close(fd);
	return status;
}

/* Adds text to a form, each byte as %XX but letters and digits. */
static size_t encode(char *form, size_t at, const char *text)
{
	for (; *text != '\0' && at + 4 < BODY_MAX; text++) {
		if ((*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'z') ||
		    (*text >= 'A' && *text <= 'Z'))
			form[at++] = *text;
		else
			at += (size_t)snprintf(form + at, 4, "%%%02X", (unsigned char)*text);
	}
	form[at] = '\0';
	return at;
}

static size_t add(char *form, size_t at, const char *name, const char *value)
{
	const size_t length = strlen(name);

	if (at + length + 3 >= BODY_MAX)
		return at;
	if (at > 0)
		form[at++] = '&';
	memcpy(form + at, name, length);
	at += length;
	form[at++] = '=';
	return encode(form, at, value);
}

bool report_corruption(const struct reporter *reporter, const char *words, unsigned int count)
{
	char form[BODY_MAX], detail[512];
	size_t at = 0, facts;
	int status;

	snprintf(detail, sizeof(detail),
		 "%u %s of the root, read from %s, %s not what the kernel command line says: %s",
		 count, count == 1 ? "block" : "blocks", reporter->address,
		 count == 1 ? "is" : "are", words);
	at = add(form, at, "mac", reporter->mac);
	at = add(form, at, "phase", "root");
	at = add(form, at, "status", "error");
	at = add(form, at, "boot", reporter->boot);
	at = add(form, at, "detail", detail);
	at = add(form, at, "cause", "image_corrupt");
	facts = at;
	at = add(form, at, "corrupted", words);
	add(form, at, "served", reporter->address);
	status = post(reporter, form);
	if (status == 400) { /* a server that is older than these facts */
		form[facts] = '\0';
		status = post(reporter, form);
	}
	/* 4xx will not get better; anything else might. */
	return status >= 200 && status < 500 && status != 429;
}
