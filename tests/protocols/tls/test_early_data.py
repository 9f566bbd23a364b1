"""Early data and external pre-shared keys, engine against engine: accepted, refused, answered, replayed."""

from __future__ import annotations

import contextlib
import dataclasses
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.tls.engine import EarlyDataReceived, HandshakeCompleted, HandshakeRefused, PlaintextReceived
from protocols.tls.handshake_notes import CLIENT_EARLY, MAX_LOOKUPS
from protocols.tls.psk import ExternalPsk
from tests.protocols.tls.minimal_handshake import MinimalClient, Offer
from tests.protocols.tls.tls_links import (
    IDENTITY,
    PSK,
    Issuer,
    Link,
    client,
    completed,
    early,
    keys,
    localhost,
    plaintext,
    records,
    server,
)

SERVER = server()
CLIENT = client()


def link(gateway=SERVER, device=CLIENT, psk=PSK, data=b"", step=1 << 20):
    one = device.engine("localhost", psk=psk)
    if data:
        one.early(data)
    return Link(one, gateway.engine(), step)


def test_a_full_handshake_shows_the_verified_chain():
    both = link(psk=None).run()
    seen = completed(both.device_events)
    assert seen.peer_chain[0] == seen.peer_certificate and len(seen.peer_chain) == 2
    assert (seen.resumed, seen.psk_identity, seen.early, seen.group.lower()) == (False, b"", "", "x25519")
    ours = completed(both.gateway_events)
    assert (ours.alpn, ours.server_name, ours.resumed, ours.early) == ("mmtp/1", "localhost", False, "")


def test_a_key_resumes_without_a_certificate_and_both_sides_know_which():
    both = link().run()
    for seen in (completed(both.device_events), completed(both.gateway_events)):
        assert (seen.resumed, seen.psk_identity, seen.early) == (True, IDENTITY, "")
        assert not seen.peer_certificate and not seen.peer_chain
        assert (seen.version, seen.alpn, seen.group.lower()) == ("TLSv1.3", "mmtp/1", "x25519")


def test_early_data_is_answered_in_the_first_flight_of_the_server():
    both = link(data=b"a call")
    both.device.start()
    both.to_gateway()
    (event,) = both.gateway_events
    assert event == EarlyDataReceived(b"a call", IDENTITY, event.client_random, "mmtp/1", "localhost")
    assert len(event.client_random) == 32
    both.gateway.encrypt(b"its answer")
    both.to_device()
    assert both.flights == 1
    assert [type(event) for event in both.device_events] == [HandshakeCompleted, PlaintextReceived]
    assert plaintext(both.device_events) == b"its answer"
    assert completed(both.device_events).early == "accepted"
    both.run()
    assert completed(both.gateway_events).early == "accepted"
    both.device.encrypt(b"more")
    both.gateway.encrypt(b"and more")
    both.run()
    assert plaintext(both.gateway_events) == b"more"
    assert plaintext(both.device_events) == b"its answerand more"


@pytest.mark.parametrize("size", [1, 5000, 16384])
def test_early_data_a_byte_at_a_time(size):
    data = os.urandom(size)
    both = link(data=data, step=1 if size == 1 else 777).run()
    assert early(both.gateway_events) == data
    assert completed(both.gateway_events).early == "accepted"


def test_early_data_that_comes_with_the_last_flight():
    both = link(data=b"a call")
    both.device.start()
    flight = both.device.to_send()
    hello = records(flight)[0]
    both.gateway.feed(hello)
    assert both.gateway.events() == []
    both.device.feed(both.gateway.to_send())
    both.gateway.feed(flight[len(hello) :] + both.device.to_send())
    told, seen = both.gateway.events()
    assert (told.data, told.identity) == (b"a call", IDENTITY)
    assert (seen.early, seen.psk_identity) == ("accepted", IDENTITY)


def test_an_answer_to_early_data_of_many_records():
    both = link(data=b"much, please")
    both.device.start()
    both.to_gateway()
    answer = os.urandom(100_000)
    both.gateway.encrypt(answer)
    both.run()
    assert plaintext(both.device_events) == answer


def test_nothing_is_encrypted_before_the_first_early_data():
    engine = SERVER.engine()
    with pytest.raises(LocalError):
        engine.encrypt(b"too early")
    device = CLIENT.engine(psk=PSK)
    device.start()
    engine.feed(device.to_send())  # no early data in it
    with pytest.raises(LocalError):
        engine.encrypt(b"too early")


def test_no_more_early_data_than_the_key_allows():
    device = CLIENT.engine(psk=dataclasses.replace(PSK, max_early_data=10))
    device.early(b"12345")
    with pytest.raises(LocalError, match="at most 10"):
        device.early(b"678901")
    with pytest.raises(LocalError):
        CLIENT.engine().early(b"without a key")
    with pytest.raises(LocalError):
        SERVER.engine().early(b"of a server")


