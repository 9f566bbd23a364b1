/* TLS 1.3's key derivation (RFC 8446 section 7.1) for libssl, as a provider of ours in a library context of our own.

   So the secrets of a connection are seen where they are made, by the connection whose hand-shake this thread runs: the
   key log, which is the other way to learn them, writes each in hexadecimal digits by sprintf, and that costs as much
   as a fifteenth of the hand-shake. Everything else is the default provider's, and the HMAC is libcrypto's.

   Nothing is kept between two calls: libssl gives all that a derivation needs together with it. */

#ifndef ACCESSGW_TLS_KDF_H
#define ACCESSGW_TLS_KDF_H

#include "tls_handshake.h"

/* provider(7), provider-kdf(7), and the modes of EVP_KDF-TLS13_KDF(7). */
enum { PROVIDER_QUERY = 1027, OPERATION_KDF = 4 };
enum { KDF_NEW = 1, KDF_FREE = 3, KDF_RESET = 4, KDF_DERIVE = 5 };
enum { MODE_EXTRACT = 1, MODE_EXPAND = 2, MAX_INFO = 3 + 255 + 1 + 255 + 1 };

static const char KDF_PROVIDER[] = "accessgw";
static OSSL_LIB_CTX *library_context;

typedef struct {
    const unsigned char *data;
    size_t size;
} Part;

typedef struct {
    int mode;
    const Digest *digest;
    Part key, salt, prefix, label, data;
} Derivation;

/* ------------------------------------------------------------------ HKDF (RFC 5869) */

static void authenticate(const Digest *digest, Part key, const unsigned char *data, size_t size, unsigned char *out) {
    HmacKey made;
    hmac_key(&made, digest, key.data, key.size);
    hmac_of(&made, data, size, out);
    hmac_forget(&made);
}

/* HKDF-Expand-Label, for at most one block: nothing in a hand-shake is longer. */
static int expand_label(const Derivation *one, Part secret, Part data, unsigned char *out, size_t size) {
    unsigned char info[MAX_INFO], block[MAX_DIGEST];
    size_t named = one->prefix.size + one->label.size, at = 0;
    size_t length = (size_t)one->digest->size;
    if (secret.size != length || named > 255 || data.size > 255 || size > length) return 0;
    info[at++] = (unsigned char)(size >> 8), info[at++] = (unsigned char)size, info[at++] = (unsigned char)named;
    memcpy(info + at, one->prefix.data, one->prefix.size), at += one->prefix.size;
    memcpy(info + at, one->label.data, one->label.size), at += one->label.size;
    info[at++] = (unsigned char)data.size;
    if (data.size) memcpy(info + at, data.data, data.size), at += data.size;
    info[at++] = 1;
    authenticate(one->digest, secret, info, at, block);
    memcpy(out, block, size);
    OPENSSL_cleanse(block, sizeof block);
    return 1;
}

/* The next secret of the schedule: HKDF-Extract, whose salt is derived from the secret before. */
static int extract(const Derivation *one, unsigned char *out, size_t size) {
    static const unsigned char zeros[MAX_DIGEST];
    unsigned char salt[MAX_DIGEST], empty[MAX_DIGEST];
    size_t length = (size_t)one->digest->size;
    Part key = one->key.size ? one->key : (Part){zeros, length}, from = {zeros, length};
    if (size != length || (one->salt.size && one->salt.size != length)) return 0;
    if (one->salt.size) {
        digest_of_nothing(one->digest, empty);
        if (!expand_label(one, one->salt, (Part){empty, length}, salt, length)) return 0;
        from.data = salt;
    }
    authenticate(one->digest, from, key.data, key.size, out);
    OPENSSL_cleanse(salt, sizeof salt);
    return 1;
}

/* ------------------------------------------------------------------ what libssl calls */

static const char *const LABELS[SECRET_COUNT] = {"s hs traffic", "c ap traffic", "s ap traffic", "exp master"};

