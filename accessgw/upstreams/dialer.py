"""Connections to other MQTT brokers, over TCP or TLS: the Dialer of the bridges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.core.interfaces.mqtt import DialUser
from accessgw.model.mqtt_settings import BridgeSettings
from accessgw.upstreams.address import split_host_port

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP; the handshakes of TLS and MQTT are the user's to wait for."""
FULL = 65536
"""Bytes that the transport holds when it says that it has enough."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class BridgeDialer:
    """Opens connections by name or address; TLS verifies the certificate and the name, always."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def dial(self, bridge: BridgeSettings, user: DialUser) -> BridgeConnection:
        """Files of certificates are read each time, so that renewed ones are used."""
        connection = BridgeConnection(user)
        try:
            endpoint = self._endpoint(bridge)
        except Exception as error:
            # OpenSSL's errors have no common base; all of them are about the files.
            self._reactor.callLater(0, connection.failed, Failure(error))
            return connection
        connection.connecting = endpoint.connect(_Factory(connection))
        connection.connecting.addErrback(connection.failed)
        return connection

    def _endpoint(self, bridge: BridgeSettings) -> Any:
        host, port = split_host_port(bridge.address)
        plain: Any = HostnameEndpoint(self._reactor, host.encode("idna").decode(), port, timeout=CONNECT_TIMEOUT)
        if not bridge.tls:
            return plain
        own: dict[str, Any] = {}
        if bridge.certificate:
            pem = Path(bridge.certificate).read_bytes()
            pair = PrivateCertificate.loadPEM(Path(bridge.key).read_bytes() + b"\n" + pem)
            links = [Certificate.loadPEM(part).original for part in _certificates(pem)[1:]]
            own = {"privateKey": pair.privateKey.original, "certificate": pair.original, "extraCertChain": links}
        trust = platformTrust()
        if bridge.ca:
            trust = trustRootFromCertificates(
                [Certificate.loadPEM(part) for part in _certificates(Path(bridge.ca).read_bytes())]
            )
        options = optionsForClientTLS(bridge.server_name or host, trustRoot=trust, extraCertificateOptions=own)
        return wrapClientTLS(options, plain)


@implementer(IPushProducer)
class BridgeConnection(TwistedProtocol):
    """A DialedConnection, and the producer by which the transport tells how much it holds."""

    def __init__(self, user: DialUser) -> None:
        self._user: DialUser | None = user
        self.connecting: Any = None
        """The Deferred of the endpoint, until it has fired."""
        self._up = False
        self._full = False
        self._since_full = 0

    @property
    def buffered(self) -> int:
        return FULL + self._since_full if self._full else 0

    def write(self, data: bytes) -> None:
        if self._up:
            if self._full:
                self._since_full += len(data)
            cast(Any, self.transport).write(data)

    def pause(self) -> None:
        if self._up:
            cast(Any, self.transport).pauseProducing()

    def resume(self) -> None:
        if self._up:
            cast(Any, self.transport).resumeProducing()

    def close(self) -> None:
        self._user = None
        if self._up:
            cast(Any, self.transport).unregisterProducer()
            cast(Any, self.transport).loseConnection()
            self._up = False
        else:
            self.abort()

    def abort(self) -> None:
        self._user = None
        if self.connecting is not None:
            connecting, self.connecting = self.connecting, None
            connecting.cancel()
        if self.transport is not None:
            self._up = False
            cast(Any, self.transport).abortConnection()

    def failed(self, failure: Failure) -> None:
        """It could not be opened."""
        self.connecting = None
        user, self._user = self._user, None
        if user is not None and not failure.check(CancelledError):
            user.lost(_told(failure))

    # ------------------------------------------------------------------ what Twisted calls

    def connectionMade(self) -> None:
        self.connecting = None
        transport = cast(Any, self.transport)
        if self._user is None:
            transport.abortConnection()
            return
        self._up = True
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._user.connected()

    def dataReceived(self, data: bytes) -> None:
        if self._user is not None:
            self._user.received(data)

    def connectionLost(self, reason: Failure = cast(Failure, None)) -> None:
        self._up = False
        user, self._user = self._user, None
        if user is not None:
            user.lost(_told(reason))

    def pauseProducing(self) -> None:
        if not self._full:
            self._full = True
            self._since_full = 0

    def resumeProducing(self) -> None:
        if self._full:
            self._full = False
            if self._user is not None:
                self._user.drained()

    def stopProducing(self) -> None:
        self._full = False


class _Factory(Factory):
    noisy = False

    def __init__(self, connection: BridgeConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> BridgeConnection:
        return self._connection


def _certificates(pem: bytes) -> list[bytes]:
    found = _PEM.findall(pem)
    if not found:
        raise ValueError("expected a PEM certificate, got none")
    return found


def _told(failure: Failure) -> str:
    """One line for operators."""
    error = failure.value
    if isinstance(error, ConnectionDone):
        return "the other side closed the connection"
    return f"{type(error).__name__}: {failure.getErrorMessage()}"[:300]
