/* Seals and opens TLS 1.3 records with the system's libcrypto: the twin in C of protocols/tls/record_protection.py.

   libcrypto is opened at run time and its functions are declared here, so that no headers of it are needed; the
   declarations are those of libcrypto.so.3. Nothing here knows a rule of a connection but the framing of records,
   their limits, and the bound on empty ones; records.py has the others. The interpreter's lock is held throughout,
   so an object is used by one thread at a time. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

enum { APPLICATION_DATA = 23 };
enum { MAX_PLAINTEXT = 1 << 14, MAX_CIPHERTEXT = MAX_PLAINTEXT + 256, MAX_EMPTY_RECORDS = 32 };
enum { HEADER = 5, TAG = 16, IV = 12, MAX_SECRET = 48, MAX_KEY = 32 };
/* What stops open(), as in record_protection.py. */
enum {
    WRONG_TYPE = -1,
    WRONG_VERSION = -2,
    TOO_LONG = -3,
    TOO_SHORT = -4,
    BAD_TAG = -5,
    TOO_MUCH_PLAINTEXT = -6,
    NO_TYPE = -7,
    EMPTY_FLOOD = -8
};
enum { GET_TAG = 0x10, SET_TAG = 0x11 };

typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_md_st EVP_MD;
typedef struct hmac_ctx_st HMAC_CTX;

static EVP_CIPHER_CTX *(*ctx_new)(void);
static void (*ctx_free)(EVP_CIPHER_CTX *);
static int (*ctx_ctrl)(EVP_CIPHER_CTX *, int, int, void *);
static EVP_CIPHER *(*cipher_fetch)(void *, const char *, const char *);
static int (*cipher_init)(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *, const unsigned char *, int);
static int (*cipher_update)(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);
static int (*cipher_final)(EVP_CIPHER_CTX *, unsigned char *, int *);
static EVP_MD *(*digest_fetch)(void *, const char *, const char *);
static HMAC_CTX *(*hmac_new)(void);
static void (*hmac_free)(HMAC_CTX *);
static int (*hmac_init)(HMAC_CTX *, const void *, int, const EVP_MD *, void *);
static int (*hmac_update)(HMAC_CTX *, const unsigned char *, size_t);
static int (*hmac_final)(HMAC_CTX *, unsigned char *, unsigned int *);
static void (*cleanse)(void *, size_t);
static void (*clear_errors)(void);
static const char *(*version_text)(int);

static const struct {
    const char *name;
    void *place;
} SYMBOLS[] = {
    {"EVP_CIPHER_CTX_new", &ctx_new},    {"EVP_CIPHER_CTX_free", &ctx_free},   {"EVP_CIPHER_CTX_ctrl", &ctx_ctrl},
    {"EVP_CIPHER_fetch", &cipher_fetch}, {"EVP_CipherInit_ex", &cipher_init},  {"EVP_CipherUpdate", &cipher_update},
    {"EVP_CipherFinal_ex", &cipher_final}, {"OPENSSL_cleanse", &cleanse},      {"ERR_clear_error", &clear_errors},
    {"OpenSSL_version", &version_text},  {"EVP_MD_fetch", &digest_fetch},      {"HMAC_CTX_new", &hmac_new},
    {"HMAC_CTX_free", &hmac_free},       {"HMAC_Init_ex", &hmac_init},         {"HMAC_Update", &hmac_update},
    {"HMAC_Final", &hmac_final},
};

static struct suite {
    int number;
    const char *cipher_name, *digest_name;
    int secret_size, key_size;
    EVP_CIPHER *cipher;
    EVP_MD *digest;
} SUITES[] = {
    {0x1301, "AES-128-GCM", "SHA256", 32, 16, NULL, NULL},
    {0x1302, "AES-256-GCM", "SHA384", 48, 32, NULL, NULL},
    {0x1303, "ChaCha20-Poly1305", "SHA256", 32, 32, NULL, NULL},
};
enum { SUITE_COUNT = sizeof SUITES / sizeof *SUITES };

static int loaded;

