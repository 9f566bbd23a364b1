/* The hand-shake of a server's connection on libssl, without the interpreter's lock: what OpenSSL calls back, how it stops
   for a question, and how a connection is freed whose hand-shake has stopped. tls_engine.c says why. */

#ifndef ACCESSGW_TLS_HANDSHAKE_H
#define ACCESSGW_TLS_HANDSHAKE_H

#include "tls_conn.h"

static EVP_CIPHER *ticket_cipher;

/* ------------------------------------------------------------------ callbacks of a hand-shake, without the lock */

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static void note_line(const SSL *ssl, const char *line) {
    Conn *conn = conn_of(ssl);
    if (conn == NULL) return;
    if (conn->context->keeps_lines && (!append(&conn->lines, line, strlen(line)) || !append(&conn->lines, "\n", 1)))
        conn->no_memory = 1;
    for (int i = 0; i < SECRET_COUNT; i++) {
        size_t size = strlen(SECRETS[i]);
        if (strncmp(line, SECRETS[i], size) || line[size] != ' ') continue;
        const char *digits = strrchr(line, ' ') + 1;
        for (int at = 0; at < MAX_SECRET && hex_digit(digits[0]) >= 0 && hex_digit(digits[1]) >= 0; at++, digits += 2)
            conn->secrets[i][at] = (unsigned char)(hex_digit(digits[0]) << 4 | hex_digit(digits[1]));
        conn->known |= 1 << i;
    }
}

static void note_message(int sent, int version, int kind, const void *data, size_t size, SSL *ssl, void *argument) {
    (void)sent, (void)version, (void)argument;
    Conn *conn = conn_of(ssl);
    if (kind == CONTENT_ALERT && size == 2 && conn != NULL) conn->alert = ((const unsigned char *)data)[1];
}

/* Notes what the ClientHello offers; the hand-shake waits when there are identities to look up. */
static int see_hello(SSL *ssl, int *alert, void *argument) {
    (void)alert, (void)argument;
    Conn *conn = conn_of(ssl);
    Context *context = conn->context;
    const unsigned char *extension;
    size_t size;
    if (conn->hello_seen) return HELLO_GO_ON;
    conn->hello_seen = 1;
    if (SSL_client_hello_get0_random(ssl, &extension) == RANDOM) memcpy(conn->random, extension, RANDOM);
    conn->offers_early = (char)SSL_client_hello_get0_ext(ssl, EXTENSION_EARLY_DATA, &extension, &size);
    int wanted = context->finds_keys || (conn->offers_early && context->max_early_data);
    if (!wanted || SSL_client_hello_get0_ext(ssl, EXTENSION_PSK, &extension, &size) != 1 || size < 2)
        return HELLO_GO_ON;
    size_t length = (size_t)extension[0] << 8 | extension[1];
    if (length > size - 2) return HELLO_GO_ON;
    if (!append(&conn->identities, extension + 2, length)) conn->no_memory = 1;
    return context->finds_keys ? HELLO_WAIT : HELLO_GO_ON;
}

static int find_session(SSL *ssl, const unsigned char *identity, size_t size, SSL_SESSION **session) {
    Conn *conn = conn_of(ssl);
    *session = NULL;
    conn->chosen = -1;
    for (int i = 0; i < conn->key_count; i++) {
        Key *key = &conn->keys[i];
        if (key->identity.size != size || memcmp(key->identity.data, identity, size)) continue;
        const unsigned char *der = key->session.data;
        *session = d2i_SSL_SESSION(NULL, &der, (long)key->session.size);
        if (*session == NULL) return 0;
        conn->chosen = i;
        return 1;
    }
    return 1;
}

static int allow_early(SSL *ssl, void *argument) {
    (void)argument;
    Conn *conn = conn_of(ssl);
    if (conn->refuses_early) return 0;
    return conn->chosen >= 0 ? conn->keys[conn->chosen].allows_early : conn->context->ticket_early_data;
}

