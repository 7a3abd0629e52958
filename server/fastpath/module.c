/* The module server.fastpath._fastpath; what it holds is described in _fastpath.pyi. */
#include "fastpath.h"

bool is_lane(PyObject *object) { return Py_IS_TYPE(object, &LockstepType) || Py_IS_TYPE(object, &ReadsType); }

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
        PyModule_AddType(self, &ReadsType)) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
