"""Active health checks: GET on a connection of their own, per endpoint, at intervals that do not coincide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accessgw.model.route_settings import HealthCheckSettings
from accessgw.upstreams.address import Address
from accessgw.upstreams.connection import ConnectionOwner, UpstreamConnection
from protocols.errors import LocalError
from protocols.http.events import HttpEvent, ResponseReceived

Result = Callable[[bool, str, bool], None]
"""(whether all is well, what is not, whether there was a connection that the server took)"""
NewConnection = Callable[[ConnectionOwner, Address], UpstreamConnection]


class Probe:
    """One check: connects, asks, and calls `done` once. A status from 200 to 399 is well."""

    __slots__ = ("_connection", "_done", "_host", "_path", "_timeout")

    def __init__(
        self,
        reactor: Any,
        address: Address,
        host: str,
        settings: HealthCheckSettings,
        *,
        new_connection: NewConnection,
        done: Result,
    ) -> None:
        self._path = settings.path
        self._host = host
        self._done: Result | None = done
        self._timeout = reactor.callLater(settings.timeout, self._timed_out, settings.timeout)
        self._connection = new_connection(self, address)
        self._connection.connect(reactor, address, settings.timeout)

    def stop(self) -> None:
        """End it without a result."""
        self._done = None
        if self._timeout.active():
            self._timeout.cancel()
        self._connection.abort()

    def connected(self, connection: UpstreamConnection) -> None:
        headers = [("host", self._host), ("user-agent", "accessgw"), ("connection", "close")]
        try:
            connection.begin(self, "GET", self._path, headers)
        except LocalError as error:
            self._end(False, str(error))

    def connect_failed(self, connection: UpstreamConnection, message: str) -> None:
        self._end(False, message, connected=False)

    def ended(self, connection: UpstreamConnection) -> None:
        self._end(False, "the connection ended")

    def received(self, events: list[HttpEvent]) -> None:
        for event in events:
            if isinstance(event, ResponseReceived):
                self._end(event.status < 400, f"status {event.status}")
                return

    def drained(self) -> None:
        """A probe has no body to send."""

    def broken(self, kind: str, message: str) -> None:
        self._end(False, message, connected=kind != "connect")

    def _timed_out(self, timeout: float) -> None:
        self._end(False, f"no answer within {timeout:g} s")

    def _end(self, ok: bool, error: str, *, connected: bool = True) -> None:
        done = self._done
        if done is not None:
            self.stop()
            done(ok, "" if ok else error, connected)


class Checker:
    """Checks one endpoint for as long as it runs."""

    __slots__ = ("_address", "_call", "_host", "_new_connection", "_probe", "_random", "_reactor", "_result",
                 "_settings")  # fmt: skip

    def __init__(
        self,
        reactor: Any,
        address: Address,
        host: str,
        settings: HealthCheckSettings,
        *,
        new_connection: NewConnection,
        random: Callable[[], float],
        result: Result,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._host = host
        self._settings = settings
        self._new_connection = new_connection
        self._random = random
        self._result = result
        self._probe: Probe | None = None
        self._call: Any = reactor.callLater(settings.interval * random(), self._check)

    def stop(self) -> None:
        """No further checks, and no result of one in progress."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._probe is not None:
            self._probe.stop()
            self._probe = None

    def _check(self) -> None:
        self._call = None
        self._probe = Probe(
            self._reactor,
            self._address,
            self._host,
            self._settings,
            new_connection=self._new_connection,
            done=self._checked,
        )

    def _checked(self, ok: bool, error: str, connected: bool) -> None:
        self._probe = None
        self._call = self._reactor.callLater(self._settings.interval * (0.9 + 0.2 * self._random()), self._check)
        self._result(ok, error, connected)