typedef struct {
    PyObject_HEAD
    EVP_CIPHER_CTX *ctx;
    const struct suite *suite;
    unsigned long long sequence;
    unsigned char secret[MAX_SECRET], key[MAX_KEY], iv[IV];
    char seals, wiped, awake;
    unsigned char empty_records;
    short place;
} Direction;

/* Those that have a cipher context, which weighs more than all else: the last that were made. */
enum { MAX_AWAKE = 1024 };
static Direction *awake[MAX_AWAKE];
static int next_place;

/* ------------------------------------------------------------------ one record */

static void rest(Direction *self) {
    if (self->ctx == NULL) return;
    ctx_free(self->ctx);
    self->ctx = NULL;
    self->awake = 0;
    awake[self->place] = NULL;
}

/* The context, which may be another's from the next allocation of a Python object on: a collection may run code. */
static int wake(Direction *self) {
    if (self->wiped) {
        PyErr_SetString(PyExc_ValueError, "the keys of this direction are wiped");
        return -1;
    }
    self->ctx = ctx_new();
    if (self->ctx == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (cipher_init(self->ctx, self->suite->cipher, NULL, self->key, NULL, self->seals) != 1) {
        ctx_free(self->ctx);
        self->ctx = NULL;
        clear_errors();
        PyErr_SetString(PyExc_RuntimeError, "libcrypto refused a key");
        return -1;
    }
    if (awake[next_place] != NULL) rest(awake[next_place]);
    awake[next_place] = self;
    self->place = (short)next_place;
    self->awake = 1;
    next_place = (next_place + 1) % MAX_AWAKE;
    return 0;
}

/* Give the cipher the record's nonce (RFC 8446 section 5.3) and its header. */
static int begin(Direction *self, const unsigned char *header) {
    unsigned char nonce[IV];
    memcpy(nonce, self->iv, IV);
    for (int i = 0; i < 8; i++) nonce[IV - 1 - i] ^= (unsigned char)(self->sequence >> (8 * i));
    int size;
    return cipher_init(self->ctx, NULL, NULL, NULL, nonce, -1) == 1 &&
           cipher_update(self->ctx, NULL, &size, header, HEADER) == 1;
}

static int seal_one(Direction *self, unsigned char *out, unsigned char kind, const unsigned char *data, int length) {
    int size = length + 1 + TAG, done;
    out[0] = APPLICATION_DATA, out[1] = out[2] = 3, out[3] = (unsigned char)(size >> 8), out[4] = (unsigned char)size;
    unsigned char *body = out + HEADER;
    if (!begin(self, out)) return 0;
    if (length && (cipher_update(self->ctx, body, &done, data, length) != 1 || done != length)) return 0;
    if (cipher_update(self->ctx, body + length, &done, &kind, 1) != 1 || done != 1) return 0;
    if (cipher_final(self->ctx, body + length + 1, &done) != 1) return 0;
    if (ctx_ctrl(self->ctx, GET_TAG, TAG, body + length + 1) != 1) return 0;
    self->sequence++;
    return 1;
}

/* Decrypts `size` bytes behind the header into out, which has room for size - TAG. */
static int open_one(Direction *self, unsigned char *out, const unsigned char *record, int size) {
    unsigned char tag[TAG];
    int inner = size - TAG, done;
    memcpy(tag, record + HEADER + inner, TAG);
    if (!begin(self, record) || cipher_update(self->ctx, out, &done, record + HEADER, inner) != 1 || done != inner ||
        ctx_ctrl(self->ctx, SET_TAG, TAG, tag) != 1 || cipher_final(self->ctx, out + inner, &done) != 1) {
        /* What does not authenticate is shown to nobody. */
        cleanse(out, (size_t)inner);
        clear_errors();
        return 0;
    }
    self->sequence++;
    return 1;
}

/* ------------------------------------------------------------------ many */

static PyObject *Sealer_seal(Direction *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "seal: expected 2 arguments, got %zd", count);
        return NULL;
    }
    long kind = PyLong_AsLong(args[0]);
    if (kind == -1 && PyErr_Occurred()) return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) return NULL;
    Py_ssize_t records = data.len ? (data.len - 1) / MAX_PLAINTEXT + 1 : 1;
    PyObject *sealed = PyBytes_FromStringAndSize(NULL, data.len + records * (HEADER + 1 + TAG));
    if (sealed == NULL) {
        PyBuffer_Release(&data);
        return NULL;
    }
    if (self->ctx == NULL && wake(self) < 0) {
        Py_DECREF(sealed);
        PyBuffer_Release(&data);
        return NULL;
    }
    unsigned char *out = (unsigned char *)PyBytes_AS_STRING(sealed);
    const unsigned char *source = data.buf;
    Py_ssize_t left = data.len;
    while (records--) {
        int length = left < MAX_PLAINTEXT ? (int)left : MAX_PLAINTEXT;
        if (!seal_one(self, out, (unsigned char)kind, source, length)) {
            clear_errors();
            Py_DECREF(sealed);
            PyBuffer_Release(&data);
            PyErr_SetString(PyExc_RuntimeError, "libcrypto could not seal a record");
            return NULL;
        }
        out += HEADER + length + 1 + TAG, source += length, left -= length;
    }
    PyBuffer_Release(&data);
    return sealed;
}

