"""Sessions: takeover, races of admissions, survival, expiry, changed identities."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.authentication import AdmissionRefused
from accessgw.core.interfaces import Filter, Refused
from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.core.interfaces.tls import Revocations
from accessgw.core.introductions import Introduction
from accessgw.core.registry import DeviceSession
from accessgw.crypto.services import AuthenticationUnavailable
from accessgw.model.identity import ConnectionInfo, Credentials, Identity, Serial, Serials
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import SessionSettings
from protocols.mmtp import events
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import Device, FakeAuthenticator, Gateway


def welcome_of(device: Device) -> events.WelcomeReceived:
    (welcomed,) = device.take(events.WelcomeReceived)
    return welcomed.welcome


def goaway_of(device: Device) -> int:
    (event,) = device.take(events.GoawayReceived)
    return event.goaway.status


def holder(gateway: Gateway, device: str = "d1") -> object:
    session = gateway.sessions.registry.by_device(device)
    return None if session is None else session.link


def test_a_session_survives_its_connection() -> None:
    gateway = Gateway()
    first = gateway.device()
    before = welcome_of(first)
    first.lose()
    assert gateway.session_counters.connected == 0
    assert gateway.session_counters.sessions == 1
    after = welcome_of(gateway.device())
    assert (after.session, after.mac_key) == (before.session, before.mac_key)
    assert gateway.presence.log == [("connect", "d1", ""), ("disconnect", "d1", "peer_reset"), ("connect", "d1", "")]
    assert [entry[0] for entry in gateway.pushes.log if entry[0] in ("attach", "detach")] == [
        "attach", "detach", "attach",
    ]  # fmt: skip


@pytest.mark.parametrize("generation", [(2, 1), (1, 6), (1, 5)])
def test_a_higher_or_equal_generation_takes_over(generation: tuple[int, int]) -> None:
    gateway = Gateway()
    old = gateway.device(generation=(1, 5))
    new = gateway.device(generation=generation)
    assert welcome_of(new).result == 0
    assert goaway_of(old) == Status.REPLACED
    assert old.connection.closed is CloseReason.REPLACED
    assert holder(gateway) is new.binding
    old.lose("replaced")  # the late end of the old connection changes nothing
    assert holder(gateway) is new.binding
    assert gateway.session_counters.connected == 1
    assert gateway.session_counters.replaced == 1
    assert [e[::2] for e in gateway.presence.log] == [("connect", ""), ("disconnect", "replaced"), ("connect", "")]


def test_a_lower_generation_is_refused_and_the_old_one_stays() -> None:
    gateway = Gateway()
    old = gateway.device(generation=(2, 1))
    late = gateway.device(generation=(1, 9))
    assert welcome_of(late).result == Status.REPLACED
    assert late.connection.closed is CloseReason.STALE_GENERATION
    assert old.connection.closed is None
    assert holder(gateway) is old.binding
    assert gateway.session_counters.stale_generations == 1
    late.lose("stale_generation")
    assert holder(gateway) is old.binding


def test_without_a_connection_any_generation_is_welcome() -> None:
    gateway = Gateway()
    gateway.device(generation=(9, 9)).lose()
    assert welcome_of(gateway.device(generation=(1, 1))).result == 0  # the application was installed anew


@pytest.mark.parametrize("first_to_finish", [0, 1])
def test_of_two_authentications_in_flight_the_higher_generation_wins(first_to_finish: int) -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    low = gateway.device(generation=(1, 1))
    high = gateway.device(generation=(1, 2))
    gateway.authenticator.let_go(first_to_finish)
    gateway.authenticator.let_go()
    assert holder(gateway) is high.binding
    assert welcome_of(high).result == 0
    if first_to_finish == 0:
        assert goaway_of(low) == Status.REPLACED
    else:
        assert welcome_of(low).result == Status.REPLACED
    assert gateway.session_counters.connected == 1
    assert len(gateway.sessions.registry) == 1


def test_a_connection_lost_while_authenticating_never_gets_a_session() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = gateway.device()
    device.call("pay")
    device.lose()
    gateway.authenticator.let_go()
    assert holder(gateway) is None
    assert len(gateway.sessions.registry) == 0
    assert gateway.presence.log == []
    assert not gateway.upstreams.exchanges
    assert gateway.session_counters.auth_failures == {}


def test_a_takeover_while_the_old_connection_has_calls_in_flight_keeps_their_answers() -> None:
    gateway = Gateway()
    old = gateway.device(call_base=7, generation=(1, 1))
    old.call("pay", b"{}")
    new = gateway.device(generation=(1, 2))
    old.lose("replaced")
    gateway.upstreams.last.answer(200, b"paid")
    new.call("pay", b"{}", call_id=7)
    (response,) = new.take(events.ResponseReceived)
    assert response.body == b"paid"


@pytest.mark.parametrize("change", [{"token": "ok:bob"}, {"app": "other"}])
def test_a_changed_identity_gets_a_new_session(change: dict[str, str]) -> None:
    gateway = Gateway()
    old = gateway.device(token="ok:alice", app="shop") if "app" in change else gateway.device(token="ok:alice")
    before = welcome_of(old)
    new = gateway.device(**{"token": "ok:alice", **change})
    after = welcome_of(new)
    assert after.session != before.session
    assert after.mac_key != before.mac_key
    assert goaway_of(old) == Status.REPLACED
    assert gateway.sessions.by_id(before.session) is None
    assert len(gateway.sessions.registry) == 1
    if "token" in change:
        assert gateway.sessions.registry.of_user("alice") == []
        assert [s.id for s in gateway.sessions.registry.of_user("bob")] == [after.session]


def test_a_stronger_proof_gets_a_new_key() -> None:
    gateway = Gateway()
    weak = welcome_of(gateway.device())
    strong = Device(gateway)
    strong.connection.info.certificate_identity = "d1"
    assert welcome_of(strong.hello(generation=(9, 9))).mac_key != weak.mac_key
    other = Device(gateway)
    other.connection.info.certificate_identity = "somebody"
    assert welcome_of(other.hello(generation=(9, 9))).result == Status.AUTH


def test_a_session_is_forgotten_after_its_time() -> None:
    gateway = Gateway(sessions=SessionSettings(expiry=100.0))
    first, second = gateway.device(device="d1"), gateway.device(device="d2")
    first.lose()
    gateway.clock.advance(60.0)
    second.lose()
    gateway.clock.advance(41.0)
    assert gateway.sessions.registry.by_device("d1") is None
    assert gateway.sessions.registry.by_device("d2") is not None
    gateway.clock.advance(60.0)
    assert len(gateway.sessions.registry) == 0
    assert gateway.session_counters.expired == 2
    assert gateway.session_counters.sessions == 0


def test_a_connected_session_never_expires() -> None:
    gateway = Gateway(sessions=SessionSettings(expiry=100.0))
    device = gateway.device()
    device.lose()
    gateway.clock.advance(50.0)
    gateway.device()
    gateway.clock.advance(500.0)
    assert holder(gateway) is not None


def test_past_the_bound_the_longest_disconnected_goes_first() -> None:
    gateway = Gateway(sessions=SessionSettings(max_sessions=2))
    one, two = gateway.device(device="d1"), gateway.device(device="d2")
    two.lose()
    one.lose()
    three = gateway.device(device="d3")
    assert [gateway.sessions.registry.by_device(d) is not None for d in ("d1", "d2", "d3")] == [True, False, True]
    gateway.device(device="d1")
    four = gateway.device(device="d4")
    assert welcome_of(four).result == Status.OVERLOAD
    assert four.connection.closed is CloseReason.OVERLOAD
    assert three.connection.closed is None


def test_a_token_that_runs_out_ends_the_session() -> None:
    gateway = Gateway()
    device = gateway.device(token=f"ok:alice:{gateway.wall() + 50}")
    session = welcome_of(device).session
    gateway.clock.advance(49.0)
    assert device.connection.closed is None
    gateway.clock.advance(2.0)
    assert goaway_of(device) == Status.AUTH
    assert device.connection.closed is CloseReason.AUTH_EXPIRED
    assert gateway.sessions.by_id(session) is None


def test_a_fresh_token_carries_the_session_on() -> None:
    gateway = Gateway()
    gateway.device(token=f"ok:alice:{gateway.wall() + 50}")
    gateway.clock.advance(40.0)
    device = gateway.device(token=f"ok:alice:{gateway.wall() + 7200}")
    gateway.clock.advance(100.0)
    assert device.connection.closed is None
    gateway.clock.pump([1000.0] * 8)
    assert device.connection.closed is CloseReason.AUTH_EXPIRED


def test_operator_and_revocation() -> None:
    gateway = Gateway()
    device = gateway.device()
    session = welcome_of(device).session
    assert gateway.sessions.close_device("d1")
    assert goaway_of(device) == Status.DRAINING
    device.lose("operator")
    assert not gateway.sessions.close_device("d1")
    assert gateway.sessions.by_id(session) is not None
    device = gateway.device()
    assert gateway.sessions.revoke("d1")
    assert goaway_of(device) == Status.REVOKED
    assert gateway.sessions.by_id(session) is None
    assert not gateway.sessions.revoke("d1")


def test_a_session_ends_with_a_connection_whose_proof_was_revoked() -> None:
    gateway = Gateway()
    device = gateway.device()
    session = welcome_of(device).session
    device.lose(CloseReason.REVOKED)
    assert gateway.sessions.by_id(session) is None
    assert (gateway.session_counters.sessions, gateway.session_counters.connected) == (0, 0)
    assert welcome_of(gateway.device()).session != session


class Revoked:
    """Revocations by hand; the others are not asked."""

    def __init__(self) -> None:
        self.devices: dict[str, float] = {}
        self.fingerprints: set[bytes] = set()
        self.listed: set[Serial] = set()

    def is_locked_out(self, device: str, fingerprint: bytes, since: float) -> bool:
        return since <= self.devices.get(device, 0.0) or fingerprint in self.fingerprints

    def are_listed(self, serials: Serials) -> bool:
        return not self.listed.isdisjoint(serials)


@pytest.mark.parametrize("what", ["device", "certificate", "list"])
def test_a_session_of_a_device_that_is_away_ends_when_its_proof_is_revoked(what: str) -> None:
    gateway, revoked = Gateway(), Revoked()
    gateway.sessions.revocations = cast("Revocations", revoked)
    serial = ("issuer", b"\x07")
    device = Device(gateway)
    device.connection.info.fingerprint, device.connection.info.serials = b"f" * 32, (serial,)
    device.hello(generation=(1, 1))
    session = welcome_of(device).session
    device.lose()
    assert gateway.sessions.by_id(session) is not None
    if what == "device":
        revoked.devices["d1"] = gateway.wall()
    elif what == "certificate":
        revoked.fingerprints.add(b"f" * 32)
    else:
        revoked.listed.add(serial)
    assert gateway.sessions.by_id(session) is None
    assert gateway.session_counters.sessions == 0


def test_what_was_proved_after_the_revocation_is_good() -> None:
    gateway, revoked = Gateway(), Revoked()
    gateway.sessions.revocations = cast("Revocations", revoked)
    revoked.devices["d1"] = gateway.wall()
    gateway.clock.advance(1.0)
    session = welcome_of(gateway.device()).session
    assert gateway.sessions.by_id(session) is not None


@pytest.mark.parametrize("what", ["device", "certificate", "list"])
def test_who_is_revoked_while_it_is_asked_who_it_is_does_not_come_in(what: str) -> None:
    """Whoever looks through the connections does not know it by its device yet."""
    gateway, revoked = Gateway(), Revoked()
    gateway.sessions.revocations = cast("Revocations", revoked)
    gateway.authenticator.hold = True
    serial = ("issuer", b"\x07")
    device, other = Device(gateway), Device(gateway)
    device.connection.info.fingerprint, device.connection.info.serials = b"f" * 32, (serial,)
    device.hello()
    other.hello("d2")
    gateway.clock.advance(1.0)
    if what == "device":
        revoked.devices["d1"] = gateway.wall()
    elif what == "certificate":
        revoked.fingerprints.add(b"f" * 32)
    else:
        revoked.listed.add(serial)
    gateway.clock.advance(1.0)
    gateway.authenticator.let_go()
    gateway.authenticator.let_go()
    assert welcome_of(device).result == Status.REVOKED
    assert device.connection.closed is CloseReason.REVOKED
    assert holder(gateway) is None
    assert welcome_of(other).result == 0


def test_logout_is_answered_and_then_ends_the_session() -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice")
    before = welcome_of(device)
    number = device.call("gw.logout", b"")
    (response,) = device.take(events.ResponseReceived)
    assert (response.call, response.status, response.body) == (number, 0, b"")
    assert goaway_of(device) == Status.REVOKED
    assert device.connection.closed is CloseReason.LOGOUT
    assert gateway.sessions.by_id(before.session) is None
    assert gateway.presence.log[-1] == ("disconnect", "d1", "logout")
    assert (gateway.session_counters.sessions, gateway.session_counters.connected) == (0, 0)
    device.lose("logout")
    after = welcome_of(gateway.device(token="ok:alice"))
    assert after.session != before.session
    assert after.mac_key != before.mac_key


def test_a_logout_does_not_touch_the_session_of_whoever_signs_in_next() -> None:
    gateway = Gateway()
    gateway.device(token="ok:alice")
    alice = gateway.sessions.registry.by_device("d1")
    bob = gateway.device(token="ok:bob")
    assert alice is not None
    gateway.sessions.logout(alice)
    assert holder(gateway) is bob.binding
    assert bob.connection.closed is None


class Down(FakeAuthenticator):
    name = "down"

    def authenticate(self, credentials: object) -> Deferred[Identity | None]:
        raise ConnectionError("no route to the directory")


class Refusing(FakeAuthenticator):
    name = "refusing"

    def authenticate(self, credentials: object) -> Deferred[Identity | None]:
        raise AuthenticationFailed("expired")


@pytest.mark.parametrize(
    ("chain", "status", "reason", "counted"),
    [
        ([], Status.AUTH, CloseReason.AUTH_FAILED, {"none": 1}),
        ([Down(), FakeAuthenticator()], Status.OVERLOAD, CloseReason.AUTH_UNAVAILABLE, {"down": 1}),
        ([Refusing(), FakeAuthenticator()], Status.AUTH, CloseReason.AUTH_FAILED, {"refusing": 1}),
    ],
)
def test_the_chain_fails_closed(chain: list[object], status: int, reason: CloseReason, counted: object) -> None:
    gateway = Gateway(authenticators=chain)
    device = gateway.device()
    assert welcome_of(device).result == status
    assert device.connection.closed is reason
    assert gateway.session_counters.auth_failures == counted
    assert bool(gateway.session_counters.auth_unavailable) == (reason is CloseReason.AUTH_UNAVAILABLE)


def test_an_authenticator_that_is_unavailable_is_logged_as_a_sentence() -> None:
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    class Away(FakeAuthenticator):
        name = "login"

        def authenticate(self, credentials: object) -> Deferred[Identity | None]:
            raise AuthenticationUnavailable("http://login/ answered with status 503")

    globalLogPublisher.addObserver(observe)
    try:
        Gateway(authenticators=[Away()]).device()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert "authenticator login is unavailable: http://login/ answered with status 503; d1 is refused" in lines


def test_an_authenticator_that_never_answers_is_unavailable() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = gateway.device()
    gateway.clock.pump([1.0] * 5)
    refused = welcome_of(device)
    assert (refused.result, refused.retry_after) == (Status.OVERLOAD, 2.0)
    assert device.connection.closed is CloseReason.AUTH_UNAVAILABLE


class OnlyD1(Filter):
    def connection(self, identity: Identity, info: object) -> None:
        if identity.device == "bug":
            raise KeyError("bug")
        if identity.device != "d1":
            raise Refused(Status.UNIT_MOVED, "elsewhere")


def test_a_connection_filter_decides() -> None:
    gateway = Gateway(filters=[("only", OnlyD1())])
    assert welcome_of(gateway.device(device="d1")).result == 0
    other = gateway.device(device="d2")
    assert welcome_of(other).result == Status.UNIT_MOVED
    assert other.connection.closed is CloseReason.FORBIDDEN
    broken = gateway.device(device="bug")
    assert welcome_of(broken).result == Status.INTERNAL
    assert broken.connection.closed is CloseReason.INTERNAL
    assert len(gateway.sessions.registry) == 1


@pytest.mark.parametrize(
    "hello",
    [
        {"device": "a b"},
        {"device": "a\nb"},
        {"app": "x\r\ny"},
        {"app_version": "v" * 65},
        {"attributes": {f"k{n}": "v" for n in range(17)}},
        {"attributes": {"os": "a\x00"}},
    ],
)
def test_a_device_cannot_smuggle_text_in(hello: dict[str, object]) -> None:
    device = Gateway().device(**hello)
    assert welcome_of(device).result == Status.PROTOCOL


def test_attributes_of_the_token_win_over_those_of_the_device() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    gateway.device(attributes={"region": "eu", "os": "ios"})
    result, identity = gateway.authenticator.held.pop()
    result.callback(replace(identity, attributes={"region": "cn"}))
    session = gateway.sessions.registry.by_device("d1")
    assert session is not None
    assert session.identity.attributes == {"region": "cn", "os": "ios"}


def test_pages_of_sessions() -> None:
    gateway = Gateway()
    for name in ("d3", "d1", "d2"):
        gateway.device(device=name, token="ok:alice" if name != "d2" else "ok:bob")
    registry = gateway.sessions.registry
    assert [s.identity.device for s in registry.page(limit=2)] == ["d1", "d2"]
    assert [s.identity.device for s in registry.page(after="d1")] == ["d2", "d3"]
    assert [s.identity.device for s in registry.page(user="alice")] == ["d1", "d3"]
    assert registry.page(connected=False) == []
    assert registry.connected == 3


def test_a_session_without_short_connections_gets_its_key_with_the_first_protocol_that_has_them() -> None:
    gateway = Gateway()

    class Silent:
        info = ConnectionInfo(1, "mqtt", "tcp", "127.0.0.1")

        def close(self, reason: CloseReason, status: int) -> None:
            """Taken over."""

    anybody = Introduction(Credentials("d1", token="ok"), generation=None)
    session = gateway.sessions.enter(anybody, Silent())
    assert isinstance(session, DeviceSession) and session.link is not None
    assert (session.id, session.mac_key) == ("", b"")
    assert gateway.sessions.by_id("") is None
    welcome = welcome_of(gateway.device())
    assert gateway.sessions.by_id(welcome.session) is session
    assert len(welcome.session) == 32 and welcome.mac_key == session.mac_key and len(session.mac_key) == 32
    assert gateway.sessions.enter(anybody, Silent()) is session
    assert gateway.sessions.by_id(welcome.session) is session
    assert gateway.sessions.revoke("d1") and gateway.sessions.by_id(welcome.session) is None


def test_an_answer_at_once_and_a_late_one_admit_alike() -> None:
    gateway = Gateway()

    introduction = Introduction(Credentials("d1", token="bad"), generation=None)
    link = type("Stub", (), {"info": ConnectionInfo(1, "", "", "")})()
    with pytest.raises(AdmissionRefused, match="not known here"):
        gateway.sessions.enter(introduction, link)
    refused: list[object] = []
    gateway.sessions.admit_short(introduction, ConnectionInfo(1, "", "", "")).addErrback(
        lambda failure: refused.append(failure.value.reason)
    )
    assert refused == [CloseReason.AUTH_FAILED]
    introduction.credentials = replace(introduction.credentials, token="ok")
    gateway.authenticator.hold = True
    entered = gateway.sessions.enter(introduction, link)
    assert isinstance(entered, Deferred) and not entered.called
    gateway.authenticator.let_go()
    assert entered.result is gateway.sessions.registry.by_device("d1")
