"""MMTP on one stream connection: joins the wire protocol with sessions, calls and pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces import CallService, Clock, Connection, OutgoingPush, PushService, Timer, Timers
from accessgw.core.introductions import cursors_of, introduction_of
from accessgw.core.mmtp_call import MmtpCall
from accessgw.core.push_frames import frame_of
from accessgw.core.registry import DeviceSession
from accessgw.core.sessions import SessionManager
from accessgw.core.turns import TurnFlusher
from accessgw.model.calls import Call
from accessgw.model.identity import ConnectionInfo
from accessgw.model.pushes import StreamKey
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import MmtpSettings
from protocols.errors import LocalError, RemoteError
from protocols.mmtp import events
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.connection import CAPABILITIES, Role
from protocols.mmtp.connection import Connection as Wire
from protocols.mmtp.handshake import Goaway, Hello, StreamCursor, Welcome
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

log = Logger()

MAX_HELD_EVENTS = 512
"""Events of a device that did not wait for WELCOME; credit bounds their bodies already."""


def wire_limits(settings: MmtpSettings, hello_timeout: float) -> Limits:
    """The limits of the wire from the configuration."""
    same = {field.name: getattr(settings, field.name) for field in fields(Limits) if field.name != "hello_timeout"}
    return Limits(**same, hello_timeout=hello_timeout)


@dataclass(slots=True)
class MmtpServices:
    """What every MMTP connection of a worker shares. Calling it makes the binding of a connection."""

    settings: MmtpSettings
    limits: Limits
    sessions: SessionManager
    calls: CallService
    pushes: PushService
    timers: Timers
    clock: Clock
    wall: Callable[[], float]
    flusher: TurnFlusher
    tracing: traces.Tracing
    zone: str
    addresses: tuple[str, ...] = ()
    addresses_valid: float = 3600.0
    idle_timeout: float = 0.0
    """Told to the device; the transport enforces it."""
    compress_from: int = 256
    push_buffer: int = 256 * 1024
    """Unsent bytes of a connection past which no push is added, however large the device's window is."""
    draining: bool = False
    """The worker is being emptied: connections that end do so for that reason."""
    leave_for: str = ""
    """host:port told to devices that are asked to leave; empty: the same one."""
    leave_spread: float = 0.0
    """Seconds over which those devices should spread their return."""

    def __call__(self, connection: Connection) -> MmtpBinding:
        return MmtpBinding(connection, self)

    def welcome(self, session: DeviceSession, hello: Hello) -> Welcome:
        """What a device is told when it was admitted; the session remembers which codings it takes."""
        capabilities = hello.capabilities & CAPABILITIES
        session.zstd = ZSTD_CAPABILITY in capabilities
        return Welcome(
            session=session.id,
            mac_key=session.mac_key,
            time=self.wall(),
            capabilities=capabilities,
            heartbeat=self.settings.heartbeat_hint,
            idle_timeout=self.idle_timeout,
            zone=self.zone,
            addresses=list(self.addresses),
            addresses_valid=self.addresses_valid if self.addresses else 0.0,
        )


