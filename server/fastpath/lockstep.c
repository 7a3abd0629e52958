/* TFTP in lockstep (RFC 1350): the ACK of the block under way is answered by the next block.
 *
 * A lane holds a stretch of DATA packets, ready to be sent. Whatever else comes (another
 * packet, an error of the socket, the ACK of the stretch's last block) is kept for Python,
 * which gets the descriptor and arms the lane again when it has seen to it.
 */
#include "fastpath.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>

#define ACK_BYTES 4
#define MAX_KEPT 512  /* most bytes of a packet kept for Python: an ACK has 4 */
#define RTT_MASK 7    /* one round trip of eight is measured: each block is one */

struct lockstep {
    struct lane lane;
    bool armed;
    Py_buffer packets;         /* obj is NULL where there are none */
    unsigned long long stride; /* bytes from one packet of the stretch to the next */
    unsigned long long base;   /* the block of its first packet */
    unsigned long long block;  /* the block under way, counted from 1 without wrapping */
    double sent_at;            /* when that was sent from here; 0: it was not */
    double rtt;                /* the latest round trip measured; 0: none since the lane was armed */
    int kept;                  /* bytes of `packet`; -1: nothing is kept */
    int error;                 /* an errno that is kept; 0: none */
    unsigned char packet[MAX_KEPT];
};

static enum verdict pass(struct lockstep *self) {
    self->armed = false;
    return PASS;
}

static bool has_packet(const struct lockstep *self, unsigned long long block) {
    return block >= self->base && (block - self->base) * self->stride < (unsigned long long)self->packets.len;
}

static enum verdict lockstep_ready(struct lane *lane, double now) {
    struct lockstep *self = (struct lockstep *)lane;
    if (!self->armed) return PASS;
    ssize_t got = recv(lane->fd, self->packet, MAX_KEPT, MSG_DONTWAIT);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return DONE;
        self->error = errno;
        return pass(self);
    }
    const unsigned char *packet = self->packet;
    if (got != ACK_BYTES || packet[0] != 0 || packet[1] != TFTP_OPCODE_ACK ||
        (unsigned)(packet[2] << 8 | packet[3]) != (self->block & 0xffff) || !has_packet(self, self->block + 1)) {
        self->kept = (int)got;
        return pass(self);
    }
    self->block++;
    /* Karn: not of a block that Python sent, which may have been sent before. */
    if (self->sent_at > 0 && !(self->block & RTT_MASK)) self->rtt = now - self->sent_at;
    self->sent_at = now;
    return SEND_LATER;
}

static enum verdict lockstep_send(struct lane *lane) {
    struct lockstep *self = (struct lockstep *)lane;
    unsigned long long at = (self->block - self->base) * self->stride;
    unsigned long long left = (unsigned long long)self->packets.len - at;
    size_t size = (size_t)(left < self->stride ? left : self->stride);
    if (send(lane->fd, (char *)self->packets.buf + at, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return DONE;
    /* As if lost on the way: the client or the timer will ask again. */
    if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS) return DONE;
    /* The kernel reports it to the next send only, whoever calls it. */
    if (errno == ECONNREFUSED) self->error = errno;
    return pass(self);
}

static void drop_packets(struct lockstep *self) {
    self->armed = false;
    if (self->packets.obj) PyBuffer_Release(&self->packets);
    self->packets.obj = NULL;
}

static PyObject *lockstep_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", NULL};
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i", names, &fd)) return NULL;
    struct lockstep *self = (struct lockstep *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->lane.ready = lockstep_ready;
    self->lane.send = lockstep_send;
    self->lane.fd = fd;
    self->kept = -1;
    return (PyObject *)self;
}

static void lockstep_dealloc(PyObject *object) {
    drop_packets((struct lockstep *)object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *lockstep_arm(PyObject *object, PyObject *args, PyObject *kwargs) {
    struct lockstep *self = (struct lockstep *)object;
    static char *names[] = {"packets", "stride", "base", "block", NULL};
    PyObject *packets;
    unsigned long long stride, base, block;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKK", names, &packets, &stride, &base, &block)) return NULL;
    if (stride <= ACK_BYTES || stride > 1 << 16) return PyErr_Format(PyExc_ValueError, "no stride: %llu", stride);
    if (self->kept >= 0 || self->error) {
        PyErr_SetString(PyExc_RuntimeError, "what was kept has first to be taken: recv");
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(packets, &view, PyBUF_SIMPLE)) return NULL;
    drop_packets(self);
    self->packets = view;
    self->stride = stride;
    self->base = base;
    self->block = block;
    self->sent_at = self->rtt = 0;
    self->armed = true;
    Py_RETURN_NONE;
}

static PyObject *lockstep_disarm(PyObject *object, PyObject *Py_UNUSED(none)) {
    drop_packets((struct lockstep *)object);
    Py_RETURN_NONE;
}

static PyObject *lockstep_recv(PyObject *object, PyObject *wanted) {
    struct lockstep *self = (struct lockstep *)object;
    long most = PyLong_AsLong(wanted);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (most > MAX_KEPT) most = MAX_KEPT;
    if (most < 0) most = 0;
    if (self->kept >= 0) {
        int kept = self->kept < most ? self->kept : (int)most;
        self->kept = -1;
        return PyBytes_FromStringAndSize((char *)self->packet, kept);
    }
    if (self->error) {
        errno = self->error;
        self->error = 0;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    ssize_t got = recv(self->lane.fd, self->packet, (size_t)most, MSG_DONTWAIT);
    if (got < 0) return PyErr_SetFromErrno(PyExc_OSError);
    return PyBytes_FromStringAndSize((char *)self->packet, got);
}

static PyMethodDef lockstep_methods[] = {
    {"arm", (PyCFunction)(void (*)(void))lockstep_arm, METH_VARARGS | METH_KEYWORDS, NULL},
    {"disarm", lockstep_disarm, METH_NOARGS, NULL},
    {"recv", lockstep_recv, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lockstep_members[] = {
    {"armed", T_BOOL, offsetof(struct lockstep, armed), READONLY, NULL},
    {"block", T_ULONGLONG, offsetof(struct lockstep, block), READONLY, NULL},
    {"sent_at", T_DOUBLE, offsetof(struct lockstep, sent_at), READONLY, NULL},
    {"rtt", T_DOUBLE, offsetof(struct lockstep, rtt), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject LockstepType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "server.fastpath._fastpath.Lockstep",
    .tp_basicsize = sizeof(struct lockstep),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lockstep_new,
    .tp_dealloc = lockstep_dealloc,
    .tp_methods = lockstep_methods,
    .tp_members = lockstep_members,
};
