"""Files of TLS toward services and brokers are loaded by threads, once for as long as they are the same."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.model.counters import TlsCounters
from accessgw.model.mqtt_settings import BridgeSettings
from accessgw.model.route_settings import UpstreamTlsSettings
from accessgw.model.settings import AuthenticatorSettings
from accessgw.transports.handshakes import HandshakePool
from accessgw.upstreams import tls as tls_module
from accessgw.upstreams.client import HOUSEKEEPING, HttpUpstreams
from accessgw.upstreams.dialer import BridgeDialer
from accessgw.upstreams.questions import clusters_of_questions, user_of
from accessgw.upstreams.threads import CountedThreads
from accessgw.upstreams.tls import LOOK_AFTER, TRY_AGAIN, ClusterTls, TlsUnavailable
from protocols.tls.client_context import ClientContext
from tests.crypto.authority import Authority, Issued
from tests.upstreams.dial_user import User
from tests.upstreams.handshakes_by_hand import ByHand
from tests.upstreams.tls_servers import replace_files
from tests.upstreams.tls_wire import OK, Server
from tests.upstreams.upstream_fakes import Net


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads on which contexts are made."""
    threads: list[threading.Thread] = []
    real = ClientContext.__init__

    def init(context: ClientContext, options: Any) -> None:
        threads.append(threading.current_thread())
        real(context, options)

    monkeypatch.setattr(ClientContext, "__init__", init)
    return threads


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def settings_of(authority: Authority, own: Issued) -> UpstreamTlsSettings:
    return UpstreamTlsSettings(ca=authority.file, certificate=own.chain, key=own.key)


def net(authority: Authority, hands: Any, **more: Any) -> Net:
    tls = UpstreamTlsSettings(ca=authority.file)
    return Net("https://10.0.0.1:443", connect_timeout=2.0, **{"tls": tls, "handshakes": hands, **more})


def serve(house: Net, authority: Authority, hands: ByHand, sink: Any) -> Server:
    server = Server(authority, house.accept())
    server.turn()
    hands.all()
    assert server.turn().startswith(b"GET /p")
    server.say(OK)
    assert sink.complete
    return server


def test_a_dial_waits_for_a_thread_that_loads_and_the_next_does_not(
    authority: Authority, built: list[threading.Thread]
) -> None:
    hands = ByHand(loads=True)
    house = net(authority, hands)
    sinks = [house.ask("GET")[1] for _ in range(2)]
    assert (house.connecting, len(hands.waiting)) == (0, 1), "one of two loads, and both wait"
    hands.run()
    assert house.connecting == 0, "the reactor has not heard of it"
    hands.tell()
    assert house.connecting == 2
    house.turn(LOOK_AFTER)
    sinks.append(house.ask("GET")[1])
    assert house.connecting == 3 and not hands.waiting, "files that are the same are not read again"
    assert len(built) == 1 and built[0] is not threading.current_thread()
    serve(house, authority, hands, sinks[0])


def test_a_dial_that_meets_renewed_files_waits_for_them(authority: Authority, tmp_path: Path) -> None:
    hands = ByHand(loads=True)
    stranger = Authority(tmp_path, "stranger")
    house = net(authority, hands)
    _, sink = house.ask("GET")
    hands.all()
    serve(house, authority, hands, sink).wire.end()
    house.turn(LOOK_AFTER)
    os.replace(stranger.file, authority.file)
    _, sink = house.ask("GET", retries=0)
    assert (house.connecting, len(hands.waiting)) == (0, 1)
    hands.all()
    Server(authority, house.accept()).turn()
    hands.all()
    assert sink.failure is not None and "certificate verify failed" in sink.failure.message


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("how", ["time", "stop", "gone"])
def test_a_dial_that_waits_for_its_files_may_end(authority: Authority, how: str, ran: bool) -> None:
    hands = ByHand(loads=True)
    house = net(authority, hands)
    exchange, sink = house.ask("GET", retries=0)
    if ran:
        hands.run()
    if how == "time":
        house.turn(2.0)
        assert sink.failure is not None and sink.failure.message == "TLS: no hand-shake within 2 s"
    elif how == "stop":
        house.upstreams.stop()
        assert sink.kind == "cancelled"
    else:
        exchange.cancel()
    hands.all() if not ran else hands.tell()
    house.turn()
    assert house.connecting == (how == "gone"), "who has gone leaves the connection to the next"
    if how != "gone":
        assert house.upstreams.snapshot()[0]["connections"] == 0
        late = house.clock.seconds() + 0.1
        assert not [call for call in house.clock.getDelayedCalls() if call.time > late], "no timer is left"


