/* epoll with lanes: their descriptors are served in here, the others' events go to Python.
 *
 * One turn: read from all that has something, then send what is to be sent, so that answers
 * leave in a row: it is the first that wakes a sleeping receiver, not each. Of long answers
 * a few leave in a turn: a short question does not wait for all of them.
 */
#define _GNU_SOURCE
#include "fastpath.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256    /* taken from the kernel at once; 3 KiB of stack */
#define MAX_VAIN 10   /* doublings of the pause after looking again in vain: 1,024 waits at most */
#define MAX_STAY 0.01 /* seconds; after so long of lanes alone the loop has a turn */

struct poller {
    PyObject_HEAD
    int epoll;
    struct lane **lanes; /* by descriptor; NULL where there is none */
    int size;            /* of `lanes`, and of `bulk` */
    double now;
    double watch_seconds;
    bool alone; /* the latest wait found a single event */
    int pause;  /* waits to come in which it does not look again */
    int vain;   /* times in a row that it was in vain */
    unsigned long long looks, finds;
    struct lane **bulk; /* a ring of those whose long answers wait for their turn */
    int bulk_first, bulk_count;
    int mixed; /* above 0: there are short answers, too */
};

static double read_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A single client that waits for each answer asks again before this process has gone to
 * sleep and been woken: that takes longer than all the rest. So it looks a few times more,
 * letting others run, unless that was in vain of late. */
static int look_again(struct poller *self, struct epoll_event *events) {
    if (self->pause) {
        self->pause--;
        return 0;
    }
    self->looks++;
    double end = self->now + self->watch_seconds;
    int count = 0;
    while (!count && read_clock() < end) {
        sched_yield();
        count = epoll_wait(self->epoll, events, EVENTS, 0);
    }
    /* Others may have had the core for so long that sleeping would have been no slower. */
    if (count > 0 && read_clock() < end) {
        self->finds++;
        self->vain = 0;
    } else {
        if (self->vain < MAX_VAIN) self->vain++;
        self->pause = 1 << self->vain;
    }
    return count;
}

/* Rounded up: a wait does not end before its time. Below 0: for ever. */
static int to_milliseconds(double seconds) {
    if (seconds < 0) return -1;
    if (seconds > 1e6) return 1000000000;
    int ms = (int)(seconds * 1e3);
    return ms < seconds * 1e3 ? ms + 1 : ms;
}

static int wait_for(struct poller *self, struct epoll_event *events, double seconds) {
    int count = 0;
    if (self->alone && seconds != 0 && self->watch_seconds > 0) count = look_again(self, events);
    if (!count) {
        count = epoll_wait(self->epoll, events, EVENTS, to_milliseconds(seconds));
    }
    self->alone = count == 1;
    self->now = read_clock();
    return count;
}

static struct lane *lane_of(const struct poller *self, int fd) {
    return fd < self->size ? self->lanes[fd] : NULL;
}

/* Each lane is in the ring once at most, so all that there can be have room. */
static void put_into_bulk(struct poller *self, struct lane *lane) {
    if (lane->queued) return;
    lane->queued = true;
    self->bulk[(self->bulk_first + self->bulk_count++) % self->size] = lane;
}

static struct lane *take_from_bulk(struct poller *self) {
    struct lane *lane = self->bulk[self->bulk_first];
    self->bulk_first = (self->bulk_first + 1) % self->size;
    self->bulk_count--;
    lane->queued = false;
    return lane;
}

static void tell(struct epoll_event *event, int fd) {
    event->data.u64 = 0;
    event->data.fd = fd;
    event->events = EPOLLIN;
}

/* Serve the lanes among `count` events, and some of those that wait. What is to be told to
 * others is moved to the front, and counted; it is `count + BULK_PER_TURN` at most. */
static int serve(struct poller *self, struct epoll_event *events, int count) {
    struct lane *due[EVENTS];
    int dues = 0, told = 0;
    for (int i = 0; i < count; i++) {
        struct lane *lane = lane_of(self, events[i].data.fd);
        enum verdict verdict = PASS;
        if (lane && events[i].events & ~(uint32_t)EPOLLOUT) verdict = lane->ready(lane, self->now);
        if (verdict == SEND_LATER) due[dues++] = lane;
        if (verdict == SEND_IN_BULK) put_into_bulk(self, lane);
        if (verdict == PASS) events[told++] = events[i];
    }
    /* Events of those that send now were not told: there is room for them. */
    for (int i = 0; i < dues; i++)
        if (due[i]->send(due[i]) == PASS) tell(&events[told++], due[i]->fd);
    if (dues) self->mixed = MIXED_TURNS;
    else if (self->bulk_count && self->mixed > 0) self->mixed--;
    int most = self->mixed > 0 ? 1 : BULK_PER_TURN;
    for (int i = 0; i < most && self->bulk_count; i++) {
        struct lane *lane = take_from_bulk(self);
        if (lane->send(lane) == PASS) tell(&events[told++], lane->fd);
    }
    return told;
}

static PyObject *poller_poll(PyObject *object, PyObject *argument) {
    struct poller *self = (struct poller *)object;
    double seconds = PyFloat_AsDouble(argument);
    if (seconds == -1 && PyErr_Occurred()) return NULL;
    struct epoll_event events[EVENTS + BULK_PER_TURN];
    int count, told = 0, error;
    Py_BEGIN_ALLOW_THREADS;
    double began = read_clock(), left = seconds;
    while (true) {
        bool waiting = self->bulk_count > 0;
        count = wait_for(self, events, waiting ? 0 : left);
        if (count < 0 || (!count && !waiting) || (told = serve(self, events, count)) > 0) break;
        double past = self->now - began;
        if (seconds >= 0 && (left = seconds - past) <= 0) break;
        if (past >= MAX_STAY) break;
    }
    error = errno;
    Py_END_ALLOW_THREADS;
    if (count < 0) {
        if (error == EINTR) {
            if (PyErr_CheckSignals()) return NULL;
            return PyList_New(0);
        }
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *list = PyList_New(told);
    for (int i = 0; list && i < told; i++) {
        PyObject *event = Py_BuildValue("iI", events[i].data.fd, (unsigned)events[i].events);
        if (!event) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, event);
    }
    return list;
}