static int size_of(const unsigned char *header) { return header[3] << 8 | header[4]; }

static int refusal_of(const unsigned char *header) {
    int size = size_of(header);
    if (header[0] != APPLICATION_DATA) return WRONG_TYPE;
    if (header[1] != 3 || header[2] != 3) return WRONG_VERSION;
    return size > MAX_CIPHERTEXT ? TOO_LONG : size < 1 + TAG ? TOO_SHORT : 0;
}

/* Bytes that the records from `at` on may decrypt to, padding and types included. */
static Py_ssize_t room_for(const unsigned char *data, Py_ssize_t at, Py_ssize_t total, int single) {
    Py_ssize_t room = 0;
    while (total - at >= HEADER && !refusal_of(data + at)) {
        int size = size_of(data + at);
        if (total - at < HEADER + size) break;
        room += size - TAG, at += HEADER + size;
        if (single) break;
    }
    return room;
}

static PyObject *Opener_open(Direction *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "open: expected 3 arguments, got %zd", count);
        return NULL;
    }
    Py_ssize_t at = PyLong_AsSsize_t(args[1]);
    int single = PyObject_IsTrue(args[2]);
    if ((at == -1 && PyErr_Occurred()) || single < 0) return NULL;
    Py_buffer buffer;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0) return NULL;
    const unsigned char *data = buffer.buf;
    Py_ssize_t total = buffer.len, filled = 0;
    if (at < 0 || at > total) {
        PyBuffer_Release(&buffer);
        PyErr_Format(PyExc_ValueError, "open: expected a place in %zd bytes, got %zd", total, at);
        return NULL;
    }
    PyObject *plain = PyBytes_FromStringAndSize(NULL, room_for(data, at, total, single));
    if (plain == NULL) {
        PyBuffer_Release(&buffer);
        return NULL;
    }
    if (self->ctx == NULL && wake(self) < 0) {
        Py_DECREF(plain);
        PyBuffer_Release(&buffer);
        return NULL;
    }
    unsigned char *out = (unsigned char *)PyBytes_AS_STRING(plain);
    PyObject *content = NULL;
    int kind = 0;
    while (total - at >= HEADER) {
        const unsigned char *record = data + at;
        if ((kind = refusal_of(record))) break;
        int size = size_of(record);
        if (total - at < HEADER + size) break;
        if (!open_one(self, out + filled, record, size)) {
            kind = BAD_TAG;
            break;
        }
        int length = size - TAG;
        if (length > MAX_PLAINTEXT + 1) {
            kind = TOO_MUCH_PLAINTEXT;
            break;
        }
        while (length && !out[filled + length - 1]) length--;
        if (!length) {
            kind = NO_TYPE;
            break;
        }
        int found = out[filled + --length];
        if (found == APPLICATION_DATA) {
            if (length) {
                self->empty_records = 0;
            } else if (++self->empty_records > MAX_EMPTY_RECORDS) {
                kind = EMPTY_FLOOD;
                break;
            }
        }
        at += HEADER + size;
        if (found != APPLICATION_DATA || single) {
            kind = found;
            content = PyBytes_FromStringAndSize((char *)out + filled, length);
            break;
        }
        filled += length;
    }
    PyBuffer_Release(&buffer);
    if (kind > 0 && content == NULL) {
        Py_DECREF(plain);
        return NULL;
    }
    if (filled != PyBytes_GET_SIZE(plain) && _PyBytes_Resize(&plain, filled) < 0) {
        Py_XDECREF(content);
        return NULL;
    }
    if (content == NULL) return Py_BuildValue("Nniy#", plain, at, kind, "", (Py_ssize_t)0);
    return Py_BuildValue("NniN", plain, at, kind, content);
}

