/* What tls_engine.c calls of the system's libssl.so.3 and libcrypto.so.3: declared here and looked up at run time, so
   that neither headers nor libraries of OpenSSL are needed to build. Types are opaque; numbers are those of the ABI. */

#ifndef ACCESSGW_OPENSSL3_H
#define ACCESSGW_OPENSSL3_H

#include <stddef.h>
#include <stdint.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;
typedef struct ssl_session_st SSL_SESSION;
typedef struct ssl_cipher_st SSL_CIPHER;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;
typedef struct x509_st X509;
typedef struct X509_crl_st X509_CRL;
typedef struct x509_store_st X509_STORE;
typedef struct x509_store_ctx_st X509_STORE_CTX;
typedef struct stack_st OPENSSL_STACK;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct ossl_provider_st OSSL_PROVIDER;
typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
typedef struct evp_kdf_st EVP_KDF;
typedef struct rsa_st RSA;
typedef struct rsa_meth_st RSA_METHOD;
typedef struct ec_key_st EC_KEY;
typedef struct ec_key_method_st EC_KEY_METHOD;
typedef struct ec_group_st EC_GROUP;
typedef struct ec_point_st EC_POINT;
typedef struct bignum_st BIGNUM;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_mac_ctx_st EVP_MAC_CTX;

typedef struct {
    const char *key;
    unsigned int data_type;
    void *data;
    size_t data_size, return_size;
} OSSL_PARAM;

typedef struct {
    int id;
    void (*function)(void);
} OSSL_DISPATCH;

typedef struct {
    const char *names, *properties;
    const OSSL_DISPATCH *functions;
    const char *description;
} OSSL_ALGORITHM;

/* Of SHA256_CTX (112 bytes) and SHA512_CTX (216), with room. */
typedef struct {
    uint64_t words[32];
} DigestState;

typedef int (*ProviderInit)(const void *, const OSSL_DISPATCH *, const OSSL_DISPATCH **, void **);

typedef int (*EcSign)(int, const unsigned char *, int, unsigned char *, unsigned int *, const BIGNUM *, const BIGNUM *,
                      EC_KEY *);
typedef int (*TicketKeyCallback)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *, EVP_MAC_CTX *, int);
typedef int (*FindSession)(SSL *, const unsigned char *, size_t, SSL_SESSION **);
typedef int (*AlpnSelect)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *);
typedef int (*VerifyCallback)(int, X509_STORE_CTX *);
typedef void (*MessageCallback)(int, int, int, const void *, size_t, SSL *, void *);

