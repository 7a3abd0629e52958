/* NBD's plain reads of what is in memory (the NBD protocol text, "Transmission").
 *
 * A lane takes what a client has asked for since the last turn, all or nothing: whole
 * requests, all of them reads within bounds, of parts that are in memory, few enough for one
 * turn. They are answered by one sendmsg out of the map; long ones by sendfile, which copies
 * nothing. Anything else (another command, half a request, a part that a disk has to be waited
 * for, an error) is kept for Python as it came, and so are answers that the socket does not
 * take whole.
 */
#define _GNU_SOURCE
#include "fastpath.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define TURN_REQUESTS 128          /* of one turn; their buffers fit into one sendmsg (IOV_MAX) */
#define WAITING_REQUESTS 8         /* so many may wait for their turn to be sent */
#define SENDFILE_BYTES (64 * 1024) /* a read of so many bytes costs less without its copy */

/* A request as it comes; all numbers in network byte order, as in the headers below. */
struct __attribute__((packed)) request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
};

_Static_assert(sizeof(struct request) == 28, "a request as the protocol text lays it out");

struct __attribute__((packed)) simple_head {
    uint32_t magic, error;
    uint64_t cookie;
};

struct __attribute__((packed)) data_head {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
    uint64_t offset;
};

union head {
    struct simple_head simple;
    struct data_head data;
};

struct reads {
    struct lane lane;
    bool armed, structured;
    PyObject *view;      /* the export, as a memoryview of bytes */
    Py_buffer map, hot;  /* its bytes; a byte for each 2**shift of them, 1: in memory */
    int file;            /* that it is a map of; -1: of none */
    unsigned shift, maximum;
    unsigned long long turn_bytes;
    unsigned long long payload, requests; /* bytes, and requests, taken from here */
    struct request waiting[WAITING_REQUESTS]; /* taken, and not sent yet: `count` */
    int count;
    /* For Python, both allocated: what came and was not taken, and answers not sent whole. */
    unsigned char *kept;
    size_t kept_bytes;
    struct request *unsent;
    int unsent_count;
    size_t sent; /* bytes of `unsent` that have left */
    int error;   /* an errno that is kept; 0: none */
};

static enum verdict pass(struct reads *self) {
    self->armed = false;
    return PASS;
}

static size_t head_bytes(const struct reads *self) {
    return self->structured ? sizeof(struct data_head) : sizeof(struct simple_head);
}

static void write_head(const struct reads *self, const struct request *request, union head *head) {
    if (self->structured) {
        head->data = (struct data_head){
            htobe32(NBD_STRUCTURED_REPLY_MAGIC),
            htobe16(NBD_CHUNK_DONE),
            htobe16(NBD_CHUNK_OFFSET_DATA),
            request->cookie,
            htobe32(be32toh(request->length) + 8),
            request->offset,
        };
    } else {
        head->simple = (struct simple_head){htobe32(NBD_SIMPLE_REPLY_MAGIC), 0, request->cookie};
    }
}

/* Whether a request can be answered here and now. */
static bool is_plain(const struct reads *self, const struct request *request) {
    uint64_t offset = be64toh(request->offset), size = (uint64_t)self->map.len;
    uint32_t length = be32toh(request->length);
    if (request->magic != htobe32(NBD_REQUEST_MAGIC) || request->flags || request->type) return false;
    if (!length || length > self->maximum || offset >= size || length > size - offset) return false;
    uint64_t first = offset >> self->shift, last = (offset + length - 1) >> self->shift;
    return last < (uint64_t)self->hot.len && !memchr((char *)self->hot.buf + first, 0, last - first + 1);
}

/* Python's from here on: answers of which `sent` bytes have left; below 0: errno says why none. */
static enum verdict leave_unsent(struct reads *self, const struct request *requests, int count, ssize_t sent) {
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        self->error = errno;
        return pass(self);
    }
    size_t bytes = (size_t)count * sizeof *requests;
    self->unsent = PyMem_RawMalloc(bytes);
    if (!self->unsent) {
        self->error = ENOMEM;
        return pass(self);
    }
    memcpy(self->unsent, requests, bytes);
    self->unsent_count = count;
    self->sent = sent < 0 ? 0 : (size_t)sent;
    return pass(self);
}

