"""A TLS connection step by step: who has it when, what waits meanwhile, how it ends in each of its states."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from accessgw.model.reasons import CloseReason
from accessgw.transports.tls_handshake import HELD, SHORT
from protocols.errors import RemoteError
from protocols.tls.engine import CloseNotifyReceived, HandshakeCompleted
from protocols.tls.records import RecordLayer
from protocols.tls.server_context import ClientVerification
from tests.protocols.tls.tls_links import IDENTITY, PSK, Issuer, client, issuer
from tests.transports.support import Echo
from tests.transports.tls_by_hand import Contexts, EarlyEcho, EarlyFactory, Hand

REPLAYED = "its early data was refused: a replay, or nobody could tell"


def device_with(psk=PSK, early=b""):
    engine = client().engine("localhost", psk=psk)
    if early:
        engine.early(early)
    return engine


class Tap:
    """A socket whose sends are noted."""

    def __init__(self, sock, sent):
        self.sock, self.sent = sock, sent

    def send(self, data):
        self.sent.append(bytes(data))
        return self.sock.send(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


# ---------------------------------------------------------------------- the hand-shake


def test_records_are_ours_after_the_hand_shake():
    hand = Hand().shake_hands()
    assert type(hand.connection._records) is RecordLayer
    assert hand.connection._handshake is None
    tls = hand.services.tls
    assert (tls.full, tls.resumed, tls.detached, tls.kept) == (1, 0, 1, 0)
    hand.say(b"hello")
    hand.receive()
    assert hand.plaintext() == b"hello"
    assert hand.pool.steps == []
    info = hand.info
    assert (info.alpn, info.tls_version, info.server_name, info.resumed, info.early) == (
        "mmtp/1", "TLSv1.3", "localhost", False, False,
    )  # fmt: skip


def test_no_engine_is_made_before_the_first_record_is_whole():
    hand = Hand()
    hand.device.start()
    flight = hand.device.to_send()
    for byte in flight[:-1]:
        hand.send(bytes((byte,)))
    assert hand.contexts.made == 0
    assert hand.pool.steps == []
    hand.send(flight[-1:])
    hand.pool.all()
    assert hand.contexts.made == 1
    hand.receive()
    for byte in hand.device.to_send():
        hand.send(bytes((byte,)))
        hand.pool.all()
    assert hand.services.tls.detached == 1
    for byte in hand.device.to_send():
        hand.send(bytes((byte,)))
    hand.device.encrypt(b"slowly")
    for byte in hand.device.to_send():
        hand.send(bytes((byte,)))
    hand.receive()
    assert hand.plaintext() == b"slowly"


def test_one_step_at_a_time():
    hand = Hand()
    hand.device.start()
    hand.send()
    assert [begun for _, begun in hand.pool.steps] == [False]
    hand.send(b"\x14\x03\x03\x00\x01\x01")
    assert len(hand.pool.steps) == 1
    hand.pool.run()
    hand.pool.tell()
    # the client's Finished is all that is left
    assert [begun for _, begun in hand.pool.steps] == ["last"]


def test_a_step_that_verifies_a_certificate_is_not_a_last_one():
    hand = Hand(Contexts(clients=ClientVerification("request", issuer().pem), tickets=False))
    hand.device.start()
    hand.turn()
    hand.send()
    assert [begun for _, begun in hand.pool.steps] == [True]


def test_the_end_of_the_hand_shake_and_its_first_answers_leave_in_one_segment():
    class Talker(Echo):
        def __init__(self, connection, journal):
            super().__init__(connection, journal)
            connection.write(b"hello ")
            assert connection.buffered == 0

    hand = Hand(factories={"mmtp/1": lambda connection: Talker(connection, hand.journal)})
    hand.device.start()
    hand.turn()
    hand.device.encrypt(b"you")
    hand.send()
    sent = []
    send, hand.connection._sock = hand.connection._sock, Tap(hand.connection._sock, sent)
    hand.pool.all()
    hand.connection._sock = send
    hand.receive()
    assert hand.plaintext() == b"hello you"
    assert len(sent) == 1


def test_application_data_behind_finished_is_taken_along():
    hand = Hand()
    hand.device.start()
    hand.turn()
    assert hand.device.handshaken
    hand.device.encrypt(b"at once")
    hand.send()
    hand.device.encrypt(b", and while the step runs")
    hand.send()
    hand.pool.all()
    hand.receive()
    assert hand.binding.received == b"at once, and while the step runs"
    assert hand.plaintext() == hand.binding.received


def test_a_peer_that_sends_much_while_a_step_runs_is_not_read():
    hand = Hand()
    hand.device.start()
    hand.turn()
    sent = b"x" * (4 * HELD)
    hand.device.encrypt(sent)
    flight = hand.device.to_send()
    hand.send(flight[: HELD + 1000])
    hand.send(flight[HELD + 1000 : 3 * HELD])
    assert hand.connection not in hand.reactor.readers
    hand.connection.pause()
    hand.connection.resume()
    assert hand.connection not in hand.reactor.readers
    hand.pool.all()
    assert hand.connection in hand.reactor.readers
    hand.send(flight[3 * HELD :])
    assert hand.binding.received == sent


def test_where_too_many_hand_shakes_wait_no_engine_is_made():
    hand = Hand()
    hand.pool.full = True
    hand.device.start()
    hand.send()
    assert hand.contexts.made == 0
    assert hand.services.tls.pool_refused == 1
    assert hand.ended[0] == "overload"


def test_a_hand_shake_counts_until_it_is_complete_or_never_will_be():
    hand = Hand()
    hand.device.start()
    hand.turn()
    assert hand.pool.unfinished == 1
    hand.shake_hands()
    assert hand.pool.unfinished == 0
    late = Hand(handshake_timeout=3.0)
    late.device.start()
    late.turn()
    late.reactor.wait(4)
    assert late.pool.unfinished == 0
    broken = Hand()
    broken.send(b"\x16\x03\x01\x00\x04abcd")
    broken.pool.all()
    broken.reactor.wait(60)
    assert broken.ended[0] == "handshake_failed"
    assert broken.pool.unfinished == 0
    gone = Hand()
    gone.device.start()
    gone.send()
    gone.connection.abort(CloseReason.OVERLOAD)
    assert gone.pool.unfinished == 0
    gone.pool.all()
    assert gone.pool.unfinished == 0


def test_the_hand_shake_has_its_time():
    hand = Hand(handshake_timeout=3.0)
    hand.device.start()
    hand.turn()
    hand.reactor.wait(4)
    assert hand.ended[0] == "handshake_timeout"
    assert hand.services.tls.refused == {"timeout": 1}
    assert hand.services.counters.handshake_failures == 1


def test_who_says_nothing_is_late_and_has_no_hand_shake_that_was_refused():
    hand = Hand(handshake_timeout=3.0)
    hand.reactor.wait(4)
    assert hand.ended[0] == "handshake_timeout"
    assert hand.services.tls.refused == {}
    assert hand.services.counters.handshake_failures == 1


def test_a_connection_that_is_lost_while_a_step_runs():
    hand = Hand()
    hand.device.start()
    hand.send()
    hand.pool.run()
    hand.connection.abort(CloseReason.OPERATOR)
    hand.pool.tell()
    assert hand.ended[0] == "operator"
    assert hand.journal.bindings == []


def test_a_connection_that_is_lost_before_its_step_runs_makes_no_engine():
    hand = Hand()
    hand.device.start()
    hand.send()
    hand.connection.abort(CloseReason.OPERATOR)
    hand.pool.all()
    assert hand.contexts.made == 0


def test_a_peer_that_ends_while_a_step_runs():
    hand = Hand()
    hand.device.start()
    hand.send()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended is None
    hand.pool.all()
    assert hand.ended[0] in ("handshake_failed", "peer_reset")


def test_a_peer_that_ends_between_two_steps():
    hand = Hand()
    hand.device.start()
    hand.turn()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("handshake_failed", "the peer ended the connection during the hand-shake")
    assert hand.services.tls.refused == {"peer_closed": 1}


def test_close_while_a_step_runs():
    hand = Hand()
    hand.device.start()
    hand.send()
    hand.connection.close(CloseReason.DRAINING)
    hand.pool.all()
    assert hand.connection._handshake is None
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended[0] == "draining"


def test_an_error_of_ours_is_not_the_peers_fault():
    hand = Hand()

    def broken():
        raise MemoryError("as asked")

    hand.contexts.engine = broken
    hand.device.start()
    hand.send()
    hand.pool.all()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("internal", "MemoryError in the hand-shake")


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "unexpected_message"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 100, "record_overflow"),
        (b"\x16\x03\x01\x00\x06\x63\x00\x00\x02\x00\x00", "unexpected_message"),
        (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x00\x00", "decode_error"),
    ],
)
def test_what_is_no_hand_shake_is_refused_with_its_reason(data, alert):
    hand = Hand()
    hand.send(data)
    hand.pool.all()
    hand.peer.close()
    hand.reactor.turn()
    reason, detail = hand.ended
    assert reason == "handshake_failed"
    assert list(hand.services.tls.refused) == [alert], detail
    assert f"({alert})" in detail


def test_a_client_that_does_not_trust_us_says_so():
    hand = Hand(device=client(authorities=Issuer("another").pem).engine("localhost"))
    hand.device.start()
    hand.send()
    hand.pool.all()
    with pytest.raises(RemoteError):
        hand.receive()
    hand.send()
    hand.pool.all()
    hand.peer.close()
    hand.reactor.turn()
    reason, detail = hand.ended
    assert (reason, list(hand.services.tls.refused)) == ("handshake_failed", ["unknown_ca"])
    assert detail.startswith("alert 48 (unknown_ca): ")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_byte_of_a_peer_is_a_defect_of_ours(data):
    """One byte of one of its flights is another one; of a first flight with early data, too."""
    early = data.draw(st.booleans())
    hand = early_hand() if early else Hand()
    hand.device.start()
    broken = data.draw(st.integers(0, 1), label="flight")
    for number in range(3):
        flight = bytearray(hand.device.to_send())
        if number == broken and flight:
            at = data.draw(st.integers(0, len(flight) - 1), label="at")
            flight[at] ^= data.draw(st.integers(1, 255), label="by")
        hand.send(bytes(flight))
        hand.pool.all()
        try:
            hand.receive()
        except RemoteError:
            break
        if hand.device.handshaken:
            hand.device.encrypt(b"more")
    hand.peer.close()
    hand.reactor.turn()
    hand.pool.all()
    hand.reactor.wait(30)
    assert hand.ended is not None
    assert hand.ended[0] in ("handshake_failed", "handshake_timeout", "protocol_error", "peer_reset")
    if hand.journal.bindings and not early:
        assert hand.binding.received in (b"", b"more", b"moremore")


# ---------------------------------------------------------------------- records


@pytest.mark.parametrize("kind", ["flipped", "truncated", "oversized", "empty"])
def test_broken_records_are_refused_with_their_reason(kind):
    hand = Hand().shake_hands()
    hand.device.encrypt(b"payload")
    record = hand.device.to_send()
    if kind == "flipped":
        broken, alert = record[:-1] + bytes((record[-1] ^ 1,)), "bad_record_mac"
    elif kind == "truncated":
        broken, alert = record[:3] + (len(record) - 6).to_bytes(2, "big") + record[5:-1], "bad_record_mac"
    elif kind == "oversized":
        broken, alert = record[:3] + b"\x48\x00" + record[5:], "record_overflow"
    else:
        broken, alert = record[:3] + b"\x00\x00", "bad_record_mac"
    hand.send(broken)
    hand.peer.recv(100)
    hand.peer.close()
    hand.reactor.turn()
    reason, detail = hand.ended
    assert reason == "protocol_error"
    assert f"({alert})" in detail
    assert hand.journal.bindings[0].received == b""


def test_close_notify_both_ways():
    hand = Hand().shake_hands()
    hand.device.close()
    hand.send()
    hand.receive()
    assert any(type(event) is CloseNotifyReceived for event in hand.events)
    # Nothing may follow it, so the FIN is not waited for.
    assert hand.ended[0] == "peer_closed"
    assert hand.peer.recv(1) == b""


def test_close_notify_in_the_middle_of_much_that_is_unsent():
    """All that was written before leaves first."""
    hand = Hand(write_buffer=1 << 24).shake_hands()
    much = b"x" * (1 << 22)
    hand.connection.write(much)
    assert hand.connection.buffered
    hand.device.close()
    hand.send()
    assert hand.ended is None
    while hand.ended is None:
        hand.receive()
        hand.reactor.turn()
    hand.receive()
    assert hand.plaintext() == much
    assert any(type(event) is CloseNotifyReceived for event in hand.events)
    assert hand.ended[0] == "peer_closed"


def test_a_fin_without_close_notify_is_told_apart():
    hand = Hand().shake_hands()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended[0] == "peer_reset"


def test_a_peer_that_never_reads_is_cut_off():
    hand = Hand(write_buffer=1 << 20).shake_hands()
    while hand.ended is None:
        hand.connection.write(b"x" * 100_000)
    assert hand.ended[0] == "slow_reader"


# ---------------------------------------------------------------------- 0-RTT


def early_hand(early=b"ask", factory=None, **limits):
    hand = Hand(device=device_with(early=early), **limits)
    hand.contexts.tickets.add(IDENTITY)
    hand.connection._factories = {"mmtp/1": factory or EarlyFactory(hand.journal)}
    hand.device.start()
    return hand


def test_early_data_is_answered_in_the_first_flight():
    hand = early_hand()
    hand.turn()
    assert hand.binding.calls == [("early", b"ask", False, True)]
    assert (hand.info.ticket, hand.info.resumed, hand.info.alpn) == (IDENTITY, True, "mmtp/1")
    # the device has sent one flight
    assert hand.plaintext() == b"early:ask"
    assert hand.services.tls.early_accepted == 1
    hand.turn()
    assert hand.binding.calls[1:] == ["completed"]
    assert (hand.info.early, hand.info.ticket, hand.info.resumed) == (False, IDENTITY, True)
    assert type(hand.connection._records) is RecordLayer
    hand.say(b"more")
    hand.receive()
    assert hand.plaintext() == b"early:askmore"
    assert hand.services.tls.resumed == 1


@pytest.mark.parametrize("how", ["close", "retire"])
def test_an_end_that_is_wanted_while_early_data_is_held_comes_after_the_hand_shake(how):
    hand = Hand(device=device_with(early=b"held"))
    hand.contexts.tickets.add(IDENTITY)
    hand.device.start()
    hand.turn()
    assert hand.connection._early.held == [b"held"]
    if how == "retire":
        hand.connection.retire()
    else:
        hand.connection.close(CloseReason.DRAINING)
    assert hand.ended is None
    hand.turn()
    hand.turn()
    assert hand.journal.bindings == []
    assert any(type(event) is CloseNotifyReceived for event in hand.events)
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended[0] == "draining"


def test_what_is_no_exception_ends_the_connection_and_not_the_thread():
    """As a panic of cryptography's is."""

    class Panic(BaseException):
        pass

    class Panicking(Contexts):
        def engine(self):
            raise Panic("as asked")

    hand = Hand(Panicking())
    hand.device.start()
    hand.turn()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("internal", "Panic in the hand-shake")


