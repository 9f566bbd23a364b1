"""Hand-shakes with services in every order of pieces, steps, ends and time-outs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accessgw.model.route_settings import UpstreamTlsSettings
from accessgw.upstreams.tls import ClientTls
from tests.crypto.authority import Authority
from tests.upstreams.handshakes_by_hand import ByHand
from tests.upstreams.tls_wire import OK, Server
from tests.upstreams.upstream_fakes import Net

ORDERS = st.lists(st.sampled_from(["piece", "piece", "run", "tell", "end", "reset", "time", "stop"]), max_size=14)
USED = ("start", "shake", "receive", "keep_session", "to_send", "encrypt", "close", "feed_eof")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(Path(tmp_path_factory.mktemp("authority")), "ca")


def guard(hands: ByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step waits or runs, the reactor's thread leaves the ClientTls alone."""
    reactor = threading.current_thread()
    for name in USED:
        real = getattr(ClientTls, name)

        def used(tls: ClientTls, *given: Any, real: Any = real, name: str = name) -> Any:
            busy = bool(hands.waiting or hands.ran)
            assert not (busy and threading.current_thread() is reactor), f"{name} while a thread has it"
            return real(tls, *given)

        monkeypatch.setattr(ClientTls, name, used)


def pieces_of(net: Net, wire: Any, authority: Authority, count: int) -> tuple[Server, list[bytes]]:
    """The server, and its flight in pieces which have not come yet."""
    server = Server(authority, wire)
    flight: list[bytes] = []
    wire.answer, kept = flight.append, wire.answer
    server.turn()
    wire.answer = kept
    data = b"".join(flight)
    size = -(-len(data) // count)
    return server, [data[at : at + size] for at in range(0, len(data), size)]


@given(order=ORDERS, count=st.integers(1, 4))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_call_has_one_outcome_and_nothing_leaves_unverified(
    authority: Authority, order: list[str], count: int
) -> None:
    hands = ByHand()
    net = Net("https://10.0.0.1:443", connect_timeout=2.0, tls=UpstreamTlsSettings(ca=authority.file), handshakes=hands)
    with pytest.MonkeyPatch.context() as monkeypatch:
        guard(hands, monkeypatch)
        _, sink = net.ask("GET", retries=0)
        wire = net.accept()
        server, pieces = pieces_of(net, wire, authority, count)
        ended = False

        def do(what: str) -> None:
            nonlocal ended
            if what == "piece" and pieces and not wire.closed:
                wire.answer(pieces.pop(0))
            elif what == "run" and hands.waiting and not hands.ran:
                hands.run()
            elif what == "tell" and hands.ran:
                hands.tell()
            elif what in ("end", "reset") and not wire.closed:
                getattr(wire, what)()
            elif what == "time":
                net.clock.advance(2.0)
            elif what == "stop" and not ended:
                ended = True
                net.upstreams.stop()

        for what in order:
            do(what)
            assert not (pieces and wire.value()), (
                "the flight of a server that has not shown all of its proof is answered"
            )
        wounded = bool({"end", "reset", "time", "stop"}.intersection(order))
        for what in ["piece"] * len(pieces) + ["run", "tell"] * 8:
            do(what)
        if not wounded:
            assert server.turn().startswith(b"GET /p HTTP/1.1")
            server.say(OK)
            assert sink.complete
        net.clock.advance(10.0)
        assert sink.complete or sink.failure is not None, "it has an outcome"
        net.upstreams.stop()
        net.clock.advance(0)
        do("tell")
        assert net.upstreams.snapshot()[0]["connections"] == 0
        assert not [call for call in net.clock.getDelayedCalls() if call.time > net.clock.seconds() + 0.1]
