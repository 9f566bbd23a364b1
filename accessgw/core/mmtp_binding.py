"""MMTP on one stream connection: joins the wire protocol with sessions, calls and pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core import tracing as traces
from accessgw.core.authentication import AdmissionRefused
from accessgw.core.codings import Codings
from accessgw.core.interfaces.connections import Connection
from accessgw.core.introductions import cursors_of, is_device_id
from accessgw.core.link_codings import OF_CODINGS, LinkCodings, agreed
from accessgw.core.mmtp_call import MmtpCall
from accessgw.core.mmtp_early import EarlyCalls
from accessgw.core.mmtp_handshake import Handshake, refusal_of
from accessgw.core.mmtp_link import MmtpLink
from accessgw.core.mmtp_room import MmtpRoom
from accessgw.core.registry import DeviceSession
from accessgw.model.calls import Call
from accessgw.model.identity import Identity
from accessgw.model.reasons import CloseReason
from accessgw.policy.dictionary_life import witness_of
from protocols.errors import LocalError, RemoteError
from protocols.mmtp import events
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import Goaway, Hello, Welcome
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import DICT_CAPABILITY

log = Logger()


class MmtpServices(MmtpRoom):
    """Calling it makes the binding of a connection."""

    __slots__ = ()

    def __call__(self, connection: Connection) -> MmtpBinding:
        return MmtpBinding(connection, self)


_ENDED_BY_WIRE: dict[int, CloseReason] = {
    Status.DEADLINE: CloseReason.HELLO_TIMEOUT,
    Status.PROTOCOL: CloseReason.PROTOCOL_ERROR,
    Status.COMPRESSION: CloseReason.PROTOCOL_ERROR,
    Status.FLOW_CONTROL: CloseReason.PROTOCOL_ERROR,
    Status.OVERLOAD: CloseReason.FLOOD,
}
"""Reasons by the status of a GOAWAY that the wire has sent by itself: time, or what it read after WELCOME only."""


class MmtpBinding(MmtpLink):
    """A Binding towards the transport, beside a Link towards the session."""

    __slots__ = ()

    def __init__(self, connection: Connection, services: MmtpRoom) -> None:
        super().__init__(connection, services)
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

    def early_data_received(self, data: bytes, replayed: bool) -> None:
        if self._closed:
            return
        if self._early is None:
            self._early = EarlyCalls(self, self._services, replayed=replayed)
        self._run_batch(lambda now: self.wire.receive(data, now))

    def handshake_completed(self) -> None:
        early, self._early = self._early, None
        if early is None or self._closed:
            return
        early.over()
        hello = early.hello
        if hello is not None:
            handshake = Handshake(self, self._services, hello, early.held, proof=early.proof, proven=early.proven())
            self._run_batch(lambda now: self._introduced(handshake))

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
        early, self._early = self._early, None
        if early is not None:
            early.over()
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.lost(reason)
        if self._codings is not None:
            self._codings.end()
            self._codings = None
        calls, self._calls = self._calls, NOTHING
        for call in calls.values():
            call.lost()
        if self.session is not None:
            self._services.sessions.disconnected(self.session, self, reason)

    # ---------------------------------------------------------------- receiving

    def _run_batch(self, feed: Callable[[float], None]) -> None:
        """Feed the wire and handle its events; what came of it leaves at the end of the turn."""
        error: RemoteError | None = None
        self._in_batch = True
        try:
            try:
                feed(self._services.clock.seconds())
            except RemoteError as found:
                error = found
            self._handle_all(self.wire.events())
        except Exception:
            self.defect()
        finally:
            self._in_batch = False
        if not self._closed:
            self._written_after(error)

    def _written_after(self, error: RemoteError | None) -> None:
        """Have written what came of a batch, and end the connection if the peer, or the wire, has."""
        if error is not None:
            reason = CloseReason.FLOOD if error.code == Status.OVERLOAD else CloseReason.PROTOCOL_ERROR
            self._finish(reason, f"status {error.code}: {error}")
            return
        if self.wire.closed:
            self._finish(_ENDED_BY_WIRE.get(self.wire.closing_status, CloseReason.PEER_GOAWAY))
            return
        if self.wire.has_to_send:
            # Even when it waits among those that have pushes: for an answer the device waits.
            self._dirty = True
            self._services.flusher.answer(self)
        if not self._closed:
            self._watch_time()
            if self._codings is not None:
                self._codings.used()
        self._close_if_done()

    def _acked(self, session: DeviceSession, places: list[tuple[int, int]]) -> None:
        """An acknowledgement came alone; what it makes room for leaves at the end of this turn."""
        try:
            self._services.pushes.acked(session, places)
        except Exception:
            self.defect()

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
        if self._early is not None:
            self._early.handle(event)
            return False
        if isinstance(event, events.HelloReceived):
            self._introduced(Handshake(self, self._services, event.hello, []))
            return True
        if self.session is None:
            if self._handshake is not None:
                self._handshake.hold(event)
            return False
        if isinstance(event, events.RequestReceived):
            self.request(event, self.session.identity)
            return True
        if isinstance(event, events.DataReceived):
            self.data(event)
            return True
        if isinstance(event, events.PushesAcked):
            self._services.pushes.acked(self.session, event.tokens)
        elif isinstance(event, events.CallReset):
            self.cancel(event)
        elif isinstance(event, events.CallDrained):
            call = self._calls.get(event.call)
            if call is not None:
                call.drained()
        elif isinstance(event, events.GoawayReceived):
            self._peer_leaves = True
            if self._codings is not None and event.goaway.status == Status.COMPRESSION:
                self._codings.failed_there()
        elif self._codings is not None and isinstance(event, OF_CODINGS):
            self._codings.handle(event)
        return False

    # ---------------------------------------------------------------- hand-shake

    def _introduced(self, handshake: Handshake) -> None:
        # Its time ends here; authenticators and filters have time-outs of their own.
        self.connection.established()
        self.info.protocol = "mmtp 1"
        if self._services.tracing.watched:
            self._trace = self._services.tracing.tracer(handshake.hello.device)
            if self._trace is not None:
                self._trace(traces.connected(self.info))
                self._trace({"kind": "frame", "direction": "in", "frame": "hello"})
        self._handshake = handshake
        handshake.begin(self.connection)

    def welcome(self, handshake: Handshake, session: DeviceSession, found: FoundStates) -> None:
        """The device is admitted, and its states were looked up; from here on the session is ours to use."""
        if self._closed:
            return
        services, hello = self._services, handshake.hello
        self._handshake = None
        self.session = session
        self.info.device, self.info.user = session.identity.device, session.identity.user
        if self._trace is not None or services.tracing.watched:
            self.retrace()
        welcome = services.welcome(session, hello)
        welcome.tickets = services.grant_tickets(self.info, handshake.proof, hello.tickets)
        self._zstd = session.zstd
        if services.codings is None:
            self.wire.send_welcome(welcome)
        else:
            self._agree(services.codings, welcome, hello, found, session)
        self.sent("welcome", {"session": session.id})
        services.pushes.attach(session, cursors_of(session.identity, hello.cursors))
        # what the wire could not read before WELCOME comes now
        self._handle_all((*handshake.held, *self.wire.events()))
        if self._closed or self._in_batch:
            return
        self._written_after(None)

    def _agree(
        self, codings: Codings, welcome: Welcome, hello: Hello, found: FoundStates, session: DeviceSession
    ) -> None:
        used = agreed(hello, codings)
        bundle = codings.bundle_named(hello)
        welcome.capabilities = codings.capabilities
        template = TEMPLATE_CAPABILITY in codings.capabilities
        if DICT_CAPABILITY in used:
            self.wire.count_for(witness_of(session.identity.owner))
        self.wire.send_welcome(welcome, found if template else None, bundle)
        if not used.isdisjoint((TEMPLATE_CAPABILITY, DICT_CAPABILITY)):
            self._codings = LinkCodings(self, codings, used, session.identity, found)
            self._codings.begin(hello, bundle)

    def refuse(self, error: AdmissionRefused) -> None:
        """The device may not come in."""
        handshake, self._handshake = self._handshake, None
        if self._closed:
            return
        if handshake is not None and is_device_id(handshake.hello.device):
            self.info.device = handshake.hello.device
        welcome, shown = refusal_of(error)
        if self._trace is not None:
            self._trace(shown)
        self.wire.send_welcome(welcome)
        self._finish(error.reason, str(error))

    # ---------------------------------------------------------------- calls

    def request(self, event: events.RequestReceived, identity: Identity, *, early: bool = False) -> None:
        """Start a call; `early`: it came in early data, from a device that is not admitted yet."""
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
            identity=identity,
            call_id=event.call_id,
            headers=event.headers,
            body=event.body,
            more=event.more,
            deadline=None if event.timeout is None else now + event.timeout,
            resent=event.resent,
            age=event.age,
            early=early,
            binding="mmtp",
            connection=self.info,
            received_at=now,
        )
        responder.call = call
        responder.upload = services.calls.start(call, responder)

    def has_call(self, number: int) -> bool:
        """Whether the call was started and is not over."""
        return number in self._calls

    def data(self, event: events.DataReceived) -> None:
        """A part of a request's body."""
        call = self._calls.get(event.call)
        if call is None or call.upload is None:
            return
        call.received(len(event.data), event.wire_size)
        call.upload.data(event.data, event.more)

    def cancel(self, event: events.CallReset) -> None:
        """The device wants no answer any more."""
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

    def is_secret(self, call: Call) -> bool:
        """The answer must travel raw."""
        return call.secret or self._services.is_secret(call.operation)

    def defect(self, failure: Failure | None = None) -> None:
        """Something failed that is ours, not the device's: it costs this connection."""
        log.failure("connection {id}: a defect", failure=failure, id=self.info.id)
        if not self._closed:
            with suppress(LocalError):
                self.wire.go_away(Goaway(status=Status.INTERNAL))
            self._finish(CloseReason.INTERNAL)
