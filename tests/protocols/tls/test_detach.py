"""Leaving OpenSSL: every record of a connection, before and after, has a sequence number of its own."""

from __future__ import annotations

import dataclasses
import gc
import os
import weakref

import pytest
from OpenSSL import SSL

from protocols.errors import LocalError, RemoteError
from protocols.tls.detaching import RecordCount
from protocols.tls.engine import CloseNotifyReceived, HandshakeCompleted, HandshakeRefused, PlaintextReceived
from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME, traffic_keys
from protocols.tls.record_protection import Opener, Sealer
from protocols.tls.records import RecordLayer
from tests.protocols.tls.minimal_handshake import MinimalClient
from tests.protocols.tls.tls_links import PSK, Link, Moved, client, completed, keys, plaintext, records, server

SUITES_OF_OPENSSL = sorted(SUITES_BY_NAME)


class Observed:
    """A link of which the keys are known, so that all that was sent can be opened."""

    def __init__(self, gateway=None, suite="TLS_AES_128_GCM_SHA256", early=b"", psk=None, moving=()):
        self.secrets = {}
        self.suite = SUITES_BY_NAME[suite]
        watched = client(suites=suite.encode(), key_log=self._note)
        one = watched.engine("localhost", psk=psk, detachable=True)
        if early:
            one.early(early)
        self.link = Link(one, server(**gateway or {}).engine(detachable=True), moving=moving)

    def _note(self, line):
        label, _, secret = line.split()
        self.secrets[label.decode()] = bytes.fromhex(secret.decode())

    def _open(self, label, data, sequence):
        secret = self.secrets[label]
        opener = Opener(self.suite.id, secret, *traffic_keys(self.suite, secret), sequence)
        _, _, kind, content = opener.open(data, 0, True)
        return kind, content

    def application(self, data, side):
        """Content types of all records of `side` under its application key; each must be at its own number."""
        hello = True
        kinds, handshake, early = [], 0, 0
        for record in records(data):
            if record[0] != 23:
                continue
            if hello and "CLIENT_EARLY_TRAFFIC_SECRET" in self.secrets and side == "CLIENT":
                kind, content = self._open("CLIENT_EARLY_TRAFFIC_SECRET", record, early)
                if kind > 0:
                    early += 1
                    continue
            if hello:
                kind, content = self._open(f"{side}_HANDSHAKE_TRAFFIC_SECRET", record, handshake)
                if kind > 0:
                    handshake += 1
                    hello = content[0] != 20  # Finished
                    continue
            kind, content = self._open(f"{side}_TRAFFIC_SECRET_0", record, len(kinds))
            assert kind > 0, f"record {len(kinds)} of the {side.lower()} is not at its number"
            kinds.append(kind)
        return kinds


MOVING = [("gateway",), ("device",), ("gateway", "device")]
ANSWERS = [
    pytest.param([], id="no answer"),
    pytest.param([b"one record"], id="one record"),
    pytest.param([b"a", b"b" * 40_000, b"c", b"d" * 16384], id="six records"),
]