def test_a_last_step_with_much_to_read_goes_to_the_threads():
    hand = Hand()
    hand.device.start()
    hand.turn()
    hand.device.encrypt(b"x" * SHORT)
    hand.send()
    assert [begun for _, begun in hand.pool.steps] == [True]
    hand.pool.all()
    hand.receive()
    assert hand.plaintext() == b"x" * SHORT


def test_a_replay_is_told_as_one_and_never_completes():
    first = early_hand()
    flight = first.device.to_send()
    first.send(flight)
    first.pool.all()
    second = early_hand(handshake_timeout=2.0)
    second.services.replays = first.guard
    second.device.to_send()
    second.send(flight)
    second.pool.all()
    assert second.binding.calls == [("early", b"ask", True, True)]
    assert second.services.tls.early_refused == {"replay": 1}
    second.reactor.wait(3)
    assert second.ended == ("handshake_timeout", REPLAYED)
    assert second.binding.calls[-1] == ("lost", "handshake_timeout")
    assert "completed" not in second.binding.calls


@pytest.mark.parametrize("how", ["end", "reset"])
def test_the_end_of_a_replay_says_that_it_was_one(how):
    first = early_hand()
    flight = first.device.to_send()
    first.send(flight)
    first.pool.all()
    second = early_hand()
    second.services.replays = first.guard
    second.send(flight)
    second.pool.all()
    for hand in (first, second):
        if how == "end":
            hand.peer.close()
            hand.reactor.turn()
        else:
            hand.connection.connectionLost(Failure(ConnectionLost()))
    assert REPLAYED not in first.ended[1]
    assert second.ended[1].endswith("; " + REPLAYED)