static PyObject *control(struct poller *self, int operation, int fd, unsigned mask) {
    struct epoll_event event = {.events = mask, .data.u64 = 0};
    event.data.fd = fd;
    if (epoll_ctl(self->epoll, operation, fd, &event)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *poller_register(PyObject *object, PyObject *args) {
    int fd;
    unsigned mask;
    if (!PyArg_ParseTuple(args, "iI", &fd, &mask)) return NULL;
    return control((struct poller *)object, EPOLL_CTL_ADD, fd, mask);
}

static PyObject *poller_modify(PyObject *object, PyObject *args) {
    int fd;
    unsigned mask;
    if (!PyArg_ParseTuple(args, "iI", &fd, &mask)) return NULL;
    return control((struct poller *)object, EPOLL_CTL_MOD, fd, mask);
}

static void detach(struct poller *self, int fd) {
    if (fd < 0 || fd >= self->size) return;
    struct lane *lane = self->lanes[fd];
    self->lanes[fd] = NULL;
    /* Once around the ring: the others stay, in their order. */
    for (int left = lane && lane->queued ? self->bulk_count : 0; left > 0; left--) {
        struct lane *other = take_from_bulk(self);
        if (other != lane) put_into_bulk(self, other);
    }
    Py_XDECREF(lane);
}

/* Have room for descriptors below `wanted`; false when there is no memory. */
static bool grow(struct poller *self, int wanted) {
    int size = self->size ? self->size : 64;
    while (size < wanted) size *= 2;
    if (size == self->size) return true;
    struct lane **lanes = PyMem_Calloc((size_t)size, sizeof *lanes);
    struct lane **bulk = PyMem_Calloc((size_t)size, sizeof *bulk);
    if (!lanes || !bulk) {
        PyMem_Free(lanes);
        PyMem_Free(bulk);
        return false;
    }
    for (int i = 0; i < self->size; i++) lanes[i] = self->lanes[i];
    for (int i = 0; i < self->bulk_count; i++) bulk[i] = self->bulk[(self->bulk_first + i) % self->size];
    PyMem_Free(self->lanes);
    PyMem_Free(self->bulk);
    self->lanes = lanes;
    self->bulk = bulk;
    self->bulk_first = 0;
    self->size = size;
    return true;
}

static PyObject *poller_unregister(PyObject *object, PyObject *argument) {
    struct poller *self = (struct poller *)object;
    int fd = (int)PyLong_AsLong(argument);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    detach(self, fd);
    return control(self, EPOLL_CTL_DEL, fd, 0);
}

static PyObject *poller_attach(PyObject *object, PyObject *lane) {
    struct poller *self = (struct poller *)object;
    if (!is_lane(lane)) return PyErr_Format(PyExc_TypeError, "not a lane: %R", lane);
    int fd = ((struct lane *)lane)->fd;
    if (fd < 0 || fd >= 1 << 24) return PyErr_Format(PyExc_ValueError, "no descriptor: %d", fd);
    if (!grow(self, fd + 1)) return PyErr_NoMemory();
    detach(self, fd);
    self->lanes[fd] = (struct lane *)Py_NewRef(lane);
    Py_RETURN_NONE;
}

static void close_poller(struct poller *self) {
    for (int fd = 0; fd < self->size; fd++) detach(self, fd);
    PyMem_Free(self->lanes);
    PyMem_Free(self->bulk);
    self->lanes = self->bulk = NULL;
    self->size = 0;
    if (self->epoll >= 0) close(self->epoll);
    self->epoll = -1;
}

static PyObject *poller_close(PyObject *object, PyObject *Py_UNUSED(none)) {
    close_poller((struct poller *)object);
    Py_RETURN_NONE;
}

static PyObject *poller_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"watch_seconds", NULL};
    double watch_seconds = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d", names, &watch_seconds)) return NULL;
    struct poller *self = (struct poller *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->watch_seconds = watch_seconds;
    self->now = read_clock();
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static void poller_dealloc(PyObject *object) {
    close_poller((struct poller *)object);
    Py_TYPE(object)->tp_free(object);
}

static PyMethodDef poller_methods[] = {
    {"poll", poller_poll, METH_O, NULL},
    {"register", poller_register, METH_VARARGS, NULL},
    {"modify", poller_modify, METH_VARARGS, NULL},
    {"unregister", poller_unregister, METH_O, NULL},
    {"attach", poller_attach, METH_O, NULL},
    {"close", poller_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef poller_members[] = {
    {"now", T_DOUBLE, offsetof(struct poller, now), READONLY, NULL},
    {"watch_seconds", T_DOUBLE, offsetof(struct poller, watch_seconds), 0, NULL},
    {"looks", T_ULONGLONG, offsetof(struct poller, looks), READONLY, NULL},
    {"finds", T_ULONGLONG, offsetof(struct poller, finds), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject PollerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "server.fastpath._fastpath.Poller",
    .tp_basicsize = sizeof(struct poller),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = poller_new,
    .tp_dealloc = poller_dealloc,
    .tp_methods = poller_methods,
    .tp_members = poller_members,
};
