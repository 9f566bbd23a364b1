"""Retries, ejection, active checks, names and reloads, without sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.model.route_settings import ClusterSettings, HealthCheckSettings
from tests.upstreams.upstream_fakes import Net, Sink, Wire

TWO = ("http://10.0.0.1:80", "http://10.0.0.2:80")


def hosts(net: Net) -> list[str]:
    return [client[0] for client in net.clock.tcpClients]


def kept(net: Net) -> Wire:
    """An idle connection that has served a request."""
    net.ask("GET")
    wire = net.accept()
    net.turn()
    wire.ok()
    wire.taken()
    return wire


# ------------------------------------------------------------------ retries


def test_a_refused_connection_is_tried_elsewhere_whatever_the_request() -> None:
    net = Net(*TWO)
    _, sink = net.ask("POST", b"x", retries=0)
    assert net.refuse()[0] != hosts(net)[-1]
    wire = net.accept()
    wire.ok()
    assert sink.complete and sink.attempts == 2
    assert net.counter.connect_failures == 1 and net.counter.retries == 1


def test_refused_everywhere_is_a_failure_in_time() -> None:
    net = Net(*TWO)
    _, sink = net.ask("POST", b"x", retries=0)
    net.refuse()
    net.refuse()
    net.turn()
    assert sink.kind == "connect" and "refused" in sink.failure.message  # type: ignore[union-attr]
    assert not sink.failure.executed and sink.failure.attempts == 2  # type: ignore[union-attr]
    assert net.connecting == 0


def test_the_same_endpoint_is_tried_again_after_a_pause() -> None:
    net = Net(random=0.5)
    _, sink = net.ask(retries=1)
    net.refuse()
    net.turn(0.0)
    assert net.connecting == 0 and not sink.ended
    net.turn(0.025)
    assert net.connecting == 1
    net.refuse()
    net.turn(1.0)
    assert sink.kind == "connect" and net.connecting == 0


def test_an_idempotent_request_is_repeated_after_a_reset() -> None:
    net = Net(*TWO)
    _, sink = net.ask("GET", idempotent=True, retries=1)
    first = net.accept()
    assert first.taken().startswith(b"GET /p ")
    first.reset()
    second = net.accept()
    assert second.place != first.place and second.taken().startswith(b"GET /p ")
    second.reset()
    net.turn()
    assert sink.kind == "reset" and sink.failure.executed and sink.failure.attempts == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["reset", "end", "garbage"])
def test_a_request_that_is_not_idempotent_is_not_repeated_once_it_left(how: str) -> None:
    net = Net(*TWO)
    _, sink = net.ask("POST", b"x", retries=3)
    wire = net.accept()
    if how == "garbage":
        wire.answer(b"SSH-2.0-x\r\n")
        assert wire.closed == "abort"
    else:
        getattr(wire, how)()
    net.turn()
    assert net.connecting == 0
    assert sink.kind == ("protocol" if how == "garbage" else "reset")
    assert sink.failure.executed and sink.failure.attempts == 1  # type: ignore[union-attr]
    assert net.upstreams.snapshot()[0]["outstanding"] == 0


def test_a_reset_in_the_middle_of_the_response_is_never_repeated() -> None:
    net = Net(*TWO)
    _, sink = net.ask("GET", idempotent=True, retries=3)
    wire = net.accept()
    wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    wire.reset()
    net.turn()
    assert sink.body == b"abc" and sink.kind == "reset" and sink.failure.executed  # type: ignore[union-attr]
    assert net.connecting == 0


def test_a_body_without_length_ends_with_an_orderly_end_only() -> None:
    for how, kind in (("end", ""), ("reset", "reset")):
        net = Net()
        _, sink = net.ask("GET")
        wire = net.accept()
        wire.answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
        getattr(wire, how)()
        assert sink.body == b"abc" and sink.kind == kind and sink.complete is not bool(kind)


def test_a_streaming_body_is_repeated_only_if_none_of_it_left() -> None:
    net = Net(*TWO)
    exchange, sink = net.ask("PUT", b"ab", more=True, idempotent=True, retries=3)
    exchange.data(b"cd", True)
    net.refuse()
    wire = net.accept()
    assert wire.taken().endswith(b"4\r\nabcd\r\n")
    wire.reset()
    net.turn()
    assert sink.kind == "reset" and sink.failure.executed and net.connecting == 0  # type: ignore[union-attr]


def test_a_kept_connection_that_had_ended_costs_an_idempotent_request_nothing() -> None:
    net = Net()
    wire = kept(net)
    _, sink = net.ask("GET", idempotent=True, retries=1)
    wire.end()
    net.turn(1.0)
    fresh = net.accept()
    fresh.ok()
    assert sink.complete
    assert net.upstreams.snapshot()[0]["error"] == "", "a race of keep-alive is nobody's failure"


def test_a_kept_connection_that_ends_leaves_other_requests_unknown() -> None:
    net = Net()
    wire = kept(net)
    _, sink = net.ask("POST", b"x", retries=1)
    wire.end()
    net.turn(1.0)
    assert sink.kind == "reset" and sink.failure.executed and net.connecting == 0  # type: ignore[union-attr]


def test_what_was_never_written_is_sent_again_without_asking() -> None:
    net = Net()
    wire = kept(net)
    wire.send_error = BrokenPipeError()
    _, sink = net.ask("POST", b"x", retries=0)
    assert wire.closed == "abort"
    net.turn()
    fresh = net.accept()
    assert fresh.taken().endswith(b"\r\n\r\nx")
    fresh.ok()
    assert sink.complete and sink.attempts == 1


@pytest.mark.parametrize("answer", [b"", b"x", ConnectionResetError()])
def test_a_connection_that_idled_is_looked_at_before_use(answer: Any) -> None:
    net = Net()
    wire = kept(net)
    wire.peek = answer
    net.turn(1.0)
    _, sink = net.ask("POST", b"x")
    assert wire.closed == "abort"
    net.accept().ok()
    assert sink.complete


def test_an_idempotent_request_goes_elsewhere_after_503() -> None:
    net = Net(*TWO)
    _, sink = net.ask("GET", idempotent=True, retries=1)
    first = net.accept()
    first.ok(b"busy", status=b"503 Service Unavailable")
    second = net.accept()
    assert second.place != first.place
    second.ok(b"busy", status=b"503 Service Unavailable")
    assert sink.complete and sink.status == 503 and sink.attempts == 2


@pytest.mark.parametrize("fields", [{"idempotent": False}, {"retries": 0}, {"more": True}])
def test_503_is_passed_on_where_repeating_is_not_allowed(fields: dict[str, Any]) -> None:
    net = Net(*TWO)
    _, sink = net.ask("POST", b"x", **{"idempotent": True, "retries": 3, **fields})
    net.accept().ok(status=b"503 Service Unavailable")
    assert sink.status == 503 and sink.complete and net.connecting == 0


def test_503_of_the_only_endpoint_is_passed_on() -> None:
    net = Net()
    _, sink = net.ask("GET", idempotent=True, retries=3)
    net.accept().ok(status=b"503 Service Unavailable")
    assert sink.status == 503 and sink.complete


def test_repeating_stops_at_the_budget() -> None:
    net = Net(*TWO, retry_budget=0.0, eject_after=1000)
    sinks = []
    for _ in range(40):
        _, sink = net.ask("GET", idempotent=True, retries=1)
        sinks.append(sink)
        net.accept().reset()
        if net.connecting:
            net.accept().ok(extra=b"connection: close\r\n")
            net.turn()
    net.turn()
    assert sum(sink.complete for sink in sinks) == 30
    assert net.counter.retries == 30 and net.counter.retries_denied == 10


# ------------------------------------------------------------------ ejection and balancing


def test_an_endpoint_that_keeps_failing_is_left_out_for_a_while() -> None:
    net = Net(*TWO, eject_after=3, eject_time=10.0)
    for at in range(3):
        net.random = 0.0
        endpoint = net.upstreams._clusters["c"].endpoints[1]
        endpoint.load.observe(1e6 * (at + 1), net.clock.seconds())
        net.ask("GET")
        wire = net.accept()
        assert wire.place[0] == "10.0.0.1"
        net.turn()
        wire.answer(b"HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        net.turn()
    assert net.counter.ejections == 1
    assert [state["ejected"] for state in net.upstreams.snapshot()] == [True, False]
    for _ in range(5):
        net.ask("GET")
        net.turn()
        assert hosts(net)[-1] == "10.0.0.2"
    net.turn(11.0)
    assert [state["ejected"] for state in net.upstreams.snapshot()] == [False, False]


def test_silence_counts_as_failure() -> None:
    net = Net(*TWO, eject_after=1)
    _, sink = net.ask("GET", timeout=1.0)
    wire = net.accept()
    net.turn()
    net.turn(1.1)
    assert sink.kind == "timeout"
    assert [s["ejected"] for s in net.upstreams.snapshot() if s["endpoint"] == f"{wire.place[0]}:80"] == [True]


def test_the_endpoint_with_less_to_do_is_taken() -> None:
    net = Net(*TWO)
    for _ in range(10):
        net.ask("GET")
    assert sorted(hosts(net)) == ["10.0.0.1"] * 5 + ["10.0.0.2"] * 5


# ------------------------------------------------------------------ active checks

CHECKED = HealthCheckSettings(path="/healthz", interval=5.0, timeout=2.0, healthy_after=1, unhealthy_after=2)


def test_checks_take_an_endpoint_out_and_bring_it_back() -> None:
    net = Net(*TWO, health=CHECKED)
    net.upstreams.start()
    net.turn()

    def round_of_checks(first: Any) -> None:
        for _ in range(2):
            host, *_ = net.clock.tcpClients[net.seen]
            wire = net.accept()
            assert wire.taken() == (
                b"GET /healthz HTTP/1.1\r\nhost: %b:80\r\nuser-agent: accessgw\r\nconnection: close\r\n\r\n"
                % host.encode()
            )
            if host == "10.0.0.1":
                first(wire)
            else:
                wire.ok()
        net.turn(6.0)

    round_of_checks(lambda wire: wire.ok(status=b"500 Oops"))
    assert [state["healthy"] for state in net.upstreams.snapshot()] == [True, True]
    round_of_checks(lambda wire: wire.reset())
    state = net.upstreams.snapshot()[0]
    assert not state["healthy"] and state["error"]
    seen = len(net.clock.tcpClients)
    for _ in range(6):
        net.ask("GET")
    assert set(hosts(net)[seen:]) == {"10.0.0.2"}


def test_a_check_without_answer_fails_in_time() -> None:
    net = Net(health=CHECKED)
    net.upstreams.start()
    net.turn()
    wire = net.accept()
    net.turn(2.0)
    assert wire.closed == "abort"
    assert net.upstreams.snapshot()[0]["error"] == "no answer within 2 s"
    net.turn(10.0)
    assert net.connecting == 1
    net.refuse()
    assert not net.upstreams.snapshot()[0]["healthy"]


def test_when_all_are_unhealthy_all_are_tried() -> None:
    net = Net(health=CHECKED)
    net.upstreams.start()
    for _ in range(2):
        net.turn(6.0)
        net.refuse()
    assert not net.upstreams.snapshot()[0]["healthy"]
    net.turn(1.0)
    _, sink = net.ask("GET")
    net.accept().ok()
    assert sink.complete


# ------------------------------------------------------------------ names


class Names:
    """A resolver that the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[Any]]] = []

    def __call__(self, name: str) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((name, answer))
        return answer

    def answer(self, *addresses: str) -> None:
        self.asked[-1][1].callback(list(addresses))