@pytest.mark.parametrize("guard", ["absent", "not ready"])
def test_without_a_register_all_early_data_counts_as_replayed(guard):
    hand = early_hand()
    if guard == "absent":
        hand.services.replays = None
    else:
        hand.guard.is_ready = False
    hand.turn()
    assert hand.binding.calls == [("early", b"ask", True, True)]
    assert hand.services.tls.early_refused == {"not_ready": 1}
    hand.turn()
    assert hand.binding.calls[1:] == ["completed"]


@pytest.mark.parametrize("factory", ["ordinary", "unwilling"])
def test_early_data_is_held_for_bindings_that_do_not_take_it(factory):
    hand = early_hand(b"first ")
    hand.connection._factories = {
        "mmtp/1": (lambda connection: Echo(connection, hand.journal))
        if factory == "ordinary"
        else EarlyFactory(hand.journal, takes=False)
    }
    hand.turn()
    assert hand.journal.bindings == []
    assert hand.guard.seen == set()
    hand.device.encrypt(b"second")
    hand.turn()
    assert hand.binding.received == b"first second"
    hand.receive()
    assert hand.plaintext() == b"first second"


def test_what_is_written_while_a_step_runs_follows_it():
    hand = early_hand()
    hand.send()
    hand.pool.run()
    hand.pool.tell()
    hand.receive()
    hand.send()
    # the step with the client's Finished runs
    hand.connection.write(b" one")
    hand.connection.write(b" two")
    hand.pool.all()
    hand.receive()
    assert hand.plaintext() == b"early:ask one two"


