"""Client contexts from plain options: whom to trust, what to show, and engines that offer a pre-shared key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from OpenSSL import SSL, crypto

from protocols.tls import binding
from protocols.tls.handshake_notes import ContextTraits, KeyLog
from protocols.tls.profiles import PROFILES, restrict
from protocols.tls.psk import ExternalPsk
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine, Session

SUITES = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
"""SHA-256 first: a pre-shared key is for one hash, and a server that follows our order can then use it."""


@dataclass(slots=True, frozen=True)
class ClientOptions:
    """All that makes a client context."""

    authorities: bytes | None = None
    """PEM of the trusted CAs; None for those of the system."""
    verify: bool = True
    """Refuse a server whose chain leads to none of them. Its name is checked by whoever gets HandshakeCompleted,
    on peer_chain[0]; there is no chain where a pre-shared key has proved who the server is."""
    alpn: Sequence[str] = ()
    """Protocols, best first."""
    minimum: str = "1.3"
    """1.2 | 1.3."""
    groups: Sequence[str] = ()
    """Key exchanges as OpenSSL names them; empty for the profile's."""
    signature_algorithms: Sequence[str] = ()
    """As OpenSSL names them; empty for the profile's."""
    suites: bytes = b""
    """TLS 1.3 suites as OpenSSL names them, with ":"; empty for the profile's, or SUITES."""
    chain: bytes = b""
    """PEM of our own certificate, leaf first, if there is one."""
    key: bytes = field(default=b"", repr=False)
    """PEM, not encrypted."""
    key_log: KeyLog | None = None
    profile: str = "default"


class ClientContext:
    """A context for any number of connections, never changed.

    Raises ValueError for options that OpenSSL does not know, and SSL.Error or crypto.Error for certificates and
    keys that it refuses.
    """

    def __init__(self, options: ClientOptions) -> None:
        profile = PROFILES[options.profile]
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        restrict(
            context,
            profile,
            minimum=options.minimum,
            suites=options.suites or profile.suites or SUITES,
            groups=options.groups,
            signature_algorithms=options.signature_algorithms,
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if options.verify:
            _trust(context, options.authorities)
            context.set_verify(SSL.VERIFY_PEER)
        if options.alpn:
            context.set_alpn_protos([name.encode("ascii") for name in options.alpn])
        if options.chain:
            binding.use_certificate(context, options.chain, options.key)
        binding.answer_callbacks(context, ContextTraits(key_log=options.key_log), server=False)
        self.context = context
        """The OpenSSL.SSL.Context of the connections."""
        self._options = options

    def engine(
        self,
        server_name: str = "",
        *,
        psk: ExternalPsk | None = None,
        session: Session | None = None,
        detachable: bool = False,
    ) -> PyOpenSSLEngine:
        """The client side of a new connection. With `psk` it may take early(); a server that does not choose the key
        shows a certificate, which is verified as ever. `session` is what session() of an earlier engine of this
        context gave. ValueError when the key is for a protocol that is not offered.
        """
        if psk is not None and psk.alpn and psk.alpn not in self._options.alpn:
            raise ValueError(f"expected a key for one of {', '.join(self._options.alpn)}, got one for {psk.alpn}")
        return PyOpenSSLEngine(
            self.context, server=False, server_name=server_name, psk=psk, session=session, detachable=detachable
        )


def _trust(context: SSL.Context, authorities: bytes | None) -> None:
    if authorities is None:
        context.set_default_verify_paths()
        return
    store = context.get_cert_store()
    if store is None:
        raise ValueError("OpenSSL gives no store for authorities")
    try:
        certificates = x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise ValueError("authorities: expected a PEM certificate, or several") from error
    for authority in certificates:
        store.add_cert(crypto.X509.from_cryptography(authority))
