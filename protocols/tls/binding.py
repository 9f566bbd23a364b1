"""The only module that touches what pyOpenSSL and cryptography keep to themselves: cryptography's binding of OpenSSL.

pyOpenSSL's public interface lacks early data, external pre-shared keys of TLS 1.3, groups, signature algorithms
and several certificates with chains of their own. Every symbol is named in FUNCTIONS or ATTRIBUTES, and
tests/protocols/tls/test_binding.py says which one has gone when a new release drops it.

A callback from C never raises into it: each has an error value, with which OpenSSL ends the hand-shake. What
went wrong waits in Notes.defect. Callbacks live as long as their context: they are kept in its app data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from protocols.tls.handshake_notes import ContextTraits, HandshakeNotes
from protocols.tls.psk import ExternalPsk, session_der

EARLY_DATA_FUNCTIONS = ("SSL_CTX_set_max_early_data", "SSL_read_early_data", "SSL_write_early_data")
PSK_FUNCTIONS = (
    "SSL_CTX_set_psk_find_session_callback",
    "SSL_CTX_set_psk_use_session_callback",
    "SSL_session_reused",
    "d2i_SSL_SESSION",
)
FUNCTIONS = (
    *EARLY_DATA_FUNCTIONS,
    *PSK_FUNCTIONS,
    "BIO_free",
    "BIO_new",
    "BIO_read",
    "BIO_s_mem",
    "BIO_write",
    "ERR_clear_error",
    "SSL_CIPHER_get_name",
    "SSL_CTX_set_keylog_callback",
    "SSL_CTX_set1_curves_list",
    "SSL_CTX_set1_sigalgs_list",
    "SSL_CTX_set_alpn_select_cb",
    "SSL_CTX_set_msg_callback",
    "SSL_CTX_set_verify",
    "SSL_CTX_use_PrivateKey",
    "SSL_ERROR_WANT_READ",
    "SSL_TLSEXT_ERR_ALERT_FATAL",
    "SSL_TLSEXT_ERR_OK",
    "SSL_do_handshake",
    "SSL_get0_alpn_selected",
    "SSL_get0_group_name",
    "SSL_get0_verified_chain",
    "SSL_get_current_cipher",
    "SSL_get_ex_data_X509_STORE_CTX_idx",
    "SSL_get_error",
    "SSL_get_peer_certificate",
    "SSL_get_servername",
    "SSL_get_verify_mode",
    "SSL_get_verify_result",
    "SSL_get_version",
    "SSL_pending",
    "SSL_version",
    "X509_STORE_CTX_get0_cert",
    "X509_STORE_CTX_get_ex_data",
    "X509_free",
    "X509_verify_cert_error_string",
    "i2d_X509_bio",
    "sk_X509_num",
    "sk_X509_value",
)
"""What is taken from the library itself."""
ATTRIBUTES: tuple[tuple[type, str], ...] = (
    (SSL.Context, "_context"),
    (SSL.Connection, "_ssl"),
    (SSL.Connection, "_from_ssl"),
    (SSL.Connection, "_into_ssl"),
    (SSL.Connection, "_raise_ssl_error"),
    (SSL.Connection, "_reverse_mapping"),
    (crypto.PKey, "_pkey"),
)
"""What is taken from objects of pyOpenSSL; an instance has it, if not the class."""

HAS_EARLY_DATA = all(hasattr(lib, name) for name in EARLY_DATA_FUNCTIONS)
HAS_EXTERNAL_PSK = all(hasattr(lib, name) for name in PSK_FUNCTIONS)

OP_NO_ANTI_REPLAY = 1 << 24
"""SSL_OP_NO_ANTI_REPLAY of OpenSSL 1.1.1 to 4.0, which the binding does not name."""

MODE_NO_AUTO_CHAIN = 8
"""SSL_MODE_NO_AUTO_CHAIN, which it does not name either."""

_READ_SUCCESS, _READ_FINISH = 1, 2  # SSL_READ_EARLY_DATA_*; 0 is the error
_CHUNK = 1 << 14
_new_chunk = ffi.new_allocator(should_clear_after_alloc=False)
_MOST_OFFERS = 64
"""ALPN offers whose answer a context remembers: the clients of a listener have a few."""
_LONGEST_OFFER = 128
"""Bytes of an offer that is remembered; a client may send 64 KiB of names."""
_HANDSHAKE, _END_OF_EARLY_DATA, _KEY_UPDATE = 22, 5, 24


_shaking: dict[Any, HandshakeNotes] = {}
"""By OpenSSL's pointer, those of the connections that shake hands just now: quicker than to ask pyOpenSSL."""
_cipher_names: dict[Any, str] = {}
"""By OpenSSL's pointers, which are into a table that never changes."""