def test_files_that_cannot_be_used_are_a_failure_to_connect_and_are_tried_again(authority: Authority) -> None:
    hands = ByHand(loads=True)
    house = net(authority, hands)
    whole = Path(authority.file).read_bytes()
    Path(authority.file).write_bytes(b"nothing")
    _, sink = house.ask("GET", retries=0)
    hands.all()
    house.turn()
    assert sink.failure is not None and sink.failure.kind == "connect"
    assert sink.failure.message.startswith(f"TLS: {authority.file}: not usable for TLS: ")
    Path(authority.file).write_bytes(whole)
    house.turn(LOOK_AFTER)
    _, sink = house.ask("GET", retries=0)
    hands.all()
    serve(house, authority, hands, sink)


def test_a_defect_of_loading_is_logged_and_a_failure_to_connect(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def panic(*_: object) -> None:
        raise BaseException("a panic")

    monkeypatch.setattr(tls_module, "_load", panic)
    house = net(authority, ByHand())
    _, sink = house.ask("GET", retries=0)
    house.turn()
    assert sink.failure is not None and sink.failure.message == "TLS: internal error: BaseException"
    assert any(line.startswith("TLS of cluster c could not be loaded") for line in said)


def test_one_that_fails_when_its_files_are_there_does_not_keep_the_others_waiting(
    authority: Authority, said: list[str]
) -> None:
    hands = ByHand(loads=True)
    tls = ClusterTls(UpstreamTlsSettings(ca=authority.file), lambda: 0.0, threads=hands)
    went_on: list[int] = []

    def go_on(number: int) -> None:
        went_on.append(1 // number)

    for number in (1, 0, 2):
        tls.prepare(partial(go_on, number))
    hands.all()
    assert went_on == [1, 0]
    assert said == ["TLS of an upstream: one that waited for the files could not go on"]


def test_files_that_could_not_be_read_once_are_tried_again_although_they_are_the_same(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    first, second = authority.issue("first", days=1.0), authority.issue("second", days=9.0)
    clock = [0.0]
    tls = ClusterTls(settings_of(authority, first), lambda: clock[0], used_by=lambda: "bridge b")
    tls.look()
    ends = tls.ends
    replace_files(first, second)
    real, broken = tls_module._read, [True]

    def read(path: str) -> bytes:
        if broken[0]:
            raise TlsUnavailable(f"{path}: Too many open files")
        return real(path)

    monkeypatch.setattr(tls_module, "_read", read)
    for clock[0] in (LOOK_AFTER, LOOK_AFTER + TRY_AGAIN):
        tls.look()
        assert tls.ends == ends
    assert said == [f"TLS of bridge b: {authority.file}: Too many open files; the files loaded before stay in force"]
    broken[0] = False
    clock[0] += LOOK_AFTER
    tls.look()
    assert tls.ends == ends, "not yet"
    clock[0] += TRY_AGAIN
    tls.look()
    assert tls.ends > ends and len(said) == 2


def test_a_file_that_somebody_is_allowed_to_read_again_has_changed(authority: Authority) -> None:
    before = tls_module._stamp(authority.file)
    mode = os.stat(authority.file).st_mode
    until = time.monotonic() + 10.0
    while tls_module._stamp(authority.file) == before and time.monotonic() < until:
        os.chmod(authority.file, mode ^ 0o040)
    assert tls_module._stamp(authority.file) != before


# ---------------------------------------------------------------------- when ours end


def test_ends_of_our_certificates_are_known_without_a_dial_and_follow_the_files(authority: Authority) -> None:
    first, second = authority.issue("first", days=1.0), authority.issue("second", days=9.0)
    hands = ByHand(loads=True)
    house = net(authority, hands, tls=settings_of(authority, first))
    assert house.upstreams.expires_at() == {}
    house.upstreams.start()
    hands.all()
    ((key, ends),) = house.upstreams.expires_at().items()
    assert key == ("cluster c", first.chain) and abs(ends - time.time() - 86_400.0) < 7200.0
    replace_files(first, second)
    house.turn(HOUSEKEEPING)
    hands.all()
    assert house.upstreams.expires_at()[key] - ends > 7 * 86_400.0
    house.upstreams.stop()


def test_plain_clusters_and_those_that_show_none_have_no_row_and_load_nothing(
    authority: Authority, built: list[threading.Thread]
) -> None:
    house = Net("http://10.0.0.1:80")
    house.upstreams.start()
    house.turn(HOUSEKEEPING)
    assert built == []
    other = net(authority, ByHand())
    other.upstreams.start()
    assert len(built) == 1
    assert house.upstreams.expires_at() == other.upstreams.expires_at() == {}
    house.upstreams.stop()
    other.upstreams.stop()


def test_an_expired_one_is_told_with_who_shows_it(authority: Authority, said: list[str]) -> None:
    own = authority.issue("own", days=-1.0)
    tls = settings_of(authority, own)
    login = AuthenticatorSettings(kind="http", name="login", url="https://10.0.0.2/", tls=tls)
    upstreams = HttpUpstreams(
        MemoryReactorClock(),
        [replace(net(authority, ByHand()).settings, name="payments", tls=tls), *clusters_of_questions([login])],
        random=lambda: 0.0,
        counters={},
        called=lambda cluster: user_of(cluster, [login]),
    )
    upstreams.start()
    dialer = BridgeDialer(MemoryReactorClock())
    bridge = BridgeSettings(
        name="b", address="10.0.0.1:8883", topics=(), tls=True, ca=tls.ca, certificate=tls.certificate, key=tls.key
    )
    dialer.dial(bridge, User())
    assert [line.partition(" ended at ")[0] for line in said] == [
        f"CERTIFICATE EXPIRED: {own.chain} ({user})" for user in ("cluster payments", "authenticator login", "bridge b")
    ]
    found = upstreams.expires_at() | dialer.expires_at([bridge])
    assert list(found) == [(user, own.chain) for user in ("cluster payments", "authenticator login", "bridge b")]
    assert dialer.expires_at([]) == {}, "a bridge that is gone has no row"
    assert dialer.expires_at([replace(bridge, key="other.pem")]) == {}
    upstreams.stop()


# ---------------------------------------------------------------------- bridges


@pytest.mark.parametrize("ended", [False, True])
def test_a_bridge_is_dialled_when_its_files_are_loaded(authority: Authority, ended: bool) -> None:
    hands, clock, user = ByHand(loads=True), MemoryReactorClock(), User()
    bridge = BridgeSettings(name="b", address="10.0.0.1:8883", topics=(), tls=True, ca=authority.file)
    connection = BridgeDialer(clock, hands).dial(bridge, user)
    assert not clock.tcpClients and len(hands.waiting) == 1
    if ended:
        connection.abort()
    hands.all()
    clock.advance(0.0)
    assert len(clock.tcpClients) == (not ended) and user.told == []


# ---------------------------------------------------------------------- what waits


def test_what_waits_for_services_is_counted_apart(authority: Authority) -> None:
    counters = TlsCounters()
    calls: list[Any] = []
    woken = threading.Event()

    def call(function: Any) -> None:
        calls.append(function)
        woken.set()

    pool = HandshakePool(counters, threads=1, waiting=10, call_from_thread=call)
    house = net(authority, CountedThreads(pool, counters))
    house.ask("GET")
    assert (counters.pool_waiting, counters.upstream_waiting, house.connecting) == (1, 1, 0)
    assert woken.wait(30.0)
    calls.pop()()
    assert (counters.pool_waiting, counters.upstream_waiting, house.connecting) == (0, 0, 1)
    pool.stop()
