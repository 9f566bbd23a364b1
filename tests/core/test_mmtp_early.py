"""Tickets and early data at the MMTP binding, with the device's real side of the wire and real ticket keys."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces import Filter
from accessgw.core.interfaces.tls import TicketBinding
from accessgw.core.mmtp_early import KEPT
from accessgw.crypto.key_store import LEAD
from accessgw.crypto.ticket_keys import EpochTickets
from accessgw.model.identity import ConnectionInfo, Identity, Strength
from accessgw.model.reasons import CloseReason
from protocols.mmtp import HeaderMemory, Hello, events
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.statuses import Status
from protocols.mmtp.tickets import ShownCertificate
from tests.core.early_world import CERTIFICATE, DAY, END, ROTATION, Place
from tests.core.gateway_fakes import FakeConnection


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- tickets


def test_welcome_brings_as_many_tickets_as_are_wanted_up_to_three(place: Place) -> None:
    for generation, (wanted, given) in enumerate([(1, 1), (3, 3), (99, 3)], 1):
        granted = place.device().hello(tickets=wanted, generation=(1, generation)).welcome().tickets
        assert len(granted.tickets) == given
        assert (granted.lifetime, granted.max_early_data) == (3 * ROTATION - LEAD, 16384)
        for ticket in granted.tickets:
            opened = place.keys.open(ticket.identity, place.gateway.wall())
            assert opened is not None
            assert (place.keys.key(opened), opened.days) == (ticket.key, 0)
            assert place.keys.matches(opened, TicketBinding("d1"))
    assert place.counters.tickets_minted == 7


@pytest.mark.parametrize(
    "minted", [0, 1, 59, ROTATION - LEAD - 1, ROTATION - LEAD, ROTATION - 1, ROTATION, 2 * ROTATION - 1]
)
def test_a_ticket_is_taken_as_long_as_welcome_says_and_no_longer(place: Place, minted: float) -> None:
    gateway, store = place.gateway, place.store

    def pass_time(seconds: float) -> None:
        until = gateway.wall() + seconds
        while (now := gateway.wall()) < until:
            due = store.epochs(now)[-1].mints_from + ROTATION - LEAD
            gateway.clock.advance(min(until, due if due > now else until) - now)
            store.maintain(gateway.wall())

    pass_time(minted)
    granted = place.device().hello().welcome().tickets
    pass_time(granted.lifetime - 1)
    resumed = place.device(ticket=granted.tickets[0].identity).hello(generation=(1, 2)).complete()
    assert resumed.welcome().result == 0
    pass_time(1)
    late = place.device(ticket=granted.tickets[1].identity).hello(generation=(1, 3)).complete()
    assert late.welcome().result == Status.AUTH
    assert place.counters.psk_refused == {"expired": 1}


def test_nobody_gets_tickets_unasked_nor_where_none_are_given(place: Place) -> None:
    assert place.device().hello(tickets=0).welcome().tickets is None
    # resumed by a ticket of OpenSSL's: nobody knows since when
    assert place.device(ticket=b"").hello(generation=(1, 2)).complete().welcome().tickets is None
    # over WebSocket: no ticket is taken there
    for generation, alpn in enumerate(("http/1.1", "h2", ""), 3):
        assert place.device(alpn=alpn).hello(generation=(1, generation)).welcome().tickets is None
    assert place.counters.tickets_minted == 0
    place.gateway.services.tickets = {}
    assert place.device().hello(generation=(1, 9)).welcome().tickets is None


def test_days_since_the_last_full_hand_shake_go_on_over_tickets_until_there_are_none(place: Place) -> None:
    gateway = place.gateway
    identity, days = place.ticket(), []
    for generation in range(1, 40):
        gateway.clock.advance(DAY // 4)
        place.store.maintain(gateway.wall())
        granted = place.device(ticket=identity).hello(generation=(1, generation)).complete().welcome().tickets
        if granted is None:
            break
        opened = place.keys.open(granted.tickets[0].identity, gateway.wall())
        assert opened is not None
        days.append(opened.days)
        identity = granted.tickets[0].identity
    assert days == sorted(days)
    assert days[-1] == 6
    assert len(days) in range(24, 29)


def test_a_ticket_of_a_certificate_stands_for_it_until_it_ends(place: Place) -> None:
    gateway = place.gateway
    full = place.device(certificate=CERTIFICATE, certificate_identity="d1").hello(tickets=1)
    granted = full.welcome().tickets
    assert granted.lifetime == int(END - gateway.wall())
    shown = ShownCertificate(sha256(CERTIFICATE).digest(), END)
    resumed = place.device(ticket=granted.tickets[0].identity).hello(certificate=shown, generation=(1, 2)).complete()
    again = resumed.welcome().tickets
    assert resumed.binding.session is not None
    assert resumed.binding.session.identity.strength is Strength.CERTIFICATE
    # a day later it has ended, the ticket has not
    gateway.clock.advance(END - gateway.wall() + 1)
    late = place.device(ticket=again.tickets[0].identity).hello(certificate=shown, generation=(1, 3)).complete()
    assert late.welcome().result == Status.AUTH
    assert place.counters.psk_refused == {"expired": 1}


def test_what_lists_may_name_is_known_again_with_the_ticket(place: Place) -> None:
    shown = ShownCertificate(sha256(CERTIFICATE).digest(), END)
    serials = ("issuer", b"\x07"), ("issuer of the issuer", b"\x01")
    place.revoked.known[shown.fingerprint] = serials
    told = []
    for number, certificate in enumerate((shown, ShownCertificate(b"f" * 32, END), None), 1):
        bound: dict[str, Any] = {}
        if certificate is not None:
            bound = {"kind": "certificate", "fingerprint": certificate.fingerprint, "not_after": END}
        device = place.device(ticket=place.ticket(**bound)).hello(certificate=certificate, generation=(1, number))
        assert device.complete().welcome().result == 0
        told.append(device.connection.info.serials)
    assert told == [serials, (), ()]


def test_a_certificate_that_names_nobody_gets_no_ticket(place: Place) -> None:
    assert place.device(certificate=CERTIFICATE).hello().welcome().tickets is None


@pytest.mark.parametrize(
    ("hello", "ticket"),
    [
        ({"device": "other"}, {}),
        ({"device": "other", "certificate": ShownCertificate(b"f" * 32, END)}, {}),
        ({}, {"kind": "certificate", "fingerprint": b"f" * 32, "not_after": END}),
        ({"certificate": ShownCertificate(b"g" * 32, END)}, {"kind": "certificate", "fingerprint": b"f" * 32}),
    ],
)
def test_a_ticket_of_another_device_or_certificate_is_refused(
    place: Place, hello: dict[str, Any], ticket: dict[str, Any]
) -> None:
    device = place.device(ticket=place.ticket(**ticket)).hello(**hello)
    device.call("balance")
    assert not place.gateway.upstreams.exchanges
    device.complete()
    assert device.welcome().result == Status.AUTH
    assert device.connection.closed is CloseReason.AUTH_FAILED
    assert not place.gateway.upstreams.exchanges
    assert place.counters.psk_refused == {"other_device": 1}
    assert place.counters.early_refused == {"ticket": 1}


def test_a_certificate_that_no_ticket_stands_for_proves_nothing(place: Place) -> None:
    claimed = ShownCertificate(b"f" * 32, END)  # the listener does not ask for certificates
    device = place.device(ticket=place.ticket()).hello(certificate=claimed).complete()
    assert device.welcome().result == 0
    assert device.binding.session is not None
    assert device.binding.session.identity.strength is Strength.TOKEN
    assert device.connection.info.certificate_identity == ""


def test_a_revoked_ticket_is_refused(place: Place) -> None:
    place.revoked.answer = True
    device = place.device(ticket=place.ticket()).hello()
    device.call("balance")
    assert device.complete().welcome().result == Status.AUTH
    assert device.connection.info.device == "d1"
    assert not place.gateway.upstreams.exchanges
    assert place.counters.psk_refused == {"revoked": 1}


# --- early data


def test_an_early_call_is_answered_before_welcome(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    number = device.call("balance", b"q", headers=[("x-note", "n")])
    exchange = place.gateway.upstreams.last
    assert dict(exchange.request.headers)["early-data"] == "1"
    assert dict(exchange.request.headers)["x-call-id"] == f"{100:016x}"
    exchange.answer(200, b"12", [("content-type", "text/plain")])
    (response,) = device.take(events.ResponseReceived)
    assert (response.call, response.status, response.body) == (number, 0, b"12")
    assert not device.take(events.WelcomeReceived)
    assert device.binding.session is None
    assert not place.gateway.presence.log
    device.complete()
    assert len(device.welcome().tickets.tickets) == 3
    assert place.gateway.presence.log == [("connect", "d1", "")]
    device.call("pay")
    place.gateway.upstreams.last.answer(200, b"paid")
    assert [event.body for event in device.take(events.ResponseReceived)] == [b"paid"]


def test_an_early_call_that_takes_long_is_answered_after_welcome(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    device.call("balance")
    device.complete()
    assert device.take(events.WelcomeReceived)
    place.gateway.upstreams.last.answer(200, b"12")
    assert [event.body for event in device.take(events.ResponseReceived)] == [b"12"]
    assert len(place.gateway.upstreams.exchanges) == 1


def test_early_calls_with_an_effect_are_refused_and_executed_when_repeated(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    device.call("pay")
    device.call("gw.subscribe", b'{"topics":["t"]}')
    assert device.refusals() == [Status.EARLY_DATA_REFUSED] * 2
    assert not place.gateway.upstreams.exchanges
    device.complete()
    device.call("pay", call_id=100)
    place.gateway.upstreams.last.answer(200, b"paid")
    assert [event.body for event in device.take(events.ResponseReceived)] == [b"paid"]


def test_a_service_that_wants_the_end_of_the_hand_shake_gets_the_call_again(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    device.call("balance")
    place.gateway.upstreams.last.answer(425)
    assert device.refusals() == [Status.EARLY_DATA_REFUSED]
    device.complete()
    device.call("balance", call_id=100)
    assert len(place.gateway.upstreams.exchanges) == 2
    assert "early-data" not in dict(place.gateway.upstreams.last.request.headers)
    place.gateway.upstreams.last.answer(200, b"12")
    assert [event.body for event in device.take(events.ResponseReceived)] == [b"12"]


@pytest.mark.parametrize("off", [None, -11.0, 11.0])
def test_a_clock_that_is_off_gets_early_calls_refused(place: Place, off: float | None) -> None:
    told: list[Any] = []
    place.gateway.services.log_untimely = lambda info, device, ahead: told.append((info.id, device, ahead))
    time = None if off is None else place.gateway.wall() + off
    device = place.device(ticket=place.ticket()).hello(time=time)
    device.call("balance")
    assert told == [(device.connection.info.id, "d1", off)]
    assert device.refusals() == [Status.EARLY_DATA_REFUSED]
    assert not place.gateway.upstreams.exchanges
    assert place.counters.early_refused == {"clock": 1}
    assert device.complete().welcome().result == 0


def test_a_clock_that_is_off_a_little_does_not_matter(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello(time=place.gateway.wall() + 9.0)
    device.call("balance")
    assert len(place.gateway.upstreams.exchanges) == 1


def test_a_replay_has_no_effect_and_leaves_the_live_session_alone(place: Place) -> None:
    gateway, ticket = place.gateway, place.ticket()
    live = place.device(ticket=ticket).hello(generation=(1, 5))
    live.call("balance")
    live.complete()
    session = live.binding.session
    assert session is not None
    before = (session.link, session.generation, list(gateway.pushes.log), list(gateway.presence.log))
    for replayed in (True, False):  # whether the register notices it or not
        for generation in ((1, 5), (9, 9)):
            copy = place.device(ticket=ticket, replayed=replayed).hello(generation=generation)
            copy.call("pay")
            copy.lose()
    assert len(gateway.upstreams.exchanges) == 1
    assert (session.link, session.generation, list(gateway.pushes.log), list(gateway.presence.log)) == before
    assert live.connection.closed is None
    live.call("balance")
    assert len(gateway.upstreams.exchanges) == 2


def test_early_calls_wait_for_an_authenticator_that_must_ask(place: Place) -> None:
    gateway = place.gateway
    gateway.authenticator.hold = True
    device = place.device(ticket=place.ticket()).hello()
    device.call("balance")
    device.call("balance")
    assert not gateway.upstreams.exchanges
    gateway.authenticator.let_go()
    assert len(gateway.upstreams.exchanges) == 2
    # and where the hand-shake is complete first, they run as other calls
    slow = place.device(ticket=place.ticket("d2")).hello("d2")
    slow.call("balance")
    gateway.authenticator.hold = False
    slow.complete()
    assert slow.take(events.WelcomeReceived)
    assert len(gateway.upstreams.exchanges) == 3
    assert "early-data" not in dict(gateway.upstreams.last.request.headers)


def test_an_unknown_token_in_early_data_is_refused_after_the_hand_shake(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello(token="wrong")
    device.call("balance")
    assert not place.gateway.upstreams.exchanges
    assert not device.connection.written
    assert device.complete().welcome().result == Status.AUTH


def test_a_hello_that_is_split_by_the_end_of_early_data(place: Place) -> None:
    device = place.device(ticket=place.ticket())
    device.wire.send_hello(_hello(place))
    device.wire.request("pay", [], b"")
    data = device.wire.to_send(0.0)
    device.binding.early_data_received(data[:10], replayed=False)
    device.complete()
    device.binding.data_received(data[10:])
    assert device.welcome().result == 0
    assert len(place.gateway.upstreams.exchanges) == 1


def test_early_uploads_and_cancels_reach_their_call(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    number = device.call("balance", b"a", more=True)
    device.wire.send_data(number, b"b", False)
    device.send()
    assert b"".join(place.gateway.upstreams.last.uploaded) == b"ab"
    cancelled = device.call("balance")
    device.wire.reset(cancelled, Status.CANCELLED)
    device.send()
    assert place.gateway.upstreams.last.cancelled


def test_calls_that_need_header_states_wait_for_welcome(place: Place) -> None:
    device = place.device(ticket=place.ticket())
    hello = _hello(place)
    hello.capabilities = frozenset(("template",))
    device.wire.send_hello(hello, HeaderMemory())
    device.call("balance")
    assert not place.gateway.upstreams.exchanges
    device.complete()
    assert device.take(events.WelcomeReceived)


def test_calls_of_a_plain_hello_are_answered_whatever_it_names(place: Place) -> None:
    device = place.device(ticket=place.ticket())
    hello = _hello(place)
    hello.capabilities, hello.plain = frozenset(("template", "dict")), True
    device.wire.send_hello(hello, HeaderMemory(), Bundle([Dictionary(70, b"some content", ("qbalance",))]))
    device.call("balance")
    place.gateway.upstreams.last.answer(200, b"12")
    assert [event.body for event in device.take(events.ResponseReceived)] == [b"12"]
    device.complete()
    assert device.take(events.WelcomeReceived)
    device.call("balance")
    assert len(place.gateway.upstreams.exchanges) == 2


def _hello(place: Place) -> Any:
    return Hello(device="d1", token="ok", time=place.gateway.wall(), boot=1, counter=1, call_base=100)


# --- what the admission takes over from early data


class Asked:
    """Counts who is asked, of the authenticator and of the tickets' keys."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._patch = monkeypatch
        self._listen(place.gateway.authenticator, "authenticate")
        self._listen(EpochTickets, "open")
        self._listen(EpochTickets, "matches")

    def _listen(self, of: Any, name: str) -> None:
        method = getattr(of, name)

        def listening(*arguments: Any) -> Any:
            self.calls.append(name)
            return method(*arguments)

        self._patch.setattr(of, name, listening)


