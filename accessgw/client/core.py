"""The client without I/O: news of transports, timers and wishes of the application in, commands out.

Every method takes `now` (seconds of any monotonic clock). After each of them the face carries out
take_commands() in order and arms one timer for next_timer(). The parts: dialer (opening), link (one long
connection), calls (the table), longcalls and fallback (calls over either way), pushing (pushes and their
cursors). What is decided here is how they meet: hand-shakes, leaving, losing, coming back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import assert_never

from accessgw.client.addresses import AddressBook
from accessgw.client.backoff import Backoff
from accessgw.client.calls import CallTable, OpenCall
from accessgw.client.commands import AskToken, Changed, Close, Command, Finish, Inspect, Tell, Write
from accessgw.client.cursors import MAX_NETWORKS, Memory
from accessgw.client.dialer import Dialer
from accessgw.client.fallback import Fallback
from accessgw.client.heartbeat import Heartbeat
from accessgw.client.link import Link
from accessgw.client.longcalls import LongCalls
from accessgw.client.model import CallFailed, CannotConnect, Headers, Note, Push, Reply, State
from accessgw.client.pushing import PushDesk
from accessgw.client.retry import Verdict, judge
from accessgw.client.rtt import RoundTrip
from accessgw.client.settings import ClientSettings
from protocols.errors import RemoteError
from protocols.mmtp import events as wire
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.handshake import Goaway, Hello, Welcome
from protocols.mmtp.statuses import Status

FINAL = frozenset((Status.REPLACED, Status.REVOKED, Status.FORBIDDEN, Status.VERSION))
"""Refusals that another attempt would meet again."""
MAX_TOKENS = 3
"""Tokens refused in a row before the client stops asking for another."""


class ClientCore:
    """One device's client. See the module's text."""

    def __init__(
        self,
        settings: ClientSettings,
        *,
        random: Random,
        make_connection: Callable[[float], Connection],
        wall_clock: float,
        now: float,
        memory: Memory | None = None,
    ) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.rtt = RoundTrip()
        self.session = ""
        self.zone = ""
        self.calls = CallTable(max_open=settings.max_open, max_waiting=settings.max_waiting)
        self._random = random
        self._make_connection = make_connection
        self._clock_offset = wall_clock - now
        self._commands: list[Command] = []
        self._token = settings.token
        self._tokens_refused = 0
        self._counter = itertools.count(1)
        memory = memory if memory is not None else Memory()
        memory.boot = max(memory.boot + 1, int(wall_clock * 1000))
        self._memory = memory
        self._heartbeat = Heartbeat(*memory.heartbeats.get(settings.network, (Heartbeat.FLOOR, 0.0)))
        self._backoff = Backoff(random.random, initial=settings.backoff_initial, cap=settings.backoff_cap)
        self._book = AddressBook(settings.addresses)
        self._dialer = Dialer(
            self._book, self._backoff, self._emit, stagger=settings.stagger, timeout=settings.connect_timeout
        )
        self._links: dict[int, Link] = {}
        self._current: Link | None = None
        self._last_close = 0
        self._closed: CannotConnect | None = None
        self._crowded = False
        self._long = LongCalls(settings, self.calls, emit=self._emit, ended=self._ended, finish=self._finish)
        self._fallback = Fallback(
            settings,
            self.calls,
            random,
            emit=self._emit,
            ended=self._ended,
            still_open=lambda call: call.link in self._links,
        )
        self._pushes = PushDesk(
            memory, persistent=settings.persistent, emit=self._emit, acknowledge=self._acknowledge
        )  # fmt: skip

    # ------------------------------------------------------------------ for the face

    def take_commands(self) -> list[Command]:
        """What to do, in order."""
        commands, self._commands = self._commands, []
        return commands

    def next_timer(self) -> float | None:
        """When timer() is due."""
        times = [
            self.calls.next_deadline(),
            self._pushes.next_timer(),
            self._dialer.next_timer(),
            self._fallback.next_timer(),
        ]
        for link in self._links.values():
            times += [link.next_timer(), self._heartbeat_due(link)]
        return min((at for at in times if at is not None), default=None)

    # ------------------------------------------------------------------ wishes of the application

    def connect(self, now: float) -> None:
        """Begin to connect, and stay connected from now on."""
        if self.state is not State.IDLE:
            return
        if self.settings.persistent:
            self._pushes.save()  # the boot number, before it is used a second time
        if self.settings.addresses:
            self._change(State.CONNECTING)
            self._dialer.dial(now)
        else:
            self._change(State.CONNECTED)

    def call(
        self, operation: str, headers: Headers, body: bytes, *, timeout: float, idempotent: bool, now: float
    ) -> int:
        """Open a call; its Finish comes exactly once. CallFailed when too many wait or the client is closed."""
        call = self._add(operation, headers, body, timeout=timeout, idempotent=idempotent, now=now)
        call.short_at = now + self.settings.patience if self.settings.addresses else now
        self._go_on(now)
        return call.key

    def call_stream(self, operation: str, headers: Headers, *, timeout: float, more: bool, now: float) -> int:
        """Open a call whose body goes on through call_data (after CallRoom) and whose answer comes in chunks.

        It is sent once, on the long connection: losing that ends it (outcome unknown).
        """
        call = self._add(operation, headers, b"", timeout=timeout, idempotent=False, now=now)
        call.streaming = True
        call.more = more
        self._go_on(now)
        return call.key

    def call_data(self, key: int, data: bytes, more: bool, now: float) -> None:
        """The next part of a streaming body; only after CallRoom."""
        call = self.calls.get(key)
        link = None if call is None or call.link is None else self._links.get(call.link)
        if call is not None and link is not None and call.more:
            call.more = more
            self._long.upload(link, call, data, more, now)
            self._go_on(now)

    def call_consumed(self, key: int, wire_size: int, now: float) -> None:
        """The application took a chunk."""
        call = self.calls.get(key)
        link = None if call is None or call.link is None else self._links.get(call.link)
        if call is not None and link is not None:
            link.connection.consumed(call.number, wire_size)
            self._go_on(now)

    def cancel(self, key: int, now: float) -> None:
        """Nobody waits for the call any more; it finishes with status cancelled."""
        call = self.calls.get(key)
        if call is not None:
            self._give_up(call, CallFailed(Status.CANCELLED, "cancelled by the application"))
            self._go_on(now)

    def taken(self, now: float) -> None:
        """The application took a push out of its queue."""
        self._pushes.held -= 1
        if self._crowded and self._pushes.held < self.settings.max_held // 2:
            self._crowded = False
            self._redial(now)

    def untaken(self) -> None:
        """It is back in its queue."""
        self._pushes.held += 1

    def processed(self, push: Push, now: float) -> None:
        """The application is done with a push."""
        self._pushes.processed(push)
        self._go_on(now)

    def close(self, now: float) -> None:
        """Leave for good. Calls without an answer fail."""
        if self._closed is None:
            for link in self._links.values():
                if link.welcomed:
                    link.connection.go_away(Goaway())
            self._flush(now)
            self._stop(CannotConnect(Status.CANCELLED, "closed by the application"))

    def token(self, token: str | None, now: float) -> None:
        """The answer to AskToken; None: there is no other."""
        if self._closed is not None:
            return
        if token is None:
            self._stop(CannotConnect(Status.AUTH, "the token was refused"))
        else:
            self._token = token
            self._dialer.dial(now)
            self._show_dialing()

    # ------------------------------------------------------------------ news of transports

    def connected(self, attempt: int, now: float) -> None:
        """The transport of an attempt is ready."""
        address = self._dialer.connected(attempt)
        if address is None:
            return
        link = Link(attempt, address, self._make_connection(now), self.rtt, now)
        link.hello_deadline = now + self.settings.hello_timeout
        link.call_base = self._random.getrandbits(64)
        link.connection.send_hello(self._hello(now, link.call_base))
        self._links[attempt] = self._current = link
        self._go_on(now)

    def received(self, attempt: int, data: bytes, now: float) -> None:
        """Bytes of the peer."""
        link = self._links.get(attempt)
        if link is None:
            return
        error: RemoteError | None = None
        try:
            link.connection.receive(data, now)
        except RemoteError as remote:
            error = remote
        link.heard(now)
        self._events(link, now)
        if error is not None and attempt in self._links:
            self._emit(Tell(Note("protocol_error", str(error), count=error.code)))
            self._last_close = error.code
            self._flush_link(link, now)
            self._drop(link, now)
        self._go_on(now)

    def lost(self, attempt: int, reason: str, now: float) -> None:
        """The transport ended, or could not be opened."""
        link = self._links.get(attempt)
        if link is not None:
            link.connection.receive_eof(now)
            self._events(link, now)
            if attempt in self._links:
                self._drop(link, now, transport_open=False)
        elif self._dialer.failed(attempt, reason, now):
            self._show_dialing()
        self._go_on(now)

    def inspected(self, attempt: int, unacknowledged: bool, now: float) -> None:
        """The answer to Inspect: bytes are in flight that the peer's kernel has not acknowledged for so long."""
        link = self._links.get(attempt)
        if link is not None and unacknowledged and link.silence(now) > 0:
            if not link.pinging:
                link.ping(now)
            self._suspect(link, now)
            self._go_on(now)

    def posted(self, post: int, status: int, body: bytes, now: float) -> None:
        """The HTTP response of a Post."""
        answer = self._fallback.answered(post, status, body, now)
        if answer is not None:
            if answer.time:
                self._clock_offset = answer.time - now
            for note in answer.notes:
                self._pushes.noted((note.scope, note.id, note.biz), note.note, note.epoch, note.floor)
            for push in answer.pushes:
                self._pushes.received(push, None)
        self._go_on(now)

    def post_failed(self, post: int, reason: str, now: float) -> None:
        """A Post had no response."""
        if self._fallback.failed(post, now):
            self._emit(Tell(Note("short_failed", reason)))
        self._go_on(now)

    def saved(self, now: float) -> None:
        """The Save is on disk."""
        self._pushes.saved()
        self._go_on(now)

    def save_failed(self, reason: str, now: float) -> None:
        """It is not."""
        self._pushes.save_failed(reason, now)

    # ------------------------------------------------------------------ time

    def timer(self, now: float) -> None:
        """Do what is due."""
        self._dialer.handle_timer(now)
        self._show_dialing()
        for link in list(self._links.values()):
            self._link_timer(link, now)
        for call in self.calls.expired(now):
            failure = CallFailed(Status.DEADLINE, f"no answer within {now - call.created:.3g} s")
            self._give_up(call, call.held or failure)
        self._pushes.handle_timer(now)
        self._go_on(now)

    def _link_timer(self, link: Link, now: float) -> None:
        def due(at: float | None) -> bool:
            return at is not None and now >= at

        if due(link.connection.next_timer()):
            link.connection.handle_timer(now)
        if due(link.hello_deadline):
            self._book.failed(link.address)
            self._last_close = Status.DEADLINE
            self._drop(link, now, abort=True)
            return
        if due(link.inspect_due()):
            link.inspected()
            self._emit(Inspect(link.attempt))
        if due(link.dead_due()):
            if link.heartbeat_out:
                self._heartbeat.failed()
            self._drop(link, now, abort=True)
            return
        if due(link.suspect_due()):
            self._suspect(link, now)
        if due(link.probe_due()):
            link.ping(now)
        if due(self._heartbeat_due(link)):
            link.ping(now, heartbeat=True)

    def _heartbeat_due(self, link: Link) -> float | None:
        if not link.welcomed or link.pinging or not self._heartbeat.interval:
            return None
        return link.idle_since + self._heartbeat.interval

    # ------------------------------------------------------------------ events of a link

    def _events(self, link: Link, now: float) -> None:
        for event in link.connection.events():
            self._event(link, event, now)
            if link.attempt not in self._links:
                return

    def _event(self, link: Link, event: wire.Event, now: float) -> None:
        match event:
            case wire.WelcomeReceived():
                self._welcome(link, event.welcome, now)
            case wire.ResponseReceived():
                self._long.response(link, event, now)
            case wire.DataReceived():
                self._long.data(link, event, now)
            case wire.CallReset():
                self._long.reset(link, event, now)
            case wire.CallDrained():
                self._long.drained(link, event)
            case wire.PushReceived():
                self._pushes.received(Push.from_event(event, "long"), link.arrival(event.index))
                self._crowd(link, now)
            case wire.StreamNoted():
                self._pushes.noted((event.scope, event.id, event.biz), event.note, event.epoch, event.floor)
            case wire.PongReceived():
                if link.ponged(now):
                    self._heartbeat.answered()
            case wire.GoawayReceived():
                self._goaway(link, event.goaway, now)
            case wire.PingReceived():
                pass
            case wire.HelloReceived() | wire.RequestReceived() | wire.PushesAcked():
                raise AssertionError(f"a gateway's event on a client: {event!r}")
            case _:
                assert_never(event)

    def _welcome(self, link: Link, welcome: Welcome, now: float) -> None:
        link.hello_deadline = None
        if welcome.time:
            self._clock_offset = welcome.time - now
        if welcome.result != Status.OK:
            self._refused(link, welcome, now)
            return
        link.welcomed = True
        self._tokens_refused = 0
        self.rtt.observe(now - link.hello_sent)
        self._backoff.up(now)
        self._book.succeeded(link.address)
        if welcome.addresses:
            self._book.learn(welcome.addresses, welcome.addresses_valid, now)
        self._heartbeat.hint(welcome.heartbeat, welcome.idle_timeout)
        self.session = welcome.session
        self.zone = welcome.zone
        self._fallback.codec.adopt(welcome)
        self._last_close = 0
        self._change(State.CONNECTED)

    def _refused(self, link: Link, welcome: Welcome, now: float) -> None:
        """WELCOME with another result than 0, or GOAWAY instead of it."""
        self._last_close = welcome.result
        if welcome.result == Status.AUTH:
            self._drop(link, now, redial=False)
            self._tokens_refused += 1
            if self._tokens_refused < MAX_TOKENS:
                self._change(State.WAITING, welcome.result, welcome.message)
                self._emit(AskToken())
            else:
                self._stop(CannotConnect(Status.AUTH, welcome.message or "the token was refused"))
        elif welcome.result in FINAL:
            self._stop(CannotConnect(welcome.result, welcome.message))
        else:
            if welcome.result == Status.UNIT_MOVED and welcome.addresses:
                self._book.prefer(welcome.addresses[0])
            self._book.failed(link.address)
            self._drop(link, now, at_least=welcome.retry_after)

    def _goaway(self, link: Link, goaway: Goaway, now: float) -> None:
        self._emit(Tell(Note("goaway", goaway.message, count=goaway.status)))
        if link is not self._current:
            if goaway.status == Status.REPLACED:  # by our own newer connection
                self._drop(link, now)
            return
        self._last_close = goaway.status
        if goaway.address:
            self._book.prefer(goaway.address)
        if not link.welcomed:
            refusal = Welcome(result=goaway.status or Status.DRAINING, message=goaway.message, retry_after=goaway.delay)
            self._refused(link, refusal, now)
            return
        if goaway.status in FINAL:
            self._stop(CannotConnect(goaway.status, goaway.message))
            return
        link.leaving = True
        for number in [n for n in link.calls if n > goaway.last_call]:
            call = self.calls.get(link.calls.pop(number))
            if call is not None:
                self._again(call, now, lost=True)
        link.settled()
        if goaway.status in (Status.OK, Status.DRAINING, Status.UNIT_MOVED):
            self._dialer.dial(now, goaway.delay * self._random.random())
        else:
            self._dialer.redial(now, goaway.delay)

    def _drop(
        self,
        link: Link,
        now: float,
        *,
        transport_open: bool = True,
        abort: bool = False,
        redial: bool = True,
        at_least: float = 0.0,
    ) -> None:
        """The link is over: its calls go elsewhere. `abort` when nobody is there to read what is buffered."""
        del self._links[link.attempt]
        if transport_open:
            self._emit(Close(link.attempt, abort))
        for key in link.calls.values():
            call = self.calls.get(key)
            if call is not None and call.held is not None:
                self._finish(call, call.held)
            elif call is not None:
                self._again(call, now, lost=True)
        if link is self._current:
            self._current = None
            if link.welcomed:
                self._backoff.down(now)
            if redial:
                self._redial(now, at_least)

    def _redial(self, now: float, at_least: float = 0.0) -> None:
        if self._closed is None and self.settings.addresses and not self._crowded:
            self._dialer.redial(now, at_least)
            self._show_dialing()

    def _show_dialing(self) -> None:
        if self._current is None and self._dialer.busy:
            state = State.CONNECTING if self._dialer.dialing else State.WAITING
            self._change(state, self._last_close, self._dialer.last_error)

    def _suspect(self, link: Link, now: float) -> None:
        """Nothing comes on the long connection: its calls go over short ones as well."""
        if not link.suspect:
            link.suspect = True
            self._emit(Tell(Note("suspect", f"silent for {link.silence(now):.3g} s")))
        for key in link.calls.values():
            call = self.calls.get(key)
            if call is not None and call.short_at is None:
                call.short_at = now

    def _crowd(self, link: Link, now: float) -> None:
        """More pushes than the gateway's window allows, or nobody takes them: come back when there is room."""
        if self._pushes.held > self.settings.max_held and link.attempt in self._links:
            self._crowded = True
            self._change(State.WAITING, Status.SLOW_READER, "the application does not take its pushes")
            self._drop(link, now)

    # ------------------------------------------------------------------ calls

    def _add(
        self, operation: str, headers: Headers, body: bytes, *, timeout: float, idempotent: bool, now: float
    ) -> OpenCall:
        if self._closed is not None:
            raise CallFailed(self._closed.status, f"the client is closed ({self._closed})")
        return self.calls.add(operation, headers, body, idempotent=idempotent, now=now, timeout=timeout)

    def _ended(self, call: OpenCall, outcome: Reply | CallFailed, now: float) -> None:
        """A call got its last frame, on either way."""
        verdict, wait = judge(call, outcome, now)
        if verdict is Verdict.FINAL:
            self._finish(call, outcome)
        elif verdict is Verdict.REPEAT:
            self._again(call, now, lost=False)
        elif self._fallback.available:
            call.short_at = now + wait
        else:
            self._finish(call, outcome)

    def _again(self, call: OpenCall, now: float, *, lost: bool) -> None:
        """Send it again, with its id."""
        if call.streaming and lost:
            self._finish(call, CallFailed(Status.OUTCOME_UNKNOWN, "the connection was lost"))
            return
        self.calls.requeue(call)
        if call.post is None and not call.streaming:
            call.short_at = now + self.settings.patience

    def _give_up(self, call: OpenCall, outcome: CallFailed) -> None:
        link = None if call.link is None else self._links.get(call.link)
        if link is not None and call.number in link.calls:
            link.connection.reset(call.number, Status.CANCELLED)
        self._finish(call, outcome)

    def _finish(self, call: OpenCall, outcome: Reply | CallFailed) -> None:
        self.calls.remove(call)
        self._fallback.finished(call)
        self._emit(Finish(call.key, outcome))

    # ------------------------------------------------------------------ common

    def _hello(self, now: float, call_base: int) -> Hello:
        settings = self.settings
        attributes = dict(settings.attributes)
        if settings.user:
            attributes.setdefault("user", settings.user)
        return Hello(
            device=settings.device,
            token=self._token,
            app=settings.app,
            app_version=settings.app_version,
            capabilities=frozenset(("zstd",)),
            boot=self._memory.boot,
            counter=next(self._counter),
            time=now + self._clock_offset,
            call_base=call_base,
            cursors=self._pushes.hello_cursors(),
            network=settings.network,
            last_close=self._last_close,
            attributes=attributes,
        )

    def _acknowledge(self, attempts: set[int]) -> None:
        for attempt in attempts:
            if attempt in self._links:
                self._links[attempt].acknowledge()

    def _stop(self, why: CannotConnect) -> None:
        """For good."""
        self._closed = why
        self._dialer.stop()
        for attempt in self._links:
            self._emit(Close(attempt))
        self._links.clear()
        self._current = None
        for call in self.calls:
            self._finish(call, call.held or CallFailed(why.status, f"the client is closed ({why})"))
        self._change(State.CLOSED, why.status, why.message)

    def _change(self, state: State, status: int = 0, message: str = "") -> None:
        if state is not self.state:
            self.state = state
            self._emit(Changed(state, status, message))

    def _emit(self, command: Command) -> None:
        self._commands.append(command)

    def _go_on(self, now: float) -> None:
        """After every input: send what can be sent, acknowledge what can be, write what that made."""
        if self._closed is not None:
            return
        link = self._current
        if link is not None and not link.leaving:
            self._long.send(link, now)
        self._fallback.handle_timer(
            now, lambda: self._hello(now, 0), self._pushes.hello_cursors, now + self._clock_offset
        )
        self._remember()
        self._pushes.settle()
        self._flush(now)
        self._close_finished(now)

    def _remember(self) -> None:
        """Keep what the next Save stores beside the cursors."""
        heartbeats = self._memory.heartbeats
        heartbeats[self.settings.network] = self._heartbeat.learned()
        while len(heartbeats) > MAX_NETWORKS:
            del heartbeats[next(iter(heartbeats))]

    def _close_finished(self, now: float) -> None:
        """A link that was left, with its calls answered and its successor welcomed, has nothing to wait for."""
        if self._current is not None and self._current.welcomed and len(self._links) > 1:
            for link in [ln for ln in self._links.values() if ln is not self._current and not ln.calls]:
                self._drop(link, now)

    def _flush(self, now: float) -> None:
        for link in self._links.values():
            self._flush_link(link, now)

    def _flush_link(self, link: Link, now: float) -> None:
        data = link.connection.to_send(now)
        if data:
            self._emit(Write(link.attempt, data))


def make_connection(now: float) -> Connection:
    """The protocol object of one long connection."""
    return Connection(Role.CLIENT, now=now)
