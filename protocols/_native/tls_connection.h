/* Connection for Python: a hand-shake in steps, records as long as they stay with OpenSSL, and what a detached connection
   goes on with. */

#ifndef ACCESSGW_TLS_CONNECTION_H
#define ACCESSGW_TLS_CONNECTION_H

#include "tls_context.h"

static PyTypeObject *connection_type;

static PyObject *Connection_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"context", "detachable", NULL};
    PyObject *context;
    int detachable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!|p", names, context_type, &context, &detachable)) return NULL;
    Connection *self = (Connection *)type->tp_alloc(type, 0);
    Conn *conn = self ? calloc(1, sizeof *conn) : NULL;
    if (conn == NULL) {
        Py_XDECREF(self);
        return PyErr_NoMemory();
    }
    self->conn = conn;
    conn->context = (Context *)Py_NewRef(context);
    conn->context->in_use = 1;
    conn->chosen = -1, conn->whole = 1, conn->detachable = (char)detachable, conn->alert = -1;
    conn->reads_early = conn->context->max_early_data > 0;
    connection_count++;
    return (PyObject *)self;
}

static void Connection_dealloc(Connection *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->conn != NULL) {
        thread_number();
        drop(self->conn);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* NULL, and an exception, where it cannot be used. */
static Conn *alive(Connection *self) {
    if (self->busy) PyErr_SetString(PyExc_RuntimeError, "two threads use one connection");
    else if (self->conn == NULL) PyErr_SetString(PyExc_RuntimeError, "the connection is detached or freed");
    else return self->conn;
    return NULL;
}

static Conn *running(Connection *self) {
    Conn *conn = alive(self);
    if (conn != NULL && conn->ssl == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "nothing has come yet");
        return NULL;
    }
    if (conn == NULL || !conn->stopped) return conn;
    PyErr_SetString(PyExc_RuntimeError, "the hand-shake waits for a signature");
    return NULL;
}

static PyObject *Connection_feed(Connection *self, PyObject *args) {
    Py_buffer data;
    Conn *conn = alive(self);
    if (conn == NULL || !PyArg_ParseTuple(args, "y*", &data)) return NULL;
    int good = take_in(conn, data.buf, data.len);
    PyBuffer_Release(&data);
    if (!good) return refused("no connection");
    Py_RETURN_NONE;
}

static PyObject *Connection_step(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    unsigned long long thread = thread_number();
    if (orphans != NULL) reap_orphans();
    if (conn->failed || conn->complete) return PyLong_FromLong(conn->failed ? FAILED : COMPLETE);
    if (conn->stopped) {
        if (conn->signing.state == ASKED) return PyLong_FromLong(WANT_SIGNATURE);
        if (conn->thread != thread) {
            PyErr_SetString(PyExc_RuntimeError, "a hand-shake that waits for a signature stays on its thread");
            return NULL;
        }
        conn->stopped = 0;
        stopped_count--;
    }
    conn->thread = thread;
    self->busy = 1;
    int result;
    Py_BEGIN_ALLOW_THREADS
    current = conn;
    result = shake_hands(conn);
    current = NULL;
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (conn->stopped) {
        stopped_count++;
        conn->signing.number = ++last_signature;
    }
    return PyLong_FromLong(result);
}

