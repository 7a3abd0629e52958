/* A storm of nodes: storm TFTP_PORT NBD_PORT NODES PROFILE [GAP_MS]
 *
 * Each node goes through the profile's steps, one after another:
 *     tftp PATH BLKSIZE WINDOW
 *     nbd EXPORT DEPTH
 *     read OFFSET LENGTH          (of the nbd step before it, in this order)
 * A node starts GAP_MS after the one before it. A node whose step fails has failed.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTACH_NS 5000000000ull

struct step {
    bool is_nbd;
    char *name;
    int blksize, window, depth;
    uint64_t *order;
    size_t reads;
};

struct node {
    struct tftp tftp;
    struct nbd nbd;
    int step;
    uint64_t began, entered, attached; /* nanoseconds */
    bool running;
};

static struct step *steps;
static int step_count, left, node_count, failed, whole, tftp_port, nbd_port;
static struct node *nodes;
static struct histogram took, step_took[64];
static uint64_t gap_ns, storm_began;
static int started, tries;

static void read_profile(const char *path) {
    FILE *file = fopen(path, "r");
    char line[1200], name[1024];
    int a, b;
    unsigned long long offset, length;
    if (!file) die("cannot read %s", path);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "read %llu %llu", &offset, &length) == 2 && step_count) {
            struct step *s = &steps[step_count - 1];
            if (s->reads % 4096 == 0)
                s->order = realloc(s->order, (s->reads + 4096) * 2 * sizeof *s->order);
            s->order[2 * s->reads] = offset;
            s->order[2 * s->reads + 1] = length;
            s->reads++;
            continue;
        }
        steps = realloc(steps, sizeof *steps * (size_t)(step_count + 1));
        struct step *s = &steps[step_count];
        *s = (struct step){0};
        if (sscanf(line, "tftp %1023s %d %d", name, &a, &b) == 3) {
            s->blksize = a;
            s->window = b;
        } else if (sscanf(line, "nbd %1023s %d", name, &a) == 2) {
            s->is_nbd = true;
            s->depth = a;
        } else {
            die("not a step: %s", line);
        }
        s->name = strdup(name);
        if (++step_count > 64) die("too many steps");
    }
    fclose(file);
}

static void next_step(struct node *node);

static void end_node(struct node *node, bool ok) {
    node->running = false;
    left--;
    if (ok) {
        whole++;
        histogram_add(&took, now_ns - node->began);
    } else {
        failed++;
    }
}

static void step_done(struct node *node, bool ok) {
    if (!ok) {
        fprintf(stderr, "a node failed at step %d\n", node->step);
        end_node(node, false);
        return;
    }
    histogram_add(&step_took[node->step], now_ns - node->entered);
    node->step++;
    next_step(node);
}

static void tftp_done(struct tftp *t, bool ok) { step_done(t->owner, ok); }
static void nbd_opened(struct nbd *n) { nbd_start(n); }
static void nbd_done(struct nbd *n, bool ok) {
    if (!ok && n->phase < 2) return; /* not attached yet: retry_attach sees to it */
    step_done(n->owner, ok);
}

static void attach(struct node *node) {
    struct step *s = &steps[node->step];
    node->attached = now_ns;
    node->nbd = (struct nbd){.client = (int)(node - nodes), .depth = s->depth, .order = s->order, .reads = s->reads,
                             .opened = nbd_opened, .done = nbd_done, .owner = node};
    nbd_open(&node->nbd, nbd_port, s->name);
}

static void next_step(struct node *node) {
    if (node->step == step_count) {
        end_node(node, true);
        return;
    }
    struct step *s = &steps[node->step];
    node->entered = now_ns;
    if (s->is_nbd) {
        attach(node);
    } else {
        node->tftp = (struct tftp){.client = (int)(node - nodes), .port = tftp_port, .path = s->name, .blksize = s->blksize,
                                   .window = s->window, .done = tftp_done, .owner = node};
        tftp_get(&node->tftp);
    }
}

/* A node whose server does not greet it tries again, as its boot scripts do. */
static void retry_attach(struct node *node) {
    if (node->nbd.phase == 2 || now_ns - node->attached < ATTACH_NS) return;
    tries++;
    unwatch(&node->nbd.source);
    free(node->nbd.sent_at);
    free(node->nbd.asked);
    attach(node);
}

static void tick_all(void) {
    while (started < node_count && now_ns >= storm_began + gap_ns * (uint64_t)started) {
        struct node *node = &nodes[started++];
        node->running = true;
        node->began = now_ns;
        next_step(node);
    }
    for (int i = 0; i < started; i++) {
        if (!nodes[i].running) continue;
        if (steps[nodes[i].step].is_nbd)
            retry_attach(&nodes[i]);
        else
            tftp_tick(&nodes[i].tftp);
    }
}

int main_storm(int argc, char **argv) {
    if (argc < 4) die("usage: load storm TFTP_PORT NBD_PORT NODES PROFILE [GAP_MS]");
    tftp_port = atoi(argv[0]);
    nbd_port = atoi(argv[1]);
    left = node_count = atoi(argv[2]);
    read_profile(argv[3]);
    gap_ns = argc > 4 ? (uint64_t)(atof(argv[4]) * 1e6) : 0;
    nodes = calloc((size_t)node_count, sizeof *nodes);
    begin(0, 0);
    storm_began = now_ns;
    tick_all();
    run_until(&left, tick_all);
    printf("{\"seconds\": %.6f, \"nodes\": %d, \"whole\": %d, \"failed\": %d, \"retries\": %llu, \"attach_retries\": %d,"
           " \"p50\": %.6f, \"p99\": %.6f, \"steps\": [",
           measured_seconds(), node_count, whole, failed, (unsigned long long)tftp_retries, tries,
           histogram_quantile(&took, 0.5), histogram_quantile(&took, 0.99));
    for (int i = 0; i < step_count; i++)
        printf("%s{\"name\": \"%s\", \"p50\": %.6f, \"p99\": %.6f}", i ? ", " : "", steps[i].name,
               histogram_quantile(&step_took[i], 0.5), histogram_quantile(&step_took[i], 0.99));
    puts("]}");
    return 0;
}