/* ------------------------------------------------------------------ a direction's life */

static PyObject *Direction_rest(Direction *self, PyObject *Py_UNUSED(none)) {
    rest(self);
    Py_RETURN_NONE;
}

static PyObject *Direction_wipe(Direction *self, PyObject *Py_UNUSED(none)) {
    /* EVP_CIPHER_CTX_free overwrites the key schedule. */
    rest(self);
    cleanse(self->secret, sizeof self->secret);
    cleanse(self->key, sizeof self->key);
    cleanse(self->iv, sizeof self->iv);
    self->sequence = 0;
    self->wiped = 1;
    Py_RETURN_NONE;
}

static int put(unsigned char *place, Py_buffer *given, Py_ssize_t size, const char *name) {
    if (given->len != size) {
        PyErr_Format(PyExc_ValueError, "expected %zd bytes of %s, got %zd", size, name, given->len);
        return 0;
    }
    memcpy(place, given->buf, (size_t)size);
    return 1;
}

static int take_keys(Direction *self, Py_buffer *secret, Py_buffer *key, Py_buffer *iv) {
    int done = put(self->secret, secret, self->suite->secret_size, "secret") &&
               put(self->key, key, self->suite->key_size, "key") && put(self->iv, iv, IV, "iv");
    PyBuffer_Release(secret);
    PyBuffer_Release(key);
    PyBuffer_Release(iv);
    if (done) self->wiped = 0;
    return done;
}

