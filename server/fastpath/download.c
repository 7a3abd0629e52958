/* Long files over HTTP: parts of them to stream sockets by sendfile(2), beside the event loop.
 *
 * Python sends what comes before (a head), and gives a sender the socket and the file. A sender
 * runs in a thread of its own and without the interpreter's lock: it goes on while Python is
 * busy. What is over is given back: all has left, a disk would have to be waited for, or
 * something is wrong; Python sees to it.
 */
#define _GNU_SOURCE
#include "fastpath.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define TURN_BYTES (8 * DOWNLOAD_STEP) /* after so many the others have their turn */
#define EVENTS 64

struct download {
    PyObject_HEAD
    int fd, file;
    off_t offset;                    /* of what is sent next */
    off_t hot;                       /* where what was found in memory ends */
    _Atomic unsigned long long left; /* bytes from there on; the loop's thread looks at it */
    int error;                       /* an errno; 0: none */
    bool cold, busy;                 /* a disk has to be waited for; a sender has it */
    struct download *next, *before;  /* in one of its sender's lists */
};

struct list {
    struct download *first, *last;
};

struct sender {
    PyObject_HEAD
    int epoll;
    int bell;    /* rings in the thread: something is new, or it is to end */
    int returns; /* rings in the loop: something was given back */
    pthread_mutex_t lock; /* of what follows */
    struct list given, returned;
    bool stopping;
    struct list active; /* the thread's alone, while it runs */
    bool running;       /* under the interpreter's lock */
};

static void append(struct list *list, struct download *one) {
    one->next = NULL;
    one->before = list->last;
    *(list->last ? &list->last->next : &list->first) = one;
    list->last = one;
}

static void drop(struct list *list, struct download *one) {
    *(one->before ? &one->before->next : &list->first) = one->next;
    *(one->next ? &one->next->before : &list->last) = one->before;
}

/* Whether a byte can be read without waiting; true where nobody can tell. */
static bool is_in_memory(int file, off_t offset) {
    char byte;
    struct iovec buffer = {&byte, 1};
    return preadv2(file, &buffer, 1, offset, RWF_NOWAIT) >= 0 || errno != EAGAIN;
}

/* How much of a part can be sent now: as far as both ends of each step are in memory. What was
 * found there in an earlier turn is not looked at again. */
static size_t count_hot(struct download *self, unsigned long long left) {
    off_t most = self->offset + (off_t)(left < TURN_BYTES ? left : TURN_BYTES);
    if (self->hot <= self->offset) {
        if (!is_in_memory(self->file, self->offset)) return 0;
        self->hot = self->offset;
    }
    while (self->hot < most) {
        off_t end = self->offset + (off_t)left;
        off_t next = end - self->hot < DOWNLOAD_STEP ? end : self->hot + DOWNLOAD_STEP;
        if (!is_in_memory(self->file, next - 1)) break;
        self->hot = next;
    }
    return (size_t)((self->hot < most ? self->hot : most) - self->offset);
}

/* While it is corked, only whole segments leave: half ones would cost as much each. */
static void cork(int fd, int on) { setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on); }

/* Send what the socket takes; false when there is nothing more to do here. */
static bool send_some(struct download *self) {
    unsigned long long left = atomic_load_explicit(&self->left, memory_order_relaxed);
    size_t count = count_hot(self, left);
    if (!count) {
        self->cold = left > 0;
        return false;
    }
    ssize_t sent = sendfile(self->fd, self->file, &self->offset, count);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (sent <= 0) {
        self->error = sent ? errno : ENODATA; /* it was cut short under us */
        return false;
    }
    left -= (unsigned long long)sent;
    atomic_store_explicit(&self->left, left, memory_order_relaxed);
    return left > 0;
}

static void give_back(struct sender *self, struct download *one) {
    epoll_ctl(self->epoll, EPOLL_CTL_DEL, one->fd, NULL);
    cork(one->fd, 0);
    drop(&self->active, one);
    pthread_mutex_lock(&self->lock);
    append(&self->returned, one);
    pthread_mutex_unlock(&self->lock);
    eventfd_write(self->returns, 1);
}

/* Begin with what was given; false when the thread is to end. */
static bool take_given(struct sender *self) {
    eventfd_t rings;
    eventfd_read(self->bell, &rings);
    pthread_mutex_lock(&self->lock);
    struct list given = self->given;
    self->given = (struct list){NULL, NULL};
    bool stopping = self->stopping;
    pthread_mutex_unlock(&self->lock);
    for (struct download *one = given.first, *next; one; one = next) {
        next = one->next;
        append(&self->active, one);
        cork(one->fd, 1);
        struct epoll_event event = {.events = EPOLLOUT, .data.ptr = one};
        if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, one->fd, &event)) {
            one->error = errno;
            give_back(self, one);
        }
    }
    return !stopping;
}