@pytest.mark.parametrize("suite", SUITES_OF_OPENSSL)
@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("tickets", [True, False])
@pytest.mark.parametrize("moving", MOVING)
def test_no_number_is_used_twice_after_answers_and_a_ticket(answers, suite, tickets, moving, server_engine):
    chosen = SUITES_BY_NAME[suite]
    psk = dataclasses.replace(PSK, key=os.urandom(chosen.secret_size), suite=chosen.id)
    gateway = {"find_psk": keys(psk), "tickets": tickets}
    seen = Observed(gateway, suite, early=b"call", psk=psk, moving=moving)
    link = seen.link
    link.device.start()
    link.to_gateway()
    for answer in answers:
        link.gateway.encrypt(answer)
    link.run_on()
    # pyOpenSSL has no way to send none.
    told = 1 if tickets or server_engine == "pure" else 0
    count = sum(max(1, -(-len(answer) // 16384)) for answer in answers) + told
    if told or "device" in moving:  # without a ticket, a client that may be detached still holds back what came
        assert plaintext(link.device_events) == b"".join(answers)
    if "gateway" in moving:
        state = link.gateway.state
        assert (state.write_sequence, state.read_sequence, state.is_server) == (count, 0, True)
    if "device" in moving:
        state = link.device.state
        assert (state.write_sequence, state.read_sequence, state.is_server) == (0, 0, False)
    later = [b"pushed", os.urandom(10_000), b"last"]
    for word in later:
        link.gateway.encrypt(word)
        link.device.encrypt(word)
        link.run_on()
    link.gateway.close()
    link.run_on()
    assert seen.application(link.down, "SERVER") == [23] * (count - told) + [22] * told + [23] * 3 + [21]
    assert seen.application(link.up, "CLIENT") == [23] * 3
    assert plaintext(link.device_events) == b"".join([*answers, *later])
    assert plaintext(link.gateway_events) == b"".join(later)


@pytest.mark.parametrize("suite", SUITES_OF_OPENSSL)
@pytest.mark.parametrize("moving", MOVING)
def test_no_number_is_used_twice_after_two_tickets(suite, moving):
    """Never together with answers to early data: a resumed hand-shake gets one ticket at most."""
    seen = Observed(suite=suite, moving=moving)
    link = seen.link.run()
    if "gateway" in moving:
        assert link.gateway.state.write_sequence == 2
    for number in range(3):
        link.gateway.encrypt(b"down %d" % number)
        link.device.encrypt(b"up %d" % number)
        link.run_on()
    assert seen.application(link.down, "SERVER") == [22] * 2 + [23] * 3
    assert seen.application(link.up, "CLIENT") == [23] * 3
    assert plaintext(link.gateway_events) == b"up 0up 1up 2"
    assert plaintext(link.device_events) == b"down 0down 1down 2"


def test_a_client_that_has_sent_before_it_is_detached():
    seen = Observed(moving=("gateway",))
    link = seen.link
    link.device.start()
    link.to_gateway()
    link.to_device()
    assert link.device.handshaken
    link.device.encrypt(b"x" * 20_000)
    state = link.device.detach()
    assert state.write_sequence == 2
    link.device = Moved(link.device, state)
    link.device.encrypt(b"y")
    link.run_on()
    assert seen.application(link.up, "CLIENT") == [23] * 3
    assert plaintext(link.gateway_events) == b"x" * 20_000 + b"y"


def test_a_server_that_has_sent_before_it_is_detached():
    seen = Observed()
    link = seen.link.run()
    link.gateway.encrypt(b"a" * 40_000)
    state = link.gateway.detach()
    assert state.write_sequence == 2 + 3
    link.gateway = Moved(link.gateway, state)
    link.gateway.encrypt(b"b")
    link.run_on()
    assert seen.application(link.down, "SERVER") == [22, 22] + [23] * 4
    assert plaintext(link.device_events) == b"a" * 40_000 + b"b"


def test_what_came_with_the_last_flight_goes_along_unread():
    seen = Observed()
    link = seen.link
    link.device.start()
    link.to_gateway()
    link.to_device()
    link.device.encrypt(b"at once")
    flight = link.device.to_send()
    link.gateway.feed(flight + b"\x17\x03\x03")
    (event,) = link.gateway.events()
    assert isinstance(event, HandshakeCompleted)
    state = link.gateway.detach()
    assert state.unread == records(flight)[-1] + b"\x17\x03\x03"
    gateway = RecordLayer(state)
    gateway.start()
    assert gateway.events() == [PlaintextReceived(b"at once")]


def test_an_engine_that_has_to_stay_tells_what_waited():
    gateway = server(alpn=["http/1.1"], alpn_below_1_3=frozenset({"http/1.1"}), minimum="1.2")
    device = client(alpn=["http/1.1"], minimum="1.2")
    device.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    one, other = device.engine("localhost"), gateway.engine(detachable=True)
    link = Link(one, other)
    link.device.start()
    link.to_gateway()
    link.to_device()
    link.to_gateway()
    assert completed(link.gateway_events).version == "TLSv1.2"
    link.to_device()
    link.device.encrypt(b"a request")
    assert other.detach() is None
    link.to_gateway()
    other.encrypt(b"answer")
    link.to_device()
    assert plaintext(link.gateway_events) == b"a request"
    assert plaintext(link.device_events) == b"answer"
    assert other.detach() is None


def test_after_a_refusal_what_waited_is_told_in_order():
    seen = Observed()
    link = seen.link
    link.device.start()
    link.to_gateway()
    link.to_device()
    link.device.encrypt(b"at once")
    link.device.close()
    link.gateway.feed(link.device.to_send())
    (event,) = link.gateway.events()
    assert isinstance(event, HandshakeCompleted)
    link.gateway._count.add(b"\x17\x03\x03\x00\x01x")  # a record that OpenSSL has not made: the counts disagree
    assert link.gateway.detach() is None
    assert link.gateway.events() == [PlaintextReceived(b"at once"), CloseNotifyReceived()]


def test_feeding_on_instead_of_detaching_is_a_refusal():
    link = Observed().link.run()
    assert not plaintext(link.gateway_events)
    link.device.encrypt(b"hello")
    link.run_on()
    assert plaintext(link.gateway_events) == b"hello"
    assert link.gateway.detach() is None
    link.gateway.encrypt(b"still here")
    link.run_on()


def test_an_engine_that_was_not_made_for_it_does_not_detach():
    link = Link(client().engine("localhost"), server().engine()).run()
    assert link.gateway.detach() is None
    assert link.device.detach() is None
    link.gateway.encrypt(b"still here")
    link.run()
    assert plaintext(link.device_events) == b"still here"


def test_an_engine_that_stays_keeps_no_secrets():
    for detachable in (False, True):
        link = Link(client().engine("localhost"), server().engine(detachable=detachable)).run()
        assert bool(link.gateway._notes.lines) == detachable
        link.device.encrypt(b"hello")
        link.run_on()
        assert plaintext(link.gateway_events) == b"hello"
        assert not link.gateway._notes.lines
        link.device.encrypt(b"more")
        link.gateway.encrypt(b"more")
        link.run_on()
        assert plaintext(link.gateway_events) == b"hellomore"


def test_no_detaching_before_the_handshake_nor_after_the_end():
    link = Observed().link
    assert link.gateway.detach() is None
    link.run()
    link.gateway.close()
    assert link.gateway.detach() is None


def test_a_fin_before_detaching_still_tells_what_had_come():
    link = Observed().link
    link.device.start()
    link.to_gateway()
    link.to_device()
    link.device.encrypt(b"last words")
    link.gateway.feed(link.device.to_send())
    link.gateway.events()
    with pytest.raises(RemoteError, match="without close_notify"):
        link.gateway.feed_eof()
    assert plaintext(link.gateway.events()) == b"last words"
    assert link.gateway.detach() is None


def test_a_detached_engine_is_dead_and_openssl_s_object_is_freed():
    link = Observed().link.run()
    engine = link.gateway
    freed = weakref.ref(engine._connection)
    gc.disable()  # by its last reference, not by the collector
    try:
        assert engine.detach() is not None
        assert freed() is None
    finally:
        gc.enable()
    for act in (lambda: engine.encrypt(b"x"), lambda: engine.feed(b"x")):
        with pytest.raises(LocalError):
            act()
    assert engine.detach() is None
    engine.close()
    assert engine.to_send() == b"" and engine.events() == []


def test_a_suite_that_the_record_layer_does_not_know_stays():
    link = Observed().link
    link.run()
    engine = link.gateway
    name = SUITES_BY_NAME.pop("TLS_AES_128_GCM_SHA256")
    try:
        assert engine.detach() is None
    finally:
        SUITES_BY_NAME[name.name] = name


def test_the_exporter_goes_along():
    link = Observed().link.run()
    expected = link.device._connection.export_keying_material(b"EXPORTER-test", 32, b"context")
    assert RecordLayer(link.gateway.detach()).export_keying_material(b"EXPORTER-test", 32, b"context") == expected


def gateway_and_hand():
    """A server that waits for the Finished of a client made by hand."""
    gateway, hand = server().engine(detachable=True), MinimalClient()
    gateway.feed(hand.start())
    return gateway, hand, hand.answer(gateway.to_send())


def test_a_key_update_right_behind_the_finished_is_left_to_the_record_layer():
    gateway, hand, finished = gateway_and_hand()
    gateway.feed(finished + hand.write.seal(22, b"\x18\0\0\x01\x01"))
    tickets = records(gateway.to_send())
    state = gateway.detach()
    assert (state.write_sequence, state.read_sequence) == (len(tickets), 0) == (2, 0)
    gateway = RecordLayer(state)
    gateway.start()
    (update,) = records(gateway.to_send())
    for record in (*tickets, update):
        kind, content = hand.read.open(record, 0, True)[2:]
        assert kind == 22
    assert content == b"\x18\0\0\x01\0"


def test_a_false_finished_ends_the_handshake():
    gateway, _, finished = gateway_and_hand()
    with pytest.raises(RemoteError):
        gateway.feed(finished[:-1] + bytes([finished[-1] ^ 1]))
    assert [type(event) for event in gateway.events()] == [HandshakeRefused]
    assert gateway.detach() is None


# ------------------------------------------------------------------ the count alone

SUITE = SUITES[0x1303]
OURS, OF_HANDSHAKE = os.urandom(32), os.urandom(32)


def counted(*flights, handshake=2):
    """A count of a flight of the hand-shake and then these, each a list of contents."""
    count = RecordCount()
    first = Sealer(SUITE.id, OF_HANDSHAKE, *traffic_keys(SUITE, OF_HANDSHAKE), 0)
    count.add(b"\x16\x03\x03\x00\x02hi" + b"\x14\x03\x03\x00\x01\x01")
    count.add(b"".join(first.seal(22, b"part") for _ in range(handshake)))
    count.begin()
    then = Sealer(SUITE.id, OURS, *traffic_keys(SUITE, OURS), 0)
    sealed = [b"".join(then.seal(kind, content) for kind, content in flight) for flight in flights]
    return count, sealed


@pytest.mark.parametrize("tickets", [0, 1, 2])
@pytest.mark.parametrize("answers", ANSWERS)
def test_the_count_of_answers_and_tickets(answers, tickets):
    count, sealed = counted([(23, answer) for answer in answers], [(22, b"ticket")] * tickets)
    for flight in sealed:
        count.add(flight)
    total = sum(max(1, -(-len(answer) // 16384)) for answer in answers) + tickets
    assert count.records == total
    assert count.proved(SUITE, OURS, lambda: OF_HANDSHAKE)
    assert not count.proved(SUITE, os.urandom(32), lambda: OF_HANDSHAKE) or not total


def test_a_missed_record_is_noticed_wherever_it_was():
    flights = [[(23, b"answer")], [(22, b"ticket")], [(22, b"ticket")]]
    for missed in range(2):
        count, sealed = counted(*flights)
        for at, flight in enumerate(sealed):
            if at != missed:
                count.add(flight)
        assert count.records == 2
        assert not count.proved(SUITE, OURS, lambda: OF_HANDSHAKE)


def test_a_record_counted_twice_is_noticed():
    count, (flight,) = counted([(22, b"ticket")])
    count.add(flight)
    count.add(flight)
    assert not count.proved(SUITE, OURS, lambda: OF_HANDSHAKE)


def test_application_records_before_the_count_began_are_noticed():
    count = RecordCount()
    sealer = Sealer(SUITE.id, OURS, *traffic_keys(SUITE, OURS), 0)
    count.add(sealer.seal(22, b"ticket"))
    count.begin()
    assert count.records == 0
    assert not count.proved(SUITE, OURS, lambda: OF_HANDSHAKE)


@pytest.mark.parametrize("rest", [b"\x17", b"\x17\x03\x03\x00", b"\x17\x03\x03\x00\x05abcd"])
def test_a_piece_of_a_record_spoils_the_count(rest):
    count, (flight,) = counted([(22, b"ticket")])
    count.add(flight + rest)
    assert not count.proved(SUITE, OURS, lambda: OF_HANDSHAKE)


def test_a_count_that_never_began_proves_nothing():
    assert not RecordCount().proved(SUITE, OURS, lambda: OF_HANDSHAKE)
