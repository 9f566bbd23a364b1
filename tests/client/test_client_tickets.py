"""Tickets and early data in the client's core, with a gateway's wire at hand; and tickets on disk."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from accessgw.client import commands as c
from accessgw.client.core import ClientCore, make_connection
from accessgw.client.model import CallFailed, Note, Push, Reply
from accessgw.client.settings import ClientSettings, addresses_of
from accessgw.client.ticket_file import TicketFile
from accessgw.client.tickets import WANTED, Flight, Handshaken, HeldTicket, TicketMemory
from protocols.http import ServerConnection
from protocols.http.websocket import BytesReceived, WebSocket
from protocols.http.websocket import Role as Side
from protocols.http.websocket_handshake import answer_upgrade
from protocols.mmtp import Connection, Role, Welcome, events
from protocols.mmtp.statuses import Status
from protocols.mmtp.tickets import DeviceTicket, GrantedTickets, ShownCertificate

WALL = 1_700_000_000.0
SHOWN = ShownCertificate(b"f" * 32, int(WALL) + 1_000_000)
RESUMED = Handshaken(resumed=True)
ACCEPTED = Handshaken(resumed=True, early_accepted=True)


def ticket(number: int = 0, **more: Any) -> HeldTicket:
    fields = {"expires": WALL + 1000, "max_early_data": 16384, **more}
    return HeldTicket(bytes([number]) * 17, bytes([number]) * 32, **fields)


def granted(count: int, first: int = 100) -> GrantedTickets:
    tickets = tuple(DeviceTicket(bytes([n]) * 17, bytes([n]) * 32) for n in range(first, first + count))
    return GrantedTickets(86_400, 16384, tickets)


class Phone:
    """A core whose transports a test opens by hand; its gateway is a real server side of the wire."""

    def __init__(self, *tickets: HeldTicket, url: str | list[str] = "mmtps://gw:7443", **more: Any) -> None:
        self.now = 10.0
        long, short = addresses_of([url] if isinstance(url, str) else url)
        fields = {"addresses": long, "short_addresses": short, "device": "d1", "token": "t", "patience": 60.0, **more}
        self.core = ClientCore(
            ClientSettings(**fields),
            random=Random(7),
            make_connection=make_connection,
            wall_clock=WALL,
            now=self.now,
            tickets=TicketMemory(tickets),
        )
        self.gateway = Connection(Role.SERVER, now=self.now)
        self.attempts: list[int] = []
        self.written: dict[int, bytes] = {}
        self.notes: list[Note] = []
        self.pushes: list[Push] = []
        self.outcomes: dict[int, Reply | CallFailed] = {}
        self.tokens = 0
        self.closed: list[int] = []

    def run(self) -> Phone:
        while self.core.unsettled or self.core.commanding:
            if self.core.unsettled:
                self.core.settle(self.now)
            for command in self.core.take_commands():
                match command:
                    case c.Connect():
                        self.attempts.append(command.attempt)
                    case c.Write():
                        self.written[command.attempt] = self.written.get(command.attempt, b"") + command.data
                    case c.Tell():
                        self.notes.append(command.note)
                    case c.Deliver():
                        self.pushes.append(command.push)
                    case c.Finish():
                        self.outcomes[command.call] = command.outcome
                    case c.AskToken():
                        self.tokens += 1
                    case c.Close():
                        self.closed.append(command.attempt)
                    case _:
                        pass
        return self

    def call(self, operation: str = "balance", body: bytes = b"x", *, idempotent: bool = True, **more: Any) -> int:
        self.core.connect(self.now)
        key = self.core.call(operation, [], body, timeout=30.0, idempotent=idempotent, now=self.now, **more)
        self.run()
        return key

    def reach(self, attempt: int = -1) -> Flight:
        flight = self.core.reached(self.attempts[attempt], self.now)
        self.run()
        return flight

    def connect(self, tls: Handshaken, attempt: int = -1) -> None:
        self.core.connected(self.attempts[attempt], self.now, tls)
        self.run()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.core.next_timer()) is not None and at <= end:
            self.now = max(at, self.now)
            self.core.timer(self.now)
            self.run()
        self.now = end

    def hear(self, data: bytes) -> list[Any]:
        """What the gateway makes of bytes."""
        self.gateway.receive(data, self.now)
        return self.gateway.events()

    def said(self, attempt: int = -1) -> bytes:
        return self.written.pop(self.attempts[attempt], b"")

    def answer(self, attempt: int = -1) -> None:
        self.arrive(self.gateway.to_send(self.now), attempt)

    def arrive(self, data: bytes, attempt: int = -1) -> None:
        self.core.received(self.attempts[attempt], data, self.now)
        self.run()

    def kinds(self) -> list[str]:
        return [note.kind if note.kind != "early_data" else note.message for note in self.notes]


def requests(heard: list[Any]) -> list[Any]:
    return [event for event in heard if isinstance(event, events.RequestReceived)]


def upgrade(request: bytes) -> tuple[bytes, WebSocket]:
    """The gateway's answer to the upgrade, and its side of the WebSocket."""
    http = ServerConnection()
    http.receive(request)
    (head, *_) = http.events()
    headers, _ = answer_upgrade(head, ("mmtp",), required=True)
    answer, _ = http.upgrade(headers)
    return answer, WebSocket(Side.SERVER)