/* F(result, name, arguments) */
#define OPENSSL_FUNCTIONS(F)                                                                                           \
    F(unsigned long, OpenSSL_version_num, (void))                                                                      \
    F(const char *, OpenSSL_version, (int))                                                                            \
    F(unsigned long, ERR_get_error, (void))                                                                            \
    F(const char *, ERR_reason_error_string, (unsigned long))                                                          \
    F(void, ERR_clear_error, (void))                                                                                   \
    F(void *, CRYPTO_malloc, (size_t, const char *, int))                                                              \
    F(void, CRYPTO_free, (void *, const char *, int))                                                                  \
    F(void, OPENSSL_cleanse, (void *, size_t))                                                                         \
    F(int, RAND_bytes, (unsigned char *, int))                                                                         \
    F(int, OPENSSL_sk_num, (const OPENSSL_STACK *))                                                                    \
    F(void *, OPENSSL_sk_value, (const OPENSSL_STACK *, int))                                                          \
    F(int, ASYNC_is_capable, (void))                                                                                   \
    F(int, ASYNC_pause_job, (void))                                                                                    \
    F(void *, ASYNC_get_current_job, (void))                                                                           \
    F(BIO *, BIO_new, (const BIO_METHOD *))                                                                            \
    F(const BIO_METHOD *, BIO_s_mem, (void))                                                                           \
    F(BIO *, BIO_new_mem_buf, (const void *, int))                                                                     \
    F(int, BIO_free, (BIO *))                                                                                          \
    F(int, BIO_read, (BIO *, void *, int))                                                                             \
    F(int, BIO_write, (BIO *, const void *, int))                                                                      \
    F(size_t, BIO_ctrl_pending, (BIO *))                                                                               \
    F(X509 *, PEM_read_bio_X509, (BIO *, X509 **, void *, void *))                                                     \
    F(X509_CRL *, PEM_read_bio_X509_CRL, (BIO *, X509_CRL **, void *, void *))                                         \
    F(EVP_PKEY *, PEM_read_bio_PrivateKey, (BIO *, EVP_PKEY **, void *, void *))                                       \
    F(EVP_PKEY *, PEM_read_bio_PrivateKey_ex, (BIO *, EVP_PKEY **, void *, void *, void *, const char *))              \
    F(OSSL_LIB_CTX *, OSSL_LIB_CTX_new, (void))                                                                        \
    F(int, OSSL_PROVIDER_add_builtin, (OSSL_LIB_CTX *, const char *, ProviderInit))                                    \
    F(OSSL_PROVIDER *, OSSL_PROVIDER_load, (OSSL_LIB_CTX *, const char *))                                             \
    F(EVP_KDF *, EVP_KDF_fetch, (OSSL_LIB_CTX *, const char *, const char *))                                          \
    F(const OSSL_PROVIDER *, EVP_KDF_get0_provider, (const EVP_KDF *))                                                 \
    F(void, EVP_KDF_free, (EVP_KDF *))                                                                                 \
    F(const char *, OSSL_PROVIDER_get0_name, (const OSSL_PROVIDER *))                                                  \
    F(int, i2d_X509, (const X509 *, unsigned char **))                                                                 \
    F(void, X509_free, (X509 *))                                                                                       \
    F(void, X509_CRL_free, (X509_CRL *))                                                                               \
    F(EVP_PKEY *, X509_get0_pubkey, (const X509 *))                                                                    \
    F(int, X509_STORE_add_cert, (X509_STORE *, X509 *))                                                                \
    F(int, X509_STORE_add_crl, (X509_STORE *, X509_CRL *))                                                             \
    F(int, X509_STORE_set_flags, (X509_STORE *, unsigned long))                                                        \
    F(const char *, X509_verify_cert_error_string, (long))                                                             \
    F(void *, X509_STORE_CTX_get_ex_data, (const X509_STORE_CTX *, int))                                               \
    F(X509 *, X509_STORE_CTX_get0_cert, (const X509_STORE_CTX *))                                                      \
    F(EVP_PKEY *, EVP_PKEY_new, (void))                                                                                \
    F(void, EVP_PKEY_free, (EVP_PKEY *))                                                                               \
    F(int, EVP_PKEY_get_base_id, (const EVP_PKEY *))                                                                   \
    F(int, EVP_PKEY_get_bits, (const EVP_PKEY *))                                                                      \
    F(int, EVP_PKEY_eq, (const EVP_PKEY *, const EVP_PKEY *))                                                          \
    F(const OSSL_PROVIDER *, EVP_PKEY_get0_provider, (const EVP_PKEY *))                                               \
    F(EVP_PKEY_CTX *, EVP_PKEY_CTX_new_from_pkey, (void *, EVP_PKEY *, const char *))                                  \
    F(void, EVP_PKEY_CTX_free, (EVP_PKEY_CTX *))                                                                       \
    F(int, EVP_PKEY_CTX_set_rsa_padding, (EVP_PKEY_CTX *, int))                                                        \
    F(int, EVP_PKEY_sign_init, (EVP_PKEY_CTX *))                                                                       \
    F(int, EVP_PKEY_sign, (EVP_PKEY_CTX *, unsigned char *, size_t *, const unsigned char *, size_t))                  \
    F(int, EVP_PKEY_assign, (EVP_PKEY *, int, void *))                                                                 \
    F(RSA *, EVP_PKEY_get1_RSA, (EVP_PKEY *))                                                                          \
    F(EC_KEY *, EVP_PKEY_get1_EC_KEY, (EVP_PKEY *))                                                                    \
    F(RSA *, RSA_new, (void))                                                                                          \
    F(void, RSA_free, (RSA *))                                                                                         \
    F(int, RSA_size, (const RSA *))                                                                                    \
    F(void, RSA_get0_key, (const RSA *, const BIGNUM **, const BIGNUM **, const BIGNUM **))                            \
    F(int, RSA_set0_key, (RSA *, BIGNUM *, BIGNUM *, BIGNUM *))                                                        \
    F(int, RSA_public_decrypt, (int, const unsigned char *, unsigned char *, RSA *, int))                              \
    F(int, RSA_set_method, (RSA *, const RSA_METHOD *))                                                                \
    F(int, RSA_set_ex_data, (RSA *, int, void *))                                                                      \
    F(void *, RSA_get_ex_data, (const RSA *, int))                                                                     \
    F(const RSA_METHOD *, RSA_PKCS1_OpenSSL, (void))                                                                   \
    F(RSA_METHOD *, RSA_meth_dup, (const RSA_METHOD *))                                                                \
    F(int, RSA_meth_set_priv_enc, (RSA_METHOD *, int (*)(int, const unsigned char *, unsigned char *, RSA *, int)))    \
    F(int, RSA_padding_add_PKCS1_type_1, (unsigned char *, int, const unsigned char *, int))                           \
    F(BIGNUM *, BN_dup, (const BIGNUM *))                                                                              \
    F(void, BN_free, (BIGNUM *))                                                                                       \
    F(EC_KEY *, EC_KEY_new, (void))                                                                                    \
    F(void, EC_KEY_free, (EC_KEY *))                                                                                   \
    F(const EC_GROUP *, EC_KEY_get0_group, (const EC_KEY *))                                                           \
    F(const EC_POINT *, EC_KEY_get0_public_key, (const EC_KEY *))                                                      \
    F(int, EC_KEY_set_group, (EC_KEY *, const EC_GROUP *))                                                             \
    F(int, EC_KEY_set_public_key, (EC_KEY *, const EC_POINT *))                                                        \
    F(int, EC_KEY_set_method, (EC_KEY *, const EC_KEY_METHOD *))                                                       \
    F(int, EC_KEY_set_ex_data, (EC_KEY *, int, void *))                                                                \
    F(void *, EC_KEY_get_ex_data, (const EC_KEY *, int))                                                               \
    F(const EC_KEY_METHOD *, EC_KEY_OpenSSL, (void))                                                                   \
    F(EC_KEY_METHOD *, EC_KEY_METHOD_new, (const EC_KEY_METHOD *))                                                     \
    F(void, EC_KEY_METHOD_set_sign, (EC_KEY_METHOD *, EcSign, void *, void *))                                         \
    F(int, ECDSA_size, (const EC_KEY *))                                                                               \
    F(int, SHA256_Init, (DigestState *))                                                                               \
    F(int, SHA256_Update, (DigestState *, const void *, size_t))                                                       \
    F(int, SHA256_Final, (unsigned char *, DigestState *))                                                             \
    F(int, SHA384_Init, (DigestState *))                                                                               \
    F(int, SHA384_Update, (DigestState *, const void *, size_t))                                                       \
    F(int, SHA384_Final, (unsigned char *, DigestState *))                                                             \
    F(EVP_CIPHER *, EVP_CIPHER_fetch, (void *, const char *, const char *))                                            \
    F(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void))                                                                    \
    F(void, EVP_CIPHER_CTX_free, (EVP_CIPHER_CTX *))                                                                   \
    F(int, EVP_CIPHER_CTX_ctrl, (EVP_CIPHER_CTX *, int, int, void *))                                                  \
    F(int, EVP_CipherInit_ex, (EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *,                    \
                               const unsigned char *, int))                                                            \
    F(int, EVP_CipherUpdate, (EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int))                   \
    F(int, EVP_CipherFinal_ex, (EVP_CIPHER_CTX *, unsigned char *, int *))                                             \
    F(int, EVP_MAC_init, (EVP_MAC_CTX *, const unsigned char *, size_t, const OSSL_PARAM *))                           \
    F(const SSL_METHOD *, TLS_server_method, (void))                                                                   \
    F(SSL_CTX *, SSL_CTX_new_ex, (OSSL_LIB_CTX *, const char *, const SSL_METHOD *))                                   \
    F(void, SSL_CTX_free, (SSL_CTX *))                                                                                 \
    F(long, SSL_CTX_ctrl, (SSL_CTX *, int, long, void *))                                                              \
    F(long, SSL_CTX_callback_ctrl, (SSL_CTX *, int, void (*)(void)))                                                   \
    F(uint64_t, SSL_CTX_set_options, (SSL_CTX *, uint64_t))                                                            \
    F(int, SSL_CTX_set_cipher_list, (SSL_CTX *, const char *))                                                         \
    F(int, SSL_CTX_set_session_id_context, (SSL_CTX *, const unsigned char *, unsigned int))                           \
    F(int, SSL_CTX_set_max_early_data, (SSL_CTX *, uint32_t))                                                          \
    F(int, SSL_CTX_set_num_tickets, (SSL_CTX *, size_t))                                                               \
    F(int, SSL_CTX_use_certificate, (SSL_CTX *, X509 *))                                                               \
    F(int, SSL_CTX_use_PrivateKey, (SSL_CTX *, EVP_PKEY *))                                                            \
    F(void, SSL_CTX_set_verify, (SSL_CTX *, int, VerifyCallback))                                                      \
    F(void, SSL_CTX_set_verify_depth, (SSL_CTX *, int))                                                                \
    F(X509_STORE *, SSL_CTX_get_cert_store, (const SSL_CTX *))                                                         \
    F(int, SSL_CTX_add_client_CA, (SSL_CTX *, X509 *))                                                                 \
    F(void, SSL_CTX_set_keylog_callback, (SSL_CTX *, void (*)(const SSL *, const char *)))                             \
    F(void, SSL_CTX_set_msg_callback, (SSL_CTX *, MessageCallback))                                                    \
    F(void, SSL_CTX_set_alpn_select_cb, (SSL_CTX *, AlpnSelect, void *))                                               \
    F(void, SSL_CTX_set_client_hello_cb, (SSL_CTX *, int (*)(SSL *, int *, void *), void *))                           \
    F(void, SSL_CTX_set_psk_find_session_callback, (SSL_CTX *, FindSession))                                           \
    F(void, SSL_CTX_set_allow_early_data_cb, (SSL_CTX *, int (*)(SSL *, void *), void *))                              \
    F(int, SSL_CTX_set_tlsext_ticket_key_evp_cb, (SSL_CTX *, TicketKeyCallback))                                       \
    F(SSL_CTX *, SSL_set_SSL_CTX, (SSL *, SSL_CTX *))                                                                  \
    F(SSL *, SSL_new, (SSL_CTX *))                                                                                     \
    F(void, SSL_free, (SSL *))                                                                                         \
    F(long, SSL_ctrl, (SSL *, int, long, void *))                                                                      \
    F(int, SSL_set_ex_data, (SSL *, int, void *))                                                                      \
    F(void *, SSL_get_ex_data, (const SSL *, int))                                                                     \
    F(void, SSL_set_bio, (SSL *, BIO *, BIO *))                                                                        \
    F(void, SSL_set_accept_state, (SSL *))                                                                             \
    F(int, SSL_do_handshake, (SSL *))                                                                                  \
    F(int, SSL_read_early_data, (SSL *, void *, size_t, size_t *))                                                     \
    F(int, SSL_write_early_data, (SSL *, const void *, size_t, size_t *))                                              \
    F(int, SSL_read_ex, (SSL *, void *, size_t, size_t *))                                                             \
    F(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *))                                                      \
    F(int, SSL_shutdown, (SSL *))                                                                                      \
    F(int, SSL_get_error, (const SSL *, int))                                                                          \
    F(int, SSL_has_pending, (const SSL *))                                                                             \
    F(int, SSL_session_reused, (const SSL *))                                                                          \
    F(int, SSL_get_verify_mode, (const SSL *))                                                                         \
    F(int, SSL_set_num_tickets, (SSL *, size_t))                                                                       \
    F(int, SSL_version, (const SSL *))                                                                                 \
    F(const char *, SSL_get_version, (const SSL *))                                                                    \
    F(const SSL_CIPHER *, SSL_get_current_cipher, (const SSL *))                                                       \
    F(const char *, SSL_CIPHER_get_name, (const SSL_CIPHER *))                                                         \
    F(uint16_t, SSL_CIPHER_get_protocol_id, (const SSL_CIPHER *))                                                      \
    F(void, SSL_get0_alpn_selected, (const SSL *, const unsigned char **, unsigned int *))                             \
    F(const char *, SSL_get_servername, (const SSL *, int))                                                            \
    F(const char *, SSL_group_to_name, (SSL *, int))                                                                   \
    F(int, SSL_get_early_data_status, (const SSL *))                                                                   \
    F(X509 *, SSL_get_certificate, (const SSL *))                                                                      \
    F(X509 *, SSL_get1_peer_certificate, (const SSL *))                                                                \
    F(OPENSSL_STACK *, SSL_get0_verified_chain, (const SSL *))                                                         \
    F(long, SSL_get_verify_result, (const SSL *))                                                                      \
    F(int, SSL_get_ex_data_X509_STORE_CTX_idx, (void))                                                                 \
    F(size_t, SSL_client_hello_get0_random, (SSL *, const unsigned char **))                                           \
    F(int, SSL_client_hello_get0_ext, (SSL *, unsigned int, const unsigned char **, size_t *))                         \
    F(SSL_SESSION *, d2i_SSL_SESSION, (SSL_SESSION **, const unsigned char **, long))

