/* HMAC (RFC 2104) with the two digests of TLS 1.3's suites, on the stack. A hand-shake has some twenty of them over a few
   bytes each, and HMAC_CTX makes objects for each and frees them again: see docs/adr/0107. */

#ifndef ACCESSGW_TLS_HMAC_H
#define ACCESSGW_TLS_HMAC_H

#include <string.h>

#include "openssl3.h"

enum { MAX_DIGEST = 48, MAX_BLOCK = 128 };

typedef struct {
    int size, block;
    int (**begin)(DigestState *);
    int (**update)(DigestState *, const void *, size_t);
    int (**end)(unsigned char *, DigestState *);
} Digest;

static const Digest SHA_256 = {32, 64, &SHA256_Init, &SHA256_Update, &SHA256_Final};
static const Digest SHA_384 = {48, 128, &SHA384_Init, &SHA384_Update, &SHA384_Final};

/* The one that OpenSSL calls so. */
static const Digest *digest_named(const char *name) {
    if (!strcmp(name, "SHA2-256") || !strcmp(name, "SHA256")) return &SHA_256;
    return !strcmp(name, "SHA2-384") || !strcmp(name, "SHA384") ? &SHA_384 : NULL;
}

static void digest_of_nothing(const Digest *digest, unsigned char *out) {
    DigestState state;
    (*digest->begin)(&state), (*digest->end)(out, &state);
}

/* A key whose two padded blocks are digested already: as many messages as wanted. */
typedef struct {
    const Digest *digest;
    DigestState inner, outer;
} HmacKey;

/* The key is at most as long as a block: here it is a digest. */
static void hmac_key(HmacKey *made, const Digest *digest, const unsigned char *key, size_t size) {
    unsigned char block[MAX_BLOCK];
    made->digest = digest;
    memset(block, 0x36, (size_t)digest->block);
    for (size_t i = 0; i < size; i++) block[i] ^= key[i];
    (*digest->begin)(&made->inner), (*digest->update)(&made->inner, block, (size_t)digest->block);
    for (int i = 0; i < digest->block; i++) block[i] ^= 0x36 ^ 0x5c;
    (*digest->begin)(&made->outer), (*digest->update)(&made->outer, block, (size_t)digest->block);
    OPENSSL_cleanse(block, (size_t)digest->block);
}

/* `out` has room for the digest. */
static void hmac_of(const HmacKey *key, const void *data, size_t size, unsigned char *out) {
    DigestState state = key->inner;
    (*key->digest->update)(&state, data, size), (*key->digest->end)(out, &state);
    state = key->outer;
    (*key->digest->update)(&state, out, (size_t)key->digest->size), (*key->digest->end)(out, &state);
    OPENSSL_cleanse(&state, sizeof state);
}

static void hmac_forget(HmacKey *key) { OPENSSL_cleanse(key, sizeof *key); }

#endif
