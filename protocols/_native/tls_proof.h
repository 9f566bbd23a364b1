/* Whether a TLS 1.3 record has the sequence number that it was counted to have: it opens under the traffic secret at
   that number and no other (RFC 8446 sections 5.2, 5.3, 7.1, 7.3). Nothing of the plaintext is kept. */

#ifndef ACCESSGW_TLS_PROOF_H
#define ACCESSGW_TLS_PROOF_H

#include <string.h>

#include "tls_hmac.h"

enum { RECORD_HEADER = 5, RECORD_TAG = 16, RECORD_IV = 12, MAX_KEY = 32, MAX_SECRET = 48 };
enum { MAX_RECORD = RECORD_HEADER + (1 << 14) + 256 };

typedef struct {
    int number, key_size;
    const Digest *digest;
    const char *cipher_name;
    EVP_CIPHER *cipher; /* looked up once: that costs as much as what is done with it */
} Suite;

static Suite SUITES[] = {
    {0x1301, 16, &SHA_256, "AES-128-GCM", NULL},
    {0x1302, 32, &SHA_384, "AES-256-GCM", NULL},
    {0x1303, 32, &SHA_256, "ChaCha20-Poly1305", NULL},
};

/* The name of what OpenSSL does not have, NULL when all is there. */
static const char *fetch_suites(void) {
    for (size_t i = 0; i < sizeof SUITES / sizeof *SUITES; i++) {
        Suite *suite = &SUITES[i];
        if ((suite->cipher = EVP_CIPHER_fetch(NULL, suite->cipher_name, NULL)) == NULL) return suite->cipher_name;
    }
    return NULL;
}

static const Suite *suite_of(int number) {
    for (size_t i = 0; i < sizeof SUITES / sizeof *SUITES; i++)
        if (SUITES[i].number == number) return &SUITES[i];
    return NULL;
}

/* HKDF-Expand-Label without a context, for at most one block of output. */
static void expand(const HmacKey *secret, const char *label, unsigned char *out, int size) {
    unsigned char info[32], block[MAX_DIGEST];
    size_t length = strlen(label), at = 0;
    info[at++] = 0, info[at++] = (unsigned char)size, info[at++] = (unsigned char)(6 + length);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, length);
    at += 6 + length;
    info[at++] = 0, info[at++] = 1;
    hmac_of(secret, info, at, block);
    memcpy(out, block, (size_t)size);
    OPENSSL_cleanse(block, sizeof block);
}

/* The key and the static IV of a traffic secret. */
static void derive_keys(const Suite *suite, const unsigned char *secret, unsigned char *key, unsigned char *iv) {
    HmacKey made;
    hmac_key(&made, suite->digest, secret, (size_t)suite->digest->size);
    expand(&made, "key", key, suite->key_size);
    expand(&made, "iv", iv, RECORD_IV);
    hmac_forget(&made);
}

/* Whether `record`, of `size` bytes with its header, opens under `key` and `iv` at a sequence number from `first` to before
   `end`. */
static int opens(const Suite *suite, const unsigned char *key, const unsigned char *iv, const unsigned char *record,
                 int size, unsigned long long first, unsigned long long end) {
    unsigned char nonce[RECORD_IV], plain[MAX_RECORD];
    int inner = size - RECORD_HEADER - RECORD_TAG, length, found = 0;
    if (inner < 1 || size > MAX_RECORD) return 0;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL || EVP_CipherInit_ex(ctx, suite->cipher, NULL, key, NULL, 0) != 1) goto done;
    for (unsigned long long at = first; at < end && !found; at++) {
        memcpy(nonce, iv, RECORD_IV);
        for (int i = 0; i < 8; i++) nonce[RECORD_IV - 1 - i] ^= (unsigned char)(at >> (8 * i));
        found = EVP_CipherInit_ex(ctx, NULL, NULL, NULL, nonce, 0) == 1 &&
                EVP_CipherUpdate(ctx, NULL, &length, record, RECORD_HEADER) == 1 &&
                EVP_CipherUpdate(ctx, plain, &length, record + RECORD_HEADER, inner) == 1 && length == inner &&
                EVP_CIPHER_CTX_ctrl(ctx, AEAD_SET_TAG, RECORD_TAG, (void *)(record + RECORD_HEADER + inner)) == 1 &&
                EVP_CipherFinal_ex(ctx, plain + inner, &length) == 1;
    }
    OPENSSL_cleanse(plain, (size_t)inner), OPENSSL_cleanse(nonce, sizeof nonce);
done:
    EVP_CIPHER_CTX_free(ctx);
    ERR_clear_error();
    return found;
}

#endif