/* Send the answers of some requests; PASS where not all has left. */
static enum verdict answer(struct reads *self, const struct request *requests, int count) {
    union head heads[TURN_REQUESTS];
    struct iovec buffers[2 * TURN_REQUESTS];
    size_t whole = 0;
    for (int i = 0; i < count; i++) {
        size_t length = be32toh(requests[i].length);
        write_head(self, &requests[i], &heads[i]);
        buffers[2 * i] = (struct iovec){&heads[i], head_bytes(self)};
        buffers[2 * i + 1] = (struct iovec){(char *)self->map.buf + be64toh(requests[i].offset), length};
        whole += head_bytes(self) + length;
    }
    struct msghdr message = {.msg_iov = buffers, .msg_iovlen = (size_t)count * 2};
    ssize_t sent = sendmsg(self->lane.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent == (ssize_t)whole ? DONE : leave_unsent(self, requests, count, sent);
}

/* The same without a copy: each page is the file's own until the client has it. */
static enum verdict answer_from_file(struct reads *self, const struct request *requests, int count) {
    ssize_t sent = 0; /* of all that is to be sent */
    for (int i = 0; i < count; i++) {
        union head head;
        write_head(self, &requests[i], &head);
        ssize_t done = send(self->lane.fd, &head, head_bytes(self), MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
        if (done != (ssize_t)head_bytes(self)) {
            if (done < 0 && (!sent || (errno != EAGAIN && errno != EINTR)))
                return leave_unsent(self, requests, count, -1);
            return leave_unsent(self, requests, count, sent + (done < 0 ? 0 : done));
        }
        sent += done;
        off_t offset = (off_t)be64toh(requests[i].offset);
        size_t length = be32toh(requests[i].length);
        done = sendfile(self->lane.fd, self->file, &offset, length);
        if (!done) { /* it was cut short under us */
            errno = EIO;
            return leave_unsent(self, requests, count, -1);
        }
        if (done < 0 && (errno == EINVAL || errno == ENOSYS)) {
            /* A file system that cannot: by the map from now on. */
            self->file = -1;
            return leave_unsent(self, requests, count, sent);
        }
        if (done < 0 && errno != EAGAIN && errno != EINTR) return leave_unsent(self, requests, count, -1);
        sent += done < 0 ? 0 : done;
        if (done != (ssize_t)length) return leave_unsent(self, requests, count, sent);
    }
    return DONE;
}

static enum verdict keep(struct reads *self, const void *data, size_t size) {
    self->kept = PyMem_RawMalloc(size);
    if (!self->kept) self->error = ENOMEM;
    else memcpy(self->kept, data, self->kept_bytes = size);
    return pass(self);
}

static enum verdict reads_ready(struct lane *lane, double Py_UNUSED(now)) {
    struct reads *self = (struct reads *)lane;
    if (self->count) return DONE; /* what was asked before is answered first */
    if (!self->armed) return PASS;
    struct request requests[TURN_REQUESTS];
    ssize_t got = recv(lane->fd, requests, sizeof requests, MSG_DONTWAIT);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return DONE;
        self->error = errno;
        return pass(self);
    }
    if (!got) return pass(self); /* Python will read the end, too */
    int count = (int)(got / (ssize_t)sizeof(struct request));
    unsigned long long payload = 0;
    bool plain = got % (ssize_t)sizeof(struct request) == 0;
    for (int i = 0; plain && i < count; i++) {
        plain = is_plain(self, &requests[i]);
        payload += be32toh(requests[i].length);
    }
    bool bulk = payload >= BULK_BYTES;
    /* Fair turns of what is more than that are Python's. */
    if (!plain || (payload > self->turn_bytes && count > 1) || (bulk && count > WAITING_REQUESTS))
        return keep(self, requests, (size_t)got);
    self->payload += payload;
    self->requests += (unsigned)count;
    if (count > WAITING_REQUESTS) return answer(self, requests, count);
    memcpy(self->waiting, requests, (size_t)got);
    self->count = count;
    return bulk ? SEND_IN_BULK : SEND_LATER;
}

static enum verdict reads_send(struct lane *lane) {
    struct reads *self = (struct reads *)lane;
    int count = self->count;
    self->count = 0;
    bool is_long = self->file >= 0;
    for (int i = 0; i < count; i++) is_long = is_long && be32toh(self->waiting[i].length) >= SENDFILE_BYTES;
    if (!count) return DONE;
    return is_long ? answer_from_file(self, self->waiting, count) : answer(self, self->waiting, count);
}

static PyObject *reads_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "view", "hot", "shift", "structured", "maximum", "turn_bytes", "file", NULL};
    int fd, structured, file = -1;
    PyObject *view, *hot;
    unsigned shift, maximum;
    unsigned long long turn_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO!OIpIK|i", names, &fd, &PyMemoryView_Type, &view, &hot, &shift,
                                     &structured, &maximum, &turn_bytes, &file))
        return NULL;
    if (shift > 40) return PyErr_Format(PyExc_ValueError, "no shift: %u", shift);
    struct reads *self = (struct reads *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->lane.ready = reads_ready;
    self->lane.send = reads_send;
    self->lane.fd = fd;
    if (PyObject_GetBuffer(view, &self->map, PyBUF_SIMPLE) || PyObject_GetBuffer(hot, &self->hot, PyBUF_SIMPLE)) {
        Py_DECREF(self);
        return NULL;
    }
    self->view = Py_NewRef(view);
    self->shift = shift;
    self->structured = structured;
    self->maximum = maximum;
    self->turn_bytes = turn_bytes;
    self->file = file;
    return (PyObject *)self;
}