/* The identities of the ClientHello that may be looked up, in their order. */
static PyObject *Connection_identities(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    PyObject *found = conn ? PyList_New(0) : NULL;
    if (found == NULL) return NULL;
    const unsigned char *data = conn->identities.data;
    for (size_t at = 0; at + 2 <= conn->identities.size && PyList_GET_SIZE(found) < MAX_LOOKUPS;) {
        size_t size = (size_t)data[at] << 8 | data[at + 1];
        if (size + 6 > conn->identities.size - at) break;
        PyObject *one = PyBytes_FromStringAndSize((const char *)data + at + 2, (Py_ssize_t)size);
        if (one == NULL || PyList_Append(found, one) < 0) {
            Py_XDECREF(one), Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(one);
        at += size + 6;
    }
    return found;
}

static PyObject *Connection_give_key(Connection *self, PyObject *args) {
    Py_buffer identity, session;
    int early;
    Conn *conn = alive(self);
    if (conn == NULL || !PyArg_ParseTuple(args, "y*y*p", &identity, &session, &early)) return NULL;
    PyObject *result = NULL;
    if (conn->key_count >= MAX_LOOKUPS || conn->complete) {
        PyErr_Format(PyExc_ValueError, "expected at most %d keys, during the hand-shake", MAX_LOOKUPS);
    } else {
        Key *key = &conn->keys[conn->key_count++];
        key->allows_early = (char)early;
        if (append(&key->identity, identity.buf, (size_t)identity.len) &&
            append(&key->session, session.buf, (size_t)session.len))
            result = Py_NewRef(Py_None);
        else PyErr_NoMemory();
    }
    PyBuffer_Release(&identity), PyBuffer_Release(&session);
    return result;
}

static PyObject *Connection_refuse_early(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    conn->refuses_early = 1;
    Py_RETURN_NONE;
}

/* Nobody waits for it any more: a crew that has not begun its step need not. From any thread that has the lock. */
static PyObject *Connection_cancel(Connection *self, PyObject *Py_UNUSED(nothing)) {
    if (self->conn != NULL) __atomic_store_n(&self->conn->cancelled, 1, __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

static PyObject *Connection_pending_signature(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    Signing *signing = &conn->signing;
    if (!conn->stopped || signing->state != ASKED) Py_RETURN_NONE;
    return Py_BuildValue("Ksiy#", signing->number, signing->key, signing->is_rsa, (const char *)signing->data,
                         (Py_ssize_t)signing->data_size);
}

/* Answers the question of that number; an empty signature refuses. False on a thread that cannot go on with the job. */
static PyObject *Connection_answer(Connection *self, PyObject *args) {
    unsigned long long number;
    Py_buffer signature;
    Conn *conn = alive(self);
    if (conn == NULL || !PyArg_ParseTuple(args, "Ky*", &number, &signature)) return NULL;
    Signing *signing = &conn->signing;
    int asked = conn->stopped && conn->thread == thread_number();
    if (asked && signing->state == ASKED && signing->number == number) {
        int fits = signature.len > 0 && signature.len <= signing->room;
        if (fits) memcpy(signing->signature, signature.buf, (size_t)signature.len);
        signing->size = (int)signature.len;
        signing->state = fits ? ANSWERED : REFUSED;
    }
    PyBuffer_Release(&signature);
    return PyBool_FromLong(asked);
}

static PyObject *Connection_read(Connection *self, PyObject *Py_UNUSED(nothing)) {
    unsigned char chunk[CHUNK];
    Bytes data = {NULL, 0, 0};
    size_t size;
    int state, result;
    Conn *conn = running(self);
    if (conn == NULL) return NULL;
    if (!conn->complete) {
        PyErr_SetString(PyExc_RuntimeError, "application data before the hand-shake");
        return NULL;
    }
    forget_secrets(conn);
    ERR_clear_error();
    while ((result = SSL_read_ex(conn->ssl, chunk, sizeof chunk, &size)) == 1)
        if (!append(&data, chunk, size)) {
            discard(&data);
            return PyErr_NoMemory();
        }
    int error = SSL_get_error(conn->ssl, result);
    if (error == ERROR_ZERO_RETURN) state = CLOSED;
    else state = error == ERROR_WANT_READ ? WANT_BYTES : fail(conn);
    if (!drain(conn)) state = fail(conn);
    PyObject *plain = taken(&data);
    return plain ? Py_BuildValue("Ni", plain, state) : NULL;
}

static PyObject *Connection_write(Connection *self, PyObject *args) {
    Py_buffer data;
    Conn *conn = running(self);
    if (conn == NULL || !PyArg_ParseTuple(args, "y*", &data)) return NULL;
    size_t at = 0, written = 0;
    int result = 1;
    ERR_clear_error();
    while (result == 1 && at < (size_t)data.len) {
        const char *rest = (const char *)data.buf + at;
        size_t size = (size_t)data.len - at;
        if (conn->complete) result = SSL_write_ex(conn->ssl, rest, size, &written);
        else result = SSL_write_early_data(conn->ssl, rest, size, &written);
        if (result == 1) at += written;
    }
    PyBuffer_Release(&data);
    if (result != 1) {
        fail(conn);
        PyErr_Format(PyExc_ValueError, "%s", *conn->reason ? conn->reason : "OpenSSL gives no reason");
        return NULL;
    }
    if (!drain(conn)) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *Connection_shutdown(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = running(self);
    if (conn == NULL) return NULL;
    ERR_clear_error();
    if (SSL_shutdown(conn->ssl) < 0) {
        fail(conn);
        Py_RETURN_FALSE;
    }
    drain(conn);
    Py_RETURN_TRUE;
}

static PyObject *Connection_take(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    return conn ? taken(&conn->sending) : NULL;
}

static PyObject *Connection_early(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    return conn ? taken(&conn->early) : NULL;
}

static PyObject *Connection_lines(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    return conn ? taken(&conn->lines) : NULL;
}

static PyObject *Connection_failure(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    return Py_BuildValue("isy#", conn->alert, conn->reason, text(conn->offer.data), (Py_ssize_t)conn->offer.size);
}

static PyObject *der_of(X509 *certificate) {
    unsigned char *at;
    int size = i2d_X509(certificate, NULL);
    PyObject *der = size > 0 ? PyBytes_FromStringAndSize(NULL, size) : NULL;
    if (der == NULL) return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    at = (unsigned char *)PyBytes_AS_STRING(der);
    i2d_X509(certificate, &at);
    return der;
}

static PyObject *chain_of(const Conn *conn) {
    OPENSSL_STACK *stack = SSL_session_reused(conn->ssl) ? NULL : SSL_get0_verified_chain(conn->ssl);
    int count = stack ? OPENSSL_sk_num(stack) : 0;
    PyObject *chain = PyTuple_New(count);
    for (int i = 0; i < count && chain != NULL; i++) {
        PyObject *der = der_of(OPENSSL_sk_value(stack, i));
        if (der == NULL) Py_CLEAR(chain);
        else PyTuple_SET_ITEM(chain, i, der);
    }
    return chain;
}

static PyObject *peer_of(const Conn *conn) {
    X509 *peer = SSL_get1_peer_certificate(conn->ssl);
    PyObject *der = peer ? der_of(peer) : PyBytes_FromStringAndSize(NULL, 0);
    if (peer != NULL) X509_free(peer);
    return der;
}

/* What is known of the hand-shake: see native_engine.py for the order. */
static PyObject *Connection_told(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = running(self);
    if (conn == NULL) return NULL;
    const unsigned char *alpn = NULL;
    unsigned int alpn_size = 0;
    SSL_get0_alpn_selected(conn->ssl, &alpn, &alpn_size);
    const char *name = SSL_get_servername(conn->ssl, 0), *group = NULL;
    const SSL_CIPHER *cipher = SSL_get_current_cipher(conn->ssl);
    long group_id = SSL_ctrl(conn->ssl, CTRL_NEGOTIATED_GROUP, 0, NULL);
    if (group_id > 0) group = SSL_group_to_name(conn->ssl, (int)group_id);
    int reused = SSL_session_reused(conn->ssl);
    const Bytes *chosen = reused && conn->chosen >= 0 ? &conn->keys[conn->chosen].identity : NULL;
    return Py_BuildValue("y#sssy#NNiy#ii", text(alpn), (Py_ssize_t)alpn_size, SSL_get_version(conn->ssl),
                         cipher ? SSL_CIPHER_get_name(cipher) : "", text(group), text(name),
                         (Py_ssize_t)(name ? strlen(name) : 0), peer_of(conn), chain_of(conn), reused,
                         chosen ? text(chosen->data) : "", (Py_ssize_t)(chosen ? chosen->size : 0),
                         conn->offers_early, SSL_get_early_data_status(conn->ssl));
}

/* Of a client whose hand-shake has failed: version, server name and certificate, as far as it came to them. */
static PyObject *Connection_shown(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    if (conn->ssl == NULL || conn->stopped) return Py_BuildValue("sy#y#", "", "", (Py_ssize_t)0, "", (Py_ssize_t)0);
    const char *name = SSL_get_servername(conn->ssl, 0);
    PyObject *certificate = conn->shown.size ? taken(&conn->shown) : peer_of(conn);
    return certificate ? Py_BuildValue("sy#N", SSL_get_version(conn->ssl), text(name),
                                       (Py_ssize_t)(name ? strlen(name) : 0), certificate)
                       : NULL;
}

static PyObject *Connection_random(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    return conn ? PyBytes_FromStringAndSize((const char *)conn->random, RANDOM) : NULL;
}

/* Whether `counted` is what the secrets of our direction say it is; `key` and `iv` are then those it writes with. */
static int proved(const Conn *conn, const Suite *suite, unsigned char *key, unsigned char *iv) {
    int needed = 1 << SERVER_HANDSHAKE | 1 << CLIENT_APPLICATION | 1 << SERVER_APPLICATION | 1 << EXPORTER;
    if (!conn->detachable || !conn->counting || !conn->whole || (conn->known & needed) != needed || conn->last == NULL)
        return 0;
    unsigned long long first = 0, end = MAX_HANDSHAKE_RECORDS;
    int before = conn->counted == 0;
    if (before) {
        /* Then the last record is one of the hand-shake, and none was overlooked. */
        derive_keys(suite, conn->secrets[SERVER_HANDSHAKE], key, iv);
    } else {
        derive_keys(suite, conn->secrets[SERVER_APPLICATION], key, iv);
        first = conn->counted - 1, end = conn->counted;
    }
    int good = opens(suite, key, iv, conn->last, conn->last_size, first, end);
    if (before) derive_keys(suite, conn->secrets[SERVER_APPLICATION], key, iv);
    return good;
}

/* What is unread inside of OpenSSL, as it came. */
static PyObject *unread_of(Conn *conn) {
    Py_ssize_t waiting = (Py_ssize_t)BIO_ctrl_pending(conn->in);
    PyObject *unread = PyBytes_FromStringAndSize(NULL, waiting);
    if (unread != NULL && waiting && BIO_read(conn->in, PyBytes_AS_STRING(unread), (int)waiting) != (int)waiting) {
        Py_CLEAR(unread);
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL does not give back what it has not read");
    }
    return unread;
}

/* None, or suite, read and write secret, key and IV to write with, write sequence, unread ciphertext, exporter secret and
   what is to be sent. */
static PyObject *Connection_detach(Connection *self, PyObject *Py_UNUSED(nothing)) {
    unsigned char key[MAX_KEY], iv[RECORD_IV];
    Conn *conn = running(self);
    if (conn == NULL) return NULL;
    if (!conn->complete || conn->failed || SSL_version(conn->ssl) != TLS_1_3) Py_RETURN_NONE;
    if (SSL_has_pending(conn->ssl)) Py_RETURN_NONE;
    const Suite *suite = suite_of(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(conn->ssl)));
    if (suite == NULL || !drain(conn)) Py_RETURN_NONE;
    int certain = proved(conn, suite, key, iv);
    Py_ssize_t size = suite->digest->size;
    PyObject *unread = certain ? unread_of(conn) : NULL, *state = certain ? NULL : Py_NewRef(Py_None);
    if (unread != NULL)
        state = Py_BuildValue("iy#y#y#y#KNy#y#", suite->number, (const char *)conn->secrets[CLIENT_APPLICATION], size,
                              (const char *)conn->secrets[SERVER_APPLICATION], size, (const char *)key,
                              (Py_ssize_t)suite->key_size, (const char *)iv, (Py_ssize_t)RECORD_IV, conn->counted, unread,
                              (const char *)conn->secrets[EXPORTER], size, text(conn->sending.data),
                              (Py_ssize_t)conn->sending.size);
    OPENSSL_cleanse(key, sizeof key), OPENSSL_cleanse(iv, sizeof iv);
    if (state == NULL || !certain) return state;
    self->conn = NULL;
    drop(conn);
    return state;
}

static PyObject *Connection_free(Connection *self, PyObject *Py_UNUSED(nothing)) {
    Conn *conn = alive(self);
    if (conn == NULL) return NULL;
    thread_number();
    self->conn = NULL;
    drop(conn);
    Py_RETURN_NONE;
}

static PyMethodDef Connection_methods[] = {
    {"feed", (PyCFunction)Connection_feed, METH_VARARGS, NULL},
    {"step", (PyCFunction)Connection_step, METH_NOARGS, NULL},
    {"identities", (PyCFunction)Connection_identities, METH_NOARGS, NULL},
    {"give_key", (PyCFunction)Connection_give_key, METH_VARARGS, NULL},
    {"refuse_early", (PyCFunction)Connection_refuse_early, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)Connection_cancel, METH_NOARGS, NULL},
    {"pending_signature", (PyCFunction)Connection_pending_signature, METH_NOARGS, NULL},
    {"answer", (PyCFunction)Connection_answer, METH_VARARGS, NULL},
    {"read", (PyCFunction)Connection_read, METH_NOARGS, NULL},
    {"write", (PyCFunction)Connection_write, METH_VARARGS, NULL},
    {"shutdown", (PyCFunction)Connection_shutdown, METH_NOARGS, NULL},
    {"take", (PyCFunction)Connection_take, METH_NOARGS, NULL},
    {"early", (PyCFunction)Connection_early, METH_NOARGS, NULL},
    {"lines", (PyCFunction)Connection_lines, METH_NOARGS, NULL},
    {"failure", (PyCFunction)Connection_failure, METH_NOARGS, NULL},
    {"told", (PyCFunction)Connection_told, METH_NOARGS, NULL},
    {"shown", (PyCFunction)Connection_shown, METH_NOARGS, NULL},
    {"random", (PyCFunction)Connection_random, METH_NOARGS, NULL},
    {"free", (PyCFunction)Connection_free, METH_NOARGS, NULL},
    {"detach", (PyCFunction)Connection_detach, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Connection_slots[] = {
    {Py_tp_new, Connection_new},
    {Py_tp_dealloc, Connection_dealloc},
    {Py_tp_methods, Connection_methods},
    {0, NULL},
};

static PyType_Spec Connection_spec = {"protocols._native.tls_engine.Connection", sizeof(Connection), 0,
                                      Py_TPFLAGS_DEFAULT, Connection_slots};

#endif