/* Whether it is among names that are written as ALPN writes them. */
static int lists(const Bytes *names, const unsigned char *name, unsigned char size) {
    for (size_t at = 0; at < names->size; at += 1u + names->data[at])
        if (names->data[at] == size && !memcmp(names->data + at + 1, name, size)) return 1;
    return 0;
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *offer,
                       unsigned int size, void *argument) {
    Context *context = argument;
    const Bytes *known = SSL_version(ssl) >= TLS_1_3 ? &context->alpn : &context->old_alpn;
    for (size_t at = 0; at < known->size; at += 1u + known->data[at])
        for (unsigned int from = 0; from < size && from + 1u + offer[from] <= size; from += 1u + offer[from])
            if (offer[from] == known->data[at] && !memcmp(offer + from + 1, known->data + at + 1, offer[from])) {
                *out = known->data + at + 1, *out_size = known->data[at];
                if (lists(&context->ticketless, *out, *out_size)) SSL_set_num_tickets(ssl, 0);
                return EXT_OK;
            }
    append(&conn_of(ssl)->offer, offer, size < MAX_OFFER ? size : MAX_OFFER);
    return EXT_FATAL;
}

static int compare_names(const void *left, const void *right) {
    return strcmp(((const Name *)left)->name, ((const Name *)right)->name);
}

static Context *context_named(const Context *context, char *name) {
    Name wanted = {name, NULL};
    Name *found = bsearch(&wanted, context->names, (size_t)context->name_count, sizeof wanted, compare_names);
    return found ? found->context : NULL;
}

static int switch_name(SSL *ssl, int *alert, void *argument) {
    (void)alert, (void)argument;
    Context *context = context_of(ssl);
    const char *asked = SSL_get_servername(ssl, 0);
    char name[258];
    size_t size = asked ? strlen(asked) : 0;
    if (size == 0 || size > 255 || context->name_count == 0) return EXT_OK;
    for (size_t i = 0; i <= size; i++) name[i] = (char)(asked[i] >= 'A' && asked[i] <= 'Z' ? asked[i] + 32 : asked[i]);
    while (size && name[size - 1] == '.') name[--size] = 0;
    Context *found = context_named(context, name);
    char *dot = strchr(name, '.');
    if (found == NULL && dot != NULL && dot > name) {
        dot[-1] = '*';
        found = context_named(context, dot - 1);
    }
    if (found != NULL && SSL_set_SSL_CTX(ssl, found->ctx) == NULL) return EXT_FATAL;
    return EXT_OK;
}

static int staple(SSL *ssl, void *argument) {
    (void)argument;
    Context *context = context_of(ssl);
    X509 *leaf = SSL_get_certificate(ssl);
    for (Py_ssize_t at = -1; at < context->name_count; at++) {
        Context *one = at < 0 ? context : context->names[at].context;
        for (int i = 0; i < one->staple_count; i++) {
            Bytes *response = &one->staples[i].response;
            if (one->staples[i].leaf != leaf || response->size == 0) continue;
            void *copy = CRYPTO_malloc(response->size, __FILE__, __LINE__);
            if (copy == NULL) return EXT_NONE;
            memcpy(copy, response->data, response->size);
            if (SSL_ctrl(ssl, CTRL_STATUS_RESPONSE, (long)response->size, copy) == 1) return EXT_OK;
            CRYPTO_free(copy, __FILE__, __LINE__);
            return EXT_NONE;
        }
    }
    return EXT_NONE;
}

/* The key of a ticket: 1 it is the newest, 2 it is older, and a new ticket is wanted, 0 unknown (RFC 5077 section 4). */
static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                      int making) {
    Context *context = context_of(ssl);
    TicketKey key;
    int found = -1;
    pthread_mutex_lock(&context->tickets_lock);
    for (int i = 0; i < context->ticket_count && found < 0; i++)
        if (making || !memcmp(context->tickets[i].name, name, KEY_NAME)) found = i;
    if (found >= 0) key = context->tickets[found];
    pthread_mutex_unlock(&context->tickets_lock);
    if (found < 0) return 0;
    int result = found ? 2 : 1;
    if (making) {
        memcpy(name, key.name, KEY_NAME);
        if (RAND_bytes(iv, 16) != 1) result = -1;
    }
    OSSL_PARAM parameters[] = {{"digest", PARAM_TEXT, "SHA256", 6, (size_t)-1}, {NULL, 0, NULL, 0, 0}};
    if (result > 0 && (EVP_CipherInit_ex(cipher, ticket_cipher, NULL, key.aes, iv, making) != 1 ||
                       EVP_MAC_init(mac, key.hmac, sizeof key.hmac, parameters) != 1))
        result = -1;
    OPENSSL_cleanse(&key, sizeof key);
    return result;
}

