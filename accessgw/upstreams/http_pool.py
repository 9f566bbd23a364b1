"""The connections of one endpoint: opened on demand up to a bound, kept alive, handed to one exchange at a time."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger

from accessgw.model.counters import UpstreamCounters
from accessgw.model.route_settings import ClusterSettings
from accessgw.policy.balancing import Load
from accessgw.policy.health import Health
from accessgw.policy.reasons_told import ReasonsTold
from accessgw.upstreams.address import Address
from accessgw.upstreams.connection import ConnectionOwner, UpstreamConnection

log = Logger()

PEEK_AFTER = 0.5
"""Seconds of idleness after which a connection is looked at before it is used again."""
_TLS = "TLS: "
_BEFORE = "before the files of TLS were renewed: "


class PoolUser(Protocol):
    """An exchange that wants a connection of this endpoint."""

    def run(self, connection: UpstreamConnection) -> None: ...

    def not_connected(self, message: str) -> None:
        """A connection could not be established; nothing was sent."""


class PoolCluster(Protocol):
    """The cluster that the endpoint belongs to."""

    settings: ClusterSettings
    counters: UpstreamCounters

    def new_connection(self, owner: ConnectionOwner, address: Address) -> UpstreamConnection:
        """One that does not connect yet."""

    def connect_failed(self, endpoint: Endpoint, message: str) -> None: ...

    def has_room(self, endpoint: Endpoint) -> None:
        """A connection is free, or another may be opened: whoever waits in the cluster may come."""


class Endpoint:
    """One server: its connections, and what is known of its load and health."""

    __slots__ = ("_cluster", "_connecting", "_failing", "_idle", "_open", "_reactor", "_said", "_told", "address",
                 "health", "last_error", "load", "name", "retired", "waiting")  # fmt: skip

    def __init__(self, cluster: PoolCluster, address: Address, reactor: Any) -> None:
        self._cluster = cluster
        self._reactor = reactor
        self.address = address
        self.name = address.name
        self.load = Load(reactor.seconds())
        self.health = Health(cluster.settings.health.healthy_after, cluster.settings.health.unhealthy_after)
        self.last_error = ""
        self._failing = ""
        """Why the last connection could not be made, until one works."""
        self._told = ReasonsTold()
        self._said = False
        """It was logged that connections fail; so it will be that they work."""
        self.retired = False
        """No longer in the configuration: connections end with their exchange."""
        self._idle: list[UpstreamConnection] = []
        """Used last in, first out, so that surplus ones grow old."""
        self._connecting: set[UpstreamConnection] = set()
        self._open: set[UpstreamConnection] = set()
        self.waiting: dict[PoolUser, None] = {}
        """In order; never more than are being connected."""

    # ------------------------------------------------------------------ for the cluster

    @property
    def connections(self) -> int:
        """Open ones and those being opened."""
        return len(self._open) + len(self._connecting)

    @property
    def idle(self) -> int:
        """Open and unused."""
        return len(self._idle)

    @property
    def available(self) -> bool:
        """Another exchange can start here now."""
        return bool(self._idle) or self.connections < self._cluster.settings.max_connections

    def serve(self, user: PoolUser) -> None:
        """Give `user` a connection now, or one that is being opened; only while `available`."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.usable:
                connection.close()
            elif self._reactor.seconds() - connection.idle_since < PEEK_AFTER or connection.alive():
                user.run(connection)
                return
            else:
                connection.abort()
        self.waiting[user] = None
        if len(self._connecting) < len(self.waiting):
            self._connect()

    def forget(self, user: PoolUser) -> None:
        """`user` waits no longer."""
        self.waiting.pop(user, None)

    def release(self, connection: UpstreamConnection) -> None:
        """An exchange is done with a connection; it is kept when it can be used again."""
        connection.user = None
        if not connection.usable or self.retired:
            connection.close()
            return
        connection.resume()
        self._offer(connection)

    def close_idle(self, before: float) -> None:
        """Close the connections that have not been used since `before`."""
        while self._idle and self._idle[0].idle_since < before:
            self._idle.pop(0).close()

    def retire(self) -> None:
        """The endpoint has left the configuration; exchanges in progress go on."""
        self.retired = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def refused(self, message: str) -> None:
        """No connection could be made, or the server did not take the one that was."""
        self.tell(message)
        self._failing = self.last_error = message
        self._cluster.connect_failed(self, message)

    def proven(self) -> None:
        """The server has answered on a new connection: whatever kept us from making one is mended."""
        if self.last_error == self._failing:
            self.last_error = ""
        self._failing = ""
        if self._said:
            self._said = False
            log.info("upstream {cluster}, {endpoint}: connections work again", cluster=self._cluster.settings.name,
                     endpoint=self.name)  # fmt: skip

    @property
    def unproven(self) -> bool:
        """Connections failed, and none has worked since."""
        return bool(self._failing) or self._said

    def files_renewed(self) -> None:
        """Files of TLS were loaded: what it refused is of before, and what it refuses now is worth a line."""
        self._told.forget()
        if self._failing.startswith(_TLS):
            before, self._failing = self._failing, _BEFORE + self._failing
            if self.last_error == before:
                self.last_error = self._failing

    def tell(self, message: str) -> None:
        """Log why no connection could be made, or why the server did not take it."""
        if not self.retired and self._told.may(message, self._reactor.seconds()):
            self._said = True
            log.warn("upstream {cluster}, {endpoint}: {why}", cluster=self._cluster.settings.name, endpoint=self.name,
                     why=message.rstrip("."))  # fmt: skip

    def unchecked(self) -> None:
        """There are no active checks any more: what they found counts no longer."""
        settings = self._cluster.settings.health
        self.health = Health(settings.healthy_after, settings.unhealthy_after)

    def abort(self) -> None:
        """Close everything at once."""
        self.retired = True
        self._idle.clear()
        for connection in (*self._connecting, *self._open):
            connection.abort()

    # ------------------------------------------------------------------ ConnectionOwner

    def connected(self, connection: UpstreamConnection) -> None:
        self._connecting.discard(connection)
        self._open.add(connection)
        self._cluster.counters.connections += 1
        if self._failing and _TLS not in self._failing:
            # of TLS, only an answer proves that the server takes our certificate
            self.proven()
        if self.retired and not self.waiting:
            connection.close()
        else:
            self._offer(connection)

    def connect_failed(self, connection: UpstreamConnection, message: str) -> None:
        self._connecting.discard(connection)
        self.refused(message)
        while len(self.waiting) > len(self._connecting):
            user = next(iter(self.waiting))
            del self.waiting[user]
            user.not_connected(message)
        self._cluster.has_room(self)

    def ended(self, connection: UpstreamConnection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._cluster.counters.connections -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._cluster.has_room(self)

    # ------------------------------------------------------------------

    def _connect(self) -> None:
        connection = self._cluster.new_connection(self, self.address)
        self._connecting.add(connection)
        connection.connect(self._reactor, self.address, self._cluster.settings.connect_timeout)

    def _offer(self, connection: UpstreamConnection) -> None:
        if self.waiting:
            user = next(iter(self.waiting))
            del self.waiting[user]
            user.run(connection)
            return
        connection.idle_since = self._reactor.seconds()
        self._idle.append(connection)
        self._cluster.has_room(self)