def named(**settings: Any) -> tuple[Net, Names]:
    names = Names()
    net = Net(resolve=names)
    net.settings = ClusterSettings(name="c", dns="pay.internal:8080", dns_interval=10.0, **settings)
    net.upstreams.reconfigure([net.settings])
    net.upstreams.start()
    net.turn()
    return net, names


def test_requests_wait_for_the_first_look_up() -> None:
    net, names = named()
    _, sink = net.ask("GET")
    assert names.asked[0][0] == "pay.internal" and net.connecting == 0 and net.counter.pending == 1
    names.answer("10.1.0.1", "fd00::1")
    assert net.counter.pending == 0
    wire = net.accept()
    assert b"\r\nhost: pay.internal:8080\r\n" in wire.taken()
    wire.ok()
    assert sink.complete
    assert [state["endpoint"] for state in net.upstreams.snapshot()] == ["10.1.0.1:8080", "[fd00::1]:8080"]


def test_a_name_without_address_fails_requests_and_is_asked_again_soon() -> None:
    net, names = named()
    _, waiting = net.ask("GET")
    names.asked[-1][1].errback(OSError("no such name"))
    net.turn()
    assert waiting.kind == "no_endpoint"
    _, later = net.ask("GET")
    net.turn()
    assert later.kind == "no_endpoint"
    net.turn(1.0)
    assert len(names.asked) == 2
    names.answer("10.1.0.1")
    net.ask("GET")
    assert net.connecting == 1


