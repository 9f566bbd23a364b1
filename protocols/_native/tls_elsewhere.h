/* Private keys that are elsewhere: libssl gets a key of our own methods, and the hand-shake stops inside of its signature
   until somebody has made it. */

#ifndef ACCESSGW_TLS_ELSEWHERE_H
#define ACCESSGW_TLS_ELSEWHERE_H

#include "tls_conn.h"

static RSA_METHOD *rsa_method;
static EC_KEY_METHOD *ec_method;

/* Stops the job until there is an answer: the size of the signature, 0 when there will be none. */
static int ask(const char *key, int is_rsa, const unsigned char *data, int data_size, unsigned char *signature,
               int room) {
    Conn *conn = current;
    if (conn == NULL || key == NULL || conn->signing.state == REFUSED || ASYNC_get_current_job() == NULL) return 0;
    Signing *signing = &conn->signing;
    signing->key = key, signing->is_rsa = is_rsa, signing->data = data, signing->data_size = data_size;
    signing->signature = signature, signing->room = room, signing->size = 0, signing->state = ASKED;
    while (signing->state == ASKED)
        if (ASYNC_pause_job() != 1) signing->state = REFUSED;
    signing->data = NULL, signing->signature = NULL;
    return signing->state == ANSWERED ? signing->size : 0;
}

/* Whether `block` is now what the private operation is on. */
static int pad(unsigned char *block, int block_size, const unsigned char *data, int size, int padding) {
    if (padding == PADDING_PKCS1) return RSA_padding_add_PKCS1_type_1(block, block_size, data, size) == 1;
    if (padding != PADDING_NONE || size != block_size) return 0;
    memcpy(block, data, (size_t)size);
    return 1;
}

static int rsa_private(int size, const unsigned char *data, unsigned char *out, RSA *rsa, int padding) {
    int block_size = RSA_size(rsa), made = 0;
    unsigned char *block = malloc((size_t)block_size);
    if (block == NULL) return -1;
    if (pad(block, block_size, data, size, padding))
        made = ask(RSA_get_ex_data(rsa, 0), 1, block, block_size, out, block_size);
    free(block);
    return made == block_size ? made : -1;
}

static int ec_sign(int type, const unsigned char *digest, int size, unsigned char *out, unsigned int *out_size,
                   const BIGNUM *inverse, const BIGNUM *random, EC_KEY *key) {
    (void)type, (void)inverse, (void)random;
    int made = ask(EC_KEY_get_ex_data(key, 0), 0, digest, size, out, ECDSA_size(key));
    *out_size = (unsigned int)made;
    return made > 0;
}

static int make_methods(void) {
    rsa_method = RSA_meth_dup(RSA_PKCS1_OpenSSL());
    ec_method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
    if (rsa_method == NULL || ec_method == NULL || RSA_meth_set_priv_enc(rsa_method, rsa_private) != 1) return 0;
    EC_KEY_METHOD_set_sign(ec_method, ec_sign, NULL, NULL);
    return 1;
}

/* A key of a public half and of those who make its signatures; `who` is for them. */
static EVP_PKEY *rsa_elsewhere(EVP_PKEY *public, const RSA_METHOD *method, void *who) {
    EVP_PKEY *key = NULL;
    RSA *known = EVP_PKEY_get1_RSA(public), *rsa = RSA_new();
    const BIGNUM *n = NULL, *e = NULL, *d = NULL;
    if (known != NULL) RSA_get0_key(known, &n, &e, &d);
    BIGNUM *own_n = n ? BN_dup(n) : NULL, *own_e = e ? BN_dup(e) : NULL;
    if (rsa != NULL && own_n != NULL && own_e != NULL && RSA_set_method(rsa, method) == 1 &&
        RSA_set_ex_data(rsa, 0, who) == 1 && RSA_set0_key(rsa, own_n, own_e, NULL) == 1) {
        own_n = own_e = NULL;
        key = EVP_PKEY_new();
        if (key != NULL && EVP_PKEY_assign(key, KEY_RSA, rsa) == 1) rsa = NULL;
        else if (key != NULL) EVP_PKEY_free(key), key = NULL;
    }
    BN_free(own_n), BN_free(own_e), RSA_free(rsa), RSA_free(known);
    return key;
}

static EVP_PKEY *ec_elsewhere(EVP_PKEY *public, const EC_KEY_METHOD *method, void *who) {
    EVP_PKEY *key = NULL;
    EC_KEY *known = EVP_PKEY_get1_EC_KEY(public), *ec = EC_KEY_new();
    if (known != NULL && ec != NULL && EC_KEY_set_method(ec, method) == 1 &&
        EC_KEY_set_group(ec, EC_KEY_get0_group(known)) == 1 &&
        EC_KEY_set_public_key(ec, EC_KEY_get0_public_key(known)) == 1 && EC_KEY_set_ex_data(ec, 0, who) == 1) {
        key = EVP_PKEY_new();
        if (key != NULL && EVP_PKEY_assign(key, KEY_EC, ec) == 1) ec = NULL;
        else if (key != NULL) EVP_PKEY_free(key), key = NULL;
    }
    EC_KEY_free(ec), EC_KEY_free(known);
    return key;
}

#endif