def missing() -> list[str]:
    """The symbols of FUNCTIONS that this build of cryptography does not have."""
    return [name for name in FUNCTIONS if not hasattr(lib, name)]


def clear_errors() -> None:
    """Forget errors that an earlier call on this thread left behind: the next call would be blamed for them."""
    lib.ERR_clear_error()


# ------------------------------------------------------------------ contexts, before their first use


def set_groups(context: SSL.Context, groups: Sequence[str]) -> None:
    """Key exchanges, best first. ValueError when OpenSSL does not know one."""
    if lib.SSL_CTX_set1_curves_list(context._context, ":".join(groups).encode("ascii")) != 1:
        clear_errors()
        raise ValueError(f"expected groups that OpenSSL knows, got {', '.join(groups)}")


def set_signature_algorithms(context: SSL.Context, algorithms: Sequence[str]) -> None:
    """Signatures that are made and taken, best first. ValueError when OpenSSL does not know one."""
    if lib.SSL_CTX_set1_sigalgs_list(context._context, ":".join(algorithms).encode("ascii")) != 1:
        clear_errors()
        raise ValueError(f"expected signature algorithms that OpenSSL knows, got {', '.join(algorithms)}")


def set_max_early_data(context: SSL.Context, size: int) -> None:
    """Bytes of early data that a server takes on a connection."""
    lib.SSL_CTX_set_max_early_data(context._context, size)


def use_certificate(context: SSL.Context, chain: bytes, key: bytes) -> None:
    """A PEM chain, leaf first, and its PEM key, beside those of other kinds of keys. SSL.Error when they do not fit."""
    if chain.count(b"-----BEGIN CERTIFICATE-----") == 1:
        context.use_certificate(x509.load_pem_x509_certificate(chain))
    else:
        # The binding has one list of further certificates for all leaves; only from a file does each get its own.
        descriptor = os.memfd_create("chain")
        try:
            os.write(descriptor, chain)
            context.use_certificate_chain_file(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    # An empty passphrase: with none OpenSSL would ask for one on the terminal.
    loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, key, b"")
    if lib.SSL_CTX_use_PrivateKey(context._context, loaded._pkey) != 1:
        clear_errors()
        raise SSL.Error([("", "", "the private key is not the one of the certificate")])
    context.check_privatekey()


def answer_callbacks(context: SSL.Context, traits: ContextTraits, *, server: bool) -> None:
    """Make `traits` the app data of a new context, and route its callbacks to the HandshakeNotes of each connection."""
    context.set_app_data(traits)
    note = ffi.callback("void (*)(const SSL *, const char *)", _note_secret)
    lib.SSL_CTX_set_keylog_callback(context._context, note)
    traits.kept.append(note)
    if server:
        if traits.find_psk is not None:
            find = ffi.callback("int(SSL *, unsigned char *, size_t, SSL_SESSION **)", _find_psk, error=0)
            lib.SSL_CTX_set_psk_find_session_callback(context._context, find)
            traits.kept.append(find)
        if traits.select_alpn is not None:
            select = ffi.callback(
                "int(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
                _select_alpn,
                error=lib.SSL_TLSEXT_ERR_ALERT_FATAL,
            )
            lib.SSL_CTX_set_alpn_select_cb(context._context, select, ffi.NULL)
            traits.kept.append(select)
        if traits.counts_updates:
            count = ffi.callback("void(int, int, int, void *, size_t, SSL *, void *)", _count_updates)
            lib.SSL_CTX_set_msg_callback(context._context, count)
            traits.kept.append(count)
    else:
        use = ffi.callback("int(SSL *, EVP_MD *, unsigned char **, size_t *, SSL_SESSION **)", _offer_psk, error=0)
        lib.SSL_CTX_set_psk_use_session_callback(context._context, use)
        watch = ffi.callback("void(int, int, int, void *, size_t, SSL *, void *)", _watch_messages)
        lib.SSL_CTX_set_msg_callback(context._context, watch)
        traits.kept.extend((use, watch))


