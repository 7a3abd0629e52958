/* HTTP clients: http PORT PATH WARM SECONDS CLIENTS; each gets the whole file again and again. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

struct client {
    struct source source;
    char head[4096];
    size_t head_bytes;
    uint64_t left, sent_at;
};

static struct histogram latency;
static uint64_t bytes, all_bytes, whole;
static char request[1024];

static void ask(struct client *c) {
    c->head_bytes = 0;
    c->sent_at = now_ns;
    if (send(c->source.fd, request, strlen(request), MSG_NOSIGNAL) < 0) die("send: %s", strerror(errno));
}

static void http_ready(struct source *source, uint32_t events) {
    struct client *c = (struct client *)source;
    (void)events;
    ssize_t got;
    if (c->left) {
        got = recv(source->fd, scratch, c->left, MSG_TRUNC);
        if (got <= 0) die("the HTTP server hung up");
        c->left -= (uint64_t)got;
        all_bytes += (uint64_t)got;
        if (is_measured()) bytes += (uint64_t)got;
    } else {
        /* Look first, so that only the header is taken from the socket. */
        got = recv(source->fd, c->head, sizeof c->head - 1, MSG_PEEK);
        if (got <= 0) die("the HTTP server hung up");
        c->head[got] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return;
        if (strncmp(c->head, "HTTP/1.1 200", 12)) die("not 200: %.60s", c->head);
        char *length = strcasestr(c->head, "\r\ncontent-length:");
        if (!length) die("no Content-Length");
        c->left = strtoull(length + 17, NULL, 10);
        recv(source->fd, scratch, (size_t)(end + 4 - c->head), 0);
    }
    if (!c->left) {
        whole++;
        if (is_measured()) histogram_add(&latency, now_ns - c->sent_at);
        ask(c);
    }
}

int main_http(int argc, char **argv) {
    if (argc != 5) die("usage: load http PORT PATH WARM SECONDS CLIENTS");
    int clients = atoi(argv[4]);
    struct client *all = calloc((size_t)clients, sizeof *all);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", argv[1]);
    begin(atof(argv[2]), atof(argv[3]));
    for (int i = 0; i < clients; i++) {
        all[i].source = (struct source){.ready = http_ready, .fd = connect_tcp(atoi(argv[0]), i)};
        watch(&all[i].source, EPOLLIN);
        ask(&all[i]);
    }
    run_until(&clients, NULL);
    printf("{\"seconds\": %.6f, \"bytes\": %llu, \"all_bytes\": %llu, \"whole\": %llu, \"p50\": %.6f, \"p99\": %.6f}\n",
           measured_seconds(), (unsigned long long)bytes, (unsigned long long)all_bytes,
           (unsigned long long)whole,
           histogram_quantile(&latency, 0.5), histogram_quantile(&latency, 0.99));
    return 0;
}
