/* Context for Python: certificates, protocols and keys of tickets, complete before the first connection uses them. */

#ifndef ACCESSGW_TLS_CONTEXT_H
#define ACCESSGW_TLS_CONTEXT_H

#include "tls_elsewhere.h"
#include "tls_handshake.h"
#include "tls_kdf.h"
#include "tls_provider.h"

static void *library;
static int sees_secrets; /* the library context derives by our provider */

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

#endif