def hello(heard: list[Any]) -> Any:
    (event,) = [event for event in heard if isinstance(event, events.HelloReceived)]
    return event.hello


# --- early data


def test_calls_ride_in_early_data_and_are_answered_before_welcome() -> None:
    phone = Phone(ticket(1), ticket(2))
    first, second = phone.call(), phone.call("history", b"y")
    flight = phone.reach()
    assert flight.ticket == ticket(1)
    heard = phone.hear(flight.early)
    assert hello(heard).tickets == WANTED - 1
    assert hello(heard).time == pytest.approx(WALL)
    assert (hello(heard).headers, hello(heard).bundle) == (None, b"")
    assert [request.operation for request in requests(heard)] == ["balance", "history"]
    assert not any(request.resent for request in requests(heard))
    phone.gateway.respond(0, 0, [], b"12")
    phone.connect(ACCEPTED)
    assert phone.said() == b""  # HELLO is not said again
    phone.answer()
    assert isinstance(phone.outcomes[first], Reply)
    phone.gateway.send_welcome(Welcome(session="s", time=WALL, tickets=granted(2)))
    phone.gateway.respond(1, 0, [], b"13")
    phone.answer()
    assert isinstance(phone.outcomes[second], Reply)
    assert phone.kinds() == ["accepted"]
    memory = phone.core.ticket_memory()
    assert memory is not None
    assert [held.identity[0] for held in memory.tickets] == [2, 100, 101]


def test_what_may_have_an_effect_and_secrets_wait_for_the_hand_shake() -> None:
    phone = Phone(ticket())
    phone.call("pay", idempotent=False)
    phone.call("balance")
    phone.call("pin", secret=True)
    phone.call("gw.subscribe")
    heard = phone.hear(phone.reach().early)
    assert [request.operation for request in requests(heard)] == ["balance"]
    phone.connect(ACCEPTED)
    assert [request.operation for request in requests(phone.hear(phone.said()))] == ["pay", "pin", "gw.subscribe"]


def test_without_such_calls_or_without_room_nothing_is_early() -> None:
    phone = Phone(ticket(1), ticket(2), ticket(3, max_early_data=300))
    phone.call("pay", idempotent=False)
    assert phone.reach() == Flight(ticket(1))
    phone = Phone(ticket(3, max_early_data=400))
    phone.call(body=b"x" * 400)
    assert phone.reach().early == b""
    phone.connect(RESUMED)
    heard = phone.hear(phone.said())
    assert len(requests(heard)) == 1
    phone = Phone(ticket(1, max_early_data=0))
    phone.call()
    assert phone.reach() == Flight(ticket(1, max_early_data=0))


def test_early_data_is_no_longer_than_the_ticket_allows() -> None:
    phone = Phone(ticket(max_early_data=2000))
    for _ in range(8):
        phone.call(body=b"x" * 500)
    early = phone.reach().early
    assert 1000 < len(early) <= 2000
    assert len(requests(phone.hear(early))) == 3


def test_refused_early_data_is_said_again_from_the_first_byte() -> None:
    phone = Phone(ticket())
    phone.call("pay", idempotent=False)
    phone.call("balance")
    phone.call("history")
    early = Connection(Role.SERVER, now=0.0)
    early.receive(phone.reach().early, 0.0)
    unseen = early.events()
    phone.connect(RESUMED)
    heard = phone.hear(phone.said())
    assert hello(heard).call_base == hello(unseen).call_base
    again = requests(heard)
    # the same calls in the same order, then the others
    assert [request.operation for request in again] == ["balance", "history", "pay"]
    assert [request.call_id for request in again[:2]] == [request.call_id for request in requests(unseen)]
    assert not any(request.resent for request in again)
    phone.gateway.send_welcome(Welcome(session="s"))
    for number in range(3):
        phone.gateway.respond(number, 0, [], b"")
    phone.answer()
    assert [outcome.attempts for outcome in phone.outcomes.values() if isinstance(outcome, Reply)] == [1, 1, 1]
    assert phone.kinds() == ["refused"]