/* The thread's whole life. */
static void serve(struct sender *self) {
    struct epoll_event events[EVENTS];
    for (bool goes_on = true; goes_on;) {
        int count = epoll_wait(self->epoll, events, EVENTS, -1);
        bool rang = false;
        for (int i = 0; i < count; i++) {
            struct download *one = events[i].data.ptr;
            if (!one) rang = true;
            else if (!send_some(one)) give_back(self, one);
        }
        if (rang) goes_on = take_given(self);
    }
    while (self->active.first) give_back(self, self->active.first);
}

static PyObject *download_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "file", "offset", "length", NULL};
    int fd, file;
    long long offset;
    unsigned long long length;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiLK", names, &fd, &file, &offset, &length)) return NULL;
    if (offset < 0 || length > INT64_MAX - (unsigned long long)offset)
        return PyErr_Format(PyExc_ValueError, "no part of a file: %llu bytes from %lld", length, offset);
    struct download *self = (struct download *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->fd = fd;
    self->file = file;
    self->offset = (off_t)offset;
    atomic_init(&self->left, length);
    return (PyObject *)self;
}

static void download_dealloc(PyObject *object) { Py_TYPE(object)->tp_free(object); }

static PyObject *download_left(PyObject *object, void *Py_UNUSED(none)) {
    struct download *self = (struct download *)object;
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&self->left, memory_order_relaxed));
}

static PyGetSetDef download_getset[] = {
    {"left", download_left, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef download_members[] = {
    {"error", T_INT, offsetof(struct download, error), READONLY, NULL},
    {"cold", T_BOOL, offsetof(struct download, cold), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject DownloadType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "server.fastpath._fastpath.Download",
    .tp_basicsize = sizeof(struct download),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = download_new,
    .tp_dealloc = download_dealloc,
    .tp_getset = download_getset,
    .tp_members = download_members,
};

static PyObject *sender_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    struct sender *self = (struct sender *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    pthread_mutex_init(&self->lock, NULL);
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->returns = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (self->epoll < 0 || self->bell < 0 || self->returns < 0 ||
        epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->bell, &event)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void release(struct list *list) {
    for (struct download *one = list->first, *next; one; one = next) {
        next = one->next;
        Py_DECREF(one);
    }
    *list = (struct list){NULL, NULL};
}

/* Not while it runs: its thread's call holds it. */
static void sender_dealloc(PyObject *object) {
    struct sender *self = (struct sender *)object;
    release(&self->given);
    release(&self->returned);
    int all[] = {self->epoll, self->bell, self->returns};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] >= 0) close(all[i]);
    pthread_mutex_destroy(&self->lock);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *sender_add(PyObject *object, PyObject *argument) {
    struct sender *self = (struct sender *)object;
    if (!Py_IS_TYPE(argument, &DownloadType)) return PyErr_Format(PyExc_TypeError, "not a Download: %R", argument);
    struct download *one = (struct download *)argument;
    if (one->busy || one->error) {
        PyErr_SetString(PyExc_RuntimeError, one->busy ? "a sender has it" : "it has failed");
        return NULL;
    }
    one->busy = true;
    one->cold = false;
    Py_INCREF(one);
    pthread_mutex_lock(&self->lock);
    append(&self->given, one);
    pthread_mutex_unlock(&self->lock);
    eventfd_write(self->bell, 1);
    Py_RETURN_NONE;
}

static PyObject *sender_take(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct sender *self = (struct sender *)object;
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    eventfd_t rings;
    eventfd_read(self->returns, &rings);
    while (true) {
        pthread_mutex_lock(&self->lock);
        struct download *one = self->returned.first;
        if (one) drop(&self->returned, one);
        pthread_mutex_unlock(&self->lock);
        if (!one) return list;
        one->busy = false;
        int failed = PyList_Append(list, (PyObject *)one);
        Py_DECREF(one);
        if (failed) {
            Py_DECREF(list);
            return NULL;
        }
    }
}

static PyObject *sender_run(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct sender *self = (struct sender *)object;
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "it runs already");
        return NULL;
    }
    self->running = true;
    Py_BEGIN_ALLOW_THREADS;
    serve(self);
    Py_END_ALLOW_THREADS;
    self->running = false;
    Py_RETURN_NONE;
}

static PyObject *sender_stop(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct sender *self = (struct sender *)object;
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    pthread_mutex_unlock(&self->lock);
    eventfd_write(self->bell, 1);
    Py_RETURN_NONE;
}

static PyObject *sender_fileno(PyObject *object, PyObject *Py_UNUSED(none)) {
    return PyLong_FromLong(((struct sender *)object)->returns);
}

static PyMethodDef sender_methods[] = {
    {"add", sender_add, METH_O, NULL},
    {"take", sender_take, METH_NOARGS, NULL},
    {"run", sender_run, METH_NOARGS, NULL},
    {"stop", sender_stop, METH_NOARGS, NULL},
    {"fileno", sender_fileno, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject SenderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "server.fastpath._fastpath.Sender",
    .tp_basicsize = sizeof(struct sender),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = sender_new,
    .tp_dealloc = sender_dealloc,
    .tp_methods = sender_methods,
};
