/* The fast path: what poller.c knows of a lane, and lanes of the poller. */
#ifndef FASTPATH_H
#define FASTPATH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

/* Numbers that Python imports from here (module.c), so that they stand in one place. */

/* Answers of so many bytes are sent a few at a time, so that short ones do not wait for the
 * copies of all of them. */
#define BULK_BYTES (96 * 1024)
/* So many of them leave in a turn while there are no short ones. */
#define BULK_PER_TURN 4
/* After a short answer so many turns send one long one each: where there are short answers,
 * there will be more. */
#define MIXED_TURNS 1000

/* A download goes on as far as both ends of each step of so many bytes are in memory; a step is
 * what has to be read from a disk else. */
#define DOWNLOAD_STEP (1024 * 1024)

/* NBD (the protocol text, "Transmission"): what begins a request and a reply, and the one
 * kind of chunk that a lane sends. */
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_CHUNK_DONE 1
#define NBD_CHUNK_OFFSET_DATA 1

/* TFTP (RFC 1350, section 5). */
#define TFTP_OPCODE_ACK 4

/* Whether a lane did all that was to be done, has something to be sent when all others were
 * read, or a few at a time (long answers), or Python has to look at its descriptor. */
enum verdict { DONE, SEND_LATER, SEND_IN_BULK, PASS };

/* A descriptor that is served in here as long as nothing unusual happens. Its functions
 * run without the interpreter's lock, in the loop's thread: no Python object is touched. */
struct lane {
    PyObject_HEAD
    enum verdict (*ready)(struct lane *, double now); /* there is something to be read */
    enum verdict (*send)(struct lane *);              /* its turn has come; gives DONE or PASS */
    int fd;
    bool queued; /* the poller has it among those with long answers */
};

extern PyTypeObject PollerType;
extern PyTypeObject LockstepType;
extern PyTypeObject ReadsType;
extern PyTypeObject DownloadType;
extern PyTypeObject SenderType;

bool is_lane(PyObject *);

#endif