/* Keeps a client certificate that is not taken: OpenSSL forgets it. The verdict stays as it is. */
static int note_refused(int good, X509_STORE_CTX *store) {
    SSL *ssl = good ? NULL : X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    Conn *conn = ssl ? conn_of(ssl) : NULL;
    X509 *leaf = conn && !conn->shown.size ? X509_STORE_CTX_get0_cert(store) : NULL;
    int size = leaf ? i2d_X509(leaf, NULL) : 0;
    unsigned char *at = size > 0 && size <= MAX_SHOWN ? reserve(&conn->shown, (size_t)size) : NULL;
    if (at != NULL && (size = i2d_X509(leaf, &at)) > 0) conn->shown.size = (size_t)size;
    return good;
}

/* ------------------------------------------------------------------ steps */

static void note_reason(Conn *conn) {
    size_t at = 0;
    unsigned long error;
    while ((error = ERR_get_error()) != 0) {
        const char *text = ERR_reason_error_string(error);
        size_t size = text ? strlen(text) : 0;
        if (size == 0 || at + size + 3 > MAX_REASON) continue;
        if (at) memcpy(conn->reason + at, "; ", 2), at += 2;
        memcpy(conn->reason + at, text, size);
        at += size;
    }
    long verdict = conn->ssl ? SSL_get_verify_result(conn->ssl) : 0;
    const char *why = verdict ? X509_verify_cert_error_string(verdict) : NULL;
    if (at && why != NULL && at + strlen(why) + 3 <= MAX_REASON) {
        memcpy(conn->reason + at, ": ", 2);
        memcpy(conn->reason + at + 2, why, strlen(why));
        at += 2 + strlen(why);
    }
    conn->reason[at] = 0;
}

/* Takes what OpenSSL wants to send, counting records; whole ones, as OpenSSL makes them. */
static int drain(Conn *conn) {
    size_t more = conn->out ? BIO_ctrl_pending(conn->out) : 0;
    /* The step that makes the application secret makes our Finished, and nothing after it: see pyopenssl_engine.py. */
    int begin = conn->known & 1 << SERVER_APPLICATION;
    if (more) {
        unsigned char *place = reserve(&conn->sending, more);
        if (place == NULL || BIO_read(conn->out, place, (int)more) != (int)more) return 0;
        conn->sending.size += more;
        const unsigned char *last = NULL;
        size_t last_size = 0;
        for (size_t at = 0; conn->detachable && at < more; at += last_size) {
            last = place + at;
            last_size = more - at < RECORD_HEADER ? more + 1 : RECORD_HEADER + ((size_t)last[3] << 8 | last[4]);
            if (last_size > more - at || last_size > MAX_RECORD) {
                conn->whole = 0, last = NULL;
                break;
            }
            conn->counted += (unsigned long long)conn->counting;
        }
        if (last != NULL) {
            unsigned char *kept = realloc(conn->last, last_size);
            if (kept == NULL) return 0;
            memcpy(kept, last, last_size);
            conn->last = kept, conn->last_size = (int)last_size;
        }
    }
    if (begin) conn->counting = 1;
    return 1;
}

/* From here on the connection stays. */
static void forget_secrets(Conn *conn) {
    conn->detachable = 0, conn->known = 0;
    OPENSSL_cleanse(conn->secrets, sizeof conn->secrets);
    free(conn->last);
    conn->last = NULL;
}

static int fail(Conn *conn) {
    note_reason(conn);
    conn->failed = 1;
    drain(conn);
    return FAILED;
}

static int wait_or_fail(Conn *conn, int result) {
    switch (SSL_get_error(conn->ssl, result)) {
    case ERROR_WANT_READ:
        if (!drain(conn)) return fail(conn);
        if (!conn->counting) return WANT_BYTES;
        /* Signed, so there is no more job to stop: any thread may go on. */
        SSL_ctrl(conn->ssl, CTRL_CLEAR_MODE, MODE_ASYNC, NULL);
        return SSL_get_verify_mode(conn->ssl) & VERIFY_PEER ? WANT_BYTES : WANT_FINISHED;
    case ERROR_WANT_CLIENT_HELLO:
        return WANT_KEYS;
    case ERROR_WANT_ASYNC:
        if (conn->signing.state == ASKED) {
            /* What is made so far may end within a record, and leaves with the rest of the flight. */
            conn->stopped = 1;
            return WANT_SIGNATURE;
        }
        /* fall through */
    default:
        return fail(conn);
    }
}

