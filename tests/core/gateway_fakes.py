"""Stand-ins for the rooms around core: a connection, stores, an upstream and a push side that tests steer by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from accessgw.core.authentication import AuthenticatorChain
from accessgw.core.builtin_operations import BuiltinOperations
from accessgw.core.calls import Calls
from accessgw.core.claims import Claims
from accessgw.core.filters import FilterChain
from accessgw.core.interfaces.stores import ClaimState
from accessgw.core.mmtp_binding import MmtpServices
from accessgw.core.sessions import SessionManager
from accessgw.core.timers import TimingWheel
from accessgw.core.tracing import Tracing
from accessgw.core.turns import TurnFlusher
from accessgw.model.counters import CallCounters, PushCounters, SessionCounters
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.mmtp_settings import MmtpSettings
from accessgw.model.route_settings import RouteSettings
from accessgw.model.settings import CallSettings, SessionSettings
from accessgw.policy.routing import RouteTable
from protocols.mmtp.connection import Connection as Wire
from protocols.mmtp.connection import Role
from protocols.mmtp.handshake import Hello
from protocols.mmtp.settings import Limits

WALL = 1_700_000_000.0
_numbers = itertools.count(1)


class FakeConnection:
    """A transport connection whose bytes a test reads from `written`."""

    def __init__(self, **info: Any) -> None:
        self.info = ConnectionInfo(
            id=next(_numbers), listener="t", transport="tcp", peer="127.0.0.1", loopback=True, **info
        )
        self.buffered = 0
        self.written: list[bytes] = []
        self.closed: Any = None
        self.detail = ""
        self.is_established = False

    def write(self, data: bytes) -> None:
        if self.closed is None:
            self.written.append(data)

    def close(self, reason: Any, detail: str = "") -> None:
        if self.closed is None:
            self.closed = reason
            self.detail = detail

    abort = close

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def finish(self, reason: Any, detail: str = "") -> None:
        self.close(reason, detail)

    def established(self) -> None:
        self.is_established = True

    def set_idle(self, seconds: float) -> None: ...

    def await_hello(self) -> None: ...


class FakeExchange:
    """One upstream request; the test plays the server through `sink`."""

    def __init__(self, cluster: str, request: Any, sink: Any) -> None:
        self.cluster = cluster
        self.request = request
        self.sink = sink
        self.uploaded = [request.body]
        self.upload_over = not request.more
        self.cancelled = False
        self.paused = False

    def data(self, data: bytes, more: bool) -> None:
        self.uploaded.append(data)
        self.upload_over = not more

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def answer(self, status: int = 200, body: bytes = b"", headers: Any = ()) -> None:
        self.sink.started(status, [*headers, ("content-length", str(len(body)))], "http://u:1", 1)
        if body:
            self.sink.data(body)
        self.sink.finished()


class FakeUpstreams:
    """Keeps every request."""

    def __init__(self) -> None:
        self.exchanges: list[FakeExchange] = []

    def request(self, cluster: str, request: Any, sink: Any) -> FakeExchange:
        exchange = FakeExchange(cluster, request, sink)
        self.exchanges.append(exchange)
        return exchange

    @property
    def last(self) -> FakeExchange:
        return self.exchanges[-1]


class FakeAnswerStore:
    """Claims in a dict that may outlive a worker; `hold` keeps answers back, `fail` raises them."""

    def __init__(self) -> None:
        self.claims: dict[Any, list[Any]] = {}
        self.hold = False
        self.fail: Exception | None = None
        self.held: list[tuple[Deferred[str], str]] = []
        self.forgotten = float("-inf")

    def claim(
        self, device: str, user: str, call_id: int, digest: bytes, now: float, *, first: float | None = None
    ) -> Deferred[str]:
        if self.fail is not None:
            from twisted.internet.defer import fail

            return fail(self.fail)
        key = (device, user, call_id)
        found = self.claims.get(key)
        if found is None and first is not None and first <= self.forgotten:
            state = ClaimState.OPEN
        elif found is None:
            self.claims[key] = [digest, ClaimState.OPEN, now]
            state = ClaimState.NEW
        else:
            state = found[1] if found[0] == digest else ClaimState.MISMATCH
        if self.hold:
            result: Deferred[str] = Deferred()
            self.held.append((result, state))
            return result
        return succeed(state)

    def let_go(self) -> None:
        held, self.held = self.held, []
        for result, state in held:
            result.callback(state)

    def settle(self, device: str, user: str, call_id: int) -> None:
        self.claims[device, user, call_id][1] = ClaimState.ANSWERED

    def release(self, device: str, user: str, call_id: int) -> None:
        self.claims.pop((device, user, call_id), None)

    def sweep(self, before: float) -> Deferred[int]:
        old = [key for key, claim in self.claims.items() if claim[2] < before]
        for key in old:
            del self.claims[key]
        return succeed(len(old))


class FakePushes:
    """Records what core asks of the push side."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.topics: dict[str, set[str]] = {}
        self.waiting: list[Any] = []

    def attach(self, session: Any, cursors: Any, *, passing: bool = False) -> None:
        self.log.append(("attach", session.identity.device, list(cursors)))

    def detach(self, session: Any) -> None:
        self.log.append(("detach", session.identity.device))

    def acked(self, session: Any, places: Any) -> None:
        self.log.append(("acked", list(places)))

    def writable(self, session: Any) -> None:
        self.log.append(("writable",))

    def activity(self, session: Any) -> None:
        self.log.append(("activity",))

    def subscribe(self, session: Any, topics: Any) -> Deferred[None]:
        self.topics.setdefault(session.identity.device, set()).update(topics)
        return succeed(None)

    def unsubscribe(self, session: Any, topics: Any) -> Deferred[None]:
        self.topics.setdefault(session.identity.device, set()).difference_update(topics)
        return succeed(None)

    def subscriptions(self, session: Any) -> Deferred[list[str]]:
        return succeed(sorted(self.topics.get(session.identity.device, ())))

    def pending(self, session: Any, cursors: Any, limit: int, max_bytes: int) -> Deferred[Any]:
        self.log.append(("pending", list(cursors), limit))
        return succeed(self.waiting[:limit])