static PyObject *Direction_rekey(Direction *self, PyObject *args) {
    Py_buffer secret, key, iv;
    if (!PyArg_ParseTuple(args, "y*y*y*", &secret, &key, &iv)) return NULL;
    Py_DECREF(Direction_wipe(self, NULL));
    if (!take_keys(self, &secret, &key, &iv)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *Direction_secret(Direction *self, PyObject *Py_UNUSED(none)) {
    if (self->wiped) {
        PyErr_SetString(PyExc_ValueError, "the keys of this direction are wiped");
        return NULL;
    }
    return PyBytes_FromStringAndSize((char *)self->secret, self->suite->secret_size);
}

static PyObject *make(PyTypeObject *type, PyObject *args, int seals) {
    int number;
    Py_buffer secret, key, iv;
    PyObject *sequence;
    if (!loaded) {
        PyErr_SetString(PyExc_ImportError, "load() libcrypto first");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iy*y*y*O", &number, &secret, &key, &iv, &sequence)) return NULL;
    Direction *self = (Direction *)type->tp_alloc(type, 0);
    if (self == NULL) goto refused;
    self->seals = (char)seals;
    self->wiped = 1;
    for (int i = 0; i < SUITE_COUNT; i++)
        if (SUITES[i].number == number) self->suite = &SUITES[i];
    if (self->suite == NULL) {
        PyErr_Format(PyExc_ValueError, "expected a cipher suite that is known, got %d", number);
        goto refused;
    }
    self->sequence = PyLong_AsUnsignedLongLong(sequence);
    if (PyErr_Occurred()) goto refused;
    if (!take_keys(self, &secret, &key, &iv)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
refused:
    Py_XDECREF(self);
    PyBuffer_Release(&secret);
    PyBuffer_Release(&key);
    PyBuffer_Release(&iv);
    return NULL;
}

static PyObject *Sealer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) { return make(type, args, 1); }
static PyObject *Opener_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) { return make(type, args, 0); }

static void Direction_dealloc(Direction *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(Direction_wipe(self, NULL));
    type->tp_free(self);
    Py_DECREF(type);
}

#define METHODS_OF_BOTH                                                                                       \
    {"rekey", (PyCFunction)Direction_rekey, METH_VARARGS, "Go on with the next key; the secret is only kept."}, \
        {"secret", (PyCFunction)Direction_secret, METH_NOARGS, "The traffic secret of the key."},              \
        {"rest", (PyCFunction)Direction_rest, METH_NOARGS, "Free the cipher until the next record."},          \
        {"wipe", (PyCFunction)Direction_wipe, METH_NOARGS, "Overwrite the keys."}, {NULL, NULL, 0, NULL}

static PyMethodDef Sealer_methods[] = {
    {"seal", (PyCFunction)(void (*)(void))Sealer_seal, METH_FASTCALL, "seal(content_type, data) -> records"},
    METHODS_OF_BOTH};
static PyMethodDef Opener_methods[] = {
    {"open", (PyCFunction)(void (*)(void))Opener_open, METH_FASTCALL,
     "open(data, at, single) -> plaintext, end, kind, content"},
    METHODS_OF_BOTH};

static PyMemberDef Sealer_members[] = {
    {"sequence", T_ULONGLONG, offsetof(Direction, sequence), READONLY, "Records sealed under the key."},
    {"awake", T_BOOL, offsetof(Direction, awake), READONLY, "Whether the cipher context is there."},
    {NULL}};
static PyMemberDef Opener_members[] = {
    {"sequence", T_ULONGLONG, offsetof(Direction, sequence), READONLY, "Records opened under the key."},
    {"awake", T_BOOL, offsetof(Direction, awake), READONLY, "Whether the cipher context is there."},
    {"empty_records", T_UBYTE, offsetof(Direction, empty_records), 0, "Empty records in a row that just came."},
    {NULL}};

static PyType_Slot Sealer_slots[] = {{Py_tp_doc, "The writing direction of a connection."},
                                     {Py_tp_new, Sealer_new},
                                     {Py_tp_dealloc, Direction_dealloc},
                                     {Py_tp_methods, Sealer_methods},
                                     {Py_tp_members, Sealer_members},
                                     {0, NULL}};
static PyType_Slot Opener_slots[] = {{Py_tp_doc, "The reading direction of a connection."},
                                     {Py_tp_new, Opener_new},
                                     {Py_tp_dealloc, Direction_dealloc},
                                     {Py_tp_methods, Opener_methods},
                                     {Py_tp_members, Opener_members},
                                     {0, NULL}};
static PyType_Spec Sealer_spec = {"protocols._native.tls_records.Sealer", sizeof(Direction), 0, Py_TPFLAGS_DEFAULT,
                                  Sealer_slots};
static PyType_Spec Opener_spec = {"protocols._native.tls_records.Opener", sizeof(Direction), 0, Py_TPFLAGS_DEFAULT,
                                  Opener_slots};

/* ------------------------------------------------------------------ keys of a traffic secret */

/* HKDF-Expand-Label of one block, without a context (RFC 8446 section 7.1). */
static int expand(HMAC_CTX *hmac, const char *label, unsigned char *out, int size) {
    unsigned char info[32], block[64];
    size_t length = strlen(label);
    unsigned int made = 0;
    info[0] = 0, info[1] = (unsigned char)size, info[2] = (unsigned char)(6 + length);
    memcpy(info + 3, "tls13 ", 6);
    memcpy(info + 9, label, length);
    info[9 + length] = 0, info[10 + length] = 1;
    int done = hmac_update(hmac, info, 11 + length) == 1 && hmac_final(hmac, block, &made) == 1 && (int)made >= size;
    if (done) memcpy(out, block, (size_t)size);
    cleanse(block, sizeof block);
    return done;
}

static PyObject *traffic_keys(PyObject *Py_UNUSED(module), PyObject *args) {
    int number;
    Py_buffer secret;
    unsigned char key[MAX_KEY], iv[IV];
    const struct suite *suite = NULL;
    PyObject *result = NULL;
    if (!loaded) {
        PyErr_SetString(PyExc_ImportError, "load() libcrypto first");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iy*", &number, &secret)) return NULL;
    for (int i = 0; i < SUITE_COUNT; i++)
        if (SUITES[i].number == number) suite = &SUITES[i];
    if (suite == NULL || secret.len != suite->secret_size) {
        PyErr_Format(PyExc_ValueError, "expected a cipher suite that is known, and a secret as long as its digest");
        PyBuffer_Release(&secret);
        return NULL;
    }
    HMAC_CTX *hmac = hmac_new();
    if (hmac != NULL && hmac_init(hmac, secret.buf, (int)secret.len, suite->digest, NULL) == 1 &&
        expand(hmac, "key", key, suite->key_size) && hmac_init(hmac, NULL, 0, NULL, NULL) == 1 &&
        expand(hmac, "iv", iv, IV)) {
        result = Py_BuildValue("y#y#", key, (Py_ssize_t)suite->key_size, iv, (Py_ssize_t)IV);
    } else {
        clear_errors();
        PyErr_SetString(PyExc_RuntimeError, "libcrypto refused a secret");
    }
    if (hmac != NULL) hmac_free(hmac);
    PyBuffer_Release(&secret);
    cleanse(key, sizeof key);
    cleanse(iv, sizeof iv);
    return result;
}

/* ------------------------------------------------------------------ the module */

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *soname;
    if (!PyArg_ParseTuple(args, "s", &soname)) return NULL;
    if (loaded) return PyUnicode_FromString(version_text(0));
    void *library = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        PyErr_Format(PyExc_ImportError, "%s", dlerror());
        return NULL;
    }
    for (size_t i = 0; i < sizeof SYMBOLS / sizeof *SYMBOLS; i++) {
        void *symbol = dlsym(library, SYMBOLS[i].name);
        if (symbol == NULL) {
            PyErr_Format(PyExc_ImportError, "%s has no %s", soname, SYMBOLS[i].name);
            goto failed;
        }
        memcpy(SYMBOLS[i].place, &symbol, sizeof symbol);
    }
    for (int i = 0; i < SUITE_COUNT; i++) {
        SUITES[i].cipher = cipher_fetch(NULL, SUITES[i].cipher_name, NULL);
        SUITES[i].digest = digest_fetch(NULL, SUITES[i].digest_name, NULL);
        if (SUITES[i].cipher == NULL || SUITES[i].digest == NULL) {
            clear_errors();
            PyErr_Format(PyExc_ImportError, "%s does not offer %s", soname,
                         SUITES[i].cipher ? SUITES[i].digest_name : SUITES[i].cipher_name);
            goto failed;
        }
    }
    loaded = 1;
    return PyUnicode_FromString(version_text(0));
failed:
    dlclose(library);
    return NULL;
}

static int exec(PyObject *module) {
    PyObject *sealer = PyType_FromSpec(&Sealer_spec), *opener = PyType_FromSpec(&Opener_spec);
    int failed = sealer == NULL || opener == NULL || PyModule_AddObjectRef(module, "Sealer", sealer) < 0 ||
                 PyModule_AddObjectRef(module, "Opener", opener) < 0;
    Py_XDECREF(sealer);
    Py_XDECREF(opener);
    return failed ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"load", load, METH_VARARGS, "load(soname) -> the version in words; ImportError when the library does not serve."},
    {"traffic_keys", traffic_keys, METH_VARARGS, "traffic_keys(suite, secret) -> key, iv (RFC 8446 section 7.3)"},
    {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, exec}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "tls_records", "TLS 1.3 records on the system's libcrypto.", 0, methods, slots, NULL, NULL,
    NULL};

PyMODINIT_FUNC PyInit_tls_records(void) { return PyModuleDef_Init(&definition); }
