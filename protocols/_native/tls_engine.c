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
#include "tls_handshake.h"
#include "tls_kdf.h"
#include "tls_provider.h"

static void *library;
static int sees_secrets; /* the library context derives by our provider */

/* ------------------------------------------------------------------ Context for Python */

static PyObject *refused(const char *what) {
    unsigned long error = ERR_get_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    PyErr_Format(PyExc_ValueError, "%s: %s", what, reason ? reason : "OpenSSL gives no reason");
    ERR_clear_error();
    return NULL;
}

static PyObject *Context_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "", names)) return NULL;
    if (library == NULL) {
        PyErr_SetString(PyExc_ImportError, "load() libssl first");
        return NULL;
    }
    Context *self = (Context *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    pthread_mutex_init(&self->tickets_lock, NULL);
    ERR_clear_error();
    self->ctx = SSL_CTX_new_ex(sees_secrets ? library_context : NULL, NULL, TLS_server_method());
    if (self->ctx == NULL) {
        Py_DECREF(self);
        return refused("no context");
    }
    SSL_CTX *ctx = self->ctx;
    SSL_CTX_set_options(ctx, OP_NO_COMPRESSION | OP_NO_RENEGOTIATION | OP_NO_ANTI_REPLAY);
    SSL_CTX_ctrl(ctx, CTRL_MODE, MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN, NULL);
    SSL_CTX_ctrl(ctx, CTRL_SESSION_CACHE_MODE, 0, NULL);
    if (!sees_secrets) SSL_CTX_set_keylog_callback(ctx, note_line);
    SSL_CTX_set_msg_callback(ctx, note_message);
    SSL_CTX_set_client_hello_cb(ctx, see_hello, NULL);
    SSL_CTX_set_psk_find_session_callback(ctx, find_session);
    SSL_CTX_set_allow_early_data_cb(ctx, allow_early, NULL);
    SSL_CTX_callback_ctrl(ctx, CTRL_SERVERNAME_CALLBACK, (void (*)(void))switch_name);
    SSL_CTX_callback_ctrl(ctx, CTRL_STATUS_CALLBACK, (void (*)(void))staple);
    return (PyObject *)self;
}

static void Context_dealloc(Context *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->ctx != NULL) SSL_CTX_free(self->ctx);
    for (Py_ssize_t i = 0; i < self->name_count; i++) {
        free(self->names[i].name);
        Py_XDECREF(self->names[i].context);
    }
    free(self->names);
    for (int i = 0; i < self->staple_count; i++) discard(&self->staples[i].response);
    free(self->staples);
    for (int i = 0; i < self->key_id_count; i++) free(self->key_ids[i]);
    free(self->key_ids);
    for (int i = 0; i < self->held_count; i++) release_held(self->held[i]);
    free(self->held);
    if (library != NULL) {
        discard(&self->alpn), discard(&self->old_alpn), discard(&self->ticketless);
        OPENSSL_cleanse(self->tickets, sizeof self->tickets);
    }
    pthread_mutex_destroy(&self->tickets_lock);
    type->tp_free(self);
    Py_DECREF(type);
}

static int unused(Context *self) {
    ERR_clear_error();
    if (!self->in_use) return 1;
    PyErr_SetString(PyExc_RuntimeError, "a context that connections use is not changed");
    return 0;
}

static int list(SSL_CTX *ctx, int command, const char *names) {
    return *names == 0 || SSL_CTX_ctrl(ctx, command, 0, (void *)names) == 1;
}

static PyObject *Context_configure(Context *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"minimum", "ciphers", "groups", "signature_algorithms", "session_context", "tickets",
                            "max_early_data", "ticket_early_data", "finds_keys", "keeps_lines", "alpn", "old_alpn",
                            "ticketless", NULL};
    const char *ciphers, *groups, *algorithms;
    Py_buffer session, alpn, old, ticketless;
    int minimum, tickets, ticket_early, finds, keeps;
    unsigned int early;
    if (!unused(self)) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$isssy*iIpppy*y*y*:configure", names, &minimum, &ciphers, &groups,
                                     &algorithms, &session, &tickets, &early, &ticket_early, &finds, &keeps, &alpn,
                                     &old, &ticketless))
        return NULL;
    SSL_CTX *ctx = self->ctx;
    PyObject *result = NULL;
    if (SSL_CTX_ctrl(ctx, CTRL_MINIMUM_VERSION, minimum, NULL) != 1) refused("minimum version");
    else if (SSL_CTX_set_cipher_list(ctx, ciphers) != 1) refused("ciphers");
    else if (!list(ctx, CTRL_GROUPS_LIST, groups)) refused("groups");
    else if (!list(ctx, CTRL_SIGNATURE_ALGORITHMS_LIST, algorithms)) refused("signature algorithms");
    else if (SSL_CTX_set_session_id_context(ctx, session.buf, (unsigned int)session.len) != 1)
        refused("session context");
    else if (!append(&self->alpn, alpn.buf, (size_t)alpn.len) || !append(&self->old_alpn, old.buf, (size_t)old.len) ||
             !append(&self->ticketless, ticketless.buf, (size_t)ticketless.len))
        PyErr_NoMemory();
    else result = Py_NewRef(Py_None);
    if (result != NULL) {
        SSL_CTX_set_num_tickets(ctx, (size_t)tickets);
        if (tickets == 0) SSL_CTX_set_options(ctx, OP_NO_TICKET);
        SSL_CTX_set_max_early_data(ctx, early);
        self->max_early_data = early;
        self->ticket_early_data = (char)ticket_early, self->finds_keys = (char)finds, self->keeps_lines = (char)keeps;
        if (keeps) SSL_CTX_set_keylog_callback(ctx, note_line);
        if (alpn.len) SSL_CTX_set_alpn_select_cb(ctx, select_alpn, self);
    }
    PyBuffer_Release(&session), PyBuffer_Release(&alpn), PyBuffer_Release(&old), PyBuffer_Release(&ticketless);
    return result;
}

