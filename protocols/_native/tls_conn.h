/* What a context and a connection are made of: bytes that grow, keys, secrets, and the question that a hand-shake stops
   for. */

#ifndef ACCESSGW_TLS_CONN_H
#define ACCESSGW_TLS_CONN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "openssl3.h"
#include "tls_proof.h"

enum { MAX_LOOKUPS = 8, MAX_REASON = 256, CHUNK = 1 << 14, RANDOM = 32, KEY_NAME = 16 };
enum { TICKET_GENERATIONS = 3, MAX_HANDSHAKE_RECORDS = 64, MAX_OFFER = 512, MAX_SHOWN = 8192 };
/* What step() and read() come back with. */
enum { FAILED = -1, WANT_BYTES = 0, COMPLETE = 1, WANT_SIGNATURE = 2, WANT_KEYS = 3, CLOSED = 4, WANT_FINISHED = 5 };

/* ------------------------------------------------------------------ bytes */

typedef struct {
    unsigned char *data;
    size_t size, room;
} Bytes;

static unsigned char *reserve(Bytes *bytes, size_t more) {
    if (bytes->room - bytes->size < more) {
        size_t room = bytes->size + more + bytes->size / 2;
        unsigned char *data = realloc(bytes->data, room);
        if (data == NULL) return NULL;
        bytes->data = data, bytes->room = room;
    }
    return bytes->data + bytes->size;
}

static int append(Bytes *bytes, const void *data, size_t size) {
    unsigned char *place = reserve(bytes, size ? size : 1);
    if (place == NULL) return 0;
    memcpy(place, data, size);
    bytes->size += size;
    return 1;
}

static void discard(Bytes *bytes) {
    if (bytes->data != NULL) OPENSSL_cleanse(bytes->data, bytes->size);
    free(bytes->data);
    memset(bytes, 0, sizeof *bytes);
}

/* Of bytes for Py_BuildValue, which makes None of NULL. */
static const char *text(const void *data) { return data ? data : ""; }

static PyObject *taken(Bytes *bytes) {
    PyObject *result = PyBytes_FromStringAndSize((const char *)bytes->data, (Py_ssize_t)bytes->size);
    if (result != NULL) discard(bytes);
    return result;
}

/* ------------------------------------------------------------------ contexts */

typedef struct Context Context;

typedef struct {
    char *name;
    Context *context;
} Name;

typedef struct {
    X509 *leaf;
    Bytes response;
} Staple;

typedef struct {
    unsigned char name[KEY_NAME], aes[32], hmac[32];
} TicketKey;

struct Context {
    PyObject_HEAD
    SSL_CTX *ctx;
    Name *names;
    Py_ssize_t name_count;
    Staple *staples;
    int staple_count;
    char **key_ids; /* of the private keys that are elsewhere, which point to them */
    int key_id_count;
    struct HeldKey **held; /* private keys that a provider has */
    int held_count;
    Bytes alpn, old_alpn, ticketless;
    /* Newest first. The only part that changes while connections use it. */
    TicketKey tickets[TICKET_GENERATIONS];
    int ticket_count;
    pthread_mutex_t tickets_lock;
    uint32_t max_early_data;
    char finds_keys, ticket_early_data, keeps_lines, in_use, signs_elsewhere;
};

/* ------------------------------------------------------------------ connections */

typedef struct {
    Bytes identity, session;
    char allows_early;
} Key;

/* Of the private key that a signature is wanted of; the buffers belong to the stopped job. */
typedef struct {
    enum { NOT_ASKED, ASKED, ANSWERED, REFUSED } state;
    unsigned long long number;
    const char *key;
    int is_rsa, data_size, room, size;
    const unsigned char *data;
    unsigned char *signature;
} Signing;

/* Apart from the Python object, which may be gone first. */
typedef struct Conn {
    SSL *ssl;
    BIO *in, *out;
    Context *context;
    struct Conn *next_orphan;
    unsigned long long thread; /* that began the job which is stopped */
    Signing signing;
    Bytes sending, early, lines, identities, offer, shown; /* shown: the certificate that was not taken, DER */
    Key keys[MAX_LOOKUPS];
    int key_count, chosen;
    unsigned char random[RANDOM];
    char reason[MAX_REASON];
    int alert;
    char complete, failed, reads_early, offers_early, hello_seen, detachable, stopped, refuses_early, no_memory, cancelled;
    /* The count of records under our application secret. */
    char counting, whole;
    unsigned long long counted;
    unsigned char *last;
    int last_size;
    int known; /* bits of SECRETS */
    unsigned char secrets[4][MAX_SECRET];
} Conn;

enum { SERVER_HANDSHAKE, CLIENT_APPLICATION, SERVER_APPLICATION, EXPORTER, SECRET_COUNT };
static const char *const SECRETS[SECRET_COUNT] = {"SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0",
                                                  "SERVER_TRAFFIC_SECRET_0", "EXPORTER_SECRET"};

typedef struct {
    PyObject_HEAD
    Conn *conn;
    char busy;
} Connection;

/* The connection whose hand-shake runs on this thread, and a number for the thread that no other gets later. */
static _Thread_local Conn *current;
static _Thread_local unsigned long long this_thread;

/* All below under the interpreter's lock. */
static unsigned long long last_thread, last_signature;
static Conn *orphans;
static long connection_count, stopped_count, orphan_count;

static unsigned long long thread_number(void) {
    if (this_thread == 0) this_thread = ++last_thread;
    return this_thread;
}

static Conn *conn_of(const SSL *ssl) { return SSL_get_ex_data(ssl, 0); }

static Context *context_of(const SSL *ssl) { return conn_of(ssl)->context; }

#endif