def test_what_is_written_before_the_end_of_the_hand_shake_is_bounded():
    hand = early_hand(write_buffer=10_000)
    hand.turn()
    hand.send()
    hand.connection.write(b"x" * 9_000)
    assert hand.ended is None
    hand.connection.write(b"x" * 2_000)
    assert hand.ended[0] == "slow_reader"
    hand.pool.all()


def test_close_before_the_end_of_the_hand_shake_waits_for_it():
    class OneAnswer(EarlyEcho):
        def early_data_received(self, data, replayed):
            super().early_data_received(data, replayed)
            self.connection.close(CloseReason.FINISHED, "one is enough")
            self.connection.write(b"too late")

    hand = early_hand()
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, OneAnswer)}
    hand.turn()
    assert hand.ended is None
    assert hand.plaintext() == b"early:ask"
    hand.turn()
    hand.receive()
    assert any(type(event) is CloseNotifyReceived for event in hand.events)
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended == ("finished", "one is enough")
    assert "completed" not in hand.binding.calls


def test_the_time_of_the_hand_shake_rules_until_it_is_complete():
    class Settled(EarlyEcho):
        def early_data_received(self, data, replayed):
            self.connection.established()
            self.connection.set_idle(0)

    hand = early_hand(handshake_timeout=3.0, hello_timeout=1.0)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, Settled)}
    hand.turn()
    hand.reactor.wait(2)
    assert hand.ended is None
    hand.reactor.wait(2)
    assert hand.ended[0] == "handshake_timeout"


