"""Twisted's side of connections: endpoints with its TLS for short ones, the long and the short protocol."""

from __future__ import annotations

import os
from typing import Any
from typing import Protocol as Interface

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, VerifyError
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import (
    AcceptableCiphers,
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure

from accessgw.client.addresses import Address
from accessgw.client.certificate_files import authorities_in, own_certificate
from accessgw.client.exchange import PostExchange
from accessgw.client.long_stream import LongStream, StreamOwner
from protocols.errors import RemoteError
from protocols.tls.alerts import reasons_of

ALPN_SHORT = b"http/1.1"
CLOSE_TIMEOUT = 2.0
"""Seconds for the last bytes of a connection that is closed."""

# Twisted's functions for certificates, and Failure, carry no annotations
_load_certificate: Any = Certificate.loadPEM
_load_private: Any = PrivateCertificate.loadPEM
_trust: Any = trustRootFromCertificates
_ciphers: Any = AcceptableCiphers.fromOpenSSLCipherString
_failure: Any = Failure

_LOST = _failure(ConnectionDone())
CIPHERS = _ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")


class Endpoints:
    """Makes endpoints; certificates are read at the first one that needs them.

    The server's name is verified against its certificate (service-identity), unless `insecure`.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        ca: str | os.PathLike[str] | None,
        cert: str | os.PathLike[str] | None,
        key: str | os.PathLike[str] | None,
        insecure: bool,
    ) -> None:
        self._reactor = reactor
        self._ca = ca
        self._cert = cert
        self._key = key
        self._insecure = insecure
        self._read: tuple[Any, Any] | None = None
        self._made: dict[tuple[str, bytes], Any] = {}

    def endpoint(self, address: Address, alpn: bytes) -> Any:
        """Where to connect, TLS 1.2 or newer.

        Raises ValueError for a certificate file that cannot be used, which it names.
        """
        plain: Any = HostnameEndpoint(self._reactor, address.host, address.port)
        if not address.secure:
            return plain
        options = self._made.get((address.name, alpn))
        if options is None:
            try:
                options = self._made[address.name, alpn] = self._options(address.name, alpn)
            except (SSL.Error, crypto.Error, VerifyError) as error:
                # each file alone is good, or there is none
                raise ValueError(f"{self._cert or 'TLS'}: cannot be used: {reasons_of(error)}") from error
        return wrapClientTLS(options, plain)

    def _options(self, name: str, alpn: bytes) -> Any:
        trust, own = self._certificates()
        common: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2, "acceptableCiphers": CIPHERS}
        if self._insecure:
            if own is not None:
                common.update(privateKey=own.privateKey.original, certificate=own.original)
            return CertificateOptions(verify=False, acceptableProtocols=[alpn], **common)
        return optionsForClientTLS(
            name,
            trustRoot=trust,
            clientCertificate=own,
            acceptableProtocols=[alpn],
            extraCertificateOptions=common,
        )

    def _certificates(self) -> tuple[Any, Any]:
        """Trust root and own certificate."""
        if self._read is None:
            trust = own = None
            if self._ca is not None:
                trust = _trust([_load_certificate(part) for part in authorities_in(self._ca)])
            if self._cert is not None and self._key is not None:
                shown = own_certificate(self._cert, self._key)
                own = _load_private(shown.key + shown.chain)
            self._read = (trust, own)
        return self._read


class LongOwner(StreamOwner, Interface):
    """Whom a long connection tells what happens."""

    def _made(self, attempt: int, protocol: LongProtocol) -> None: ...

    def _ended(self, attempt: int, reason: str, *, tls_failed: bool) -> None: ...


class LongProtocol(Protocol):
    """A long connection on a transport."""

    transport: Any

    def __init__(self, owner: LongOwner, attempt: int, address: Address, clock: Any) -> None:
        self._owner = owner
        self._clock = clock
        self._aborter: Any = None
        self._attempt = attempt
        self.stream = LongStream(owner, attempt, address)

    def connectionMade(self) -> None:
        self._owner._made(self._attempt, self)
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self.stream.made(self.transport.write, self.transport.loseConnection, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        self.stream.received(data)

    def end(self, abort: bool) -> None:
        """The core is done with it."""
        if abort:
            self.transport.abortConnection()
        else:
            self.stream.end()
            self._aborter = self._clock.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)

    def connectionLost(self, reason: Failure = _LOST) -> None:
        if self._aborter is not None and self._aborter.active():
            self._aborter.cancel()
        stream = self.stream
        why = stream.refusal or reason.getErrorMessage()
        self._owner._ended(self._attempt, why, tls_failed=stream.tls_failed)


class PostProtocol(Protocol):
    """One short connection."""

    transport: Any

    def __init__(self, exchange: PostExchange) -> None:
        self._exchange = exchange
        self.done: Deferred[tuple[int, bytes]] = Deferred(lambda _: self.transport.abortConnection())
        """Status and body of the response."""

    def connectionMade(self) -> None:
        self.transport.write(self._exchange.request)

    def dataReceived(self, data: bytes) -> None:
        try:
            self._answer(self._exchange.receive(data))
        except RemoteError as error:
            self._fail(error)

    def connectionLost(self, reason: Failure = _LOST) -> None:
        if not self.done.called:
            try:
                self._answer(self._exchange.receive_eof())
            except RemoteError:
                self._fail(reason.value or ConnectionDone())

    def _answer(self, answer: tuple[int, bytes] | None) -> None:
        if answer is not None and not self.done.called:
            self.transport.loseConnection()
            self.done.callback(answer)

    def _fail(self, error: BaseException) -> None:
        if not self.done.called:
            self.transport.abortConnection()
            self.done.errback(_failure(error))