def test_another_call_base_where_not_all_calls_are_said_again() -> None:
    phone = Phone(ticket())
    gone = phone.call("balance")
    phone.call("history")
    early = Connection(Role.SERVER, now=0.0)
    early.receive(phone.reach().early, 0.0)
    unseen = early.events()
    phone.core.cancel(gone, phone.now)
    phone.run()
    phone.connect(Handshaken())
    heard = phone.hear(phone.said())
    assert hello(heard).call_base != hello(unseen).call_base
    assert [request.operation for request in requests(heard)] == ["history"]


def test_a_call_that_may_not_be_early_is_repeated_after_the_hand_shake() -> None:
    phone = Phone(ticket())
    key = phone.call("pay")
    (early,) = requests(phone.hear(phone.reach().early))
    phone.gateway.reset(0, Status.EARLY_DATA_REFUSED)
    phone.connect(ACCEPTED)
    phone.answer()
    (again,) = requests(phone.hear(phone.said()))
    assert (again.call_id, again.resent, again.operation) == (early.call_id, True, "pay")
    phone.gateway.send_welcome(Welcome(session="s"))
    phone.gateway.respond(again.call, 0, [], b"paid")
    phone.answer()
    outcome = phone.outcomes[key]
    assert isinstance(outcome, Reply)
    assert (outcome.body, outcome.attempts) == (b"paid", 2)


# --- races


def test_only_one_attempt_of_a_race_sends_early_data_and_its_calls_move_to_the_winner() -> None:
    phone = Phone(ticket(1), ticket(2), url=["mmtps://a:1", "mmtps://b:2"])
    phone.call()
    phone.advance(0.3)
    assert len(phone.attempts) == 2
    first, second = phone.reach(0), phone.reach(1)
    assert first.early
    assert second == Flight(ticket(2))
    (early,) = requests(Phone().hear(first.early))
    phone.connect(RESUMED, 1)
    assert phone.attempts[0] in phone.closed
    (again,) = requests(phone.hear(phone.said(1)))
    # the other gateway may have executed it
    assert (again.call_id, again.resent) == (early.call_id, True)


def test_calls_of_an_attempt_that_is_lost_go_with_the_next() -> None:
    phone = Phone(ticket(1))
    phone.call()
    (early,) = requests(Phone().hear(phone.reach().early))
    phone.core.lost(phone.attempts[-1], "reset", phone.now)
    phone.run()
    phone.advance(5.0)
    assert phone.reach() == Flight()  # used once
    phone.connect(Handshaken())
    (again,) = requests(phone.hear(phone.said()))
    assert (again.call_id, again.resent) == (early.call_id, True)
    assert phone.kinds() == []


def test_an_attempt_that_takes_too_long_gives_its_calls_back() -> None:
    phone = Phone(ticket(1))
    phone.call()
    assert phone.reach().early
    phone.advance(10.0)
    assert len(phone.attempts) > 1
    phone.reach()
    phone.connect(Handshaken())
    assert [request.resent for request in requests(phone.hear(phone.said()))] == [True]


# --- tickets


def test_a_ticket_that_tls_fails_with_is_one_more_connect_at_once() -> None:
    phone = Phone(ticket(1), ticket(2), ticket(3))
    phone.call()
    phone.reach()
    phone.core.lost(phone.attempts[-1], "decrypt error", phone.now, tls_failed=True)
    phone.run()
    assert len(phone.attempts) == 2  # no time has passed
    assert phone.reach() == Flight()
    assert phone.kinds() == ["ticket_refused"]
    # without a ticket it is an ordinary failure
    phone.core.lost(phone.attempts[-1], "decrypt error", phone.now, tls_failed=True)
    phone.run()
    assert len(phone.attempts) == 2


def test_tickets_that_are_not_taken_are_forgotten() -> None:
    phone = Phone(ticket(1), ticket(2))
    phone.core.connect(phone.now)
    phone.run()
    assert phone.reach() == Flight(ticket(1))
    phone.connect(Handshaken())
    heard = phone.hear(phone.said())
    assert hello(heard).tickets == WANTED
    assert phone.kinds() == ["ticket_refused"]


def test_a_refusal_over_a_ticket_is_heard_again_without_before_a_token_is_asked_for() -> None:
    phone = Phone(ticket(1), ticket(2))
    phone.core.connect(phone.now)
    phone.run().reach()
    phone.connect(RESUMED)
    phone.hear(phone.said())
    phone.gateway.send_welcome(Welcome(result=Status.AUTH))
    phone.answer()
    assert phone.tokens == 0
    assert len(phone.attempts) == 2
    assert phone.reach() == Flight()
    phone.gateway = Connection(Role.SERVER, now=phone.now)
    phone.connect(Handshaken())
    phone.hear(phone.said())
    phone.gateway.send_welcome(Welcome(result=Status.AUTH))
    phone.answer()
    assert phone.tokens == 1