def note_refused(context: SSL.Context, traits: ContextTraits) -> None:
    """Have the certificates that are not taken noted in HandshakeNotes, on a context that verifies: OpenSSL forgets them."""
    note = ffi.callback("int (*)(int, X509_STORE_CTX *)", _note_refused)
    lib.SSL_CTX_set_verify(context._context, context.get_verify_mode(), note)
    traits.kept.append(note)


# ------------------------------------------------------------------ connections


def verify_failure(connection: SSL.Connection) -> str:
    """Why the peer's certificate was refused, in OpenSSL's words; empty when it was not."""
    result = lib.SSL_get_verify_result(connection._ssl)
    if result == 0:  # X509_V_OK, also when nothing was verified
        return ""
    return bytes(ffi.string(lib.X509_verify_cert_error_string(result))).decode("ascii", "replace")


def session_reused(connection: SSL.Connection) -> bool:
    """The hand-shake went by a pre-shared key or a ticket."""
    return bool(lib.SSL_session_reused(connection._ssl))


def pending(connection: SSL.Connection) -> int:
    """Bytes of plaintext that wait inside OpenSSL."""
    return int(lib.SSL_pending(connection._ssl))


def give(connection: SSL.Connection, data: bytes) -> None:
    """Ciphertext of the peer."""
    if lib.BIO_write(connection._into_ssl, data, len(data)) != len(data):
        raise MemoryError("OpenSSL has no room for ciphertext")


def take(connection: SSL.Connection) -> bytes:
    """The ciphertext that OpenSSL wants to send."""
    return _emptied(connection._from_ssl)


def take_unread(connection: SSL.Connection) -> bytes:
    """The ciphertext that was written to the connection and that OpenSSL has not taken."""
    return _emptied(connection._into_ssl)


def _emptied(bio: Any) -> bytes:
    buffer = _new_chunk("char[]", _CHUNK)
    size = lib.BIO_read(bio, buffer, _CHUNK)
    if size <= 0:
        return b""
    data = bytes(ffi.buffer(buffer, size)[:])
    if size < _CHUNK:
        return data
    parts = [data]
    while (size := lib.BIO_read(bio, buffer, _CHUNK)) > 0:
        parts.append(ffi.buffer(buffer, size)[:])
    return b"".join(parts)


def shake_hands(connection: SSL.Connection, notes: HandshakeNotes) -> bool:
    """Connection.do_handshake, without an exception for the usual: False, it waits for the peer. `notes` are its app
    data."""
    ssl = connection._ssl
    _shaking[ssl] = notes
    try:
        result = lib.SSL_do_handshake(ssl)
    finally:
        # The next connection may have its place in memory.
        del _shaking[ssl]
    if result == 1:
        return True
    if lib.SSL_get_error(ssl, result) == lib.SSL_ERROR_WANT_READ:
        return False
    connection._raise_ssl_error(ssl, result)
    raise SSL.Error([("", "", "the hand-shake came to nothing")])


def asks_for_certificate(connection: SSL.Connection) -> bool:
    """Whether the peer's certificate is verified."""
    return bool(lib.SSL_get_verify_mode(connection._ssl) & SSL.VERIFY_PEER)


def peer_certificate(connection: SSL.Connection) -> bytes:
    """In DER; empty when the peer has shown none."""
    certificate = lib.SSL_get_peer_certificate(connection._ssl)
    if not certificate:
        return b""
    try:
        return _der(certificate)
    finally:
        lib.X509_free(certificate)