/* OpenSSL's object, made with the first bytes: on the thread that needs it, and not for a peer that says nothing. */
static int open_connection(Conn *conn) {
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL *ssl = in && out ? SSL_new(conn->context->ctx) : NULL;
    if (ssl == NULL || SSL_set_ex_data(ssl, 0, conn) != 1) {
        BIO_free(in), BIO_free(out), SSL_free(ssl);
        return 0;
    }
    SSL_set_bio(ssl, in, out);
    conn->ssl = ssl, conn->in = in, conn->out = out;
    SSL_set_accept_state(ssl);
    if (conn->context->signs_elsewhere) SSL_ctrl(ssl, CTRL_MODE, MODE_ASYNC, NULL);
    return 1;
}

/* Ciphertext of the peer, for the next step. */
static int take_in(Conn *conn, const void *data, Py_ssize_t size) {
    if (conn->ssl == NULL && !open_connection(conn)) return 0;
    return size == 0 || (size <= INT32_MAX && BIO_write(conn->in, data, (int)size) == (int)size);
}

/* Goes on with the hand-shake as far as it gets. */
static int shake_hands(Conn *conn) {
    unsigned char chunk[CHUNK];
    size_t size;
    int result;
    ERR_clear_error();
    if (conn->ssl == NULL && !open_connection(conn)) return fail(conn);
    while (conn->reads_early) {
        result = SSL_read_early_data(conn->ssl, chunk, sizeof chunk, &size);
        if (result == EARLY_READ) {
            int kept = drain(conn) && append(&conn->early, chunk, size);
            OPENSSL_cleanse(chunk, size);
            if (!kept) return fail(conn);
        } else if (result == EARLY_FINISHED) {
            conn->reads_early = 0;
            if (!drain(conn)) return fail(conn);
        } else {
            return wait_or_fail(conn, 0);
        }
    }
    result = SSL_do_handshake(conn->ssl);
    if (result != 1) return wait_or_fail(conn, result);
    if (conn->no_memory || !drain(conn)) return fail(conn);
    conn->complete = 1;
    SSL_ctrl(conn->ssl, CTRL_CLEAR_MODE, MODE_ASYNC, NULL);
    for (int i = 0; i < conn->key_count; i++) discard(&conn->keys[i].session);
    if (conn->early.size == 0) discard(&conn->identities);
    if (!conn->detachable) forget_secrets(conn);
    return COMPLETE;
}

static void free_conn(Conn *conn) {
    Context *context = conn->context;
    SSL_free(conn->ssl);
    for (int i = 0; i < conn->key_count; i++) discard(&conn->keys[i].identity), discard(&conn->keys[i].session);
    discard(&conn->sending), discard(&conn->early), discard(&conn->lines);
    discard(&conn->identities), discard(&conn->offer), discard(&conn->shown);
    free(conn->last);
    OPENSSL_cleanse(conn, sizeof *conn);
    free(conn);
    connection_count--;
    Py_DECREF(context);
}

/* Lets a stopped job of this thread end, with an error. */
static void end_job(Conn *conn) {
    Conn *before = current;
    conn->signing.state = REFUSED;
    current = conn;
    conn->stopped = 0;
    stopped_count--;
    shake_hands(conn);
    current = before;
    ERR_clear_error();
}

/* The connections that other threads have dropped while their hand-shakes were stopped on this one. */
static long reap_orphans(void) {
    long freed = 0;
    Conn **link = &orphans;
    while (*link != NULL) {
        Conn *conn = *link;
        if (conn->thread != this_thread) {
            link = &conn->next_orphan;
            continue;
        }
        *link = conn->next_orphan;
        orphan_count--;
        end_job(conn);
        free_conn(conn);
        freed++;
        link = &orphans; /* freeing a context may have run Python, and that may have changed the list */
    }
    return freed;
}

/* Frees a connection. While its job is stopped only the thread that began it can: it does when it comes by next. */
static void drop(Conn *conn) {
    if (conn->stopped) {
        if (conn->thread != this_thread) {
            conn->next_orphan = orphans;
            orphans = conn;
            orphan_count++;
            return;
        }
        end_job(conn);
    }
    free_conn(conn);
}

#endif
