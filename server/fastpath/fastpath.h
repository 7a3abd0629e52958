/* The fast path: what poller.c knows of a lane, and lanes of the poller. */
#ifndef FASTPATH_H
#define FASTPATH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

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

bool is_lane(PyObject *);

#endif
