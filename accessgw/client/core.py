"""The client without I/O: news of transports, timers and wishes of the application in, commands out.

Every method takes `now` (seconds of any monotonic clock). After each of them the face carries out
take_commands() in order and arms one timer for next_timer(). What the application wishes only makes the core
`unsettled`: settle(), once per turn of the event loop, sends all of it in one piece; news of transports and
timers settle at once. The parts: connections (long ones, from dialing
to their end), calling (calls, over either way, to their outcome), pushing (pushes and their cursors).
What is decided here is how they meet.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from accessgw.client.calling import CallDesk
from accessgw.client.calls import CallTable
from accessgw.client.commands import Changed, Command
from accessgw.client.connections import Connections
from accessgw.client.cursors import MAX_NETWORKS, Memory
from accessgw.client.greeting import Greeting
from accessgw.client.heartbeat import Heartbeat
from accessgw.client.link import Link
from accessgw.client.model import CallFailed, CannotConnect, Headers, Push, State
from accessgw.client.pushing import PushDesk
from accessgw.client.rtt import RoundTrip
from accessgw.client.settings import ClientSettings
from accessgw.client.tickets import NOT_TLS, Flight, Handshaken, TicketMemory, Tickets
from accessgw.client.wirememory import WireMemory
from accessgw.client.wirestate import WireState
from protocols.mmtp import events as wire
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.handshake import Welcome
from protocols.mmtp.statuses import Status


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
        wire_memory: WireMemory | None = None,
        tickets: TicketMemory | None = None,
    ) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.rtt = RoundTrip()
        self.session = ""
        self.zone = ""
        self.unsettled = False
        """The application has wished for something since settle()."""
        self.calls = CallTable(max_open=settings.max_open, max_waiting=settings.max_waiting)
        self._commands: list[Command] = []
        self._closed: CannotConnect | None = None
        self._memory = memory if memory is not None else Memory()
        self._memory.boot = max(self._memory.boot + 1, int(wall_clock * 1000))
        self._connections = Connections(
            settings,
            self,
            random,
            rtt=self.rtt,
            heartbeat=Heartbeat(*self._memory.heartbeats.get(settings.network, (Heartbeat.FLOOR, 0.0))),
            make_connection=make_connection,
            tickets=Tickets(() if tickets is None else tickets.tickets),
        )
        skew = 0.0 if tickets is None else tickets.skew
        self._local_offset = wall_clock - now
        self.wire = WireState(settings, wire_memory or WireMemory(), persistent=settings.persistent, emit=self.emit)
        self._desk = CallDesk(settings, self.calls, self._connections, random, emit=self.emit, missed=self.wire.missed)
        self._long = self._desk.long
        self._fallback = self._desk.short
        self._pushes = PushDesk(
            self._memory,
            persistent=settings.persistent,
            emit=self.emit,
            acknowledge=self._connections.acknowledge,
        )
        self._greeting = Greeting(
            settings, boot=self._memory.boot, clock_offset=wall_clock - now + skew, cursors=self._pushes.hello_cursors
        )

    # ------------------------------------------------------------------ for the face

    def take_commands(self) -> list[Command]:
        """What to do, in order."""
        commands, self._commands = self._commands, []
        return commands

    @property
    def commanding(self) -> bool:
        """take_commands() has something."""
        return bool(self._commands)

    def settle(self, now: float) -> None:
        """Send what can be sent, acknowledge what can be, write what that made."""
        self.unsettled = False
        if self._closed is not None:
            return
        link = self._connections.usable
        if link is not None:
            self._long.send(link, now)
        self._fallback.handle_timer(
            now,
            lambda: self._greeting.hello(now, frozenset((ZSTD_CAPABILITY,))),
            self._pushes.hello_cursors,
            now + self._greeting.clock_offset,
        )
        self._remember()
        self._pushes.settle()
        self.wire.settle(now)
        self._connections.flush(now)

    def next_timer(self) -> float | None:
        """When timer() is due."""
        times = (
            self.calls.next_timer(),
            self._pushes.next_timer(),
            self._connections.next_timer(),
            self._fallback.next_timer(),
            self.wire.next_timer(),
        )
        return min((at for at in times if at is not None), default=None)

    def timer(self, now: float) -> None:
        """Do what is due."""
        self._connections.handle_timer(now)
        self._desk.handle_timer(now)
        self._pushes.handle_timer(now)
        self.settle(now)

    # ------------------------------------------------------------------ wishes of the application

    def connect(self, now: float) -> None:
        """Begin to connect, and stay connected from now on."""
        if self.state is not State.IDLE:
            return
        if self.settings.persistent:
            self._pushes.save()  # the boot number, before another start could use it again
        if self.settings.addresses:
            self.change(State.CONNECTING)
            self._connections.dial(now)
        else:
            self.change(State.CONNECTED)

    def call(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        timeout: float,
        idempotent: bool,
        now: float,
        secret: bool = False,
    ) -> int:
        """Open a call; its Finish comes exactly once. CallFailed when too many wait or the client is closed."""
        self._check_open()
        key = self._desk.open(operation, headers, body, timeout=timeout, idempotent=idempotent, now=now, secret=secret)
        self.unsettled = True
        return key

    def call_stream(self, operation: str, headers: Headers, *, timeout: float, more: bool, now: float) -> int:
        """Open a call whose body goes on through call_data (after CallRoom) and whose answer comes in chunks.

        It is sent once, on the long connection: losing that ends it (outcome unknown).
        """
        self._check_open()
        key = self._desk.open_stream(operation, headers, timeout=timeout, more=more, now=now)
        self.unsettled = True
        return key

    def call_data(self, key: int, data: bytes, more: bool, now: float) -> None:
        """The next part of a streaming body; only after CallRoom."""
        if self._desk.data(key, data, more, now):
            self.unsettled = True

    def call_consumed(self, key: int, wire_size: int, now: float) -> None:
        """The application took a chunk."""
        if self._desk.consumed(key, wire_size):
            self.unsettled = True

    def cancel(self, key: int, now: float) -> None:
        """Nobody waits for the call any more; it finishes with status cancelled."""
        if self._desk.cancel(key):
            self.unsettled = True

    def taken(self, now: float) -> None:
        """The application took a push out of its queue."""
        self._pushes.held -= 1
        if self._connections.paused and self._pushes.held < self.settings.max_held // 2:
            self._connections.resume(now)

    def untaken(self) -> None:
        """It is back in its queue."""
        self._pushes.held += 1

    def processed(self, push: Push, now: float) -> None:
        """The application is done with a push."""
        self._pushes.processed(push)
        self.unsettled = True

    @property
    def metered(self) -> bool:
        """The network costs by the byte: dictionaries and tables that are offered are not wanted."""
        return self.wire.metered

    @metered.setter
    def metered(self, on: bool) -> None:
        self.wire.metered = on
        for link in self._connections.links.values():
            self.wire.bound(link.connection)

    def close(self, now: float) -> None:
        """Leave for good. Calls without an answer fail."""
        if self._closed is None:
            if self.unsettled:
                self.settle(now)
            self._connections.say_goodbye(now)
            self.stop(CannotConnect(Status.CANCELLED, "closed by the application"))

    def token(self, token: str | None, now: float) -> None:
        """The answer to AskToken; None: there is no other."""
        if self._closed is not None:
            return
        if token is None:
            self.stop(CannotConnect(Status.AUTH, self._connections.refusal))
        else:
            self._greeting.token = token
            self._connections.dial(now)

    # ------------------------------------------------------------------ news of transports and of the disk

    def reached(self, attempt: int, now: float) -> Flight:
        """The transport of an attempt is about to begin TLS: with which ticket, and which early data."""
        return self._connections.reached(attempt, now)

    def ticket_memory(self) -> TicketMemory | None:
        """What there is to store, if it has changed since it was asked for: before what `reached` gave leaves."""
        held = self._connections.flights.tickets
        if not held.changed:
            return None
        held.changed = False
        return TicketMemory(held.held, round(self._greeting.clock_offset - self._local_offset, 3))

    def connected(self, attempt: int, now: float, tls: Handshaken = NOT_TLS) -> None:
        """The transport of an attempt is ready, its hand-shake complete."""
        self._connections.connected(attempt, now, tls)
        self.settle(now)

    def received(self, attempt: int, data: bytes, now: float) -> None:
        """Bytes of the peer."""
        self._connections.received(attempt, data, now)
        self.settle(now)

    def lost(self, attempt: int, reason: str, now: float, *, tls_failed: bool = False) -> None:
        """The transport ended, or could not be opened; `tls_failed`: one side found the other's TLS wrong."""
        self._connections.lost(attempt, reason, now, tls_failed=tls_failed)
        self.settle(now)

    def inspected(self, attempt: int, unacknowledged: bool, now: float) -> None:
        """The answer to Inspect: bytes are in flight that the peer's kernel has not acknowledged for so long."""
        if unacknowledged:
            self._connections.inspected(attempt, now)
            self.settle(now)

    def posted(self, post: int, status: int, body: bytes, now: float) -> None:
        """The HTTP response of a Post."""
        answer = self._fallback.answered(post, status, body, now)
        if answer is not None:
            if answer.time:
                self.clock(answer.time, now)
            for note in answer.notes:
                self._pushes.noted((note.scope, note.id, note.biz), note.note, note.epoch, note.floor)
            for push in answer.pushes:
                self._pushes.received(push, None)
        self.settle(now)

    def post_failed(self, post: int, reason: str, now: float, *, refused: bool = False) -> None:
        """A Post had no response; `refused`: the peer's TLS has found our certificate, or the lack of one, wrong."""
        self._fallback.failed(post, reason, now, refused=refused)
        self.settle(now)

    def saved(self, now: float) -> None:
        """The Save is on disk."""
        self._pushes.saved()
        self.settle(now)

    def save_failed(self, reason: str, now: float) -> None:
        """It is not."""
        self._pushes.save_failed(reason, now)

    # ------------------------------------------------------------------ connections.Owner

    def say_hello(self, link: Link, now: float, last_close: int, *, early: bool = False) -> None:
        """A transport is ready: begin its hand-shake. `early`: no call has to wait for what HELLO names."""
        headers, bundle = self.wire.named()
        self.wire.bound(link.connection)
        link.named_headers = headers
        hello = self._greeting.hello(
            now,
            self.wire.capabilities,
            call_base=link.call_base,
            last_close=last_close,
            tickets=self._connections.flights.tickets.wanted(self.wall(now)) if link.address.ticketed else 0,
            certificate=link.certificate if link.ticketed else None,
        )
        hello.plain = early
        link.connection.send_hello(hello, headers, bundle)

    def send_early(self, link: Link, room: int, now: float) -> bool:
        """See LongCalls."""
        return self._long.send_early(link, room, now)

    def unsend(self, link: Link) -> bool:
        """See LongCalls."""
        return self._long.unsend(link)

    @property
    def has_early(self) -> bool:
        """Some call may be sent in early data."""
        return bool(self.calls.early())

    def wall(self, now: float) -> float:
        """The gateway's wall clock, as far as we know it."""
        return now + self._greeting.clock_offset

    def welcomed(self, link: Link, welcome: Welcome) -> None:
        """A hand-shake is complete."""
        self.wire.welcomed(link, welcome)
        self.session = welcome.session
        self.zone = welcome.zone
        self._fallback.codec.adopt(welcome)

    def clock(self, wall: float, now: float) -> None:
        """The gateway said what time it is."""
        self._greeting.clock_offset = wall - now

    def happened(self, link: Link, event: wire.Event, now: float) -> None:
        """Something about calls or pushes came."""
        match event:
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
                if self._pushes.held > self.settings.max_held:
                    self._connections.pause(link, now, "the application does not take its pushes")
            case wire.StreamNoted():
                self._pushes.noted((event.scope, event.id, event.biz), event.note, event.epoch, event.floor)
            case wire.PingReceived():
                pass  # that bytes came is all that it says
            case _:
                self.wire.happened(event, current=link is self._connections.current)

    def broken(self, status: int) -> None:
        """A connection ends for something that was wrong with its bytes."""
        self.wire.trouble(status)

    def call_lost(self, key: int, now: float) -> None:
        """The connection that had the call is gone, or will not execute it."""
        self._desk.lost(key, now)

    def call_suspect(self, key: int, now: float) -> None:
        """The connection that has the call is silent."""
        self._desk.suspect(key, now)

    def stop(self, why: CannotConnect) -> None:
        """For good."""
        self._closed = why
        self._connections.stop()
        self._desk.stop(why)
        self.wire.close()
        self.change(State.CLOSED, why.status, why.message)

    def change(self, state: State, status: int = 0, message: str = "") -> None:
        """The state, told when it is another."""
        if state is not self.state and self.state is not State.CLOSED:
            self.state = state
            self.emit(Changed(state, status, message))

    def emit(self, command: Command) -> None:
        """Something for the face to do."""
        self._commands.append(command)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise CallFailed(self._closed.status, f"the client is closed ({self._closed})")

    def _remember(self) -> None:
        """Keep what the next Save stores beside the cursors."""
        heartbeats = self._memory.heartbeats
        heartbeats[self.settings.network] = self._connections.heartbeat.learned()
        while len(heartbeats) > MAX_NETWORKS:
            del heartbeats[next(iter(heartbeats))]


def make_connection(now: float) -> Connection:
    """The protocol object of one long connection."""
    return Connection(Role.CLIENT, now=now)
