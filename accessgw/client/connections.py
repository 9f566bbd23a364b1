"""The life of long connections: opening, hand-shake, silence, leaving, losing, coming back."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from accessgw.client.addresses import Address, AddressBook
from accessgw.client.backoff import Backoff
from accessgw.client.commands import AskToken, Carried, Close, Inspect, Tell, Write
from accessgw.client.dialer import Dialer
from accessgw.client.flights import FlightOwner, Flights
from accessgw.client.heartbeat import Heartbeat
from accessgw.client.link import Link
from accessgw.client.model import CannotConnect, Note, State
from accessgw.client.rtt import RoundTrip
from accessgw.client.settings import ClientSettings
from accessgw.client.tickets import NO_FLIGHT, NOT_TLS, Flight, Handshaken, Tickets
from accessgw.client.tunnel import Tunnel
from protocols.errors import RemoteError, without_frames
from protocols.mmtp import events as wire
from protocols.mmtp.connection import Connection
from protocols.mmtp.handshake import Goaway, Welcome
from protocols.mmtp.statuses import Status

FINAL = frozenset((Status.REPLACED, Status.REVOKED, Status.FORBIDDEN, Status.VERSION))
"""Refusals that another attempt would meet again."""
MAX_TOKENS = 3
"""Tokens refused in a row before the client stops asking for another."""


class Owner(FlightOwner, Protocol):
    """What the connections need of the client around them."""

    def change(self, state: State, status: int = 0, message: str = "") -> None: ...

    def welcomed(self, link: Link, welcome: Welcome) -> None:
        """A hand-shake is complete."""

    def broken(self, status: int) -> None:
        """One of the two sides found the other's bytes wrong, or asked the connection to end, with this status."""

    def clock(self, wall: float, now: float) -> None:
        """The gateway said what time it is."""

    def happened(self, link: Link, event: wire.Event, now: float) -> None:
        """Something about calls or pushes came."""

    def call_suspect(self, key: int, now: float) -> None:
        """The connection that has the call is silent."""

    def stop(self, why: CannotConnect) -> None:
        """There is no way on."""


