/* NBD clients: nbd PORT EXPORT WARM SECONDS CLIENTS:DEPTH:SIZE:seq|rand:START:LENGTH[,...]
 *
 * All clients connect first; with SECONDS 0 they stay connected until the
 * standard input ends (for measuring memory), each having read once.
 */
#include "load.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define SMALL 16384 /* replies up to here are read many at a time */

static struct histogram latency[MAX_GROUPS];
static uint64_t bytes[MAX_GROUPS], requests[MAX_GROUPS], all_bytes, all_requests;
static int alive;

static void put64(unsigned char *to, uint64_t value) {
    value = htobe64(value);
    memcpy(to, &value, 8);
}

static void put32(unsigned char *to, uint32_t value) {
    value = htobe32(value);
    memcpy(to, &value, 4);
}

static void nbd_ready(struct source *source, uint32_t events);

void nbd_open(struct nbd *n, int port, const char *export_name) {
    n->source.fd = connect_tcp(port, n->client);
    n->source.ready = nbd_ready;
    n->export_name = export_name;
    n->phase = 0;
    n->sent_at = calloc((size_t)n->depth, sizeof *n->sent_at);
    n->asked = calloc((size_t)n->depth, sizeof *n->asked);
    n->position = n->start;
    watch(&n->source, EPOLLIN);
}

static bool next_read(struct nbd *n, uint64_t *offset, uint32_t *length) {
    if (n->order) {
        if (n->next_read == n->reads) return false;
        *offset = n->order[2 * n->next_read];
        *length = (uint32_t)n->order[2 * n->next_read + 1];
        n->next_read++;
        return true;
    }
    *length = n->size;
    if (n->random) {
        *offset = n->start + random_number() % (n->length / n->size) * n->size;
        return true;
    }
    if (n->position + n->size > n->start + n->length) n->position = n->start;
    *offset = n->position;
    n->position += n->size;
    return true;
}

static size_t pack_request(struct nbd *n, unsigned char *to, uint64_t cookie) {
    uint64_t offset;
    uint32_t length;
    if (!next_read(n, &offset, &length)) return 0;
    put32(to, 0x25609513u);
    put32(to + 4, 0); /* flags, NBD_CMD_READ */
    put64(to + 8, cookie);
    put64(to + 16, offset);
    put32(to + 24, length);
    n->sent_at[cookie] = now_ns;
    n->asked[cookie] = length;
    n->under_way++;
    return 28;
}

