"""Clusters that are named in the DNS: looked up again and again, the last good answer is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IResolutionReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from accessgw.upstreams.address import Address, parse_name

Resolve = Callable[[str], "Deferred[Sequence[str]]"]
"""Host name to IPv4 and IPv6 addresses; fails, or gives none, when there are none."""

FIRST_RETRY = 1.0
"""Seconds between look-ups as long as none has succeeded."""


def reactor_resolver(reactor: Any) -> Resolve:
    """The reactor's own name resolver (getaddrinfo in a thread by default)."""

    def resolve(name: str) -> Deferred[Sequence[str]]:
        receiver = _Receiver()
        reactor.nameResolver.resolveHostName(receiver, name)
        return receiver.result

    return resolve


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self) -> None:
        self.result: Deferred[Sequence[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        """Nothing to note down."""

    def addressResolved(self, address: Any) -> None:
        if address.host not in self._found:
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self.result.callback(self._found)


class NameWatcher:
    """Looks one name up every `interval` seconds, never twice at once, and tells what came.

    `changed` gets the addresses in a stable order, or None when the look-up failed.
    """

    __slots__ = ("_call", "_changed", "_clock", "_interval", "_name", "_resolve", "_resolved")

    def __init__(
        self,
        clock: Any,
        resolve: Resolve,
        name: str,
        interval: float,
        changed: Callable[[list[Address] | None], None],
    ) -> None:
        """`name` is host:port, or https://host[:port]; ValueError when it is not."""
        self._name = parse_name(name)
        self._clock = clock
        self._resolve = resolve
        self._interval = interval
        self._changed: Callable[[list[Address] | None], None] | None = changed
        self._resolved = False
        self._call: Any = clock.callLater(0, self._look_up)

    def stop(self) -> None:
        """No further look-ups, and nothing of one in progress."""
        self._changed = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_up(self) -> None:
        self._call = None
        maybeDeferred(self._resolve, self._name.host).addCallbacks(self._found, self._failed)

    def _found(self, hosts: Sequence[str]) -> None:
        if hosts:
            self._resolved = True
        self._tell([replace(self._name, host=host) for host in sorted(set(hosts))] or None)

    def _failed(self, _failure: Failure) -> None:
        self._tell(None)

    def _tell(self, addresses: list[Address] | None) -> None:
        changed = self._changed
        if changed is not None:
            delay = self._interval if self._resolved else min(FIRST_RETRY, self._interval)
            self._call = self._clock.callLater(delay, self._look_up)
            changed(addresses)
