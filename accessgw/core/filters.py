"""The filter chain: three extension points (connection, call, push); a defect costs one item, never the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.bounded import bounded
from accessgw.core.interfaces import Filter, Refused
from accessgw.core.interfaces.clock import Clock
from accessgw.model.calls import Answer, Call
from accessgw.model.counters import CallCounters, PushCounters
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.pushes import PushRequest
from accessgw.model.settings import FilterSettings
from protocols.mmtp.statuses import Status

log = Logger()
GROUP = "accessgw.filters"
FilterFactory = Callable[[dict[str, Any]], Filter]


def installed() -> dict[str, Callable[[], FilterFactory]]:
    """Every factory that an installed distribution offers under accessgw.filters, not yet imported."""
    return {point.name: point.load for point in entry_points(group=GROUP)}


def load(
    settings: Sequence[FilterSettings], available: Mapping[str, Callable[[], FilterFactory]] | None = None
) -> list[tuple[str, Filter]]:
    """Make the configured filters, in order; `available` replaces the installed ones.

    Raises ValueError with the path, such as `filters[0].name: ...` or what the factory complained of.
    """
    if not settings:
        return []  # and nothing is looked for in all that is installed
    offered = installed() if available is None else available
    made = []
    for index, one in enumerate(settings):
        path = f"filters[{index}]"
        if one.name not in offered:
            known = ", ".join(sorted(offered)) or "none"
            raise ValueError(f"{path}.name: no filter {one.name!r} is installed (known: {known})")
        try:
            made.append((one.name, offered[one.name]()(dict(one.settings))))
        except ValueError as error:
            raise ValueError(f"{path}.settings.{error}") from None
        except Exception as error:
            raise ValueError(f"{path}.name: filter {one.name!r} could not be loaded: {error!r}") from error
    return made


class FilterChain:
    """Filters in their order. Methods give a plain result when every filter did, else a Deferred.

    They raise (or fail with) Refused only: a filter's own refusal, or INTERNAL for its defect.
    """

    def __init__(
        self,
        filters: Iterable[tuple[str, Filter]],
        clock: Clock,
        calls: CallCounters,
        pushes: PushCounters,
        timeout: float = 5.0,
    ) -> None:
        self.replace(filters)
        self._clock = clock
        self._timeout = timeout
        self._call_counters = calls
        self._push_counters = pushes

    def replace(self, filters: Iterable[tuple[str, Filter]]) -> None:
        """Use these from now on; what is on its way through the old ones finishes with them."""
        named = list(filters)
        # Filters that leave an extension point alone cost nothing there.
        self._connection = [(n, f.connection) for n, f in named if type(f).connection is not Filter.connection]
        self.ask_connections = bool(self._connection)
        """Whether `connection` has anybody to ask."""
        self._call = [(n, f.call) for n, f in named if type(f).call is not Filter.call]
        self._push = [(n, f.push) for n, f in named if type(f).push is not Filter.push]

    async def connection(self, identity: Identity, info: ConnectionInfo | None) -> None:
        """A device was authenticated; raises Refused against it."""
        for name, method in self._connection:
            try:
                result: Any = method(identity, info)
                if isinstance(result, Deferred):
                    await bounded(result, self._timeout, self._clock, name)
            except Refused:
                raise
            except Exception as error:
                self._call_counters.filter_errors += 1
                raise self._defect(name, "a connection", error) from None

    def call(self, call: Call) -> Answer | Deferred[Answer | None] | None:
        """An answer that a filter gave, None to let the call go on."""
        for index, (name, method) in enumerate(self._call):
            try:
                result = method(call)
            except Refused:
                raise
            except Exception as error:
                self._call_counters.filter_errors += 1
                raise self._defect(name, "a call", error) from None
            if isinstance(result, Deferred):
                return Deferred.fromCoroutine(self._finish_call(call, index, result))
            if result is not None:
                return result
        return None

    async def _finish_call(self, call: Call, index: int, begun: Deferred[Answer | None] | None) -> Answer | None:
        for name, method in self._call[index:]:
            try:
                result = method(call) if begun is None else begun
                begun = None
                if isinstance(result, Deferred):
                    result = await bounded(result, self._timeout, self._clock, name)
            except Refused:
                raise
            except Exception as error:
                self._call_counters.filter_errors += 1
                raise self._defect(name, "a call", error) from None
            if result is not None:
                return result
        return None

    def push(self, push: PushRequest) -> PushRequest | Deferred[PushRequest]:
        """The push as it goes on."""
        for index, (name, method) in enumerate(self._push):
            try:
                result = method(push)
            except Refused:
                raise
            except Exception as error:
                self._push_counters.filter_errors += 1
                raise self._defect(name, "a push", error) from None
            if isinstance(result, Deferred):
                return Deferred.fromCoroutine(self._finish_push(push, index, result))
            if result is not None:
                push = result
        return push

    async def _finish_push(
        self, push: PushRequest, index: int, begun: Deferred[PushRequest | None] | None
    ) -> PushRequest:
        for name, method in self._push[index:]:
            try:
                result = method(push) if begun is None else begun
                begun = None
                if isinstance(result, Deferred):
                    result = await bounded(result, self._timeout, self._clock, name)
            except Refused:
                raise
            except Exception as error:
                self._push_counters.filter_errors += 1
                raise self._defect(name, "a push", error) from None
            if result is not None:
                push = result
        return push

    @staticmethod
    def _defect(name: str, what: str, error: Exception) -> Refused:
        log.failure("filter {name} failed on {what}", name=name, what=what)
        return Refused(Status.INTERNAL, f"filter {name} failed: {error!r}")
