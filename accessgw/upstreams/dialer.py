"""Connections to other MQTT brokers, over TCP or TLS: the Dialer of the bridges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from accessgw.core.interfaces.mqtt import DialUser
from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.model.mqtt_settings import BridgeSettings
from accessgw.model.route_settings import UpstreamTlsSettings
from accessgw.upstreams.address import split_host_port
from accessgw.upstreams.bridge_connection import BridgeConnection
from accessgw.upstreams.threads import AT_ONCE
from accessgw.upstreams.tls import ClusterTls, TlsUnavailable
from accessgw.upstreams.tls_bridge import TlsBridgeConnection

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP; TLS has its own, and the handshake of MQTT is the user's to wait for."""
MAX_CONTEXTS = 256
"""Bridges whose files of certificates are kept loaded."""


class BridgeDialer:
    """Opens connections by name or address; TLS verifies the certificate and the name, always."""

    def __init__(self, reactor: Any, handshakes: HandshakeThreads = AT_ONCE) -> None:
        """`handshakes`: where those of TLS are made."""
        self._reactor = reactor
        self._handshakes = handshakes
        self._tls: dict[str, ClusterTls] = {}
        """By name of the bridge."""

    def dial(self, bridge: BridgeSettings, user: DialUser) -> BridgeConnection:
        plain = BridgeConnection(user)
        try:
            host, port = split_host_port(bridge.address)
            endpoint = HostnameEndpoint(self._reactor, host.encode("idna").decode(), port, timeout=CONNECT_TIMEOUT)
        except ValueError as error:
            self._reactor.callLater(0, plain.end, str(error))
            return plain
        if not bridge.tls:
            _connect(endpoint, plain)
            return plain
        connection = TlsBridgeConnection(user, self._handshakes, self._reactor)
        tls = self._tls_of(bridge)

        def ready() -> None:
            if not connection.wanted:
                return
            try:
                connection.begin(tls.open(bridge.address, bridge.server_name or host))
            except TlsUnavailable as error:
                self._reactor.callLater(0, connection.end, f"TLS: {error}")
            else:
                _connect(endpoint, connection)

        tls.prepare(ready)
        return connection

    def expires_at(self, bridges: Sequence[BridgeSettings]) -> dict[tuple[str, str], float]:
        """Who shows a certificate, such as "bridge b", and its file -> wall-clock second at which it ends, as far as it
        is loaded. Files that have changed are loaded."""
        found: dict[tuple[str, str], float] = {}
        for bridge in bridges:
            tls = self._tls.get(bridge.name)
            if tls is not None and bridge.certificate and tls.settings == _settings_of(bridge):
                tls.look()
                if tls.ends < float("inf"):
                    found[f"bridge {bridge.name}", bridge.certificate] = tls.ends
        return found

    def _tls_of(self, bridge: BridgeSettings) -> ClusterTls:
        settings = _settings_of(bridge)
        tls = self._tls.get(bridge.name)
        if tls is None or tls.settings != settings:
            tls = self._tls[bridge.name] = ClusterTls(
                settings,
                self._reactor.seconds,
                used_by=lambda: f"bridge {bridge.name}",
                alpn=(),
                threads=self._handshakes,
            )
            if len(self._tls) > MAX_CONTEXTS:
                del self._tls[next(iter(self._tls))]
        return tls


def _settings_of(bridge: BridgeSettings) -> UpstreamTlsSettings:
    return UpstreamTlsSettings(
        ca=bridge.ca, certificate=bridge.certificate, key=bridge.key, server_name=bridge.server_name
    )


def _connect(endpoint: Any, connection: BridgeConnection) -> None:
    connection.connecting = endpoint.connect(_Factory(connection))
    connection.connecting.addErrback(connection.failed)


class _Factory(Factory):
    noisy = False

    def __init__(self, connection: BridgeConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> BridgeConnection:
        return self._connection