def test_a_refusal_after_early_data_repeats_what_has_no_answer_with_its_id() -> None:
    phone = Phone(ticket(1), ticket(2))
    answered, other = phone.call(), phone.call("history", b"y")
    _, early = requests(phone.hear(phone.reach().early))
    phone.gateway.respond(0, 0, [], b"12")
    phone.connect(ACCEPTED)
    phone.gateway.send_welcome(Welcome(result=Status.AUTH))
    phone.answer()
    assert list(phone.outcomes) == [answered]
    assert phone.reach() == Flight()
    phone.gateway = Connection(Role.SERVER, now=phone.now)
    phone.connect(Handshaken())
    (again,) = requests(phone.hear(phone.said()))
    assert (again.operation, again.call_id, again.resent) == ("history", early.call_id, True)
    assert phone.tokens == 0
    phone.gateway.send_welcome(Welcome())
    phone.gateway.respond(0, 0, [], b"13")
    phone.answer()
    assert isinstance(phone.outcomes[other], Reply)


def test_a_ticket_names_the_certificate_that_it_stands_for() -> None:
    phone = Phone()
    phone.core.connect(phone.now)
    phone.run().reach()
    phone.connect(Handshaken(certificate=SHOWN))
    assert hello(phone.hear(phone.said())).certificate is None  # TLS showed it
    phone.gateway.send_welcome(Welcome(session="s", tickets=granted(1)))
    phone.answer()
    memory = phone.core.ticket_memory()
    assert memory is not None
    assert memory.tickets[0].certificate == SHOWN
    resumed = Phone(*memory.tickets)
    resumed.core.connect(resumed.now)
    resumed.run().reach()
    resumed.connect(RESUMED)
    assert hello(resumed.hear(resumed.said())).certificate == SHOWN


def test_no_tickets_where_there_is_no_tls_of_ours() -> None:
    for url in ("mmtp://gw:1", "wss://gw:1/mmtp"):
        phone = Phone(ticket(1), url=url)
        phone.core.connect(phone.now)
        phone.run()
        assert phone.reach() == Flight()
    phone = Phone(url="mmtp://gw:1")
    phone.core.connect(phone.now)
    phone.run()
    phone.connect(Handshaken())
    assert hello(phone.hear(phone.said())).tickets == 0


@pytest.mark.parametrize("kept", [(), (ticket(1),)])
def test_none_are_asked_for_nor_kept_in_websocket(kept: tuple[HeldTicket, ...]) -> None:
    phone = Phone(*kept, url="wss://gw:1/mmtp")
    phone.core.connect(phone.now)
    phone.run().reach()
    phone.connect(Handshaken())
    upgraded, inside = upgrade(phone.said())
    phone.arrive(upgraded)
    inside.receive(phone.said())
    said = b"".join(event.data for event in inside.events() if isinstance(event, BytesReceived))
    assert hello(phone.hear(said)).tickets == 0
    phone.gateway.send_welcome(Welcome(session="s", tickets=granted(3)))
    inside.send(phone.gateway.to_send(phone.now))
    phone.arrive(inside.to_send())
    assert phone.core.session == "s"
    assert phone.core.ticket_memory() is None


def test_tickets_end() -> None:
    phone = Phone(ticket(1, expires=WALL - 1), ticket(2))
    phone.core.connect(phone.now)
    phone.run()
    assert phone.reach().ticket == ticket(2)


# --- on disk


def test_what_is_stored_is_loaded_by_its_user_alone(tmp_path: Path) -> None:
    file = TicketFile(tmp_path, gateway="gw:1", device="d1")
    assert file.load() == TicketMemory()
    memory = TicketMemory((ticket(1), ticket(2, certificate=SHOWN)), 1.5)
    file.store(memory)
    assert file.load() == memory
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert TicketFile(tmp_path, gateway="gw:1", device="d2").load() == TicketMemory()
    assert TicketFile(tmp_path, gateway="gw:2", device="d1").load() == TicketMemory()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version":2,"skew":0,"tickets":[]}', "x" * 9000,
                                     '{"version":1,"skew":0,"tickets":[["00","00",1,1,null]]}',
                                     '{"version":1,"skew":1e99,"tickets":[]}'])  # fmt: skip
def test_a_damaged_file_is_none(tmp_path: Path, content: str) -> None:
    file = TicketFile(tmp_path, gateway="gw:1", device="d1")
    file.store(TicketMemory((ticket(1),)))
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_text(content)
    assert file.load() == TicketMemory()


def test_a_disk_that_takes_nothing_keeps_no_used_ticket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TicketFile(tmp_path, gateway="gw:1", device="d1")
    file.store(TicketMemory((ticket(1),)))

    def full(*arguments: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        file.store(TicketMemory())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert file.load() == TicketMemory()