static void send_requests(struct nbd *n, const unsigned char *data, size_t length) {
    /* At most depth * 28 bytes are ever unread: they fit into any socket. */
    if (length && send(n->source.fd, data, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("send of requests: %s", strerror(errno));
}

void nbd_start(struct nbd *n) {
    unsigned char out[28 * 256];
    size_t filled = 0;
    for (int i = 0; i < n->depth; i++) filled += pack_request(n, out + filled, (uint64_t)i);
    send_requests(n, out, filled);
}

static void finish(struct nbd *n, bool ok) {
    unwatch(&n->source);
    free(n->sent_at);
    free(n->asked);
    n->sent_at = NULL;
    n->asked = NULL;
    if (n->done) {
        n->done(n, ok);
        return;
    }
    alive--;
    if (!ok) die("an NBD server hung up, or answered with an error");
}

/* A whole reply is here: count it, ask anew; bytes put to `out`. */
static size_t complete(struct nbd *n, unsigned char *out) {
    uint64_t cookie = n->cookie;
    n->under_way--;
    all_bytes += n->asked[cookie];
    all_requests++;
    if (is_measured()) {
        histogram_add(&latency[n->group], now_ns - n->sent_at[cookie]);
        bytes[n->group] += n->asked[cookie];
        requests[n->group]++;
    }
    n->head_bytes = 0;
    return pack_request(n, out, cookie);
}

/* The header is here: false when it is none. */
static bool take_head(struct nbd *n) {
    uint32_t magic, error;
    uint64_t cookie;
    memcpy(&magic, n->head, 4);
    memcpy(&error, n->head + 4, 4);
    memcpy(&cookie, n->head + 8, 8);
    cookie = be64toh(cookie);
    if (be32toh(magic) != 0x67446698u || error || cookie >= (uint64_t)n->depth) return false;
    n->cookie = cookie;
    n->left = n->asked[cookie];
    return true;
}

/* The server's side of the handshake comes in two messages of a known length. */
static void negotiate(struct nbd *n) {
    unsigned char buffer[512];
    size_t wanted = n->phase == 0 ? 18 : n->no_zeroes ? 10 : 134, length = strlen(n->export_name);
    ssize_t got = recv(n->source.fd, buffer, wanted, MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        finish(n, false);
        return;
    }
    if ((size_t)got < wanted) return;
    recv(n->source.fd, buffer, wanted, 0);
    if (n->phase++ == 1) {
        n->opened(n);
        return;
    }
    n->no_zeroes = buffer[17] & 2;
    put32(buffer, n->no_zeroes ? 3 : 1);
    put64(buffer + 4, 0x49484156454F5054ull);
    put32(buffer + 12, 1); /* NBD_OPT_EXPORT_NAME */
    put32(buffer + 16, (uint32_t)length);
    memcpy(buffer + 20, n->export_name, length);
    send_requests(n, buffer, 20 + length);
}

static void nbd_ready(struct source *source, uint32_t events) {
    struct nbd *n = (struct nbd *)source;
    unsigned char out[28 * 256];
    size_t filled = 0;
    (void)events;
    if (n->phase < 2) {
        negotiate(n);
        return;
    }
    for (int turn = 0; turn < 4; turn++) {
        ssize_t got;
        if (n->head_bytes == 16 && n->left > SMALL) {
            got = recv(source->fd, scratch, n->left, MSG_TRUNC);
            if (got > 0) {
                n->left -= (uint64_t)got;
                if (!n->left) filled += complete(n, out + filled);
                if (!n->under_way && !filled) break;
                if (n->left) continue;
                break; /* the next header has most likely not come yet */
            }
        } else {
            bool large = n->size > SMALL || n->order;
            size_t most = large ? (n->head_bytes < 16 ? 16 - n->head_bytes : n->left) : 65536;
            got = recv(source->fd, scratch, most, 0);
            ssize_t at = 0;
            while (got > 0 && at < got) {
                if (n->head_bytes < 16) {
                    size_t part = 16 - n->head_bytes;
                    if (part > (size_t)(got - at)) part = (size_t)(got - at);
                    memcpy(n->head + n->head_bytes, scratch + at, part);
                    n->head_bytes += (unsigned)part;
                    at += (ssize_t)part;
                    if (n->head_bytes < 16) break;
                    if (!take_head(n)) {
                        finish(n, false);
                        return;
                    }
                    continue;
                }
                uint64_t part = (uint64_t)(got - at) < n->left ? (uint64_t)(got - at) : n->left;
                n->left -= part;
                at += (ssize_t)part;
                if (!n->left) filled += complete(n, out + filled);
            }
            if (got > 0 && !large) break;
        }
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            finish(n, false);
            return;
        }
        if (got < 0) break;
    }
    send_requests(n, out, filled);
    if (!n->under_way) finish(n, true);
}

static void parse_group(char *text, int group, struct nbd **all, int *count) {
    int clients, depth;
    unsigned size;
    char pattern[8];
    unsigned long long start, length;
    if (sscanf(text, "%d:%d:%u:%7[a-z]:%llu:%llu", &clients, &depth, &size, pattern, &start,
               &length) != 6 || depth > 256)
        die("not a group of clients: %s", text);
    *all = realloc(*all, sizeof **all * (size_t)(*count + clients));
    for (int i = 0; i < clients; i++) {
        struct nbd *n = &(*all)[(*count)++];
        *n = (struct nbd){.group = group, .depth = depth, .size = size, .start = start,
                          .length = length, .random = !strcmp(pattern, "rand")};
    }
}

static int opening, to_open, at_once;

static void opened(struct nbd *n) {
    (void)n;
    opening--;
    at_once--;
}

int main_nbd(int argc, char **argv) {
    if (argc != 5) die("usage: load nbd PORT EXPORT WARM SECONDS GROUP[,GROUP...]");
    struct nbd *all = NULL;
    int count = 0, groups = 0;
    double seconds = atof(argv[3]);
    for (char *text = strtok(argv[4], ","); text && groups < MAX_GROUPS; text = strtok(NULL, ","))
        parse_group(text, groups++, &all, &count);
    static uint64_t one_read[2] = {0, 131072};
    /* A few at a time: nbd-server's queue for new connections is short. */
    begin(0, 20);
    for (opening = count; opening;) {
        for (; to_open < count && at_once < 4; at_once++, to_open++) {
            all[to_open].client = to_open;
            all[to_open].opened = opened;
            nbd_open(&all[to_open], atoi(argv[0]), argv[1]);
        }
        run_until(&at_once, NULL);
        if (now_ns >= stop_at) die("%d clients are not served after 20 seconds", opening);
    }
    for (int i = 0; i < count; i++)
        if (!all[i].random) /* each has a place of its own to start from */
            all[i].position = all[i].start + random_number() % (all[i].length / all[i].size) * all[i].size;
    alive = count;
    begin(atof(argv[2]), seconds);
    for (int i = 0; i < count; i++) {
        if (seconds <= 0) {
            all[i].order = one_read; /* read once, then stay */
            all[i].reads = 1;
        }
        nbd_start(&all[i]);
    }
    if (seconds <= 0) {
        for (int i = 0; i < count; i++) /* nbd_ready would hang up after the last read */
            all[i].under_way += 1;
        stop_at = now_ns + 1500000000ull;
        run_until(&alive, NULL);
        puts("ready");
        fflush(stdout);
        while (fgetc(stdin) != EOF) continue;
        return 0;
    }
    run_until(&alive, NULL);
    printf("{\"seconds\": %.6f, \"all_bytes\": %llu, \"all_requests\": %llu, \"groups\": [",
           measured_seconds(), (unsigned long long)all_bytes, (unsigned long long)all_requests);
    for (int g = 0; g < groups; g++)
        printf("%s{\"bytes\": %llu, \"requests\": %llu, \"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f}",
               g ? ", " : "", (unsigned long long)bytes[g], (unsigned long long)requests[g],
               histogram_quantile(&latency[g], 0.5), histogram_quantile(&latency[g], 0.99),
               (double)latency[g].max * 1e-9);
    puts("]}");
    return 0;
}