@pytest.mark.parametrize("endpoints", [(), ("http://10.9.0.1:80",)])
def test_a_name_without_address_is_a_row_of_the_status(endpoints: tuple[str, ...]) -> None:
    net, names = named(endpoints=endpoints)

    def row() -> tuple[Any, ...]:
        first, *rest = net.upstreams.snapshot()
        assert len(rest) == len(endpoints) and all(other.keys() == first.keys() for other in rest)
        return first["cluster"], first["endpoint"], first["healthy"], first["error"]

    assert row() == ("c", "pay.internal:8080", False, "its addresses are being looked up")
    names.answer()
    assert row() == ("c", "pay.internal:8080", False, "no addresses of this name found")
    net.turn(1.0)
    names.answer("10.1.0.1")
    assert [state["endpoint"] for state in net.upstreams.snapshot()[len(endpoints) :]] == ["10.1.0.1:8080"]


def test_a_name_that_is_lost_is_logged_once_and_when_it_is_back() -> None:
    lines: list[str] = []

    def observe(event: Any) -> None:
        if (line := formatEvent(event)).startswith("cluster c: "):
            lines.append(line)

    globalLogPublisher.addObserver(observe)
    try:
        net, names = named()
        for _ in range(2):
            names.answer()
            net.turn(1.0)
        assert lines == ["cluster c: no addresses of pay.internal:8080 found; calls fail until it has some"]
        names.answer("10.1.0.1")
        assert lines[1:] == ["cluster c: pay.internal:8080 has addresses again"]
        net.turn(10.0)
        names.answer()
        assert lines[2:] == ["cluster c: no addresses of pay.internal:8080 found; those found before go on"]
    finally:
        globalLogPublisher.removeObserver(observe)