class Connections:
    """All long connections of a client: `current` is the newest, others finish their calls."""

    def __init__(
        self,
        settings: ClientSettings,
        owner: Owner,
        random: Random,
        *,
        rtt: RoundTrip,
        heartbeat: Heartbeat,
        make_connection: Callable[[float], Connection],
        tickets: Tickets,
    ) -> None:
        self.links: dict[int, Link] = {}
        self.current: Link | None = None
        self.paused = False
        """The application cannot take more: no reconnection until resume()."""
        self.refusal = ""
        """What the gateway said of our credentials when it refused them last."""
        self.heartbeat = heartbeat
        self._settings = settings
        self._owner = owner
        self._random = random
        self._rtt = rtt
        self._make_connection = make_connection
        self._backoff = Backoff(random.random, initial=settings.backoff_initial, cap=settings.backoff_cap)
        self._book = AddressBook(settings.addresses)
        self._dialer = Dialer(
            self._book, self._backoff, owner.emit, stagger=settings.stagger, timeout=settings.connect_timeout
        )
        self.flights = Flights(owner, tickets, make_link=self._link, runs=self._dialer.runs)
        self._last_close = 0
        self._tokens_refused = 0
        self._stopped = False

    # ------------------------------------------------------------------ wishes

    @property
    def usable(self) -> Link | None:
        """The connection that takes new calls."""
        return None if self.current is None or self.current.leaving else self.current

    def dial(self, now: float) -> None:
        """Begin to connect, or with another token."""
        self._dialer.dial(now)
        self._show_dialing()

    def pause(self, link: Link, now: float, reason: str) -> None:
        """Give the connection up until resume()."""
        self.paused = True
        self._owner.change(State.WAITING, Status.SLOW_READER, reason)
        self._drop(link, now)

    def resume(self, now: float) -> None:
        """There is room again."""
        self.paused = False
        self._redial(now)

    def say_goodbye(self, now: float) -> None:
        """GOAWAY on every connection, before stop()."""
        for link in self.links.values():
            if link.welcomed:
                link.connection.go_away(Goaway())
        self.flush(now)

    def stop(self) -> None:
        """Close everything, for good."""
        self._stopped = True
        self._dialer.stop()
        self.flights.stop()
        for link in self.links.values():
            self._close(link)
        self.links.clear()
        self.current = None

    # ------------------------------------------------------------------ news

    def reached(self, attempt: int, now: float) -> Flight:
        """The transport of an attempt is about to begin TLS: with which ticket, and which early data."""
        address = self._dialer.address_of(attempt)
        if address is None:
            return NO_FLIGHT
        return self.flights.begin(attempt, address, now, self._last_close, calls=self.usable is None)

    def connected(self, attempt: int, now: float, tls: Handshaken = NOT_TLS) -> None:
        """A transport is ready; the first of a race says HELLO, or has said it in early data."""
        address = self._dialer.connected(attempt)
        if address is None:
            return
        landing = self.flights.land(attempt, tls, now)
        link = landing.link
        if link is None:
            link = self._link(attempt, address, now)
            link.ticketed, link.certificate = tls.resumed, landing.certificate
            if landing.call_base is not None:
                link.call_base = landing.call_base
            if address.websocket:
                link.tunnel = Tunnel(address, self._random.getrandbits(128))
            self._owner.say_hello(link, now, self._last_close)
        else:
            link.asked(now)
        link.hello_deadline = now + self._settings.hello_timeout
        self.links[attempt] = self.current = link

    def _link(self, attempt: int, address: Address, now: float) -> Link:
        link = Link(attempt, address, self._make_connection(now), self._rtt, now)
        link.call_base = self._random.getrandbits(64)
        return link

    def received(self, attempt: int, data: bytes, now: float) -> None:
        """Bytes of the peer."""
        link = self.links.get(attempt)
        if link is None:
            return
        error: RemoteError | None = None
        try:
            if link.tunnel is not None:
                waited = not link.tunnel.open
                data = link.tunnel.receive(data)
                if waited and link.tunnel.open:
                    link.hello_sent = now
                if data:
                    self._owner.emit(Carried(False, data))
            link.connection.receive(data, now)
        except RemoteError as remote:
            error = without_frames(remote)
        link.heard(now)
        self._events(link, now)
        if error is not None and attempt in self.links:
            self._owner.emit(Tell(Note("protocol_error", str(error), count=error.code)))
            self._owner.broken(error.code)
            self._last_close = error.code
            if link.tunnel is not None and not link.welcomed:
                # The way through HTTP may be what is wrong: another address is better.
                self._book.failed(link.address)
                self._dialer.last_error = f"{link.address}: {error}"
            self._flush_link(link, now)
            self._drop(link, now)

    def lost(self, attempt: int, reason: str, now: float, *, tls_failed: bool = False) -> None:
        """A transport ended, or could not be opened; `tls_failed`: one of the two sides found the other's TLS wrong."""
        link = self.links.get(attempt)
        if link is not None:
            link.connection.receive_eof(now)
            self._events(link, now)
            if attempt in self.links:
                if not link.welcomed:
                    # Over TLS 1.3 a server refuses our certificate when HELLO has left already: its alert is the cause.
                    self._dialer.last_error = f"{link.address}: {reason}"
                self._drop(link, now, transport_open=False)
            return
        if tls_failed and self.flights.failed(attempt, reason):
            # without tickets it is as if there had never been any
            self._dialer.again(attempt, now)
        elif self._dialer.failed(attempt, reason, now):
            self._show_dialing()
        self.flights.look(now)

    def inspected(self, attempt: int, now: float) -> None:
        """The kernel holds bytes that its peer has not acknowledged for too long."""
        link = self.links.get(attempt)
        if link is not None and link.silence(now) > 0:
            if not link.pinging:
                link.ping(now)
            self._suspect(link, now)

    def acknowledge(self, attempts: set[int]) -> None:
        """Arrivals on these were stored."""
        for attempt in attempts:
            if attempt in self.links:
                self.links[attempt].acknowledge()

    # ------------------------------------------------------------------ time and bytes

    def next_timer(self) -> float | None:
        """When handle_timer is due."""
        times = [self._dialer.next_timer()]
        for link in self.links.values():
            times += [link.next_timer(), self._heartbeat_due(link)]
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._dialer.handle_timer(now)
        self.flights.look(now)
        self._show_dialing()
        for link in list(self.links.values()):
            self._link_timer(link, now)

    def flush(self, now: float) -> None:
        """Write what every connection has to send; close those that have nothing to wait for."""
        for link in self.links.values():
            self._flush_link(link, now)
        if len(self.links) > 1 and self.current is not None and self.current.welcomed:
            for link in [link for link in self.links.values() if link is not self.current and not link.calls]:
                self._drop(link, now)

    def _flush_link(self, link: Link, now: float) -> None:
        tunnel = link.tunnel
        data = link.connection.to_send(now) if tunnel is None or tunnel.open else b""
        if tunnel is not None:
            if data:
                self._owner.emit(Carried(True, data))
                tunnel.send(data)
            data = tunnel.to_send()
        if data:
            self._owner.emit(Write(link.attempt, data))

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
            self._owner.emit(Inspect(link.attempt))
        if due(link.dead_due()):
            if link.heartbeat_out:
                self.heartbeat.failed()
            self._drop(link, now, abort=True)
            return
        if due(link.suspect_due()):
            self._suspect(link, now)
        if due(link.probe_due()):
            link.ping(now)
        if due(self._heartbeat_due(link)):
            link.ping(now, heartbeat=True)

    def _heartbeat_due(self, link: Link) -> float | None:
        if not link.welcomed or link.pinging or not self.heartbeat.interval:
            return None
        return link.idle_since + self.heartbeat.interval

    # ------------------------------------------------------------------ events

    def _events(self, link: Link, now: float) -> None:
        for event in link.connection.events():
            match event:
                case wire.WelcomeReceived():
                    self._welcome(link, event.welcome, now)
                case wire.GoawayReceived():
                    self._goaway(link, event.goaway, now)
                case wire.PongReceived():
                    if link.ponged(now):
                        self.heartbeat.answered()
                case _:
                    self._owner.happened(link, event, now)
            if link.attempt not in self.links:
                return

    def _welcome(self, link: Link, welcome: Welcome, now: float) -> None:
        link.hello_deadline = None
        if welcome.time:
            self._owner.clock(welcome.time, now)
        if welcome.result != Status.OK:
            self._refused(link, welcome, now)
            return
        link.welcomed = True
        self._tokens_refused = 0
        self._last_close = 0
        self._rtt.observe(now - link.hello_sent)
        self._backoff.up(now)
        self._book.succeeded(link.address)
        if welcome.addresses:
            self._book.learn(welcome.addresses, welcome.addresses_valid, now)
        self.heartbeat.hint(welcome.heartbeat, welcome.idle_timeout)
        if welcome.tickets is not None and link.address.ticketed:
            self.flights.tickets.add(welcome.tickets, link.certificate, self._owner.wall(now))
        self._owner.welcomed(link, welcome)
        self._owner.change(State.CONNECTED)

    def _refused(self, link: Link, welcome: Welcome, now: float) -> None:
        """WELCOME with another result than 0, or GOAWAY instead of it."""
        self._last_close = welcome.result
        if welcome.result == Status.AUTH and link.ticketed:
            # Perhaps it was the ticket that is not taken: the token has its say on a connection without.
            self.flights.tickets.clear()
            self._owner.emit(Tell(Note("ticket_refused", welcome.message)))
            self._drop(link, now, redial=False)
            self._dialer.dial(now)
            self._show_dialing()
        elif welcome.result == Status.AUTH:
            self._drop(link, now, redial=False)
            self._tokens_refused += 1
            self.refusal = welcome.message or "the credentials were refused"
            if self._tokens_refused < MAX_TOKENS:
                self._owner.change(State.WAITING, welcome.result, self.refusal)
                self._owner.emit(AskToken())
            else:
                self._owner.stop(CannotConnect(Status.AUTH, self.refusal))
        elif welcome.result in FINAL:
            self._owner.stop(CannotConnect(welcome.result, welcome.message))
        else:
            if welcome.result == Status.UNIT_MOVED and welcome.addresses:
                self._book.prefer(welcome.addresses[0])
            self._book.failed(link.address)
            self._drop(link, now, at_least=welcome.retry_after)

    def _goaway(self, link: Link, goaway: Goaway, now: float) -> None:
        self._owner.emit(Tell(Note("goaway", goaway.message, count=goaway.status)))
        self._owner.broken(goaway.status)
        if link is not self.current:
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
            self._owner.stop(CannotConnect(goaway.status, goaway.message))
            return
        link.leaving = True
        for number in [n for n in link.calls if n > goaway.last_call]:
            self._owner.call_lost(link.calls.pop(number), now)
        link.settled()
        if goaway.status in (Status.OK, Status.DRAINING, Status.UNIT_MOVED):
            self._dialer.dial(now, goaway.delay * self._random.random())
        else:
            self._dialer.redial(now, goaway.delay)

    def _suspect(self, link: Link, now: float) -> None:
        """Nothing comes on the connection: its calls go over short ones as well."""
        if not link.suspect:
            link.suspect = True
            self._owner.emit(Tell(Note("suspect", f"silent for {link.silence(now):.3g} s")))
        for key in link.calls.values():
            self._owner.call_suspect(key, now)

    # ------------------------------------------------------------------ ends

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
        """The connection is over: its calls go elsewhere. `abort` when nobody is there to read what is buffered."""
        del self.links[link.attempt]
        if transport_open:
            self._close(link, abort)
        for key in link.calls.values():
            self._owner.call_lost(key, now)
        if link is self.current:
            self.current = None
            if link.welcomed:
                self._backoff.down(now)
            if redial:
                self._redial(now, at_least)

    def _close(self, link: Link, abort: bool = False) -> None:
        if link.tunnel is not None and not abort:
            link.tunnel.close()
            last = link.tunnel.to_send()
            if last:
                self._owner.emit(Write(link.attempt, last))
        self._owner.emit(Close(link.attempt, abort))

    def _redial(self, now: float, at_least: float = 0.0) -> None:
        if self._settings.addresses and not self._stopped and not self.paused:
            self._dialer.redial(now, at_least)
            self._show_dialing()

    def _show_dialing(self) -> None:
        if self.current is None and self._dialer.busy:
            state = State.CONNECTING if self._dialer.dialing else State.WAITING
            self._owner.change(state, self._last_close, self._dialer.last_error)