static void reads_dealloc(PyObject *object) {
    struct reads *self = (struct reads *)object;
    PyMem_RawFree(self->kept);
    PyMem_RawFree(self->unsent);
    PyBuffer_Release(&self->map);
    PyBuffer_Release(&self->hot);
    Py_XDECREF(self->view);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *reads_arm(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct reads *self = (struct reads *)object;
    if (self->kept || self->unsent || self->count || self->error) {
        PyErr_SetString(PyExc_RuntimeError, "what was kept has first to be taken: take_unsent, recv_into");
        return NULL;
    }
    self->armed = true;
    Py_RETURN_NONE;
}

static PyObject *reads_disarm(PyObject *object, PyObject *Py_UNUSED(none)) {
    ((struct reads *)object)->armed = false;
    Py_RETURN_NONE;
}

/* Append [data, data + size) or the view's part, less the `skip` bytes that have left. */
static int append_rest(PyObject *list, PyObject *view, const char *data, size_t start, size_t size, size_t *skip) {
    size_t gone = *skip < size ? *skip : size;
    *skip -= gone;
    if (gone == size) return 0;
    PyObject *part = view ? PySequence_GetSlice(view, (Py_ssize_t)(start + gone), (Py_ssize_t)(start + size))
                          : PyBytes_FromStringAndSize(data + gone, (Py_ssize_t)(size - gone));
    if (!part) return -1;
    int failed = PyList_Append(list, part);
    Py_DECREF(part);
    return failed;
}

static PyObject *reads_take_unsent(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct reads *self = (struct reads *)object;
    const struct request *requests = self->unsent;
    int count = self->unsent_count;
    size_t skip = self->sent;
    if (!requests) { /* what waits for its turn, then */
        requests = self->waiting;
        count = self->count;
        skip = 0;
    }
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        union head head;
        write_head(self, &requests[i], &head);
        size_t offset = be64toh(requests[i].offset), length = be32toh(requests[i].length);
        if (append_rest(list, NULL, (char *)&head, 0, head_bytes(self), &skip) ||
            append_rest(list, self->view, NULL, offset, length, &skip))
            Py_CLEAR(list);
    }
    PyMem_RawFree(self->unsent);
    self->unsent = NULL;
    self->unsent_count = self->count = 0;
    self->sent = 0;
    return list;
}

static PyObject *reads_recv_into(PyObject *object, PyObject *target) {
    struct reads *self = (struct reads *)object;
    Py_buffer buffer;
    if (PyObject_GetBuffer(target, &buffer, PyBUF_WRITABLE)) return NULL;
    ssize_t got;
    if (self->error) {
        errno = self->error;
        self->error = 0;
        got = -1;
    } else if (self->kept) {
        got = (ssize_t)self->kept_bytes;
        if (got > buffer.len) {
            PyBuffer_Release(&buffer);
            return PyErr_Format(PyExc_ValueError, "%zd bytes were kept, and there is room for less", got);
        }
        memcpy(buffer.buf, self->kept, self->kept_bytes);
        PyMem_RawFree(self->kept);
        self->kept = NULL;
    } else {
        got = recv(self->lane.fd, buffer.buf, (size_t)buffer.len, MSG_DONTWAIT);
    }
    PyBuffer_Release(&buffer);
    return got < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromSsize_t(got);
}

static PyMethodDef reads_methods[] = {
    {"arm", reads_arm, METH_NOARGS, NULL},
    {"disarm", reads_disarm, METH_NOARGS, NULL},
    {"take_unsent", reads_take_unsent, METH_NOARGS, NULL},
    {"recv_into", reads_recv_into, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reads_members[] = {
    {"armed", T_BOOL, offsetof(struct reads, armed), READONLY, NULL},
    {"payload", T_ULONGLONG, offsetof(struct reads, payload), READONLY, NULL},
    {"requests", T_ULONGLONG, offsetof(struct reads, requests), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ReadsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "server.fastpath._fastpath.Reads",
    .tp_basicsize = sizeof(struct reads),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reads_new,
    .tp_dealloc = reads_dealloc,
    .tp_methods = reads_methods,
    .tp_members = reads_members,
};
