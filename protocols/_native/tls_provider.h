/* Private keys that a provider of OpenSSL has (provider(7)): a token's, a TPM's. libssl gets a key of our own methods
   for each, and leaves the raw signature to them: a padded block or a digest. So the provider signs and does nothing
   else of a hand-shake, whatever digests and ciphers it offers beside its keys.

   Not every provider may be called by two threads, so calls go one by one. Keys are kept by their PEM and shared by
   all contexts: a TPM has room for three. The list of them is changed under the interpreter's lock. */

#ifndef ACCESSGW_TLS_PROVIDER_H
#define ACCESSGW_TLS_PROVIDER_H

#include "tls_elsewhere.h"

enum { MAX_PROVIDER = 64, PROBE = 32, MAX_EC = 160 };

typedef struct HeldKey {
    struct HeldKey *next;
    EVP_PKEY *key;
    Bytes pem;
    char query[MAX_PROVIDER + 16]; /* has the provider's own implementation chosen; else a public half is signed with */
    int kind, bits, uses, lost;
} HeldKey;

static HeldKey *held_keys;
static pthread_mutex_t provider_lock = PTHREAD_MUTEX_INITIALIZER;
static RSA_METHOD *held_rsa_method;
static EC_KEY_METHOD *held_ec_method;

/* ------------------------------------------------------------------ signatures */

/* The size of the signature, 0 when there is none. */
static int sign_held(const HeldKey *held, const unsigned char *data, int size, unsigned char *out, int room) {
    size_t made = (size_t)room;
    /* Of a longer digest ECDSA takes the first bits (FIPS 186-5 section 6.4.1); a TPM refuses the rest. */
    if (held->kind == KEY_EC && held->bits % 8 == 0 && size > held->bits / 8) size = held->bits / 8;
    pthread_mutex_lock(&provider_lock);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, held->key, held->query);
    int good = ctx != NULL && EVP_PKEY_sign_init(ctx) == 1 &&
               (held->kind != KEY_RSA || EVP_PKEY_CTX_set_rsa_padding(ctx, PADDING_NONE) == 1) &&
               EVP_PKEY_sign(ctx, out, &made, data, (size_t)size) == 1;
    EVP_PKEY_CTX_free(ctx);
    pthread_mutex_unlock(&provider_lock);
    return good ? (int)made : 0;
}

static int rsa_held(int size, const unsigned char *data, unsigned char *out, RSA *rsa, int padding) {
    const HeldKey *held = RSA_get_ex_data(rsa, 0);
    int block_size = RSA_size(rsa), good = 0;
    unsigned char *block = malloc(2 * (size_t)block_size);
    if (block == NULL) return -1;
    /* Verified before it leaves: one faulty signature gives an RSA key away. */
    if (held != NULL && pad(block, block_size, data, size, padding))
        good = sign_held(held, block, block_size, out, block_size) == block_size &&
               RSA_public_decrypt(block_size, out, block + block_size, rsa, PADDING_NONE) == block_size &&
               memcmp(block, block + block_size, (size_t)block_size) == 0;
    free(block);
    return good ? block_size : -1;
}

static int ec_held(int type, const unsigned char *digest, int size, unsigned char *out, unsigned int *out_size,
                   const BIGNUM *inverse, const BIGNUM *random, EC_KEY *key) {
    (void)type, (void)inverse, (void)random;
    const HeldKey *held = EC_KEY_get_ex_data(key, 0);
    int made = held ? sign_held(held, digest, size, out, ECDSA_size(key)) : 0;
    *out_size = (unsigned int)made;
    return made > 0;
}

static int make_held_methods(void) {
    held_rsa_method = RSA_meth_dup(RSA_PKCS1_OpenSSL());
    held_ec_method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
    if (held_rsa_method == NULL || held_ec_method == NULL || RSA_meth_set_priv_enc(held_rsa_method, rsa_held) != 1)
        return 0;
    EC_KEY_METHOD_set_sign(held_ec_method, ec_held, NULL, NULL);
    return 1;
}

/* ------------------------------------------------------------------ keys */

static HeldKey *find_held(const Py_buffer *pem, const char *query) {
    for (HeldKey *held = held_keys; held != NULL; held = held->next)
        if (held->pem.size == (size_t)pem->len && !memcmp(held->pem.data, pem->buf, held->pem.size) &&
            !strcmp(held->query, query))
            return held->uses++, held;
    return NULL;
}