def refused(both, resumed, told="refused"):
    """The hand-shake went through, early data did not, and data flows."""
    both.run()
    for seen, early_status in ((completed(both.device_events), "refused"), (completed(both.gateway_events), told)):
        assert (seen.early, seen.resumed) == (early_status, resumed)
    assert not early(both.gateway_events)
    both.device.encrypt(b"again")
    both.gateway.encrypt(b"answer")
    both.run()
    assert plaintext(both.gateway_events) == b"again"
    assert plaintext(both.device_events) == b"answer"
    return both


@pytest.mark.parametrize("step", [1 << 20, 13])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"find_psk": keys()}, id="unknown identity"),
        pytest.param({"find_psk": None}, id="no keys at all"),
        pytest.param({"find_psk": keys(), "ticket_early_data": True}, id="unknown, tickets taken"),
    ],
)
def test_an_identity_that_is_not_known_ends_in_a_full_handshake(options, step):
    both = refused(link(server(**options), data=b"x" * 3000, step=step), resumed=False)
    assert completed(both.device_events).peer_chain
    assert completed(both.gateway_events).psk_identity == b""


def test_early_data_under_a_key_of_a_suite_that_is_not_offered():
    refused(link(device=client(suites=b"TLS_AES_256_GCM_SHA384"), data=b"early"), resumed=False)


@pytest.mark.parametrize("step", [1 << 20, 13])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"find_psk": keys(dataclasses.replace(PSK, max_early_data=0))}, id="the key allows none"),
        pytest.param({"find_psk": keys(dataclasses.replace(PSK, alpn="mmtp/2"))}, id="of another protocol"),
        pytest.param({"groups": ["P-256"]}, id="after a HelloRetryRequest"),
    ],
)
def test_early_data_is_refused_and_the_key_still_serves(options, step):
    both = refused(link(server(**options), data=b"x" * 3000, step=step), resumed=True)
    assert completed(both.gateway_events).psk_identity == IDENTITY


def test_a_server_that_takes_no_early_data_does_not_look_for_it():
    refused(link(server(max_early_data=0), data=b"x" * 3000), resumed=True, told="")
    refused(link(server(max_early_data=0, find_psk=None), data=b"x" * 3000), resumed=False, told="")


def test_a_hello_retry_request_costs_one_flight_more():
    plain, retried = link(psk=None).run(), link(server(groups=["P-256"]), psk=None).run()
    assert retried.flights == plain.flights + 1
    assert completed(retried.gateway_events).group.lower() in {"p-256", "secp256r1", "prime256v1"}


def test_more_early_data_than_the_server_takes_ends_the_connection():
    both = link(server(max_early_data=100), data=bytes(101))
    with pytest.raises(RemoteError):
        both.run()
    assert not early(both.gateway_events)


def test_a_wrong_key_fails_at_the_binder():
    both = link(data=b"never seen", psk=dataclasses.replace(PSK, key=b"z" * 32))
    with pytest.raises(RemoteError, match="binder"):
        both.run()
    assert both.gateway_events == []
    with pytest.raises(RemoteError):
        both.to_device()
    assert both.device_events == []


@pytest.mark.parametrize("data", [b"", b"early"])
def test_a_server_without_the_key_still_has_to_show_a_good_certificate(data):
    """The fallback to a full hand-shake is not a way around the certificate."""
    impostor = server(certificates=[Issuer("impostor").issue()], find_psk=keys())
    both = link(impostor, data=data)
    with pytest.raises(RemoteError, match="certificate verify failed"):
        both.run()
    assert both.device_events == []
    with pytest.raises(LocalError):
        both.device.encrypt(b"no")


@pytest.mark.parametrize("data", [b"", b"early"])
def test_a_look_up_that_fails_ends_the_handshake_and_no_more(data):
    def find(identity):
        raise KeyError("the store is closed")

    both = link(server(find_psk=find), data=data)
    with pytest.raises(RemoteError) as refusal:
        both.run()
    assert refusal.value.code == 80
    assert isinstance(refusal.value.__cause__, KeyError)
    assert both.gateway_events == []
    with pytest.raises(RemoteError, match="internal error"):
        both.to_device()


def test_a_key_log_that_fails_ends_the_handshake():
    def log(line):
        raise OSError("disk full")

    with pytest.raises(RemoteError):
        link(server(key_log=log)).run()