static int add_staple(Context *self, X509 *leaf, const Py_buffer *response) {
    Staple *staples = realloc(self->staples, sizeof *staples * (size_t)(self->staple_count + 1));
    if (staples == NULL) return 0;
    self->staples = staples;
    Staple *added = &staples[self->staple_count++];
    memset(added, 0, sizeof *added);
    added->leaf = leaf;
    return append(&added->response, response->buf, (size_t)response->len);
}

static EVP_PKEY *key_elsewhere(Context *self, X509 *leaf, const char *id) {
    EVP_PKEY *public = X509_get0_pubkey(leaf), *key = NULL;
    int kind = public ? EVP_PKEY_get_base_id(public) : 0;
    if (!ASYNC_is_capable()) return NULL;
    char **ids = realloc(self->key_ids, sizeof *ids * (size_t)(self->key_id_count + 1)), *kept = strdup(id);
    if (ids != NULL) self->key_ids = ids;
    if (ids == NULL || kept == NULL) {
        free(kept);
        return NULL;
    }
    ids[self->key_id_count++] = kept;
    if (kind == KEY_RSA) key = rsa_elsewhere(public, rsa_method, kept);
    if (kind == KEY_EC) key = ec_elsewhere(public, ec_method, kept);
    self->signs_elsewhere = 1;
    return key;
}

static PyObject *Context_use_certificate(Context *self, PyObject *args) {
    Py_buffer chain, private, response;
    const char *id, *provider = "", *what = "private key";
    int anew = 0;
    if (!unused(self) || !PyArg_ParseTuple(args, "y*y*sy*|sp", &chain, &private, &id, &response, &provider, &anew))
        return NULL;
    PyObject *result = NULL;
    EVP_PKEY *key = NULL;
    BIO *bio = BIO_new_mem_buf(chain.buf, (int)chain.len), *key_bio = BIO_new_mem_buf(private.buf, (int)private.len);
    X509 *leaf = PEM_read_bio_X509(bio, NULL, NULL, NULL), *link;
    if (leaf == NULL || SSL_CTX_use_certificate(self->ctx, leaf) != 1) {
        refused("certificate");
        goto done;
    }
    while ((link = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
        long added = SSL_CTX_ctrl(self->ctx, CTRL_ADD1_CHAIN_CERTIFICATE, 1, link);
        X509_free(link);
        if (added != 1) {
            refused("chain");
            goto done;
        }
    }
    ERR_clear_error(); /* the end of the PEM */
    /* An empty passphrase: with none OpenSSL would ask for one on the terminal. */
    if (private.len == 0) key = key_elsewhere(self, leaf, id);
    else if (*provider) key = key_of_provider(self, leaf, &private, provider, anew, &what);
    else key = PEM_read_bio_PrivateKey(key_bio, NULL, NULL, "");
    if (key == NULL || SSL_CTX_use_PrivateKey(self->ctx, key) != 1) (void)(PyErr_Occurred() || refused(what));
    else if (!add_staple(self, leaf, &response)) PyErr_NoMemory();
    else result = Py_NewRef(Py_None);
done:
    if (key != NULL) EVP_PKEY_free(key);
    if (leaf != NULL) X509_free(leaf);
    BIO_free(bio), BIO_free(key_bio);
    PyBuffer_Release(&chain), PyBuffer_Release(&private), PyBuffer_Release(&response);
    return result;
}

static PyObject *Context_verify_clients(Context *self, PyObject *args) {
    Py_buffer authorities, lists;
    int required, depth, good = 1, found = 0;
    if (!unused(self) || !PyArg_ParseTuple(args, "py*y*i", &required, &authorities, &lists, &depth)) return NULL;
    X509_STORE *store = SSL_CTX_get_cert_store(self->ctx);
    BIO *bio = BIO_new_mem_buf(authorities.buf, (int)authorities.len);
    for (X509 *one; good && (one = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL; X509_free(one), found++)
        good = X509_STORE_add_cert(store, one) == 1 && SSL_CTX_add_client_CA(self->ctx, one) == 1;
    BIO_free(bio);
    if (good) ERR_clear_error();
    bio = BIO_new_mem_buf(lists.buf, (int)lists.len);
    for (X509_CRL *one; good && (one = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)) != NULL; X509_CRL_free(one))
        good = X509_STORE_add_crl(store, one) == 1;
    BIO_free(bio);
    if (good) ERR_clear_error();
    if (lists.len) X509_STORE_set_flags(store, CHECK_REVOCATION);
    PyBuffer_Release(&authorities), PyBuffer_Release(&lists);
    if (!good || !found) return refused("authorities of clients");
    SSL_CTX_set_verify_depth(self->ctx, depth);
    SSL_CTX_set_verify(self->ctx, VERIFY_PEER | (required ? VERIFY_REQUIRE : 0), note_refused);
    Py_RETURN_NONE;
}

static PyTypeObject *context_type;

static PyObject *Context_set_names(Context *self, PyObject *pairs) {
    if (!unused(self)) return NULL;
    PyObject *sequence = PySequence_Fast(pairs, "expected a sequence of names and contexts");
    if (sequence == NULL) return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    Name *names = self->names ? NULL : calloc((size_t)count + 1, sizeof *names);
    if (names == NULL) {
        Py_DECREF(sequence);
        return self->names ? (PyErr_SetString(PyExc_RuntimeError, "names are set once"), NULL) : PyErr_NoMemory();
    }
    self->names = names;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *name;
        PyObject *context;
        if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(sequence, i), "sO!", &name, context_type, &context)) break;
        names[i].name = strdup(name);
        names[i].context = (Context *)Py_NewRef(context);
        self->name_count = i + 1;
    }
    Py_DECREF(sequence);
    if (PyErr_Occurred()) return NULL;
    qsort(names, (size_t)count, sizeof *names, compare_names);
    Py_RETURN_NONE;
}