def verified_chain(connection: SSL.Connection) -> tuple[bytes, ...]:
    """In DER, from the peer's certificate to the trusted one; empty when none was verified in this hand-shake."""
    chain = lib.SSL_get0_verified_chain(connection._ssl)
    return tuple(_der(lib.sk_X509_value(chain, at)) for at in range(lib.sk_X509_num(chain))) if chain else ()


def _der(certificate: Any) -> bytes:
    bio = lib.BIO_new(lib.BIO_s_mem())
    try:
        if lib.i2d_X509_bio(bio, certificate) != 1:
            raise MemoryError("OpenSSL has no room for a certificate")
        return _emptied(bio)
    finally:
        lib.BIO_free(bio)


class Negotiated(NamedTuple):
    """What a hand-shake came to, in OpenSSL's words; empty where there is none."""

    version: str
    cipher: str
    group: str
    alpn: str
    server_name: str


def negotiated(connection: SSL.Connection) -> Negotiated:
    """Of a connection whose hand-shake is complete; in one go, since pyOpenSSL asks and checks for each."""
    ssl = connection._ssl
    place, size = ffi.new("const unsigned char **"), ffi.new("unsigned int *")
    lib.SSL_get0_alpn_selected(ssl, place, size)
    cipher = lib.SSL_get_current_cipher(ssl)
    named = _cipher_names.get(cipher)
    if named is None:
        named = _cipher_names[cipher] = _words(lib.SSL_CIPHER_get_name(cipher)) if cipher else ""
    version = lib.SSL_version(ssl)
    return Negotiated(
        "TLSv1.3" if version == SSL.TLS1_3_VERSION else _words(lib.SSL_get_version(ssl)),
        named,
        _words(lib.SSL_get0_group_name(ssl)),
        ffi.buffer(place[0], size[0])[:].decode("latin-1") if size[0] else "",
        _words(lib.SSL_get_servername(ssl, 0)),  # TLSEXT_NAMETYPE_host_name
    )


def shown(connection: SSL.Connection, notes: HandshakeNotes) -> tuple[str, bytes, bytes]:
    """Of a client whose hand-shake has failed: version, server name and certificate, as far as it came to them."""
    ssl = connection._ssl
    name = lib.SSL_get_servername(ssl, 0)
    return (
        _words(lib.SSL_get_version(ssl)),
        ffi.string(name) if name else b"",
        notes.shown or peer_certificate(connection),
    )


def _words(text: Any) -> str:
    return ffi.string(text).decode("latin-1") if text else ""


def read_early_data(connection: SSL.Connection) -> bytes | None:
    """Early data; none of it: it waits for the peer; None: there is no more. Raises what Connection.recv does, but no
    exception for the usual."""
    buffer = _new_chunk("char[]", _CHUNK)
    size = ffi.new("size_t *")
    ssl = connection._ssl
    result = lib.SSL_read_early_data(ssl, buffer, _CHUNK, size)
    if result == _READ_SUCCESS:
        return bytes(ffi.buffer(buffer, size[0]))
    if result == _READ_FINISH:
        return None
    if lib.SSL_get_error(ssl, 0) != lib.SSL_ERROR_WANT_READ:
        connection._raise_ssl_error(ssl, 0)
    return b""


def write_early_data(connection: SSL.Connection, data: bytes) -> None:
    """A client's early data, or a server's answers before the hand-shake is complete. Raises as Connection.send."""
    written = ffi.new("size_t *")
    view = memoryview(data)
    while view:
        with ffi.from_buffer(view) as part:
            result = lib.SSL_write_early_data(connection._ssl, part, len(view), written)
        if result != 1:
            connection._raise_ssl_error(connection._ssl, 0)
            raise SSL.Error([("", "", "early data was not taken")])
        view = view[written[0] :]


# ------------------------------------------------------------------ callbacks


def _notes_of(ssl: Any) -> HandshakeNotes:
    notes: HandshakeNotes = _shaking.get(ssl) or SSL.Connection._reverse_mapping[ssl].get_app_data()
    return notes


def _note_secret(ssl: Any, line: Any) -> None:
    notes = _notes_of(ssl)
    try:
        notes.note_line(ffi.string(line))
    except Exception as error:
        notes.defect = error.with_traceback(None)