static void see_secret(Part label, const unsigned char *secret, size_t size) {
    Conn *conn = current;
    if (conn == NULL || size > MAX_SECRET) return;
    for (int i = 0; i < SECRET_COUNT; i++)
        if (label.size == strlen(LABELS[i]) && !memcmp(label.data, LABELS[i], label.size)) {
            memcpy(conn->secrets[i], secret, size);
            conn->known |= 1 << i;
        }
}

static int read_parameters(const OSSL_PARAM *parameters, Derivation *one) {
    for (const OSSL_PARAM *at = parameters; at != NULL && at->key != NULL; at++) {
        Part part = {at->data, at->data_size};
        if (!strcmp(at->key, "mode") && at->data_size == sizeof(int)) memcpy(&one->mode, at->data, sizeof(int));
        else if (!strcmp(at->key, "digest")) one->digest = digest_named(at->data);
        else if (!strcmp(at->key, "key")) one->key = part;
        else if (!strcmp(at->key, "salt")) one->salt = part;
        else if (!strcmp(at->key, "prefix")) one->prefix = part;
        else if (!strcmp(at->key, "label")) one->label = part;
        else if (!strcmp(at->key, "data")) one->data = part;
    }
    return one->digest != NULL && one->prefix.data != NULL && one->label.data != NULL;
}

static int kdf_derive(void *state, unsigned char *out, size_t size, const OSSL_PARAM *parameters) {
    (void)state;
    Derivation one = {0, NULL, {NULL, 0}, {NULL, 0}, {NULL, 0}, {NULL, 0}, {NULL, 0}};
    if (!read_parameters(parameters, &one)) return 0;
    if (one.mode == MODE_EXTRACT) return extract(&one, out, size);
    if (one.mode != MODE_EXPAND || !expand_label(&one, one.key, one.data, out, size)) return 0;
    see_secret(one.label, out, size);
    return 1;
}

static void *kdf_new(void *provider) { return provider; }
static void kdf_free(void *state) { (void)state; }

static const OSSL_DISPATCH KDF_FUNCTIONS[] = {{KDF_NEW, (void (*)(void))kdf_new},
                                              {KDF_FREE, (void (*)(void))kdf_free},
                                              {KDF_RESET, (void (*)(void))kdf_free},
                                              {KDF_DERIVE, (void (*)(void))kdf_derive},
                                              {0, NULL}};
static const OSSL_ALGORITHM KDFS[] = {{"TLS13-KDF", "provider=accessgw", KDF_FUNCTIONS, NULL}, {NULL, NULL, NULL, NULL}};

static const OSSL_ALGORITHM *provider_query(void *provider, int operation, int *uncached) {
    (void)provider;
    *uncached = 0;
    return operation == OPERATION_KDF ? KDFS : NULL;
}

static const OSSL_DISPATCH PROVIDER_FUNCTIONS[] = {{PROVIDER_QUERY, (void (*)(void))provider_query}, {0, NULL}};

static int provider_init(const void *handle, const OSSL_DISPATCH *offered, const OSSL_DISPATCH **functions,
                         void **provider) {
    (void)handle, (void)offered;
    *functions = PROVIDER_FUNCTIONS;
    *provider = (void *)KDF_PROVIDER; /* some pointer: there is no state */
    return 1;
}

/* Whether libssl derives by us in library_context; else its default context and the key log serve as well. What later
   versions give with a derivation was not looked at, so it is for those of 3.0. */
static int make_library_context(void) {
    if (OpenSSL_version_num() >> 20 != 0x300) return 0;
    library_context = OSSL_LIB_CTX_new();
    if (library_context == NULL || OSSL_PROVIDER_add_builtin(library_context, KDF_PROVIDER, provider_init) != 1 ||
        OSSL_PROVIDER_load(library_context, KDF_PROVIDER) == NULL ||
        OSSL_PROVIDER_load(library_context, "default") == NULL)
        return 0;
    EVP_KDF *kdf = EVP_KDF_fetch(library_context, "TLS13-KDF", NULL);
    int ours = kdf != NULL && !strcmp(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(kdf)), KDF_PROVIDER);
    if (kdf != NULL) EVP_KDF_free(kdf);
    return ours;
}

#endif
