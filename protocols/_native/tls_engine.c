/* Server side of TLS connections on the system's libssl, without sockets: what protocols/tls/native_engine.py drives.

   A hand-shake runs without the interpreter's lock, so nothing that OpenSSL calls back enters Python: names, protocols,
   keys of tickets and pre-shared keys are here beforehand. Where a question has to be asked, the hand-shake stops:
   at the ClientHello, for the keys of the identities in it, and at its signature, when the private key is elsewhere.
   The latter stops inside an ASYNC job of OpenSSL, on a stack of its own, which only the thread that began it can
   go on with, and which has to end before its connection can be freed: see drop(). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>

#include "tls_crew.h"

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *soname;
    int derive = 1;
    if (!PyArg_ParseTuple(args, "s|p", &soname, &derive)) return NULL;
    if (library != NULL) return PyUnicode_FromString(OpenSSL_version(0));
    void *opened = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (opened == NULL) {
        PyErr_Format(PyExc_ImportError, "%s", dlerror());
        return NULL;
    }
    for (int i = 0; i < OPENSSL_SYMBOL_COUNT; i++) {
        void *symbol = dlsym(opened, OPENSSL_SYMBOLS[i].name);
        if (symbol == NULL) {
            PyErr_Format(PyExc_ImportError, "%s has no %s", soname, OPENSSL_SYMBOLS[i].name);
            dlclose(opened);
            return NULL;
        }
        memcpy(OPENSSL_SYMBOLS[i].place, &symbol, sizeof symbol);
    }
    if (OpenSSL_version_num() >> 28 != 3) {
        PyErr_Format(PyExc_ImportError, "expected OpenSSL 3 in %s, got %s", soname, OpenSSL_version(0));
        dlclose(opened);
        return NULL;
    }
    const char *missing = fetch_suites();
    ticket_cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    if (missing == NULL && ticket_cipher == NULL) missing = "AES-256-CBC";
    sees_secrets = derive && make_library_context();
    ERR_clear_error();
    if (missing == NULL && (!make_methods() || !make_held_methods())) missing = "methods of private keys";
    if (missing != NULL) {
        ERR_clear_error();
        PyErr_Format(PyExc_ImportError, "%s does not offer %s", soname, missing);
        return NULL;
    }
    library = opened;
    return PyUnicode_FromString(OpenSSL_version(0));
}

/* Beside the default one, and to the end of the process. */
static PyObject *load_provider(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) return NULL;
    if (library == NULL) return PyErr_SetString(PyExc_ImportError, "load() libssl first"), NULL;
    if (strlen(name) > MAX_PROVIDER)
        return PyErr_Format(PyExc_ValueError, "expected a name of at most %d bytes", MAX_PROVIDER);
    ERR_clear_error();
    /* A first provider that is loaded by hand keeps the default one from loading by itself. */
    if (OSSL_PROVIDER_load(NULL, "default") == NULL || OSSL_PROVIDER_load(NULL, name) == NULL) {
        char what[MAX_PROVIDER + 64];
        snprintf(what, sizeof what, "the OpenSSL provider %s does not load", name);
        return refused(what);
    }
    Py_RETURN_NONE;
}

static PyObject *reap(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    thread_number();
    return PyLong_FromLong(reap_orphans());
}

static PyObject *derives(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    return PyBool_FromLong(sees_secrets);
}

static PyObject *counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    return Py_BuildValue("lll", connection_count, stopped_count, orphan_count);
}

static PyMethodDef methods[] = {
    {"load", load, METH_VARARGS, NULL},
    {"load_provider", load_provider, METH_VARARGS, NULL},
    {"reap", reap, METH_NOARGS, NULL},
    {"counts", counts, METH_NOARGS, NULL},
    {"derives", derives, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec(PyObject *module) {
    context_type = (PyTypeObject *)PyType_FromSpec(&Context_spec);
    connection_type = (PyTypeObject *)PyType_FromSpec(&Connection_spec);
    PyObject *crew = PyType_FromSpec(&Crew_spec);
    int failed = context_type == NULL || connection_type == NULL || crew == NULL ||
                 PyModule_AddObjectRef(module, "Context", (PyObject *)context_type) < 0 ||
                 PyModule_AddObjectRef(module, "Connection", (PyObject *)connection_type) < 0 ||
                 PyModule_AddObjectRef(module, "Crew", crew) < 0 ||
                 PyModule_AddIntMacro(module, FAILED) < 0 || PyModule_AddIntMacro(module, WANT_BYTES) < 0 ||
                 PyModule_AddIntMacro(module, COMPLETE) < 0 || PyModule_AddIntMacro(module, WANT_SIGNATURE) < 0 ||
                 PyModule_AddIntMacro(module, WANT_KEYS) < 0 || PyModule_AddIntMacro(module, WANT_FINISHED) < 0 ||
                 PyModule_AddIntMacro(module, CLOSED) < 0;
    Py_XDECREF(crew);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, exec}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "protocols._native.tls_engine", NULL, 0, methods,
                                        module_slots,           NULL,                           NULL, NULL};

PyMODINIT_FUNC PyInit_tls_engine(void) { return PyModuleDef_Init(&definition); }
