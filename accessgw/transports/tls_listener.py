"""The listener of TLS connections."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from accessgw.core.interfaces.connections import BindingFactory
from accessgw.core.interfaces.tls import TlsContexts
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import ListenerSettings
from accessgw.transports.listener import SocketListener
from accessgw.transports.opening import Opening
from accessgw.transports.services import TransportServices
from accessgw.transports.tls import TlsConnection


class TlsListener(SocketListener):
    """TLS over TCP; the protocol of each connection is negotiated by ALPN."""

    def __init__(
        self,
        settings: ListenerSettings,
        services: TransportServices,
        factories: Mapping[str, BindingFactory],
        contexts: TlsContexts,
    ) -> None:
        super().__init__(settings, services, factories)
        self._contexts = contexts

    def _begin(self, sock: socket.SocketType, info: ConnectionInfo, key: str, trusted: bool) -> None:
        connection = TlsConnection(sock, info, self._services, key, self._factories, self._contexts)
        connection.begin(
            Opening(connection, True, connection.begin_tls).data_received if trusted else connection.opened
        )

    def adopting(self, sock: socket.SocketType, info: ConnectionInfo) -> TlsConnection:
        """The connection of another process, for HandoverReceiver. Limits by address do not count it."""
        info.id = self._services.table.next_id()
        return TlsConnection(sock, info, self._services, "", self._factories, self._contexts)
