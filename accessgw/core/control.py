"""What the control API may do with the gateway: the Control interface over core's own rooms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.draining import Draining
from accessgw.core.happenings import Happenings
from accessgw.core.interfaces.connections import ConnectionTable
from accessgw.core.interfaces.control import ControlError, MetricFamily
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.interfaces.stores import IdempotencyConflict, StoreUnavailable, StreamStore
from accessgw.core.registry import DeviceSession
from accessgw.core.sessions import SessionManager
from accessgw.core.top import TopTalkers
from accessgw.core.tracing import Tracing
from accessgw.model.counters import StoreCounters
from accessgw.model.pushes import PushRequest, PushResult, Scope, StreamKey

log = Logger()


@dataclass(slots=True)
class OperatorActions:
    """What only the composition root can do or knows."""

    reload: Callable[[], Deferred[dict[str, Any]]]
    config: Callable[[], dict[str, Any]]
    metrics: Callable[[], list[MetricFamily]]
    summary: Callable[[], dict[str, Any]]
    listeners: Callable[[], list[dict[str, Any]]]
    upstreams: Callable[[], list[dict[str, Any]]]
    drain_rate: Callable[[], float]


class GatewayControl:
    """The Control of a worker."""

    def __init__(
        self,
        *,
        sessions: SessionManager,
        pushes: PushService,
        store: StreamStore,
        connections: ConnectionTable,
        draining: Draining,
        tracing: Tracing,
        top: TopTalkers,
        happenings: Happenings,
        store_counters: StoreCounters,
        actions: OperatorActions,
        wall: Callable[[], float],
        identity: dict[str, Any],
        end_mqtt: Callable[[str], bool] = lambda device: False,
    ) -> None:
        """`identity` is what every status begins with: version, node, zone, pid. `end_mqtt` ends the session of an MQTT
        client with all that waits for it; False when there is none."""
        self._end_mqtt = end_mqtt
        self._sessions = sessions
        self._pushes = pushes
        self._store = store
        self._connections = connections
        self._draining = draining
        self._tracing = tracing
        self._top = top
        self._happenings = happenings
        self._store_counters = store_counters
        self._actions = actions
        self._wall = wall
        self._identity = identity
        self._started_at = wall()
        happenings.status = self.status
        self.running = False
        """Every listener accepts; set by the composition root."""

    # ---------------------------------------------------------------- pushes and streams

    def push(self, requests: Sequence[PushRequest], idempotency_key: str, digest: bytes) -> Deferred[list[PushResult]]:
        def tell(results: list[PushResult]) -> list[PushResult]:
            self._happenings.pushed(results)
            return results

        return self._pushes.append(requests, idempotency_key, digest).addCallbacks(tell, _store_error)

    def stream(self, key: StreamKey) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._stream(key)).addErrback(_store_error)

    async def _stream(self, key: StreamKey) -> dict[str, Any]:
        state = (await self._store.states([key])).get(key)
        if state is None:
            raise ControlError(404, "not_found", f"no push was ever sent to {key.scope}/{key.id or '-'}/{key.biz}")
        return {
            "scope": key.scope.value,
            "id": key.id,
            "biz": key.biz,
            "epoch": state.epoch,
            "head": state.head,
            "floor": state.floor,
        }

    # ---------------------------------------------------------------- devices

    def device(self, device: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._device(device)).addErrback(_store_error)

    async def _device(self, device: str) -> dict[str, Any]:
        cursors = await self._store.cursors(device)
        topics = await self._store.subscriptions(device)
        streams = await self._store.streams_of(Scope.DEVICE, device)
        session = self._sessions.registry.by_device(device)
        if session is None and not (cursors or topics or streams):
            raise ControlError(404, "not_found", f"no such device: {device}")
        return {
            **(_session_row(session) if session is not None else {"device": device, "connected": False}),
            "topics": sorted(topics),
            "streams": [
                {"scope": s.key.scope.value, "id": s.key.id, "biz": s.key.biz, "epoch": s.epoch, "head": s.head}
                for s in streams
            ],
            "cursors": [
                {
                    "scope": cursor.stream.scope.value,
                    "id": cursor.stream.id,
                    "biz": cursor.stream.biz,
                    "epoch": cursor.epoch,
                    "seq": cursor.seq,
                }
                for cursor in cursors.values()
            ],
        }

    def devices(self, user: str, connected: bool | None, after: str, limit: int) -> list[dict[str, Any]]:
        return [_session_row(session) for session in self._sessions.registry.page(user, connected, after, limit)]

    def close_device(self, device: str, revoke: bool = False) -> bool:
        if not revoke:
            return self._sessions.close_device(device)
        revoked = self._sessions.revoke(device)
        return self._end_mqtt(device) or revoked

    def trace(self, device: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        try:
            return self._tracing.watch(device, emit)
        except ValueError as error:
            raise ControlError(429, "too_many", str(error)) from None

    # ---------------------------------------------------------------- the worker

    def drain(self, seconds: float) -> dict[str, Any]:
        """Over `seconds`; 0: at the configured rate."""
        if seconds:
            return {"connections": self._draining.begin(seconds), "seconds": seconds}
        rate = self._actions.drain_rate()
        total = self._draining.begin_at(rate)
        return {"connections": total, "seconds": total / rate}

    def reload(self) -> Deferred[dict[str, Any]]:
        return self._actions.reload()

    def config(self) -> dict[str, Any]:
        return self._actions.config()

    def workers(self) -> list[dict[str, Any]]:
        return [{**self._identity, "state": self._state(), "connections": len(self._connections)}]

    def status(self) -> dict[str, Any]:
        return {
            **self._identity,
            "state": self._state(),
            "uptime": self._wall() - self._started_at,
            **self._actions.summary(),
            "store": {"pending": self._store_counters.pending, "errors": self._store_counters.errors},
            "listeners": self._actions.listeners(),
            "upstreams": self._actions.upstreams(),
        }

    def ready(self) -> tuple[bool, str]:
        if self._draining.active:
            return False, "draining"
        if not self.running:
            return False, "starting"
        return True, ""

    def _state(self) -> str:
        ready, reason = self.ready()
        return "ready" if ready else reason

    def metrics(self) -> list[MetricFamily]:
        return self._actions.metrics()

    def top(self, limit: int) -> dict[str, Any]:
        return self._top.report(limit)

    def events(self, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        try:
            return self._happenings.watch(emit)
        except ValueError as error:
            raise ControlError(429, "too_many", str(error)) from None


def _session_row(session: DeviceSession) -> dict[str, Any]:
    identity, link = session.identity, session.link
    row: dict[str, Any] = {
        "device": identity.device,
        "user": identity.user,
        "app": identity.app,
        "app_version": identity.app_version,
        "session": session.id,
        "strength": identity.strength.name.lower(),
        "authenticator": identity.authenticator,
        "attributes": identity.attributes,
        "generation": list(session.generation),
        "connected": link is not None,
    }
    if link is not None:
        row["connection"] = {
            "id": link.info.id,
            "listener": link.info.listener,
            "transport": link.info.transport,
            "peer": link.info.peer,
            "since": session.connected_at,
            "unsent": link.buffered,
        }
    return row


def _store_error(failure: Failure) -> Any:
    """The store's refusals in the API's words; anything else is a defect and stays what it is."""
    error = failure.value
    if isinstance(error, StoreUnavailable):
        raise ControlError(503, "store_unavailable", f"nothing was stored: {error}") from None
    if isinstance(error, IdempotencyConflict):
        raise ControlError(409, "idempotency_conflict", "this Idempotency-Key was used for another request") from None
    return failure