def _note_refused(good: int, store: Any) -> int:
    if not good:
        ssl = lib.X509_STORE_CTX_get_ex_data(store, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        notes = _notes_of(ssl)
        leaf = lib.X509_STORE_CTX_get0_cert(store)
        try:
            if leaf and not notes.shown:
                notes.shown = _der(leaf)
        except Exception as error:
            notes.defect = error.with_traceback(None)
    return good


def _find_psk(ssl: Any, identity: Any, size: int, out: Any) -> int:
    out[0] = ffi.NULL
    notes = _notes_of(ssl)
    notes.chosen = b""
    try:
        psk = notes.look_up(bytes(ffi.buffer(identity, size)))
        if psk is not None:
            out[0] = _session(psk, notes.traits.max_early_data)
            notes.chosen = psk.identity
    except Exception as error:
        notes.defect = error.with_traceback(None)
        return 0
    return 1


def _offer_psk(ssl: Any, digest: Any, identity: Any, size: Any, out: Any) -> int:
    identity[0], size[0], out[0] = ffi.NULL, 0, ffi.NULL
    notes = _notes_of(ssl)
    psk = notes.offered
    try:
        if psk is not None:
            notes.kept = kept = ffi.new("unsigned char[]", psk.identity)
            identity[0], size[0], out[0] = kept, len(psk.identity), _session(psk, psk.max_early_data)
    except Exception as error:
        notes.defect = error.with_traceback(None)
        return 0
    return 1


def _offered(names: bytes) -> list[bytes]:
    """Of the extension ALPN (RFC 7301 section 3.1)."""
    offered = []
    while names:
        offered.append(names[1 : 1 + names[0]])
        names = names[1 + names[0] :]
    return offered


def _select_alpn(  # noqa: PLR0917  # OpenSSL's own arguments
    ssl: Any, out: Any, out_size: Any, offer: Any, size: int, argument: Any
) -> int:
    notes = _notes_of(ssl)
    try:
        over_1_3 = lib.SSL_version(ssl) >= SSL.TLS1_3_VERSION
        names = bytes(ffi.buffer(offer, size))
        traits = notes.traits
        kept = traits.chosen_alpn.get((over_1_3, names))
        if kept is None:
            assert traits.select_alpn is not None
            # OpenSSL copies it after the callback has returned.
            notes.kept = kept = ffi.new("unsigned char[]", traits.select_alpn(over_1_3, _offered(names)))
            if size <= _LONGEST_OFFER and len(traits.chosen_alpn) < _MOST_OFFERS:
                # The first stays: another thread may have given it to OpenSSL.
                traits.chosen_alpn.setdefault((over_1_3, names), kept)
        out[0], out_size[0] = kept, len(kept) - 1  # without the zero at its end
    except Exception as error:
        notes.defect = error.with_traceback(None)
        return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)
    return int(lib.SSL_TLSEXT_ERR_OK)


def _watch_messages(  # noqa: PLR0917  # OpenSSL's own arguments
    sent: int, version: int, kind: int, data: Any, size: int, ssl: Any, argument: Any
) -> None:
    if sent and kind == _HANDSHAKE and size == 4 and ffi.cast("unsigned char *", data)[0] == _END_OF_EARLY_DATA:
        _notes_of(ssl).early_data_ended = True


def _count_updates(  # noqa: PLR0917  # OpenSSL's own arguments
    sent: int, version: int, kind: int, data: Any, size: int, ssl: Any, argument: Any
) -> None:
    if not sent and kind == _HANDSHAKE and size and ffi.cast("unsigned char *", data)[0] == _KEY_UPDATE:
        _notes_of(ssl).key_updates += 1


def _session(psk: ExternalPsk, limit: int) -> Any:
    """A new SSL_SESSION, which becomes OpenSSL's."""
    der = session_der(psk, limit)
    kept = ffi.new("unsigned char[]", der)
    session = lib.d2i_SSL_SESSION(ffi.NULL, ffi.new("unsigned char **", kept), len(der))
    if session == ffi.NULL:
        clear_errors()
        raise ValueError("OpenSSL refuses the session of a pre-shared key")
    return session
