"""The gateway's side of a signer process: resending, deadlines, wrong signatures, fallback, on a Clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.signers.card import SimulatedCard
from accessgw.crypto.signers.fallback import FallbackSigner
from accessgw.crypto.signers.libcrypto import PrivateKey, PublicKey
from accessgw.crypto.signers.process import FIRST_RETRY, LONGEST_RETRY, ProcessSigner
from accessgw.model.counters import TlsCounters
from protocols.signing import (
    FAILED,
    UNKNOWN_KEY,
    SignatureRequested,
    SigningConnection,
)
from tests.crypto.signing_keys import ec_key, rsa_key

PATH = "/run/accessgw/signer.sock"
PUBLIC = {key.id: PublicKey(key.public) for key in (rsa_key(), ec_key())}


@dataclass
class World:
    """A ProcessSigner on a reactor in memory, and the signer that a test plays."""

    timeout: float = 2.0
    waiting: int = 4
    patient: bool = True
    grace: float = 0.0
    hang_after: float = 0.0
    hung: int = 0
    results: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.counters = TlsCounters()
        self.signer = ProcessSigner(
            PATH,
            PUBLIC,
            self.counters,
            self.reactor,
            timeout=self.timeout,
            waiting=self.waiting,
            patient=self.patient,
            grace=self.grace,
            hang_after=self.hang_after,
            hung=self.hang,
        )
        self.signer.start()

    def hang(self) -> None:
        self.hung += 1

    @property
    def attempts(self) -> int:
        return len(self.reactor.unixClients)

    def accept(self, *keys: str) -> None:
        """The signer takes the latest connection, and greets."""
        factory = self.reactor.unixClients[-1][1]
        self.link = factory.buildProtocol(None)
        self.transport = StringTransport()
        self.far = SigningConnection(signer=True)
        self.link.makeConnection(self.transport)
        self.say(lambda: self.far.hello(frozenset(keys or PUBLIC)))

    def pass_time(self, seconds: float) -> None:
        """As on a reactor that turns often."""
        for _ in range(round(seconds * 16)):
            self.reactor.advance(1 / 16)

    def say(self, what: Callable[[], None]) -> None:
        what()
        self.link.dataReceived(self.far.to_send())

    def lose(self) -> None:
        self.link.connectionLost(Failure(ConnectionDone()))

    def asked(self) -> list[SignatureRequested]:
        """What has come to the signer since the last call."""
        self.reactor.advance(0)
        data = self.transport.value()
        self.transport.clear()
        return [event for event in self.far.receive(data) if isinstance(event, SignatureRequested)]

    def sign(self, key=ec_key(), seed: int = 0) -> None:
        deferred = self.signer.sign(key.id, key.algorithm, key.data(seed))
        deferred.addBoth(lambda result: self.results.append(result.value if isinstance(result, Failure) else result))


@pytest.fixture
def logged():
    """The lines so far."""
    lines = []

    def observe(event):
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lambda: list(lines)
    globalLogPublisher.removeObserver(observe)


def ec_signature(seed: int = 0) -> bytes:
    return PrivateKey.from_pem(ec_key().pem, "key").sign(ec_key().data(seed))


def test_requests_of_a_turn_travel_together_and_their_answers_in_any_order() -> None:
    world = World()
    world.accept()
    assert world.asked() == []
    world.sign(seed=1)
    world.sign(seed=2)
    assert world.transport.value() == b""
    first, second = world.asked()
    assert (first.data, second.data) == (ec_key().data(1), ec_key().data(2))
    assert world.counters.signer_waiting == 2
    world.say(lambda: world.far.signature(second.id, ec_signature(2)))
    world.say(lambda: world.far.signature(first.id, ec_signature(1)))
    for seed, signature in zip((2, 1), world.results, strict=True):
        ec_key().verify(signature, ec_key().data(seed))
    assert (world.counters.signer_waiting, world.counters.signatures) == (0, {"process": 2})


def test_what_was_asked_before_and_during_an_outage_is_asked_when_it_is_over() -> None:
    world = World()
    world.sign(seed=1)
    world.accept()
    (first,) = world.asked()
    world.lose()
    world.sign(seed=2)
    world.reactor.advance(FIRST_RETRY)
    assert world.attempts == 2
    world.accept()
    again = world.asked()
    assert [request.data for request in again] == [first.data, ec_key().data(2)]
    for request in again:
        world.say(lambda request=request: world.far.signature(request.id, ec_signature()))
    assert len(world.results) == 2
    assert not any(isinstance(result, Exception) for result in world.results)


def test_attempts_to_connect_become_rarer() -> None:
    world = World()
    times = []
    for _ in range(8):
        factory = world.reactor.unixClients[-1][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError("refused")))
        (retry,) = world.reactor.getDelayedCalls()
        times.append(round(retry.getTime() - world.reactor.seconds(), 6))
        world.reactor.advance(times[-1])
    assert times[:3] == [0.05, 0.1, 0.2]
    assert times[-1] == LONGEST_RETRY


def test_a_slow_signer_fails_its_own_requests_and_its_late_answers_are_dropped() -> None:
    world = World()
    world.accept()
    world.sign(seed=1)
    world.reactor.advance(1.5)
    world.sign(seed=2)
    first, second = world.asked()
    world.reactor.advance(0.5)
    assert isinstance(world.results[0], SigningFailed)
    assert "2 s" in str(world.results[0])
    world.say(lambda: world.far.signature(first.id, ec_signature(1)))
    world.say(lambda: world.far.signature(second.id, ec_signature(2)))
    assert len(world.results) == 2
    ec_key().verify(world.results[1], ec_key().data(2))
    assert (world.counters.signer_failures, world.counters.signer_waiting) == (1, 0)


@pytest.mark.parametrize("lie", ["bit", "short", "other"])
def test_a_wrong_signature_of_rsa_never_leaves(lie) -> None:
    world = World()
    world.accept()
    world.sign(rsa_key())
    (request,) = world.asked()
    data = int.from_bytes(request.data, "big")
    numbers = rsa_key().private.private_numbers()
    right = pow(data, numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
    wrong = {"bit": right[:-1] + bytes([right[-1] ^ 1]), "short": right[:-1], "other": bytes(256)}[lie]
    world.say(lambda: world.far.signature(request.id, wrong))
    assert isinstance(world.results[0], SigningFailed)
    assert world.counters.signatures == {}
    world.sign(rsa_key())
    (request,) = world.asked()
    world.say(lambda: world.far.signature(request.id, right))
    assert world.results[1] == right


def test_a_wrong_signature_for_a_hand_shake_from_before_a_renewal_never_leaves_either() -> None:
    world = World()
    world.accept()
    world.sign(rsa_key())
    (request,) = world.asked()
    for _ in range(2):
        world.signer.replace_keys({ec_key().id: PUBLIC[ec_key().id]})
    world.say(lambda: world.far.signature(request.id, bytes(256)))
    assert isinstance(world.results[0], SigningFailed)


@pytest.mark.parametrize("lie", [b"nothing like it", b"\x30\x06\x02\x01\x01\x02\x01\x01\x00", b"\x30", bytes(200)])
def test_what_is_not_even_the_form_of_an_ecdsa_signature_is_refused(lie) -> None:
    world = World()
    world.accept()
    world.sign()
    (request,) = world.asked()
    world.say(lambda: world.far.signature(request.id, lie))
    assert isinstance(world.results[0], SigningFailed)


def test_a_refusal_is_passed_on_and_a_key_that_is_about_to_come_is_waited_for() -> None:
    world = World()
    world.accept(rsa_key().id)
    world.sign(seed=1)
    world.sign(seed=2)
    first, second = world.asked()
    world.say(lambda: world.far.refuse(first.id, FAILED, "the token is gone"))
    assert "the token is gone" in str(world.results[0])
    world.say(lambda: world.far.refuse(second.id, UNKNOWN_KEY, "no such key"))
    assert len(world.results) == 1
    world.say(lambda: world.far.hello(frozenset(PUBLIC)))
    (again,) = world.asked()
    assert again.data == second.data
    world.say(lambda: world.far.signature(again.id, ec_signature(2)))
    assert len(world.results) == 2


def test_too_many_that_wait_unknown_algorithms_and_the_end_fail_at_once() -> None:
    world = World(waiting=1)
    world.signer.sign("ab" * 32, 9, b"x").addErrback(lambda failure: world.results.append(failure.value))
    world.sign(seed=1)
    world.sign(seed=2)
    assert ["algorithm" in str(world.results[0]), "too many" in str(world.results[1])] == [True, True]
    world.signer.stop()
    assert "stopping" in str(world.results[2])
    world.sign(seed=3)
    assert len(world.results) == 4
    assert all(isinstance(result, SigningFailed) for result in world.results)
    assert world.reactor.getDelayedCalls() == []
    assert world.counters.signer_waiting == 0


def test_a_signer_that_speaks_something_else_is_left_and_tried_again() -> None:
    world = World()
    world.accept()
    world.link.dataReceived(b"\x00\x01\x09")
    assert world.transport.disconnected
    world.lose()
    world.reactor.advance(FIRST_RETRY)
    assert world.attempts == 2


def test_who_takes_the_connection_and_says_nothing_is_left_told_of_and_tried_again(logged) -> None:
    """A process that hangs before its greeting, or another program at our path."""
    world = World(timeout=2.0)
    world.sign()
    link = world.reactor.unixClients[-1][1].buildProtocol(None)
    transport = StringTransport()
    link.makeConnection(transport)
    world.reactor.advance(1.9)
    assert not transport.disconnected
    world.reactor.advance(0.1)
    assert transport.disconnected
    link.connectionLost(Failure(ConnectionDone()))
    assert any("says nothing for 2 s" in line for line in logged())
    assert "no signature within 2 s" in str(world.results[0])
    world.reactor.advance(FIRST_RETRY)
    world.accept()
    world.sign()
    (request,) = world.asked()
    world.say(lambda: world.far.signature(request.id, ec_signature()))
    # one that has greeted may be silent for as long as it likes
    world.reactor.advance(10.0)
    assert not world.transport.disconnected


def test_a_signature_that_comes_twice_or_was_not_asked_for_changes_nothing() -> None:
    world = World()
    world.accept()
    world.sign(seed=1)
    (request,) = world.asked()
    for id in (request.id, request.id, request.id + 7):
        world.say(lambda id=id: world.far.signature(id, ec_signature(1)))
    world.sign(seed=2)
    (other,) = world.asked()
    assert other.id != request.id
    assert (len(world.results), world.counters.signer_waiting) == (1, 1)
    assert world.counters.signatures == {"process": 1}


# ---------------------------------------------------------------- a card, and what is behind it


class Instant:
    """A back end whose signatures are their data."""

    name = "instant"
    batch = 1
    linger = 0.0

    def keys(self) -> frozenset[str]:
        return frozenset()

    def sign(self, jobs):
        return [job.data for job in jobs]


def card(**options) -> tuple[MemoryReactorClock, TlsCounters, SimulatedCard]:
    clock, counters = MemoryReactorClock(), TlsCounters()
    return clock, counters, SimulatedCard(Instant(), counters, clock, **options)


def test_the_throughput_of_a_card_is_depth_by_latency() -> None:
    clock, counters, signer = card(latency=0.005, depth=64, waiting=100_000)
    done: list[float] = []
    for _ in range(64 * 40):
        signer.sign("key", 2, b"data").addCallback(lambda _: done.append(clock.seconds()))
    for _ in range(39):
        clock.advance(0.005)
    assert len(done) == 64 * 39
    clock.advance(0.005)
    assert done[-1] == pytest.approx(0.2)
    assert len(done) / done[-1] == pytest.approx(64 / 0.005)
    assert counters.signatures == {"card": 64 * 40}
    assert counters.signer_waiting == 0


def test_a_card_that_breaks_falls_back_to_software_and_is_counted() -> None:
    clock, counters, first = card(depth=2)
    _, _, second = card()
    second._clock, second._counters = clock, TlsCounters()
    signer = FallbackSigner(first, second, counters, clock, timeout=1.0)
    done: list[bytes] = []
    for _ in range(3):
        signer.sign("key", 2, b"data").addCallback(done.append)
    first.broken = True
    signer.sign("key", 2, b"data").addCallback(done.append)
    for _ in range(4):
        clock.advance(0.005)
    assert done == [b"data"] * 4
    assert (counters.signer_fallbacks, counters.signer_failures, counters.signer_waiting) == (4, 4, 0)
    first.broken = False
    signer.sign("key", 2, b"data").addCallback(done.append)
    clock.advance(0.005)
    assert counters.signatures == {"card": 1}


def test_a_card_that_hangs_falls_back_after_its_time_and_a_full_one_at_once() -> None:
    clock, counters, first = card(latency=60.0, depth=1, waiting=1)
    _, _, second = card()
    second._clock = clock
    signer = FallbackSigner(first, second, counters, clock, timeout=1.0)
    done: list[bytes] = []
    for _ in range(3):
        signer.sign("key", 2, b"data").addCallback(done.append)
    clock.advance(0.005)
    assert len(done) == 1
    clock.advance(1.0)
    clock.advance(0.005)
    assert len(done) == 3
    assert counters.signer_fallbacks == 3


def test_without_patience_there_is_no_waiting_for_a_signer_that_is_not_there() -> None:
    world = World(patient=False)
    world.sign()
    assert "no signer at" in str(world.results[0])
    world.accept()
    world.sign()
    (request,) = world.asked()
    world.say(lambda: world.far.refuse(request.id, UNKNOWN_KEY, "no such key"))
    assert "no such key" in str(world.results[1])


def test_a_process_that_is_only_starting_is_no_news(logged) -> None:
    world = World(grace=2.0)
    world.reactor.unixClients[-1][1].clientConnectionFailed(None, Failure(ConnectionDone()))
    assert logged() == []
    world.reactor.advance(FIRST_RETRY)
    world.accept()
    assert logged() == []
    world.lose()
    (line,) = logged()
    assert line.startswith(f"no signer at {PATH}")


def test_one_that_never_starts_is_news_after_its_time(logged) -> None:
    world = World(grace=2.0)
    for _ in range(7):
        world.reactor.unixClients[-1][1].clientConnectionFailed(None, Failure(ConnectionDone()))
        world.reactor.advance(LONGEST_RETRY)
    (line,) = logged()
    assert line.startswith(f"no signer at {PATH}")


def test_a_signer_that_is_stuck_is_one_line_until_it_signs_again(logged) -> None:
    world = World()
    world.accept()
    for _ in range(2):
        world.sign()
        world.asked()
        world.reactor.advance(2.0)
    said = [line for line in logged() if "does not answer" in line]
    assert len(said) == 1 and PATH in said[0]
    world.sign()
    (request,) = world.asked()
    for _ in range(2):
        world.say(lambda: world.far.signature(request.id, ec_signature()))
    assert logged()[len(said) :] == [f"the signer at {PATH} answers again"]
    world.sign()
    world.asked()
    world.reactor.advance(2.0)
    assert len([line for line in logged() if "does not answer" in line]) == 2


# ---------------------------------------------------------------- one of ours that hangs


def test_one_that_answers_nothing_is_ended_and_the_next_one_asked_for_all(logged) -> None:
    world = World(hang_after=1.0)
    world.accept()
    world.sign(seed=1)
    world.pass_time(0.5)
    world.sign(seed=2)
    world.asked()
    world.pass_time(0.4)
    assert (world.hung, world.transport.disconnected) == (0, False)
    world.pass_time(0.4)
    assert (world.hung, world.transport.disconnected) == (1, True)
    (line,) = logged()
    assert line.startswith(
        f"the signer at {PATH} is connected and has answered nothing for 1 s (2 signatures asked for)"
    )
    world.lose()
    world.pass_time(0.25)
    world.accept()
    for request in world.asked():
        world.say(lambda request=request: world.far.signature(request.id, ec_signature()))
    assert [isinstance(result, bytes) for result in world.results] == [True, True]
    world.pass_time(10.0)
    assert (world.hung, world.counters.signer_failures) == (1, 0)


def test_the_end_that_we_have_made_is_no_news_of_its_own(logged) -> None:
    world = World(hang_after=1.0, grace=2.0)
    world.accept()
    world.sign()
    world.asked()
    world.pass_time(1.25)
    world.link.connectionLost(Failure(ConnectionDone()))
    world.pass_time(0.125)
    refused = Failure(ConnectionRefusedError("refused"))
    world.reactor.unixClients[-1][1].clientConnectionFailed(None, refused)
    assert len(logged()) == 1 and "has answered nothing" in logged()[0]
    world.pass_time(0.125)
    world.accept()
    assert logged()[1:] == [f"the signer at {PATH} is there again"]


def test_that_no_other_comes_after_one_that_hung_is_news(logged) -> None:
    world = World(hang_after=1.0, grace=2.0)
    world.accept()
    world.sign()
    world.asked()
    world.pass_time(1.25)
    world.link.connectionLost(Failure(ConnectionDone()))
    for _ in range(4):
        world.pass_time(LONGEST_RETRY)
        world.reactor.unixClients[-1][1].clientConnectionFailed(None, Failure(ConnectionRefusedError("refused")))
    assert [line for line in logged() if line.startswith("no signer at")] == [
        f"no signer at {PATH}, trying again: refused"
    ]


def test_one_that_answers_something_is_left_alone() -> None:
    world = World(hang_after=1.0, timeout=20.0, waiting=20)
    world.accept()
    for seed in range(10):
        world.sign(seed=seed)
    requests = world.asked()
    for request in requests:
        world.pass_time(0.75)
        world.say(lambda request=request: world.far.signature(request.id, ec_signature()))
    world.pass_time(10.0)
    assert (world.hung, len(world.results)) == (0, 10)


def test_one_that_lacks_a_key_has_answered_and_owes_a_signature_once_it_has_the_key() -> None:
    world = World(hang_after=1.0, timeout=20.0)
    world.accept(rsa_key().id)
    for seed in (1, 2):
        world.sign(seed=seed)
    for request in world.asked():
        world.say(lambda request=request: world.far.refuse(request.id, UNKNOWN_KEY, "no such key"))
    world.pass_time(5.0)
    assert world.hung == 0
    world.say(lambda: world.far.hello(frozenset(PUBLIC)))
    first, second = world.asked()
    world.pass_time(0.5)
    world.say(lambda: world.far.signature(first.id, ec_signature(1)))
    world.pass_time(0.5)
    assert world.hung == 0
    world.pass_time(0.75)
    assert world.hung == 1
    assert second.id != first.id


def test_one_whose_keys_came_with_a_new_connection_owes_all_signatures() -> None:
    world = World(hang_after=1.0, timeout=20.0)
    world.accept(rsa_key().id)
    world.sign()
    (request,) = world.asked()
    world.say(lambda: world.far.refuse(request.id, UNKNOWN_KEY, "no such key"))
    world.lose()
    world.pass_time(FIRST_RETRY + 0.1)
    world.accept()
    assert len(world.asked()) == 1
    world.pass_time(1.25)
    assert world.hung == 1


def test_signatures_that_have_run_out_of_time_are_owed_still() -> None:
    world = World(hang_after=5.0, timeout=2.0)
    world.accept()
    world.sign()
    world.asked()
    world.pass_time(4.5)
    assert (world.hung, len(world.results)) == (0, 1)
    world.pass_time(1.75)
    assert world.hung == 1


def test_one_that_is_not_asked_again_for_what_was_cancelled_owes_nothing() -> None:
    world = World(hang_after=1.0, timeout=20.0)
    world.accept()
    key = ec_key()
    unwanted = world.signer.sign(key.id, key.algorithm, key.data(0))
    unwanted.addErrback(lambda failure: failure.trap(CancelledError))
    unwanted.cancel()
    world.lose()
    world.pass_time(FIRST_RETRY + 0.1)
    world.accept()
    assert world.asked() == []
    assert world.counters.signer_waiting == 0
    world.pass_time(5.0)
    assert world.hung == 0


def test_one_that_takes_the_connection_and_does_not_greet_hangs() -> None:
    world = World(hang_after=1.0)
    link = world.reactor.unixClients[-1][1].buildProtocol(None)
    transport = StringTransport()
    link.makeConnection(transport)
    world.pass_time(1.25)
    assert (world.hung, transport.disconnected) == (1, True)


def test_how_long_it_is_away_is_known() -> None:
    world = World()
    world.pass_time(3.0)
    assert world.signer.away == 3.0
    world.accept()
    world.pass_time(3.0)
    assert world.signer.away == 0.0
    assert world.signer.status() == {"path": PATH, "connected": True, "away": 0.0, "waiting": 0}
    world.lose()
    world.pass_time(2.0)
    assert world.signer.away == 2.0
    world.sign()
    assert world.signer.status() == {"path": PATH, "connected": False, "away": 2.0, "waiting": 1}


def test_that_the_signer_lacks_a_key_whose_certificate_waits_for_it_is_no_news(logged) -> None:
    world = World()
    world.signer.replace_keys(PUBLIC, awaited={rsa_key().id})
    world.accept(ec_key().id)
    assert world.signer.lacks_keys and not world.signer.has(rsa_key().id)
    assert not any("has no key" in line for line in logged())
    world.say(lambda: world.far.hello(frozenset(PUBLIC)))
    assert world.signer.has(rsa_key().id) and not world.signer.lacks_keys


def test_a_key_that_the_signer_lacks_is_named_with_its_file(logged) -> None:
    world = World()
    other = PublicKey(ec_key().public, "/etc/gw.pem")
    world.signer.replace_keys({other.id: other})
    world.accept(rsa_key().id)
    assert f"has no key for /etc/gw.pem (id {other.id})" in logged()[0]
    world.sign()
    (request,) = world.asked()
    world.say(lambda: world.far.refuse(request.id, UNKNOWN_KEY, "no such key"))
    world.reactor.advance(2.0)
    assert str(world.results[0]) == f"{PATH} has no key {other.id}"
