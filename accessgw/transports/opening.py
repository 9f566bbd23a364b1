"""The first bytes of a connection: a PROXY header where one is due, none where not, then the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from accessgw.core.interfaces.connections import BindingFactory
from accessgw.model.reasons import CloseReason
from accessgw.transports.stream import StreamConnection
from protocols.errors import RemoteError
from protocols.proxyproto import V1_PREFIX, V2_SIGNATURE, ProxyHeader, ProxyHeaderParser, starts_proxy_header
from protocols.sniff import PROTOCOL, sniff

_HEADERS_BEGIN = (V1_PREFIX[0], V2_SIGNATURE[0])


class TrustedNetworks:
    """Whose PROXY headers are believed: networks, and `unix` for the peers of a Unix socket."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError for what is neither a network nor `unix`."""
        names = set(networks)
        self._unix = "unix" in names
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(name, strict=False) for name in sorted(names - {"unix"})
        ]

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, peer: str) -> bool:
        if peer == "unix":
            return self._unix
        address = ip_address(peer.partition("%")[0])
        return any(address in network for network in self._networks)


class Opening:
    """Receives a connection's first bytes until it is clear who speaks to us, then hands on the rest."""

    __slots__ = ("_connection", "_held", "_parser", "_then")

    def __init__(self, connection: StreamConnection, trusted: bool, then: Callable[[bytes], None]) -> None:
        """`trusted` peers must begin with a PROXY header, others must not. `then` gets the rest, once."""
        self._connection = connection
        self._parser = ProxyHeaderParser() if trusted else None
        self._held = b""
        self._then = then

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            rest = self._after_header(self._parser, data)
            if not rest:
                return
            data = rest
        data = self._held + data
        if starts_proxy_header(data):
            whole = len(V1_PREFIX) if data[:1] == b"P" else len(V2_SIGNATURE)
            if len(data) < whole:
                self._held = data
            else:
                self._connection.close(CloseReason.PROXY_HEADER, "a PROXY header where none is believed")
            return
        self._then(data)

    def _after_header(self, parser: ProxyHeaderParser, data: bytes) -> bytes:
        """What follows a complete and accepted header; empty otherwise."""
        try:
            header = parser.feed(data)
        except RemoteError as error:
            self._connection.close(CloseReason.PROXY_HEADER, str(error))
            return b""
        if header is None:
            return b""
        self._parser = None
        return parser.remaining if self._named(header) else b""

    def _named(self, header: ProxyHeader) -> bool:
        if header.known:
            return self._connection.rename_peer(
                header.source, header.source_port, header.destination, header.destination_port
            )
        if not header.local:
            # The balancer does not know its client: it must not pass for a local one.
            self._connection.info.loopback = False
        return True


def chosen(factories: Mapping[str, BindingFactory], data: bytes) -> BindingFactory:
    """The factory of the protocol that begins with `data`. RemoteError when it is none of them."""
    protocol = sniff(data)
    factory = factories.get(protocol)
    if factory is None:
        raise RemoteError(PROTOCOL, f"expected {' or '.join(factories)}, got what looks like {protocol}")
    return factory


class Plain:
    """Makes the bindings of plain connections: the only one configured, or the one their first byte asks for."""

    __slots__ = ("_factories", "_only")

    def __init__(self, factories: Mapping[str, BindingFactory]) -> None:
        self._factories = factories
        self._only = next(iter(factories.values())) if len(factories) == 1 else None

    def begin(self, connection: StreamConnection, trusted: bool) -> None:
        """Begin a connection; `trusted` as Opening has it."""
        if trusted:
            connection.begin(Opening(connection, True, partial(self._first_bytes, connection)).data_received)
        else:
            connection.begin(partial(self._opened, connection))

    def _opened(self, connection: StreamConnection, data: bytes) -> None:
        if data[0] not in _HEADERS_BEGIN:
            if self._only is not None:
                connection.bind(self._only, data)
            else:
                self._first_bytes(connection, data)
            return
        opening = Opening(connection, False, partial(self._first_bytes, connection))
        connection.receive_with(opening.data_received)
        opening.data_received(data)

    def _first_bytes(self, connection: StreamConnection, data: bytes) -> None:
        """The first bytes that belong to the protocol itself."""
        factory = self._only
        if factory is None:
            try:
                factory = chosen(self._factories, data)
            except RemoteError as error:
                connection.close(CloseReason.PROTOCOL_ERROR, str(error))
                return
        connection.bind(factory, data)
