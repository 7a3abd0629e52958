/* TFTP clients: tftp PORT PATH WARM SECONDS CLIENTS BLKSIZE WINDOW
 *
 * Each fetches the file again and again; with SECONDS 0 each fetches it once,
 * and a transfer that ends otherwise than whole is counted as lost.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define WAIT_NS 1000000000ull
#define MAX_TIMEOUTS 20

uint64_t tftp_bytes, tftp_retries;
static uint64_t all_bytes;
static uint64_t whole, lost;
static struct histogram latency; /* of whole transfers */
static int left;
static bool once;

static void send_ack(struct tftp *t) {
    unsigned char ack[4] = {0, 4, (unsigned char)(t->acked >> 8), (unsigned char)t->acked};
    send(t->source.fd, ack, 4, MSG_NOSIGNAL);
}

static void send_request(struct tftp *t) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char packet[600];
    int at = 2;
    packet[0] = 0;
    packet[1] = 1;
    at += sprintf(packet + at, "%s", t->path) + 1;
    at += sprintf(packet + at, "octet") + 1;
    if (t->blksize != 512) {
        at += sprintf(packet + at, "blksize") + 1;
        at += sprintf(packet + at, "%d", t->blksize) + 1;
    }
    if (t->window > 1) {
        at += sprintf(packet + at, "windowsize") + 1;
        at += sprintf(packet + at, "%d", t->window) + 1;
    }
    sendto(t->source.fd, packet, (size_t)at, 0, (struct sockaddr *)&to, sizeof to);
}

static void finish(struct tftp *t, bool ok) {
    unwatch(&t->source);
    t->done(t, ok);
}

/* One packet of `length` bytes, of which the first four are at `packet`; true: it was the last. */
static bool take(struct tftp *t, const unsigned char *packet, ssize_t length) {
    unsigned kind = packet[1];
    if (kind == 6 && !t->acked) { /* OACK */
        send_ack(t);
        return false;
    }
    if (kind == 5) {
        finish(t, false);
        return true;
    }
    if (kind != 3 || length < 4) return false;
    unsigned step = (((unsigned)packet[2] << 8 | packet[3]) - (unsigned)t->acked) & 0xffff;
    if (step != 1) {
        /* A gap: say once what is there; what is there already is not answered. */
        if (step && step < 32768 && !t->complained) {
            t->complained = true;
            t->in_window = 0;
            tftp_retries++;
            send_ack(t);
        }
        return false;
    }
    t->complained = false;
    t->acked++;
    t->timeouts = 0;
    t->bytes += (uint64_t)(length - 4);
    all_bytes += (uint64_t)(length - 4);
    if (is_measured()) tftp_bytes += (uint64_t)(length - 4);
    bool last = length - 4 < t->blksize;
    if (last || ++t->in_window == (unsigned)t->window) {
        t->in_window = 0;
        send_ack(t);
    }
    if (last) finish(t, true);
    return last;
}

static void tftp_ready(struct source *source, uint32_t events) {
    struct tftp *t = (struct tftp *)source;
    (void)events;
    t->heard = now_ns;
    if (!t->known) {
        unsigned char head[512];
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(source->fd, head, sizeof head, MSG_TRUNC, (struct sockaddr *)&from, &size);
        if (got < 4) return;
        t->known = true;
        if (connect(source->fd, (struct sockaddr *)&from, size)) die("connect: %s", strerror(errno));
        take(t, head, got);
        return;
    }
    if (t->window == 1) {
        unsigned char head[4];
        ssize_t got = recv(source->fd, head, 4, MSG_TRUNC);
        if (got < 0 && errno == ECONNREFUSED) finish(t, false);
        if (got >= 4) take(t, head, got);
        return;
    }
    static unsigned char heads[BATCH][4];
    static struct iovec iov[BATCH];
    static struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){heads[i], 4};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
    }
    int count = recvmmsg(source->fd, messages, BATCH, MSG_TRUNC | MSG_DONTWAIT, NULL);
    if (count < 0 && errno == ECONNREFUSED) {
        finish(t, false);
        return;
    }
    for (int i = 0; i < count; i++)
        if (take(t, heads[i], messages[i].msg_len)) return;
}

void tftp_get(struct tftp *t) {
    int size = 1 << 21;
    t->source = (struct source){.ready = tftp_ready};
    t->source.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in from;
    own_address(&from, t->client);
    if (t->source.fd < 0 || bind(t->source.fd, (struct sockaddr *)&from, sizeof from))
        die("socket: %s", strerror(errno));
    setsockopt(t->source.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    t->known = t->complained = false;
    t->acked = t->bytes = 0;
    t->in_window = 0;
    t->timeouts = 0;
    t->began = t->heard = now_ns;
    watch(&t->source, EPOLLIN);
    send_request(t);
}

/* Called now and then: ask again after a second of silence, give up after many. */
void tftp_tick(struct tftp *t) {
    if (t->source.fd < 0 || now_ns - t->heard < WAIT_NS) return;
    t->heard = now_ns;
    tftp_retries++;
    if (++t->timeouts > MAX_TIMEOUTS)
        finish(t, false);
    else if (t->known)
        send_ack(t);
    else
        send_request(t);
}

void tftp_abort(struct tftp *t) {
    static const char error[] = "\0\5\0\0enough";
    if (t->source.fd < 0) return;
    if (t->known) send(t->source.fd, error, sizeof error, MSG_NOSIGNAL);
    unwatch(&t->source);
}

static struct tftp *all;
static int clients;

static void tick_all(void) {
    for (int i = 0; i < clients; i++) tftp_tick(&all[i]);
}

static void done(struct tftp *t, bool ok) {
    if (ok) {
        whole++;
        histogram_add(&latency, now_ns - t->began);
    } else {
        lost++;
    }
    if (once) {
        left--;
        return;
    }
    tftp_get(t);
}

int main_tftp(int argc, char **argv) {
    if (argc != 7) die("usage: load tftp PORT PATH WARM SECONDS CLIENTS BLKSIZE WINDOW");
    left = clients = atoi(argv[4]);
    once = atof(argv[3]) <= 0;
    all = calloc((size_t)clients, sizeof *all);
    begin(atof(argv[2]), atof(argv[3]));
    for (int i = 0; i < clients; i++) {
        all[i] = (struct tftp){.client = i, .port = atoi(argv[0]), .path = argv[1], .blksize = atoi(argv[5]),
                               .window = atoi(argv[6]), .done = done};
        tftp_get(&all[i]);
    }
    run_until(&left, tick_all);
    double seconds = measured_seconds();
    for (int i = 0; i < clients; i++) tftp_abort(&all[i]);
    printf("{\"seconds\": %.6f, \"bytes\": %llu, \"all_bytes\": %llu, \"whole\": %llu, \"lost\": %llu, \"retries\": %llu,"
           " \"p50\": %.6f, \"p99\": %.6f}\n",
           seconds, (unsigned long long)tftp_bytes, (unsigned long long)all_bytes,
           (unsigned long long)whole,
           (unsigned long long)lost, (unsigned long long)tftp_retries,
           histogram_quantile(&latency, 0.5), histogram_quantile(&latency, 0.99));
    return 0;
}