static PyObject *Context_set_ticket_keys(Context *self, PyObject *keys) {
    TicketKey fresh[TICKET_GENERATIONS];
    PyObject *sequence = PySequence_Fast(keys, "expected a sequence of ticket keys");
    if (sequence == NULL) return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    if (count < 1 || count > TICKET_GENERATIONS)
        PyErr_Format(PyExc_ValueError, "expected 1 to %d ticket keys, got %zd", TICKET_GENERATIONS, count);
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++) {
        const char *name, *aes, *hmac;
        Py_ssize_t name_size, aes_size, hmac_size;
        if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(sequence, i), "y#y#y#", &name, &name_size, &aes, &aes_size,
                              &hmac, &hmac_size))
            break;
        if (name_size != KEY_NAME || aes_size != 32 || hmac_size != 32) {
            PyErr_Format(PyExc_ValueError, "expected a ticket key of 16, 32 and 32 bytes, got %zd, %zd and %zd",
                         name_size, aes_size, hmac_size);
            break;
        }
        memcpy(fresh[i].name, name, KEY_NAME), memcpy(fresh[i].aes, aes, 32), memcpy(fresh[i].hmac, hmac, 32);
    }
    Py_DECREF(sequence);
    if (!PyErr_Occurred()) {
        pthread_mutex_lock(&self->tickets_lock);
        int first = self->ticket_count == 0;
        memcpy(self->tickets, fresh, sizeof *fresh * (size_t)count);
        self->ticket_count = (int)count;
        pthread_mutex_unlock(&self->tickets_lock);
        if (first) SSL_CTX_set_tlsext_ticket_key_evp_cb(self->ctx, ticket_key);
    }
    OPENSSL_cleanse(fresh, sizeof fresh);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef Context_methods[] = {
    {"configure", (PyCFunction)(void (*)(void))Context_configure, METH_VARARGS | METH_KEYWORDS, NULL},
    {"use_certificate", (PyCFunction)Context_use_certificate, METH_VARARGS, NULL},
    {"verify_clients", (PyCFunction)Context_verify_clients, METH_VARARGS, NULL},
    {"set_names", (PyCFunction)Context_set_names, METH_O, NULL},
    {"set_ticket_keys", (PyCFunction)Context_set_ticket_keys, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Context_slots[] = {
    {Py_tp_new, Context_new},
    {Py_tp_dealloc, Context_dealloc},
    {Py_tp_methods, Context_methods},
    {0, NULL},
};

static PyType_Spec Context_spec = {"protocols._native.tls_engine.Context", sizeof(Context), 0, Py_TPFLAGS_DEFAULT,
                                   Context_slots};

/* ------------------------------------------------------------------ Connection for Python */

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
    OPENSSL_cleanse(key, sizeof key);
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

/* ------------------------------------------------------------------ the module */

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