def test_the_key_log_has_the_secrets_of_its_own_connections():
    lines = {"client": [], "server": []}
    gateway, device = server(key_log=lines["server"].append), client(key_log=lines["client"].append)
    both = link(gateway, device, data=b"early").run()
    assert {line.split()[0] for line in lines["server"]} >= {
        b"CLIENT_EARLY_TRAFFIC_SECRET",
        b"CLIENT_TRAFFIC_SECRET_0",
        b"SERVER_TRAFFIC_SECRET_0",
        b"EXPORTER_SECRET",
    }
    assert set(lines["server"]) == set(lines["client"])
    (random,) = {line.split()[1] for line in lines["server"]}
    assert random.decode() == both.gateway_events[0].client_random.hex()


def test_a_replayed_first_flight_can_be_told_by_its_random():
    device = CLIENT.engine("localhost", psk=PSK)
    device.early(b"pay once")
    device.start()
    flight = device.to_send()
    seen = []
    for _ in range(3):
        gateway = SERVER.engine()
        gateway.feed(flight)
        (event,) = gateway.events()
        seen.append((event.identity, event.client_random))
        assert not gateway.handshaken
    assert len(set(seen)) == 1
    other = Link(CLIENT.engine("localhost", psk=PSK), SERVER.engine())
    other.device.early(b"pay once")
    other.run()
    assert other.gateway_events[0].client_random != seen[0][1]


def test_a_changed_random_does_not_pass_the_binder():
    device = CLIENT.engine("localhost", psk=PSK)
    device.early(b"pay once")
    device.start()
    flight = bytearray(device.to_send())
    flight[11] ^= 1  # in client_random
    gateway = SERVER.engine()
    with pytest.raises(RemoteError, match="binder"):
        gateway.feed(bytes(flight))
    assert [type(event) for event in gateway.events()] == [HandshakeRefused]


def test_what_came_before_a_damaged_early_record_is_still_told():
    device = CLIENT.engine("localhost", psk=PSK)
    device.early(b"a" * 16000 + b"b" * 384)
    device.start()
    flight = device.to_send()
    hello = len(records(flight)[0])
    gateway = SERVER.engine()
    damaged = bytearray(flight)
    damaged[-1] ^= 1
    with pytest.raises(RemoteError):
        gateway.feed(bytes(damaged))
    assert len(early(gateway.events())) < 16384
    assert hello < 600
    for again in (b"more", flight):
        with pytest.raises(RemoteError):
            gateway.feed(again)