class MmtpBinding:
    """A Binding towards the transport and a Link towards the session."""

    __slots__ = (
        "_admission",
        "_calls",
        "_close_when_done",
        "_closed",
        "_dirty",
        "_held",
        "_in_batch",
        "_peer_leaves",
        "_queued",
        "_services",
        "_timer",
        "_timer_at",
        "_trace",
        "_zstd",
        "connection",
        "info",
        "session",
        "wire",
    )

    def __init__(self, connection: Connection, services: MmtpServices) -> None:
        self.connection = connection
        self.info: ConnectionInfo = connection.info
        self._services = services
        self.wire = Wire(Role.SERVER, limits=services.limits, now=services.clock.seconds())
        self.session: DeviceSession | None = None
        self._admission: Deferred[DeviceSession] | None = None
        self._calls: dict[int, MmtpCall] = NOTHING
        self._held: list[events.Event] | None = None
        """What came before WELCOME."""
        self._closed = False
        self._close_when_done = False
        self._peer_leaves = False
        self._in_batch = False
        self._dirty = False
        self._queued = 0
        """Bytes of pushes that leave at the end of this turn."""
        self._zstd = False
        self._trace: traces.Emit | None = None
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._watch_time()

    # ---------------------------------------------------------------- Binding: what the transport calls

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        session = self.session
        if session is not None and self._trace is None:
            acked = self.wire.acked_alone(data)
            if acked is not None:
                self._acked(session, acked)
                return
        self._run_batch(lambda now: self.wire.receive(data, now))

    def drained(self) -> None:
        for call in list(self._calls.values()):
            call.drained()
        if self.session is not None and self.session.link is self:
            self._services.pushes.writable(self.session)

    def aged(self) -> None:
        self._close_when_done = True
        self.go_away(Status.DRAINING, self._services.leave_for, self._services.leave_spread)
        self._close_if_done()

    def late(self) -> None:
        due = self.wire.next_timer()
        if due is not None and not self._closed:
            # The transport counts from the accept, the wire from the first byte.
            self._run_batch(lambda now: self.wire.handle_timer(max(now, due)))

    def expired(self) -> None:
        """The device was told the idle time in WELCOME, and does not listen now."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        if self._peer_leaves and reason is CloseReason.PEER_CLOSED:
            reason = CloseReason.PEER_GOAWAY
        self._closed = True
        if self._trace is not None:
            self._trace(traces.closed(self.info, reason, detail))
            self._trace = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._admission is not None:
            self._admission.cancel()
            self._admission = None
        self._held = None
        calls, self._calls = self._calls, NOTHING
        for call in calls.values():
            call.lost()
        if self.session is not None:
            self._services.sessions.disconnected(self.session, self, reason)

    # ---------------------------------------------------------------- Link: what the session's pushes use

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet, or is about to be given."""
        return self.connection.buffered + self._queued

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        if not self._closed:
            self.wire.introduce_stream(alias, StreamCursor(stream.scope, stream.id, stream.biz, epoch, after))
            self.touch()

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        if self._closed:
            return False
        services = self._services
        shared = frame_of(push, gap, self._zstd, services.compress_from)
        if self.connection.buffered + self._queued > services.push_buffer or not self.wire.offer_push(shared):
            return False
        size = len(shared.frame)
        self._queued += size
        if self._trace is not None:
            self.sent("push", {"alias": push.alias, "seq": push.seq, "bytes": size})
        elif not self._dirty:
            self.touch()
        return True

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        if not self._closed:
            self.wire.note_stream(StreamCursor(stream.scope, stream.id, stream.biz, epoch, floor), alias, note)
            self.touch()

    def close(self, reason: CloseReason, status: int) -> None:
        if self._closed:
            return
        self.wire.go_away(Goaway(status=status, message=reason.value))
        self._finish(reason)

    def go_away(self, status: int, address: str, delay: float) -> None:
        if not self._closed:
            self.wire.go_away(Goaway(status=status, address=address, delay=delay))
            self.touch()

    # ---------------------------------------------------------------- sending

    def sent(self, what: str, details: dict[str, Any]) -> None:
        """Something was given to the wire: it leaves with the rest of this turn."""
        if self._trace is not None:
            self._trace(traces.sent(what, details))
        self.touch()

    def touch(self) -> None:
        """There are bytes to send: at the end of the batch, or of the reactor's turn."""
        if not self._in_batch and not self._dirty:
            self._dirty = True
            self._services.flusher.add(self)

    def flush(self) -> None:
        """Write what the wire has to send."""
        self._dirty = False
        self._queued = 0
        data = self.wire.to_send(self._services.clock.seconds())
        if data:
            if self._trace is not None:
                self._trace_wire(data)
            self.connection.write(data)

    def retrace(self) -> None:
        """Somebody began or ceased to watch this device."""
        session = self.session
        self._trace = None if session is None else self._services.tracing.tracer(session.identity.device)

    def _trace_wire(self, data: bytes) -> None:
        if self._trace is not None:
            for frame in traces.sent_by_wire(data):
                self._trace(frame)

    def log_local_error(self, call: int, error: Exception) -> None:
        """An answer that the wire refused."""
        log.error(
            "connection {id}: the answer to call {call} cannot be sent: {error}",
            id=self.info.id,
            call=call,
            error=error,
        )

    # ---------------------------------------------------------------- receiving

    def _run_batch(self, feed: Callable[[float], None]) -> None:
        """Feed the wire, handle its events, and write everything that came of it at once."""
        error: RemoteError | None = None
        self._in_batch = True
        try:
            try:
                feed(self._services.clock.seconds())
            except RemoteError as found:
                error = found
            self._handle_all(self.wire.events())
        except Exception:
            self._defect()
        finally:
            self._in_batch = False
        if self._closed:
            return
        if error is not None:
            reason = CloseReason.FLOOD if error.code == Status.OVERLOAD else CloseReason.PROTOCOL_ERROR
            self._finish(reason, f"status {error.code}: {error}")
            return
        if self.wire.closed:
            late = self.wire.closing_status == Status.DEADLINE
            self._finish(CloseReason.HELLO_TIMEOUT if late else CloseReason.PEER_GOAWAY)
            return
        self.flush()
        if not self._closed:
            self._watch_time()
        self._close_if_done()

    def _acked(self, session: DeviceSession, places: list[tuple[int, int]]) -> None:
        """An acknowledgement came alone; what it makes room for leaves at the end of this turn."""
        try:
            self._services.pushes.acked(session, places)
        except Exception:
            self._defect()

    def _handle_all(self, arrived: Iterable[events.Event]) -> None:
        active = False
        for event in arrived:
            if self._trace is not None:
                frame = traces.received(event)
                if frame is not None:
                    self._trace(frame)
            active = self._handle(event) or active
        if active and self.session is not None and self.session.link is self:
            self._services.pushes.activity(self.session)

    def _handle(self, event: events.Event) -> bool:
        """True when it was more than an acknowledgement or a heartbeat."""
        if self._closed:
            return False
        if isinstance(event, events.HelloReceived):
            self._introduced(event.hello)
            return True
        if self.session is None:
            self._hold(event)
            return False
        if isinstance(event, events.RequestReceived):
            self._request(event, self.session)
            return True
        if isinstance(event, events.DataReceived):
            self._data(event)
            return True
        if isinstance(event, events.PushesAcked):
            self._services.pushes.acked(self.session, event.tokens)
        elif isinstance(event, events.CallReset):
            self._reset(event)
        elif isinstance(event, events.CallDrained):
            call = self._calls.get(event.call)
            if call is not None:
                call.drained()
        elif isinstance(event, events.GoawayReceived):
            self._peer_leaves = True
        return False

    def _hold(self, event: events.Event) -> None:
        """The device did not wait for WELCOME; nothing of it runs before it is known."""
        if self._held is None:
            self._held = []
        if len(self._held) >= MAX_HELD_EVENTS:
            self.close(CloseReason.OVERLOAD, Status.OVERLOAD)
        else:
            self._held.append(event)

    # ---------------------------------------------------------------- hand-shake

    def _introduced(self, hello: Hello) -> None:
        # Its time ends here; authenticators and filters have time-outs of their own.
        self.connection.established()
        self.info.protocol = "mmtp 1"
        if self._services.tracing.watched:
            self._trace = self._services.tracing.tracer(hello.device)
            if self._trace is not None:
                self._trace(traces.connected(self.info))
                self._trace({"kind": "frame", "direction": "in", "frame": "hello"})
        admission = self._services.sessions.admit(introduction_of(hello, self.info), self)
        self._admission = admission
        admission.addCallbacks(lambda session: self._welcome(session, hello), self._refuse)
        admission.addErrback(self._defect)

    def _welcome(self, session: DeviceSession, hello: Hello) -> None:
        self._admission = None
        self.session = session
        self.info.device, self.info.user = session.identity.device, session.identity.user
        services = self._services
        if self._trace is not None or services.tracing.watched:
            self.retrace()
        welcome = services.welcome(session, hello)
        self._zstd = session.zstd
        self.wire.send_welcome(welcome)
        self.sent("welcome", {"session": session.id})
        services.pushes.attach(session, cursors_of(session.identity, hello.cursors))
        held, self._held = self._held, None
        self._handle_all(held or ())
        if self._closed or self._in_batch:
            return
        self.flush()

    def _refuse(self, failure: Failure) -> None:
        self._admission = None
        error = failure.value
        if isinstance(error, CancelledError) or self._closed:
            return
        if not isinstance(error, AdmissionRefused):
            log.failure("admission failed", failure=failure)
            error = AdmissionRefused(Status.INTERNAL, CloseReason.INTERNAL, "the gateway failed")
        if self._trace is not None:
            self._trace(traces.sent("welcome", {"result": error.status, "message": str(error)}))
        self.wire.send_welcome(Welcome(result=error.status, message=str(error), retry_after=error.retry_after))
        self._finish(error.reason, str(error))

    # ---------------------------------------------------------------- calls

    def _request(self, event: events.RequestReceived, session: DeviceSession) -> None:
        services = self._services
        now = services.clock.seconds()
        responder = MmtpCall(self, event.call)
        if not self._calls:
            self._calls = {}
        self._calls[event.call] = responder
        if event.more:
            responder.received(len(event.body), event.wire_size)
        elif event.wire_size:
            # A complete body waits for nothing: max_open_calls bounds what is held.
            self.wire.consumed(event.call, event.wire_size)
        call = Call(
            operation=event.operation,
            identity=session.identity,
            call_id=event.call_id,
            headers=event.headers,
            body=event.body,
            more=event.more,
            deadline=None if event.timeout is None else now + event.timeout,
            resent=event.resent,
            age=event.age,
            binding="mmtp",
            connection=self.info,
            received_at=now,
        )
        responder.upload = services.calls.start(call, responder)

    def _data(self, event: events.DataReceived) -> None:
        call = self._calls.get(event.call)
        if call is None or call.upload is None:
            return
        call.received(len(event.data), event.wire_size)
        call.upload.data(event.data, event.more)

    def _reset(self, event: events.CallReset) -> None:
        call = self._calls.get(event.call)
        if call is not None:
            if call.upload is not None:
                call.upload.cancel(event.status)
            return
        # Answered, but part of the answer still waits for credit that nobody will give any more.
        with suppress(LocalError):
            self.wire.reset(event.call, Status.CANCELLED)

    def call_over(self, number: int) -> None:
        """The last frame of a call was given to the wire."""
        self._calls.pop(number, None)
        if self._close_when_done and not self._in_batch:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._close_when_done and not self._calls and not self.wire.open_calls() and not self._closed:
            self._finish(CloseReason.DRAINING if self._services.draining else CloseReason.MAX_AGE)

    # ---------------------------------------------------------------- time and the end

    def _watch_time(self) -> None:
        """Have handle_timer called when the wire wants it; a later time is only noticed when the timer fires."""
        at = self.wire.next_timer()
        if at is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        delay = max(0.0, at - self._services.clock.seconds())
        if self._timer is None:
            self._timer = self._services.timers.schedule(delay, self._timed)
            self._timer_at = at
        elif at < self._timer_at:
            self._timer.touch(delay)
            self._timer_at = at

    def _timed(self) -> None:
        self._timer = None
        if self._closed:
            return
        self._run_batch(self.wire.handle_timer)

    def _finish(self, reason: CloseReason, detail: str = "") -> None:
        """Write what is left and close; nothing is received or sent after it."""
        if self._closed:
            return
        self._closed = True
        data = self.wire.to_send(self._services.clock.seconds())
        if data:
            if self._trace is not None:
                self._trace_wire(data)
            self.connection.write(data)
        self.connection.close(reason, detail)

    def _defect(self, failure: Failure | None = None) -> None:
        """Ours, not the device's: it costs this connection."""
        log.failure("connection {id}: a defect", failure=failure, id=self.info.id)
        if not self._closed:
            with suppress(LocalError):
                self.wire.go_away(Goaway(status=Status.INTERNAL))
            self._finish(CloseReason.INTERNAL)