def test_what_the_binding_set_holds_after_the_hand_shake():
    class Settled(EarlyEcho):
        def early_data_received(self, data, replayed):
            self.connection.set_idle(100)

    hand = early_hand(handshake_timeout=3.0, hello_timeout=1.0)
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, Settled)}
    hand.turn()
    hand.turn()
    hand.reactor.wait(90)
    assert hand.ended is None
    hand.reactor.wait(20)
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended[0] == "idle"


def test_a_binding_that_raises_at_early_data():
    class Broken(EarlyEcho):
        def early_data_received(self, data, replayed):
            raise ValueError("as asked")

    hand = early_hand()
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal, Broken)}
    hand.turn()
    hand.peer.close()
    hand.reactor.turn()
    assert hand.ended[0] == "internal"


def test_early_data_that_openssl_takes_none_of_is_counted():
    hand = Hand(contexts=Contexts(find_psk=lambda identity: None), device=device_with(early=b"ask"))
    hand.connection._factories = {"mmtp/1": EarlyFactory(hand.journal)}
    hand.shake_hands()
    assert hand.services.tls.early_refused == {"ticket": 1}
    assert hand.binding.calls == []
    completed = next(event for event in hand.events if type(event) is HandshakeCompleted)
    assert (completed.early, completed.resumed) == ("refused", False)
    assert hand.services.tls.full == 1