@pytest.mark.parametrize("suites", [b"TLS_AES_256_GCM_SHA384", b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"])
def test_a_key_of_another_hash_ends_in_a_full_handshake(suites):
    """OpenSSL follows the client's order of suites, and a key of SHA-256 does not fit SHA-384."""
    gateway, device = SERVER, client(suites=suites)
    both = link(gateway, device)
    both.run()
    for seen in (completed(both.device_events), completed(both.gateway_events)):
        assert (seen.resumed, seen.psk_identity) == (False, b"")


def shake_by_hand(gateway, *offers):
    """HandshakeCompleted of a hand-made client with these offers, and that client."""
    engine, hand = gateway.engine(), MinimalClient(offers=offers)
    engine.feed(hand.start())
    engine.feed(hand.answer(engine.to_send()))
    return completed(engine.events()), hand, records(engine.to_send())


def test_the_identity_told_is_the_one_whose_binder_was_verified():
    """An identity that is only mentioned, before one's own key or ticket, is nobody's."""
    victim = ExternalPsk(b"victim", b"v" * 48, 16384, "mmtp/1", suite=0x1302)
    own = ExternalPsk(b"own", b"o" * 32, 0, "mmtp/1")
    gateway = server(find_psk=keys(victim, own))
    mentioned = Offer(b"victim", b"", binder_size=48)
    seen, _, _ = shake_by_hand(gateway, Offer(b"own", own.key))
    assert (seen.resumed, seen.psk_identity) == (True, b"own")
    seen, _, _ = shake_by_hand(gateway, mentioned, Offer(b"own", own.key))
    assert (seen.resumed, seen.psk_identity) == (True, b"own")
    seen, hand, tickets = shake_by_hand(gateway)
    assert not seen.resumed
    ticket = hand.ticket(tickets[0])
    for offers in ((ticket,), (ticket, mentioned), (Offer(b"unknown", b""), ticket)):
        seen, _, _ = shake_by_hand(gateway, *offers)
        assert (seen.resumed, seen.psk_identity) == (True, b"")
    # OpenSSL 4.0.3 takes the ticket's binder for one of an external key then, and refuses; to resume would be as well.
    with contextlib.suppress(RemoteError):
        seen, _, _ = shake_by_hand(gateway, mentioned, ticket)
        assert seen.psk_identity == b""
    seen, _, _ = shake_by_hand(gateway, mentioned, Offer(b"unknown", b""))
    assert (seen.resumed, seen.psk_identity) == (False, b"")
    seen, _, _ = shake_by_hand(gateway, mentioned)
    assert (seen.resumed, seen.psk_identity) == (False, b"")
    with pytest.raises(RemoteError, match="binder"):
        shake_by_hand(gateway, Offer(b"own", b"false"), ticket)


@pytest.mark.parametrize(("late", "accepted"), [(0, True), (60_000, False)])
def test_openssl_takes_no_early_data_under_a_ticket_of_another_age(late, accepted):
    """It stands for the freshness of tickets of TLS itself, which whoever strikes them cannot see."""
    lines = []
    gateway = server(ticket_early_data=True, key_log=lines.append)
    _, hand, tickets = shake_by_hand(gateway)
    ticket = hand.ticket(tickets[0])
    ticket.age = (ticket.age + late) % (1 << 32)
    engine = gateway.engine(detachable=True)
    engine.feed(MinimalClient(offers=[ticket], early=True).start())
    # A server makes this secret when it accepts, and only then.
    assert any(line.startswith(CLIENT_EARLY) for line in lines) == accepted


def test_a_hello_of_many_identities_costs_few_look_ups():
    asked = []

    def find(identity):
        asked.append(identity)

    offers = [Offer(b"%d" % number, b"") for number in range(100)]
    seen, _, _ = shake_by_hand(server(find_psk=find), *offers)
    assert not seen.resumed
    assert asked == [b"%d" % number for number in range(MAX_LOOKUPS)]


def test_keys_of_sha384_work_too():
    psk = ExternalPsk(b"long", b"k" * 48, 1000, "mmtp/1", suite=0x1302)
    both = link(server(find_psk=keys(psk)), client(suites=b"TLS_AES_256_GCM_SHA384"), psk, b"early").run()
    assert early(both.gateway_events) == b"early"
    assert completed(both.gateway_events).cipher == "TLS_AES_256_GCM_SHA384"


def test_a_listener_of_required_certificates_takes_a_key_instead():
    from protocols.tls.server_context import ClientVerification
    from tests.protocols.tls.tls_links import issuer

    gateway = server(clients=ClientVerification("require", issuer().pem), tickets=False)
    with pytest.raises(RemoteError) as refusal:
        link(gateway, psk=None).run()
    assert refusal.value.code == 116
    mine = issuer().issue("phone-1")
    both = link(gateway, client(chain=mine.chain, key=mine.key), psk=None).run()
    seen = completed(both.gateway_events)
    assert seen.peer_certificate == seen.peer_chain[0] and len(seen.peer_chain) == 2
    both = link(gateway, data=b"early").run()
    assert early(both.gateway_events) == b"early"
    seen = completed(both.gateway_events)
    assert seen.resumed and not seen.peer_certificate


def test_a_key_for_a_protocol_that_is_not_offered_is_refused_at_once():
    with pytest.raises(ValueError, match="mmtp/9"):
        CLIENT.engine(psk=dataclasses.replace(PSK, alpn="mmtp/9"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"identity": b""},
        {"identity": bytes(257)},
        {"key": b""},
        {"key": bytes(65)},
        {"max_early_data": -1},
        {"max_early_data": 16385},
    ],
)
def test_keys_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(PSK, **wrong)


def test_a_key_is_not_shown():
    assert "kkkk" not in repr(PSK)
    assert "BEGIN" not in repr(localhost())[repr(localhost()).index("chain=") + 60 :].replace("BEGIN CERTIFICATE", "")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_first_flights_raise_only_remote_error(data):
    device = CLIENT.engine("localhost", psk=PSK)
    device.early(b"early data")
    device.start()
    flight = bytearray(device.to_send())
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(flight) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        flight[at] = value
    gateway = SERVER.engine(detachable=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(flight)))
    seen = []
    for part in (flight[:cut], flight[cut:]):
        try:
            gateway.feed(bytes(part))
        except RemoteError as error:
            assert 0 <= error.code <= 255
        seen += gateway.events()
        gateway.to_send()
    assert not gateway.handshaken
    assert early(seen) in {b"", b"early data"}
    assert gateway.detach() is None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_bytes_after_early_data_raise_only_remote_error(data):
    """EndOfEarlyData and Finished, with bytes changed."""
    both = link(data=b"early")
    both.gateway = SERVER.engine(detachable=True)
    both.device.start()
    both.to_gateway()
    both.gateway.encrypt(b"answer")
    both.to_device()
    flight = bytearray(both.device.to_send())
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(flight) - 1), st.integers(1, 255)), min_size=1, max_size=4)
    ):
        flight[at] ^= value
    refused = []
    try:
        both.gateway.feed(bytes(flight))
    except RemoteError as error:
        assert 0 <= error.code <= 255
        refused = [HandshakeRefused]
    both.gateway.to_send()
    told = both.gateway.events()
    if both.gateway.handshaken:  # what was changed was changed back
        assert completed(told)
    else:
        assert [type(event) for event in told] == refused
        assert both.gateway.detach() is None
