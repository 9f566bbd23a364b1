"""TLS contexts of listeners: certificates by SNI, protocols by ALPN, replaced whole at a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL

from accessgw.crypto.client_certificates import NO_CLIENT_CERTIFICATES, ClientCertificates, asker, identity_in
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls.alerts import BAD_CERTIFICATE, NO_APPLICATION_PROTOCOL
from protocols.tls.engine import TlsEngine
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine

ALLOWED_BELOW_1_3 = frozenset({"http/1.1", "mqtt"})
"""Protocols whose clients may be too old for TLS 1.3."""

_TLS_1_2_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(slots=True, frozen=True)
class _Certificate:
    """A chain and its key, loaded and checked against each other."""

    settings: CertificateSettings
    chain: list[x509.Certificate]
    key: _PrivateKey

    @property
    def names(self) -> list[str]:
        """The server names it is for: the configured ones, else its own."""
        if self.settings.names:
            return [name.lower() for name in self.settings.names]
        try:
            extension = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return []
        return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]


class ServerContexts:
    """The TlsContexts of one listener.

    TLS 1.3, and 1.2 where a protocol and `minimum` allow it (that one is then the only choice over 1.2). A
    client whose ALPN has nothing in common with `protocols` is refused with alert 120; one without
    ALPN gets through, and the listener decides. Contexts in use are never changed.
    """

    def __init__(
        self,
        certificates: Sequence[CertificateSettings],
        protocols: Sequence[str],
        *,
        minimum: str = "1.2",
        clients: ClientCertificates = NO_CLIENT_CERTIFICATES,
    ) -> None:
        """`protocols` best first. The first certificate serves who asks for no other. Raises CertificateError."""
        if not certificates:
            raise ValueError("a TLS listener needs a certificate")
        self._settings = tuple(certificates)
        self._protocols = tuple(protocols)
        self._minimum = minimum
        self._clients = clients
        self._default, self._expiry = self._build()

    def context(self) -> SSL.Context:
        return self._default

    def engine(self) -> TlsEngine:
        return PyOpenSSLEngine(self._default, server=True)

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force. CertificateError, and nothing changed."""
        built = self._build()

        def swap() -> None:
            self._default, self._expiry = built

        return swap

    def expires_at(self) -> Mapping[str, float]:
        return self._expiry

    def identify(self, certificate: bytes) -> str:
        identity = identity_in(certificate, self._clients.identity)
        if not identity and self._clients.mode == "require":
            raise RemoteError(BAD_CERTIFICATE, f"the client certificate has no usable {self._clients.identity}")
        return identity

    def _build(self) -> tuple[SSL.Context, dict[str, float]]:
        loaded = [_load(settings) for settings in self._settings]
        select = _alpn_selector(self._protocols)
        old = self._minimum == "1.2" and ALLOWED_BELOW_1_3.intersection(self._protocols)
        lowest = SSL.TLS1_2_VERSION if old else SSL.TLS1_3_VERSION
        contexts = [_context(certificate, lowest, select) for certificate in loaded]
        ask = asker(self._clients)
        for context in contexts:
            ask(context)
        by_name: dict[str, SSL.Context] = {}
        for certificate, context in zip(loaded, contexts, strict=True):
            for name in certificate.names:
                by_name.setdefault(name, context)
        contexts[0].set_tlsext_servername_callback(_sni_switch(by_name))
        expiry = {
            certificate.settings.chain: min(link.not_valid_after_utc.timestamp() for link in certificate.chain)
            for certificate in loaded
        }
        return contexts[0], expiry


def _context(certificate: _Certificate, lowest: int, select: Any) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(lowest)
    # Any suite left is good, so the client's order decides: phones without AES hardware want ChaCha20.
    context.set_cipher_list(_TLS_1_2_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Sessions resume by tickets, which need no memory here.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    settings = certificate.settings
    try:
        context.use_certificate(certificate.chain[0])
        for link in certificate.chain[1:]:
            context.add_extra_chain_cert(link)
    except SSL.Error as error:
        raise CertificateError(settings.chain, f"OpenSSL refuses the certificate: {error}") from error
    try:
        context.use_privatekey(certificate.key)
        context.check_privatekey()
    except SSL.Error as error:
        raise CertificateError(settings.key, f"OpenSSL refuses the key: {error}") from error
    context.set_alpn_select_callback(select)
    return context


def _alpn_selector(protocols: Sequence[str]) -> Any:
    """An ALPN callback that takes the first of `protocols` that the client offers.

    pyOpenSSL can only refuse by way of an exception; the engine meets it again and passes it on.
    """
    modern = [name.encode("ascii") for name in protocols]
    old = [name.encode("ascii") for name in protocols if name in ALLOWED_BELOW_1_3]

    def select(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        served = modern if connection.get_protocol_version() >= SSL.TLS1_3_VERSION else old
        for name in served:
            if name in offered:
                return name
        shown = ", ".join(name.decode("ascii", "backslashreplace") for name in offered[:8])
        raise RemoteError(
            NO_APPLICATION_PROTOCOL,
            f"ALPN: expected one of {', '.join(protocols)}, got {shown} over {connection.get_protocol_version_name()}",
        )

    return select


def _sni_switch(by_name: Mapping[str, SSL.Context]) -> Any:
    def switch(connection: SSL.Connection) -> None:
        asked = connection.get_servername()
        if asked is None:
            return
        name = asked.decode("ascii", "replace").lower().rstrip(".")
        context = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if context is not None and context is not connection.get_context():
            connection.set_context(context)

    return switch


def _load(settings: CertificateSettings) -> _Certificate:
    try:
        chain = x509.load_pem_x509_certificates(read_file(settings.chain))
    except ValueError as error:
        raise CertificateError(settings.chain, "expected a PEM certificate chain, leaf first") from error
    try:
        key = load_pem_private_key(read_file(settings.key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(settings.key, "expected an unencrypted PEM private key") from error
    if not isinstance(key, _PrivateKey):
        raise CertificateError(settings.key, f"expected an EC, RSA or EdDSA key, got {type(key).__name__}")
    if _public(key.public_key()) != _public(chain[0].public_key()):
        raise CertificateError(settings.key, f"is not the key of {settings.chain}")
    return _Certificate(settings, chain, key)


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
