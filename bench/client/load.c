/* What the parts of the load client share: clock, events, numbers, sockets. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 20000000ull

uint64_t now_ns, measure_from, stop_at;
char scratch[1 << 20];
static int epoll_fd;
static uint64_t last_measured;

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t read_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return now_ns = (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

uint64_t random_number(void) { /* xorshift64*, always the same numbers */
    static uint64_t state = 88172645463325252ull;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717ull;
}

static unsigned bucket_of(uint64_t value) {
    if (value < 32) return (unsigned)value;
    unsigned octave = 63 - (unsigned)__builtin_clzll(value);
    return (octave - 4) * 32 + (unsigned)((value >> (octave - 5)) & 31);
}

void histogram_add(struct histogram *h, uint64_t value) {
    h->count[bucket_of(value)]++;
    h->total++;
    if (value > h->max) h->max = value;
}

double histogram_quantile(const struct histogram *h, double quantile) {
    uint64_t wanted = (uint64_t)((double)h->total * quantile), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM; i++) {
        seen += h->count[i];
        if (seen > wanted) {
            if (i < 32) return i * 1e-9;
            return (double)((32ull + i % 32) << (i / 32 - 1)) * 1e-9;
        }
    }
    return (double)h->max * 1e-9;
}

void open_events(void) { epoll_fd = epoll_create1(EPOLL_CLOEXEC); }

void watch(struct source *source, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, source->fd, &e)) die("epoll_ctl: %s", strerror(errno));
}

void rewatch(struct source *source, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, source->fd, &e)) die("epoll_ctl: %s", strerror(errno));
}

void unwatch(struct source *source) {
    if (source->fd < 0) return;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    close(source->fd);
    source->fd = -1;
}

void begin(double warm, double seconds) {
    uint64_t now = read_clock();
    measure_from = now + (uint64_t)(warm * 1e9);
    stop_at = seconds > 0 ? measure_from + (uint64_t)(seconds * 1e9) : 0;
}

bool is_measured(void) { return now_ns >= measure_from && (!stop_at || now_ns < stop_at); }

double measured_seconds(void) {
    uint64_t end = stop_at && last_measured > stop_at ? stop_at : last_measured;
    return (double)(end - measure_from) * 1e-9;
}

void run_until(const int *left, void (*tick)(void)) {
    struct epoll_event events[512];
    uint64_t next_tick = read_clock() + TICK_NS;
    while (*left > 0 && (!stop_at || now_ns < stop_at)) {
        int count = epoll_wait(epoll_fd, events, 512, 20);
        if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        read_clock();
        for (int i = 0; i < count; i++) {
            struct source *source = events[i].data.ptr;
            if (source->fd >= 0) source->ready(source, events[i].events);
        }
        if (now_ns >= next_tick) {
            if (tick) tick();
            next_tick = now_ns + TICK_NS;
        }
    }
    last_measured = read_clock();
}

void own_address(struct sockaddr_in *address, int client) {
    *address = (struct sockaddr_in){.sin_family = AF_INET};
    address->sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)client);
}

int connect_tcp(int port, int client) {
    struct sockaddr_in from;
    own_address(&from, client);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof from) ||
        (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS))
        die("cannot connect to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}