class FakePresence:
    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []

    def connected(self, session: Any) -> None:
        self.log.append(("connect", session.identity.device, session.identity.user))

    def disconnected(self, session: Any, reason: Any) -> None:
        self.log.append(("disconnect", session.identity.device, str(reason)))


class FakeAuthenticator:
    """Accepts tokens of the form `ok`, `ok:user`, `ok:user:expires`; holds them while `hold`."""

    name = "fake"

    def __init__(self) -> None:
        self.hold = False
        self.held: list[tuple[Deferred[Any], Any]] = []

    def authenticate(self, credentials: Any) -> Deferred[Any]:
        identity = None
        if credentials.token.startswith("ok"):
            user, _, expires = credentials.token[3:].partition(":")
            identity = Identity(
                device=credentials.device,
                user=user,
                app=credentials.app,
                app_version=credentials.app_version,
                expires_at=float(expires) if expires else None,
            )
        if self.hold:
            result: Deferred[Any] = Deferred()
            self.held.append((result, identity))
            return result
        return succeed(identity)

    def let_go(self, index: int = 0) -> None:
        result, identity = self.held.pop(index)
        result.callback(identity)


class FakeExchangeOfHttp:
    """One HTTP exchange; a test reads what was answered."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.buffered = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.over = False
        self.cut = False
        self.paused = False
        self.upload: Any = None

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        assert not self.status
        self.start(status, headers)
        self.body = body
        self.over = True

    def start(self, status: int, headers: Any) -> None:
        assert not self.status
        self.status, self.headers = status, list(headers)

    def write(self, data: bytes) -> None:
        assert self.status
        assert not self.over
        self.body += data

    def finish(self) -> None:
        self.over = True

    def abort(self) -> None:
        self.cut = self.over = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class FakeResponder:
    """Keeps what a call answers."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.waiting = 0

    def respond(self, status: int, headers: Any, body: bytes, more: bool) -> None:
        self.log.append(("respond", int(status), body, more))

    def data(self, data: bytes, more: bool) -> None:
        self.log.append(("data", data, more))

    def reset(self, status: int) -> None:
        self.log.append(("reset", int(status)))

    def unsent(self) -> int:
        return self.waiting

    def upload_consumed(self, size: int) -> None: ...