def test_a_device_is_looked_at_once_for_its_early_calls_and_its_admission(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, asked = place.ticket(), Asked(place, monkeypatch)
    device = place.device(ticket=ticket).hello(attributes={"os": "x"})
    assert asked.calls == ["open", "matches", "authenticate"]
    assert device.complete().welcome().result == 0
    assert asked.calls == ["open", "matches", "authenticate"]
    assert device.binding.session is not None
    assert device.binding.session.identity.attributes == {"os": "x"}


def test_who_it_is_is_asked_again_when_the_hand_shake_took_its_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, asked = place.ticket(), Asked(place, monkeypatch)
    device = place.device(ticket=ticket).hello()
    place.gateway.clock.advance(KEPT + 0.01)
    assert device.complete().welcome().result == 0
    assert asked.calls == ["open", "matches", "authenticate", "authenticate"]


def test_other_authenticators_are_asked_for_the_admission(place: Place) -> None:
    gateway = place.gateway

    class Nobody:
        name = "nobody"

        def authenticate(self, credentials: Any) -> Deferred[Any]:
            return succeed(None)

    device = place.device(ticket=place.ticket()).hello()
    gateway.chain.replace([Nobody()])
    assert device.complete().welcome().result == Status.AUTH
    assert gateway.sessions.registry.by_device("d1") is None


def test_a_token_that_ends_during_the_hand_shake_is_shown_to_the_authenticator_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, asked = place.ticket(), Asked(place, monkeypatch)
    device = place.device(ticket=ticket).hello(token=f"ok:ann:{place.gateway.wall() + 0.5}")
    place.gateway.clock.advance(0.5)
    device.complete()
    assert asked.calls == ["open", "matches", "authenticate", "authenticate"]


def test_an_authenticator_that_has_not_answered_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = place.gateway
    gateway.authenticator.hold = True
    ticket, asked = place.ticket(), Asked(place, monkeypatch)
    device = place.device(ticket=ticket).hello()
    device.complete()
    assert asked.calls == ["open", "matches", "authenticate", "authenticate"]
    gateway.authenticator.let_go(1)
    assert device.welcome().result == 0


def test_a_revocation_during_the_hand_shake_is_seen(place: Place) -> None:
    device = place.device(ticket=place.ticket()).hello()
    place.revoked.answer = True
    assert device.complete().welcome().result == Status.AUTH
    assert place.counters.psk_refused == {"revoked": 1}
    assert place.gateway.sessions.registry.by_device("d1") is None


def test_who_was_revoked_is_refused_at_once_or_late_alike(place: Place) -> None:
    place.gateway.sessions.revocations = place.revoked
    place.revoked.answer = True
    assert place.device().hello().welcome().result == Status.REVOKED
    place.gateway.authenticator.hold = True
    late = place.device().hello(generation=(1, 2))
    place.gateway.authenticator.let_go()
    assert late.welcome().result == Status.REVOKED


@pytest.mark.parametrize("how", ["its secret is dropped", "it ends", "its certificate ends"])
def test_a_ticket_that_ends_during_the_hand_shake_is_refused(place: Place, how: str) -> None:
    gateway = place.gateway
    wall = gateway.wall()
    shown = ShownCertificate(b"f" * 32, int(wall) + 1)
    bound: dict[str, Any] = {"kind": "certificate", "fingerprint": shown.fingerprint, "not_after": shown.not_after}
    ticket = place.ticket(**bound)
    device = place.device(ticket=ticket).hello(certificate=shown)
    if how == "its secret is dropped":
        place.store.drop(ticket[0], wall)
    else:
        gateway.clock.advance(1 if how == "its certificate ends" else DAY + 60)
    assert device.complete().welcome().result == Status.AUTH
    assert place.counters.psk_refused == {"expired": 1}


def test_a_midnight_during_the_hand_shake_counts_as_a_day(place: Place) -> None:
    gateway = place.gateway
    gateway.clock.advance(DAY - gateway.wall() % DAY - 0.5)
    ticket = place.ticket()
    device = place.device(ticket=ticket).hello()
    gateway.clock.advance(1)
    granted = device.complete().welcome().tickets
    opened = place.keys.open(granted.tickets[0].identity, gateway.wall())
    assert opened is not None and opened.days == 1


def test_filters_see_a_device_in_early_data_and_when_it_comes_in(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watch(Filter):
        def connection(self, identity: Identity, info: ConnectionInfo | None) -> None:
            assert info is not None
            seen.append(info.early)

    place = Place(tmp_path, filters=[("watch", Watch())])
    assert place.device(ticket=place.ticket()).hello().complete().welcome().result == 0
    assert seen == [True, False]


def test_only_tickets_of_ours_bring_early_data(place: Place) -> None:
    services, info = place.gateway.services, FakeConnection(ticket=b"x").info
    assert services.takes_early_data(info)
    info.ticket = b""
    assert not services.takes_early_data(info)
    info.ticket = b"x"
    place.office.max_early_data = 0
    assert not services.takes_early_data(info)