def test_the_last_good_answer_is_kept() -> None:
    net, names = named()
    names.answer("10.1.0.1")
    for at, bad in enumerate((None, ())):
        net.turn(10.0)
        assert len(names.asked) == at + 2
        if bad is None:
            names.asked[-1][1].errback(OSError("timed out"))
        else:
            names.answer()
        assert [state["endpoint"] for state in net.upstreams.snapshot()] == ["10.1.0.1:8080"]


def test_an_address_that_is_gone_finishes_its_work() -> None:
    net, names = named()
    names.answer("10.1.0.1")
    _, running = net.ask("GET")
    old = net.accept()
    net.turn(10.0)
    names.answer("10.1.0.2")
    assert [state["endpoint"] for state in net.upstreams.snapshot()] == ["10.1.0.2:8080"]
    old.ok()
    assert running.complete and old.closed == "close"
    net.ask("GET")
    assert hosts(net)[-1] == "10.1.0.2"


def test_look_ups_do_not_overlap_and_end_with_stop() -> None:
    net, names = named()
    net.turn(100.0)
    assert len(names.asked) == 1
    net.upstreams.stop()
    names.answer("10.1.0.1")
    assert not net.clock.getDelayedCalls()


# ------------------------------------------------------------------ reload


def test_a_reload_keeps_connections_of_endpoints_that_remain() -> None:
    net = Net(*TWO)
    wire = kept(net)
    other = next(endpoint for endpoint in TWO if wire.place[0] not in endpoint)
    changed = ClusterSettings(name="c", endpoints=(f"http://{wire.place[0]}:80",), idle_timeout=99.0)
    net.upstreams.reconfigure([changed])
    _, sink = net.ask("GET")
    wire.ok()
    assert sink.complete and not wire.closed
    assert other.removeprefix("http://") not in [state["endpoint"] for state in net.upstreams.snapshot()]


def test_an_unchanged_cluster_is_not_touched() -> None:
    net = Net(health=CHECKED)
    net.upstreams.start()
    cluster = net.upstreams._clusters["c"]
    calls = net.clock.getDelayedCalls()
    net.upstreams.reconfigure([ClusterSettings(name="c", endpoints=("http://10.0.0.1:80",), health=CHECKED)])
    assert net.upstreams._clusters["c"] is cluster
    assert net.clock.getDelayedCalls() == calls


def test_a_removed_cluster_finishes_its_work_and_refuses_more() -> None:
    net = Net(max_connections=1)
    wire = kept(net)
    _, running = net.ask("GET")
    _, waiting = net.ask("GET")
    net.upstreams.reconfigure([])
    assert waiting.kind == "no_endpoint"
    wire.ok()
    assert running.complete and wire.closed
    _, late = net.ask("GET")
    net.turn()
    assert late.kind == "no_endpoint"


def test_bad_settings_change_nothing() -> None:
    net = Net()
    before = net.upstreams.snapshot()
    for endpoint in (
        "ftp://10.0.0.1",
        "https://:443",
        "http://10.0.0.1:0",
        "http://:80",
        "unix:relative",
        "http://::1",
    ):
        with pytest.raises(ValueError, match="expected"):
            net.upstreams.reconfigure([ClusterSettings(name="c", endpoints=(endpoint,))])
    assert net.upstreams.snapshot() == before


def test_more_room_lets_the_queue_go_on() -> None:
    net = Net(max_connections=1)
    net.ask("GET")
    net.ask("GET")
    assert net.connecting == 1
    net.upstreams.reconfigure([ClusterSettings(name="c", endpoints=("http://10.0.0.1:80",), max_connections=2)])
    assert net.connecting == 2 and net.counter.pending == 0


def test_sinks_are_independent() -> None:
    net = Net()
    _, one = net.ask("GET")
    _, other = net.ask("GET")
    first, second = net.accept(), net.accept()
    first.reset()
    second.ok()
    net.turn()
    assert isinstance(one, Sink) and one.kind == "reset" and other.complete