static HeldKey *keep_held(EVP_PKEY *key, const Py_buffer *pem, const char *query, int kind, int bits) {
    HeldKey *held = calloc(1, sizeof *held);
    if (held == NULL || !append(&held->pem, pem->buf, (size_t)pem->len)) {
        free(held);
        return NULL;
    }
    held->key = key, held->kind = kind, held->bits = bits, held->uses = 1;
    strcpy(held->query, query);
    held->next = held_keys;
    held_keys = held;
    return held;
}

/* Not found any more: who has it keeps it. */
static void hide_held(HeldKey *held) {
    for (HeldKey **place = &held_keys; *place != NULL; place = &(*place)->next)
        if (*place == held) {
            *place = held->next;
            return;
        }
}

static void release_held(HeldKey *held) {
    if (--held->uses) return;
    hide_held(held);
    if (!held->lost) {
        pthread_mutex_lock(&provider_lock);
        EVP_PKEY_free(held->key);
        pthread_mutex_unlock(&provider_lock);
    } /* else it would free what a TPM has in its place now */
    discard(&held->pem);
    free(held);
}

/* A signature of what is nobody's: whether the key is there, and does what we ask of it. */
static int signs(const HeldKey *held) {
    unsigned char digest[PROBE] = {0};
    int size = held->kind == KEY_RSA ? (held->bits + 7) / 8 : PROBE, room = size > MAX_EC ? size : MAX_EC, made = 0;
    unsigned char *block = calloc(2, (size_t)room);
    if (block == NULL) return 0;
    if (held->kind != KEY_RSA || pad(block, size, digest, PROBE, PADDING_PKCS1))
        made = sign_held(held, block, size, block + room, room);
    free(block);
    return made > 0;
}

/* The private key in the PEM, for libssl: our own where the provider has it. NULL with an exception, or with
   `*what` has failed in OpenSSL. `anew`: one that does not sign any more, since a TPM was reset, is opened again. */
static EVP_PKEY *key_of_provider(Context *self, X509 *leaf, const Py_buffer *pem, const char *provider, int anew,
                                 const char **what) {
    EVP_PKEY *public = X509_get0_pubkey(leaf), *own = NULL, *key;
    int kind = public ? EVP_PKEY_get_base_id(public) : 0, bits = public ? EVP_PKEY_get_bits(public) : 0;
    int fits, good = 1, fresh = 0;
    const OSSL_PROVIDER *holder;
    char query[MAX_PROVIDER + 16];
    snprintf(query, sizeof query, "?provider=%.*s", MAX_PROVIDER, provider);
    HeldKey **all = realloc(self->held, sizeof *all * (size_t)(self->held_count + 1));
    if (all == NULL) return PyErr_NoMemory(), NULL;
    self->held = all;
    HeldKey *held = find_held(pem, query);
    if (held != NULL && anew) {
        Py_BEGIN_ALLOW_THREADS;
        good = signs(held);
        Py_END_ALLOW_THREADS;
        ERR_clear_error();
        if (!good) {
            held->lost = 1;
            hide_held(held), release_held(held);
            held = NULL;
        }
    }
    BIO *bio = held ? NULL : BIO_new_mem_buf(pem->buf, (int)pem->len);
    Py_BEGIN_ALLOW_THREADS;
    pthread_mutex_lock(&provider_lock);
    key = held ? held->key : PEM_read_bio_PrivateKey_ex(bio, NULL, NULL, "", NULL, query);
    fits = key != NULL && public != NULL && EVP_PKEY_eq(public, key) == 1;
    holder = key ? EVP_PKEY_get0_provider(key) : NULL;
    pthread_mutex_unlock(&provider_lock);
    Py_END_ALLOW_THREADS;
    if (bio != NULL) BIO_free(bio);
    if (key == NULL) return *what = "no private key that it opens", NULL;
    if (held == NULL && (holder == NULL || strcmp(OSSL_PROVIDER_get0_name(holder), provider))) return key;
    if (held == NULL && (fresh = 1, held = keep_held(key, pem, query, kind, bits)) == NULL)
        return EVP_PKEY_free(key), PyErr_NoMemory(), NULL;
    self->held[self->held_count++] = held;
    if (!fits) return PyErr_SetString(PyExc_ValueError, "not the key of the certificate"), NULL;
    if (kind != KEY_RSA && kind != KEY_EC) return PyErr_SetString(PyExc_ValueError, "expected an RSA or EC key"), NULL;
    Py_BEGIN_ALLOW_THREADS;
    good = !fresh || signs(held);
    Py_END_ALLOW_THREADS;
    if (!good) return *what = "the key does not sign", NULL;
    own = kind == KEY_RSA ? rsa_elsewhere(public, held_rsa_method, held) : ec_elsewhere(public, held_ec_method, held);
    return own != NULL ? own : (PyErr_NoMemory(), NULL);
}

#endif
