"""Hand-shakes with services that do not come to their end, under a fake reactor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from OpenSSL import SSL
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.model.route_settings import HealthCheckSettings, UpstreamTlsSettings
from accessgw.policy.reasons_told import TELL_AGAIN
from tests.crypto.authority import Authority
from tests.upstreams.handshakes_by_hand import ByHand
from tests.upstreams.tls_wire import OK, Server
from tests.upstreams.upstream_fakes import Net, Wire


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def net(authority: Authority, **more: Any) -> Net:
    settings = {"connect_timeout": 2.0, "tls": UpstreamTlsSettings(ca=authority.file), **more}
    return Net("https://10.0.0.1:443", **settings)


def test_a_request_leaves_only_after_the_server_has_proved_who_it_is(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("GET")
    wire = house.accept()
    server = Server(authority, wire)
    assert b"GET" not in wire.value()
    assert server.turn() == b""
    assert server.turn().startswith(b"GET /p HTTP/1.1")
    server.say(OK)
    assert sink.complete and sink.body == b"ok"
    _, again = house.ask("GET")
    assert server.turn().startswith(b"GET /p"), "the connection is kept"
    server.say(OK)
    assert again.complete and not house.connecting


def test_a_silent_server_is_given_up_after_connect_timeout(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("GET", retries=0)
    wires = []
    for _ in range(4):
        if house.connecting:
            wires.append(house.accept())
        house.clock.advance(2.0)
    assert sink.failure is not None
    assert (sink.failure.kind, sink.failure.executed) == ("connect", False)
    assert sink.failure.message == "TLS: no hand-shake within 2 s"
    assert all(wire.closed == "abort" for wire in wires)
    assert house.upstreams.snapshot()[0]["connections"] == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "handshake failure"),
        (b"\x16\x03\x03\xff\xff" + bytes(40), "length"),
    ],
)
def test_what_is_no_hand_shake_is_a_failure_to_connect(authority: Authority, answer: bytes, words: str) -> None:
    house = net(authority)
    _, sink = house.ask("GET", retries=0)
    house.accept().answer(answer)
    assert sink.failure is not None and sink.failure.kind == "connect"
    assert words in sink.failure.message, sink.failure.message
    house.clock.advance(0)
    assert house.upstreams.snapshot()[0]["connections"] == 0


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the log says of upstreams."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        line = formatEvent(event)
        if line.startswith("upstream "):
            lines.append(line)

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def wants_a_certificate(authority: Authority, wire: Wire) -> None:
    """A server that refuses us over TLS 1.3, so after our end of the hand-shake."""
    server = Server(authority, wire)
    server.connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    assert server.turn() == b""
    with pytest.raises(SSL.Error):
        server.turn()
    server.flush()


def test_each_reason_for_which_tls_refuses_is_one_line_of_the_log(authority: Authority, told: list[str]) -> None:
    house = net(authority)
    for _ in range(2):
        for alert in (40, 70):
            house.ask("GET", retries=0)
            house.accept().answer(b"\x15\x03\x03\x00\x02\x02" + bytes([alert]))
            house.clock.advance(60.0)
    for line, words in zip(told, ("handshake failure", "protocol version"), strict=True):
        assert "10.0.0.1:443: TLS: " in line and words in line
        assert line.count("TLS") == 1, "who tells names it, and what went wrong does not once more"


def test_a_refusal_of_our_certificate_is_logged_until_it_is_mended(authority: Authority, told: list[str]) -> None:
    house = net(authority)

    def refused() -> str:
        _, sink = house.ask("GET", retries=0)
        wants_a_certificate(authority, house.accept())
        assert sink.failure is not None
        return sink.failure.message

    why = refused()
    assert why.startswith("TLS: the server does not accept our certificate: ") and why.count("TLS") == 1
    assert told == [f"upstream c, 10.0.0.1:443: {why}"]
    assert refused() == why and len(told) == 1, "once"
    assert house.upstreams.snapshot()[0]["error"] == why
    _, sink = house.ask("GET")
    server = Server(authority, house.accept())
    server.turn()
    server.turn()
    server.say(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert sink.complete
    assert house.upstreams.snapshot()[0]["error"] == ""
    house.clock.advance(TELL_AGAIN)
    assert refused() == why
    assert told[1:] == ["upstream c, 10.0.0.1:443: connections work again", told[0]]


def test_a_connection_that_was_verified_for_another_name_is_not_used_again(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("GET")
    wire = house.accept()
    server = Server(authority, wire)
    server.turn()
    server.turn()
    server.say(OK)
    assert sink.complete and house.upstreams.snapshot()[0]["idle"] == 1
    house.upstreams.reconfigure([replace(house.settings, dns="https://pay.example")])
    assert wire.closed
    assert house.upstreams.snapshot()[0]["idle"] == 0


def test_a_check_that_tls_refuses_is_logged(authority: Authority, told: list[str]) -> None:
    house = net(authority, health=HealthCheckSettings(path="/health", interval=1.0, timeout=0.5))
    house.upstreams.start()
    for _ in range(2):
        house.clock.advance(1.1)
        wants_a_certificate(authority, house.accept())
    (line,) = told
    assert line.startswith("upstream c, 10.0.0.1:443: TLS: the server does not accept our certificate: ")


@pytest.mark.parametrize("end", ["end", "reset"])
def test_an_end_in_the_hand_shake_is_a_failure_to_connect(authority: Authority, end: str) -> None:
    house = net(authority)
    _, sink = house.ask("GET", retries=0)
    getattr(house.accept(), end)()
    assert sink.failure is not None and sink.failure.kind == "connect"
    assert "ended in the hand-shake" in sink.failure.message


@pytest.mark.parametrize("name", ["backend..example", "x" * 70, "a\0b", "."])
def test_a_name_that_is_none_is_a_failure_to_connect(authority: Authority, name: str) -> None:
    house = net(authority, tls=UpstreamTlsSettings(ca=authority.file, server_name=name), max_connections=1)
    for _ in range(3):
        _, sink = house.ask("GET", retries=0)
        house.turn()
        assert sink.kind == "connect" and sink.failure is not None
        assert sink.failure.message == f"TLS: expected the name or address of a server, got {name!r}"
    assert house.upstreams.snapshot()[0]["connections"] == 0


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("backend.example.", "backend.example"), ("bücher.example", "xn--bcher-kva.example"), ("10.0.0.1", "10.0.0.1")],
)
def test_a_name_is_compared_as_certificates_have_it(authority: Authority, asked: str, shown: str) -> None:
    house = net(authority, tls=UpstreamTlsSettings(ca=authority.file, server_name=asked))
    _, sink = house.ask("GET", retries=0)
    server = Server(authority, house.accept(), name=shown)
    server.turn()
    assert server.turn().startswith(b"GET /p"), sink.failure
    named = server.connection.get_servername()
    assert named == (None if shown[0].isdigit() else shown.encode())


def test_it_may_be_stopped_in_the_hand_shake(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("GET")
    wire = house.accept()
    house.upstreams.stop()
    house.clock.advance(0)
    assert sink.kind == "cancelled" and wire.closed == "abort"
    assert not [call for call in house.clock.getDelayedCalls() if call.time > house.clock.seconds() + 0.1]


def test_an_end_without_close_notify_cuts_an_answer_off(authority: Authority) -> None:
    for ending, complete in ((True, True), (False, False)):
        house = net(authority)
        _, sink = house.ask("GET", retries=0)
        wire = house.accept()
        server = Server(authority, wire)
        server.turn()
        server.turn()
        server.say(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall")
        if ending:
            server.connection.shutdown()
            server.flush()
            house.clock.advance(0)
        else:
            wire.end()
        assert sink.body == b"all"
        assert sink.complete is complete
        assert sink.kind == ("" if complete else "reset")


def test_a_broken_record_ends_the_connection(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("GET", retries=0)
    wire = house.accept()
    server = Server(authority, wire)
    server.turn()
    server.turn()
    wire.answer(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert sink.kind == "reset" and "bad record mac" in sink.failure.message.lower()
    assert wire.closed == "abort"


@pytest.mark.parametrize("end", ["close_notify", "no record"])
def test_nothing_is_asked_on_a_connection_whose_end_has_come_with_an_answer(authority: Authority, end: str) -> None:
    house = net(authority, max_connections=1)
    _, sink = house.ask()
    wire = house.accept()
    server = Server(authority, wire)
    server.turn()
    assert server.turn().startswith(b"POST /p")
    _, waiting = house.ask()
    server.connection.send(OK)
    if end == "close_notify":
        server.connection.shutdown()
    behind = b"" if end == "close_notify" else b"\x17\x03\x03\x00\x20" + bytes(32)
    wire.answer(server.connection.bio_read(65536) + behind)
    house.turn()
    assert sink.complete and waiting.failure is None
    second = Server(authority, house.accept())
    second.turn()
    assert second.turn().startswith(b"POST /p")
    second.say(OK)
    assert waiting.complete and waiting.attempts == 1


def test_a_slow_kernel_gets_the_rest_later(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask("POST", b"x" * 200_000)
    wire = house.accept()
    server = Server(authority, wire)
    wire.room = 1000
    server.turn()
    received = server.turn()
    assert wire.waiting
    while wire.waiting or wire.value():
        wire.drain()
        received += server.turn()
        while True:
            try:
                received += server.connection.recv(65536)
            except SSL.WantReadError:
                break
    assert received.endswith(b"x" * 200_000)
    server.say(OK)
    assert sink.complete


@pytest.mark.parametrize("when", ["idle", "in use", "in the hand-shake", "its server has answered"])
def test_other_settings_of_tls_are_those_of_the_next_call(tmp_path: Path, when: str) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    hands = ByHand()
    house = net(before, handshakes=hands)
    _, sink = house.ask("GET")
    server = Server(before, house.accept())
    server.turn()

    def reload() -> None:
        house.upstreams.reconfigure([replace(house.settings, tls=UpstreamTlsSettings(ca=after.file))])

    if when == "in the hand-shake":
        reload()
    hands.run()
    if when == "its server has answered":
        reload()
    hands.tell()
    assert server.turn().startswith(b"GET /p"), "what was begun before is not lost"
    if when == "in use":
        reload()
    server.say(OK)
    assert sink.complete
    if when == "idle":
        reload()
    _, next_one = house.ask("GET", retries=0)
    house.turn()
    assert house.connecting == 1
    Server(before, house.accept()).turn()
    hands.all()
    assert next_one.failure is not None and "certificate verify failed" in next_one.failure.message


def test_a_server_that_leaves_with_its_last_flight_has_not_been_asked(authority: Authority) -> None:
    house = net(authority)
    _, sink = house.ask(retries=0)
    wire = house.accept()
    server = Server(authority, wire, newest=SSL.TLS1_2_VERSION)
    server.turn()
    server.connection.bio_write(wire.taken())
    server.connection.do_handshake()
    server.connection.shutdown()
    server.flush()
    house.turn()
    assert wire.value() == b"", "nothing is sent to somebody who has gone"
    assert sink.kind == "connect" and sink.failure is not None and not sink.failure.executed
    assert sink.failure.message == "TLS: the server has ended the connection"
    assert house.upstreams.snapshot()[0]["connections"] == 0
