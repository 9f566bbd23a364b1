"""What TCP, TLS and Unix listeners have in common: bind, admit, accept, stop."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError

from accessgw.core.interfaces.connections import BindingFactory
from accessgw.model.identity import ConnectionInfo
from accessgw.model.listener_settings import ListenerSettings
from accessgw.transports.acceptor import Acceptor
from accessgw.transports.addresses import counted_as
from accessgw.transports.opening import Plain, TrustedNetworks
from accessgw.transports.services import TransportServices
from accessgw.transports.stream import RESET_ON_CLOSE, StreamConnection, is_loopback


class SocketListener:
    """Accepts connections on one address; subclasses make the socket and the connections.

    `factories` has one binding factory per protocol of `settings.protocols`.
    """

    def __init__(
        self, settings: ListenerSettings, services: TransportServices, factories: Mapping[str, BindingFactory]
    ) -> None:
        self.name = settings.name
        self.host = settings.address
        self.port = settings.port
        self._settings = settings
        self._services = services
        self._factories = {protocol: factories[protocol] for protocol in settings.protocols}
        self._plain = Plain(self._factories)
        self._trusted = TrustedNetworks(settings.proxy_protocol_from)
        self._trusting = bool(self._trusted)
        self._on_any = self.host in {"0.0.0.0", "::"}
        self._acceptor: Acceptor | None = None

    def start(self) -> None:
        """Bind and listen; raises CannotListenError. `port` is the one in use afterwards."""
        try:
            sock = self._listen()
        except OSError as error:
            raise CannotListenError(self.host, self.port, error) from error
        sock.setblocking(False)
        self._acceptor = Acceptor(self.name, sock, self._services, self._accepted)

    def stop(self) -> Deferred[None]:
        """Stop accepting; established connections stay."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.stop()
        return succeed(None)

    def apply_limits(self) -> None:
        """The limits were replaced: connections accepted from now on get the new ones."""
        if self._acceptor is not None and self._acceptor.sock.family != socket.AF_UNIX:
            _set_user_timeout(self._acceptor.sock, self._services.limits.tcp_user_timeout)

    def fileno(self) -> int:
        """The listening descriptor, -1 when it does not listen."""
        return -1 if self._acceptor is None else self._acceptor.fileno()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        limits = self._services.limits
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Accepted sockets inherit these, which saves two system calls for each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _set_user_timeout(sock, limits.tcp_user_timeout)
            sock.bind((self.host, self.port))
            sock.listen(self._settings.backlog)
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock

    def _accepted(self, sock: socket.SocketType, address: Any) -> None:
        """Admit or refuse a connection, and begin it."""
        services = self._services
        peer, port = self._peer_of(address)
        trusted = self._trusting and peer in self._trusted
        # Behind a trusted proxy the limits count by the address that its header will name.
        key = "" if trusted or peer == "unix" else counted_as(peer)
        now = services.reactor.seconds()
        refusal = ""
        if len(services.table) >= services.limits.max_connections:
            refusal = "max_connections"
        elif key:
            refusal = services.addresses.admit(key, now, services.limits)
        if refusal:
            services.refuse(refusal)
            # A reset leaves no TIME_WAIT state behind, which a flood would fill memory with.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
            return
        local, local_port = self._local_of(sock)
        info = ConnectionInfo(
            id=services.table.next_id(),
            listener=self.name,
            transport=self._settings.transport,
            peer=peer,
            peer_port=port,
            local=local,
            local_port=local_port,
            loopback=is_loopback(peer),
            accepted_at=services.wall(),
        )
        self._begin(sock, info, key, trusted)

    def _begin(self, sock: socket.SocketType, info: ConnectionInfo, key: str, trusted: bool) -> None:
        connection = StreamConnection(sock, info, self._services, key)
        self._plain.begin(connection, trusted)

    def _peer_of(self, address: Any) -> tuple[str, int]:
        return address[0], address[1]

    def _local_of(self, sock: socket.SocketType) -> tuple[str, int]:
        if self._on_any:
            name = sock.getsockname()
            return name[0], name[1]
        return self.host, self.port


class TcpListener(SocketListener):
    """Plain TCP, for a balancer in front that ends TLS, and for measurement."""


def _set_user_timeout(sock: socket.socket, seconds: float) -> None:
    """Of a listening socket; accepted ones inherit it (tcp(7), TCP_USER_TIMEOUT)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