#define DECLARE(result, name, arguments) static result(*name) arguments;
OPENSSL_FUNCTIONS(DECLARE)
#undef DECLARE

#define PLACE(result, name, arguments) {#name, &name},
static const struct {
    const char *name;
    void *place;
} OPENSSL_SYMBOLS[] = {OPENSSL_FUNCTIONS(PLACE)};
#undef PLACE

enum { OPENSSL_SYMBOL_COUNT = sizeof OPENSSL_SYMBOLS / sizeof *OPENSSL_SYMBOLS };

/* Commands of SSL_CTX_ctrl, SSL_CTX_callback_ctrl and SSL_ctrl. */
enum {
    CTRL_MODE = 33,
    CTRL_SESSION_CACHE_MODE = 44,
    CTRL_SERVERNAME_CALLBACK = 53,
    CTRL_STATUS_CALLBACK = 63,
    CTRL_STATUS_RESPONSE = 71,
    CTRL_CLEAR_MODE = 78,
    CTRL_ADD1_CHAIN_CERTIFICATE = 89,
    CTRL_GROUPS_LIST = 92,
    CTRL_SIGNATURE_ALGORITHMS_LIST = 98,
    CTRL_MINIMUM_VERSION = 123,
    CTRL_NEGOTIATED_GROUP = 134
};
enum { MODE_NO_AUTO_CHAIN = 8, MODE_RELEASE_BUFFERS = 16, MODE_ASYNC = 0x100 };
#define OP_NO_TICKET ((uint64_t)1 << 14)
#define OP_NO_COMPRESSION ((uint64_t)1 << 17)
#define OP_NO_ANTI_REPLAY ((uint64_t)1 << 24)
#define OP_NO_RENEGOTIATION ((uint64_t)1 << 30)
enum { ERROR_WANT_READ = 2, ERROR_ZERO_RETURN = 6, ERROR_WANT_ASYNC = 9, ERROR_WANT_CLIENT_HELLO = 11 };
enum { HELLO_GO_ON = 1, HELLO_WAIT = -1 };
enum { EARLY_READ = 1, EARLY_FINISHED = 2 };
enum { EXT_OK = 0, EXT_FATAL = 2, EXT_NONE = 3 };
enum { VERIFY_PEER = 1, VERIFY_REQUIRE = 2, CHECK_REVOCATION = 4 };
enum { KEY_RSA = 6, KEY_EC = 408, PADDING_PKCS1 = 1, PADDING_NONE = 3 };
enum { TLS_1_3 = 0x304, EXTENSION_PSK = 41, EXTENSION_EARLY_DATA = 42 };
enum { CONTENT_ALERT = 21, AEAD_SET_TAG = 0x11, PARAM_TEXT = 4 };

#endif
