/* The module server.fastpath._fastpath; what it holds is described in _fastpath.pyi. */
#include "fastpath.h"

bool is_lane(PyObject *object) { return Py_IS_TYPE(object, &LockstepType) || Py_IS_TYPE(object, &ReadsType); }

static const struct {
    const char *name;
    long value;
} constants[] = {
    {"BULK_BYTES", BULK_BYTES},
    {"BULK_PER_TURN", BULK_PER_TURN},
    {"MIXED_TURNS", MIXED_TURNS},
    {"DOWNLOAD_STEP", DOWNLOAD_STEP},
    {"NBD_REQUEST_MAGIC", NBD_REQUEST_MAGIC},
    {"NBD_SIMPLE_REPLY_MAGIC", NBD_SIMPLE_REPLY_MAGIC},
    {"NBD_STRUCTURED_REPLY_MAGIC", NBD_STRUCTURED_REPLY_MAGIC},
    {"NBD_CHUNK_DONE", NBD_CHUNK_DONE},
    {"NBD_CHUNK_OFFSET_DATA", NBD_CHUNK_OFFSET_DATA},
    {"TFTP_OPCODE_ACK", TFTP_OPCODE_ACK},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_fastpath",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__fastpath(void);

PyMODINIT_FUNC PyInit__fastpath(void) {
    PyObject *self = PyModule_Create(&module);
    if (!self) return NULL;
    if (PyModule_AddType(self, &PollerType) || PyModule_AddType(self, &LockstepType) ||
        PyModule_AddType(self, &ReadsType) || PyModule_AddType(self, &DownloadType) ||
        PyModule_AddType(self, &SenderType)) {
        Py_DECREF(self);
        return NULL;
    }
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (PyModule_AddIntConstant(self, constants[i].name, constants[i].value)) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return self;
}
