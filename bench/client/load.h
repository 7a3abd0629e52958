/* The load client of `make bench`: what its parts share.
 *
 * One thread, one epoll. Payload is thrown away inside the kernel (MSG_TRUNC)
 * where that is cheaper than to copy it: the machines that boot pay for their
 * own copies, so the client must not pay for them on the server's cores.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_GROUPS 8
#define HISTOGRAM 2048

/* Latencies in nanoseconds: 32 buckets an octave, so read back within 3 %. */
struct histogram {
    uint64_t count[HISTOGRAM];
    uint64_t total, max;
};

void histogram_add(struct histogram *h, uint64_t nanoseconds);
double histogram_quantile(const struct histogram *h, double quantile); /* seconds */

/* What epoll tells: each descriptor has one of these. */
struct source {
    void (*ready)(struct source *self, uint32_t events);
    int fd;
};

extern uint64_t now_ns;             /* as of the last wake */
extern uint64_t measure_from;       /* nanoseconds; what ends earlier does not count */
extern uint64_t stop_at;            /* 0: until nothing is left to do */
extern char scratch[1 << 20];

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
uint64_t read_clock(void);
void open_events(void);                               /* before the first `watch` */
void watch(struct source *source, uint32_t events);   /* add */
void rewatch(struct source *source, uint32_t events); /* change */
void unwatch(struct source *source);                  /* remove and close */
void begin(double warm, double seconds);              /* the clock of the measurement starts */
/* Serve events until stop_at, or until *left is 0; `tick` is called each 20 ms. */
void run_until(const int *left, void (*tick)(void));
bool is_measured(void);
double measured_seconds(void);
/* Every client has an address of its own, as every node has: limits hold by address. */
struct sockaddr_in;
void own_address(struct sockaddr_in *address, int client);
int connect_tcp(int port, int client);
uint64_t random_number(void);

/* One NBD client: depth requests of size bytes are always under way. */
struct nbd {
    struct source source;
    int client, group, depth, under_way;
    uint32_t size;
    bool random, no_zeroes;
    int phase;                             /* 0: greeting, 1: the export's size, 2: transmission */
    const char *export_name;
    uint64_t start, length, position;      /* of the file: what this client reads */
    uint64_t *sent_at;                     /* by cookie */
    uint32_t *asked;                       /* bytes, by cookie */
    uint64_t left;                         /* bytes of the reply under way */
    uint64_t cookie;                       /* of the reply under way */
    unsigned char head[16];
    unsigned head_bytes;
    /* A recorded order instead of a pattern: */
    const uint64_t *order;                 /* offset, length, offset, length... */
    size_t reads, next_read;
    void (*opened)(struct nbd *self);
    void (*done)(struct nbd *self, bool ok);
    void *owner;
};

/* Connect and negotiate; `opened` is called when requests may be sent: by nbd_start. */
void nbd_open(struct nbd *n, int port, const char *export_name);
void nbd_start(struct nbd *n);
int main_nbd(int argc, char **argv);

/* One TFTP transfer after another, or one alone. */
struct tftp {
    struct source source;
    int client, port, blksize, window;
    const char *path;
    bool known;                  /* the server's port is known */
    uint64_t acked;              /* blocks in order so far */
    uint64_t bytes;
    unsigned in_window;
    bool complained;             /* has told of this gap */
    uint64_t heard, began;       /* nanoseconds */
    int timeouts;                /* in a row */
    void (*done)(struct tftp *self, bool ok);
    void *owner;
};

extern uint64_t tftp_bytes, tftp_retries;
void tftp_get(struct tftp *t);
void tftp_tick(struct tftp *t);
void tftp_abort(struct tftp *t);
int main_tftp(int argc, char **argv);

int main_http(int argc, char **argv);
int main_storm(int argc, char **argv);

#endif