class Device:
    """A device's end: the real client side of the wire, joined to a real binding over a fake connection."""

    def __init__(self, gateway: Gateway, *, limits: Limits | None = None) -> None:
        self.gateway = gateway
        self.connection = FakeConnection()
        self.binding = gateway.services(self.connection)
        self.wire = Wire(Role.CLIENT, limits=limits or Limits(), now=gateway.clock.seconds())
        self.heard: list[Any] = []
        self._read = 0

    def hello(self, device: str = "d1", token: str = "ok", **more: Any) -> Device:
        boot, counter = more.pop("generation", (1, 1))
        self.wire.send_hello(Hello(device=device, token=token, boot=boot, counter=counter, **more))
        self.send()
        return self

    def send(self) -> None:
        """What the device has to say reaches the gateway in one piece; answers of this turn come back."""
        data = self.wire.to_send(self.gateway.clock.seconds())
        if data:
            self.binding.data_received(data)
        self.listen()

    def listen(self) -> None:
        """End the turn and read what the gateway wrote."""
        self.gateway.clock.advance(0)
        while self._read < len(self.connection.written):
            self.wire.receive(self.connection.written[self._read], self.gateway.clock.seconds())
            self._read += 1
        self.heard += self.wire.events()

    def call(self, operation: str = "pay", body: bytes = b"{}", **more: Any) -> int:
        number = self.wire.request(operation, more.pop("headers", []), body, **more)
        self.send()
        return number

    def take(self, kind: type) -> list[Any]:
        """Events of one kind heard so far, removed."""
        self.listen()
        found = [event for event in self.heard if isinstance(event, kind)]
        self.heard = [event for event in self.heard if not isinstance(event, kind)]
        return found

    def lose(self, reason: Any = "peer_reset") -> None:
        self.connection.closed = self.connection.closed or reason
        self.binding.connection_lost(reason, "")


class Gateway:
    """Core with everything around it faked."""

    def __init__(
        self,
        *routes: RouteSettings,
        filters: Any = (),
        store: FakeAnswerStore | None = None,
        sessions: SessionSettings | None = None,
        calls: CallSettings | None = None,
        mmtp: MmtpSettings | None = None,
        limits: Limits | None = None,
        authenticators: Any = None,
        clock: Clock | None = None,
        make_pushes: Callable[[Gateway], Any] = lambda gateway: FakePushes(),
    ) -> None:
        self.clock = clock or Clock()
        self.clock.advance(1000.0)
        self.timers = TimingWheel(self.clock)
        self.session_counters = SessionCounters()
        self.call_counters = CallCounters()
        self.pushes = make_pushes(self)
        self.presence = FakePresence()
        self.authenticator = FakeAuthenticator()
        self.upstreams = FakeUpstreams()
        self.store = store if store is not None else FakeAnswerStore()
        self.records: list[Any] = []
        self.tracing = Tracing(self.wall)
        self._random = itertools.count(1)
        self._generations = itertools.count(1)
        self.chain = AuthenticatorChain(
            [self.authenticator] if authenticators is None else authenticators, self.session_counters, self.clock
        )
        self.filters = FilterChain(filters, self.clock, self.call_counters, PushCounters())
        session_settings = sessions or SessionSettings()
        self.sessions = SessionManager(
            session_settings,
            chain=self.chain,
            filters=self.filters,
            pushes=self.pushes,
            presence=self.presence,
            timers=self.timers,
            clock=self.clock,
            wall=self.wall,
            random_bytes=self.random_bytes,
            counters=self.session_counters,
        )
        call_settings = calls or CallSettings()
        self.claims = Claims(call_settings, self.store, self.timers, self.clock, self.wall)
        self.calls = Calls(
            call_settings,
            routes=RouteTable(routes or (RouteSettings(operation="*", cluster="c"),)),
            filters=self.filters,
            claims=self.claims,
            upstreams=self.upstreams,
            operations=BuiltinOperations(
                session_settings,
                self.sessions.registry,
                self.pushes,
                clock=self.clock,
                wall=self.wall,
                logout=self.sessions.logout,
            ),
            timers=self.timers,
            clock=self.clock,
            random_bytes=self.random_bytes,
            zone="z1",
            counters=self.call_counters,
            tracing=self.tracing,
            log=self.records.append,
        )
        self.services = MmtpServices(
            settings=mmtp or MmtpSettings(),
            limits=limits or Limits(),
            sessions=self.sessions,
            calls=self.calls,
            pushes=self.pushes,
            timers=self.timers,
            clock=self.clock,
            wall=self.wall,
            flusher=TurnFlusher(self.clock),
            tracing=self.tracing,
            zone="z1",
        )

    def wall(self) -> float:
        return WALL + self.clock.seconds() - 1000.0

    def random_bytes(self, size: int) -> bytes:
        return next(self._random).to_bytes(size, "big")

    def device(self, **hello: Any) -> Device:
        """A device that has been welcomed; each time with a later generation unless one is given."""
        hello.setdefault("generation", (1, next(self._generations)))
        return Device(self).hello(**hello)
