"""Requests, responses, pooling and queueing, without sockets."""

from __future__ import annotations

import pytest

from tests.upstreams.upstream_fakes import Net, Sink, Wire


def test_a_request_and_its_response() -> None:
    net = Net()
    _, sink = net.ask("POST", b"abc", headers=[("x-a", "b")])
    wire = net.accept()
    assert wire.place == ("10.0.0.1", 80) and wire.no_delay
    assert wire.taken() == b"POST /p HTTP/1.1\r\nhost: 10.0.0.1:80\r\nx-a: b\r\ncontent-length: 3\r\n\r\nabc"
    wire.answer(b"HTTP/1.1 201 Created\r\nX-B: c\r\nContent-Length: 4\r\n\r\nde")
    assert (sink.status, sink.body, sink.complete) == (201, b"de", False)
    wire.answer(b"fg")
    assert sink.complete and sink.body == b"defg"
    assert sink.headers == [("x-b", "c"), ("content-length", "4")]
    assert (sink.endpoint, sink.attempts) == ("10.0.0.1:80", 1)
    assert net.counter.requests == 1 and net.counter.connections == 1 and net.counter.failures == 0


def test_the_connection_is_used_again() -> None:
    net = Net()
    net.ask()
    wire = net.accept()
    net.turn()
    wire.ok()
    _, sink = net.ask("GET")
    assert net.connecting == 0
    net.turn()
    wire.ok()
    assert sink.complete
    assert net.upstreams.snapshot()[0]["connections"] == 1


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore",
    ],
)
def test_a_connection_that_cannot_be_used_again_is_closed(response: bytes) -> None:
    net = Net()
    _, sink = net.ask()
    wire = net.accept()
    net.turn()
    wire.answer(response)
    assert sink.complete and wire.closed
    net.turn()
    assert net.counter.connections == 0
    net.ask()
    assert net.connecting == 1


def test_bytes_on_an_idle_connection_end_it() -> None:
    net = Net()
    net.ask()
    wire = net.accept()
    net.turn()
    wire.ok()
    wire.answer(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    assert wire.closed == "abort"
    net.turn()
    assert net.upstreams.snapshot()[0]["connections"] == 0


def test_hop_by_hop_headers_stay_behind() -> None:
    net = Net()
    _, sink = net.ask()
    wire = net.accept()
    wire.ok(
        extra=b"Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
        b"Proxy-Connection: x\r\nTE: trailers\r\nTrailer: y\r\nX-Public: 2\r\n"
    )
    assert sink.headers == [("content-length", "2"), ("x-public", "2")]


def test_the_host_header_can_be_set() -> None:
    net = Net(host="pay.internal")
    net.ask("GET")
    assert b"\r\nhost: pay.internal\r\n" in net.accept().taken()


def test_unix_sockets() -> None:
    net = Net("unix:/run/pay.sock")
    _, sink = net.ask("GET")
    path, factory, *_ = net.clock.unixClients[0]
    assert path == "/run/pay.sock"
    protocol = factory.buildProtocol(None)
    wire = Wire(net, protocol, (path,))
    protocol.makeConnection(wire)
    assert b"\r\nhost: localhost\r\n" in wire.taken()
    wire.ok()
    assert sink.complete and sink.endpoint == "unix:/run/pay.sock"


def test_early_data_refusals_are_passed_on() -> None:
    net = Net()
    _, sink = net.ask(headers=[("early-data", "1")])
    wire = net.accept()
    wire.ok(status=b"425 Too Early")
    assert sink.status == 425 and sink.complete


def test_an_unknown_cluster_is_no_endpoint() -> None:
    net = Net()
    sink = Sink()
    exchange = net.upstreams.request("other", _request(), sink)
    assert sink.failure is None
    net.turn()
    assert sink.kind == "no_endpoint" and not sink.failure.executed  # type: ignore[union-attr]
    exchange.data(b"", False)
    silent = Sink()
    net.upstreams.request("other", _request(), silent).cancel()
    net.turn()
    assert silent.calls == 0


def _request() -> object:
    from accessgw.core.interfaces.upstreams import UpstreamRequest

    return UpstreamRequest("GET", "/", [], deadline=5.0)


@pytest.mark.parametrize(
    "bad", [{"headers": [("x", "a\r\nb: c")]}, {"target": "/a b"}, {"target": "http://x/"}, {"headers": [("a b", "")]}]
)
def test_a_request_that_http_does_not_allow_fails_and_the_connection_lives(bad: dict[str, object]) -> None:
    net = Net()
    _, sink = net.ask(**bad)
    wire = net.accept()
    net.turn()
    assert sink.kind == "protocol" and not sink.failure.executed  # type: ignore[union-attr]
    assert wire.taken() == b""
    _, sink = net.ask("GET")
    wire.ok()
    assert sink.complete


# ------------------------------------------------------------------ bodies


def test_a_streaming_body_goes_out_as_the_kernel_takes_it() -> None:
    net = Net()
    exchange, sink = net.ask("PUT", b"one", more=True)
    exchange.data(b"two", True)
    wire = net.accept()
    assert wire.taken().endswith(b"transfer-encoding: chunked\r\n\r\n6\r\nonetwo\r\n")
    assert sink.sent == 6
    exchange.data(b"three", True)
    assert sink.sent == 11
    exchange.data(b"", False)
    assert wire.taken() == b"5\r\nthree\r\n0\r\n\r\n"
    wire.ok()
    assert sink.complete
    assert net.upstreams.snapshot()[0]["idle"] == 1


def test_a_body_that_was_complete_in_time_has_its_length() -> None:
    net = Net()
    exchange, sink = net.ask("PUT", b"ab", more=True)
    exchange.data(b"c", False)
    assert net.accept().taken().endswith(b"content-length: 3\r\n\r\nabc")
    net.turn()
    assert sink.sent == 3


def test_a_kernel_that_takes_nothing_gives_no_credit() -> None:
    net = Net()
    exchange, sink = net.ask("PUT", b"ab", more=True)
    wire = net.accept()
    net.turn()
    wire.taken()
    wire.room = 50
    exchange.data(b"c" * 100, True)
    exchange.data(b"d" * 100, True)
    net.turn(1.0)
    assert sink.sent == 2 and len(wire.value()) == 50
    wire.drain()
    assert sink.sent == 202
    assert wire.taken() == b"64\r\n" + b"c" * 100 + b"\r\n64\r\n" + b"d" * 100 + b"\r\n"
    exchange.data(b"e", False)
    assert sink.sent == 203 and wire.taken() == b"1\r\ne\r\n0\r\n\r\n"


def test_a_response_while_bytes_of_ours_wait_ends_the_connection() -> None:
    net = Net()
    exchange, sink = net.ask("PUT", b"ab", more=True)
    wire = net.accept()
    wire.room = 0
    exchange.data(b"c" * 100, False)
    wire.ok()
    assert sink.complete and wire.closed == "abort"


def test_a_response_before_the_body_is_complete_ends_the_connection() -> None:
    net = Net()
    exchange, sink = net.ask("PUT", b"ab", more=True)
    wire = net.accept()
    net.turn()
    wire.ok(status=b"413 Content Too Large")
    assert sink.complete and wire.closed
    exchange.data(b"rest", False)
    net.turn()
    assert net.counter.connections == 0


def test_responses_are_paused_and_resumed() -> None:
    net = Net()
    exchange, sink = net.ask("GET")
    exchange.pause()
    wire = net.accept()
    assert wire.producerState == "paused"
    exchange.resume()
    assert wire.producerState == "producing"
    exchange.pause()
    net.turn()
    wire.ok()
    assert sink.complete and not wire.closed
    assert wire.producerState == "producing", "the next exchange would never hear anything"


def test_a_large_response_is_cut_off() -> None:
    net = Net()
    _, stated = net.ask("GET", max_response_body=9)
    wire = net.accept()
    wire.ok(b"x" * 10)
    assert stated.kind == "too_large" and stated.status == 0 and stated.failure.executed  # type: ignore[union-attr]
    assert wire.closed == "abort"
    _, counted = net.ask("GET", max_response_body=9)
    wire = net.accept()
    wire.answer(b"HTTP/1.1 200 OK\r\n\r\n123456789")
    assert counted.body == b"123456789" and not counted.ended
    wire.answer(b"0")
    assert counted.kind == "too_large" and wire.closed == "abort"
    _, head = net.ask("HEAD", max_response_body=9)
    net.accept().answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    assert head.complete


# ------------------------------------------------------------------ pool and queue


def test_connections_per_endpoint_are_bounded_and_others_wait_in_order() -> None:
    net = Net(max_connections=2)
    sinks = [net.ask("GET", target=f"/{at}")[1] for at in range(4)]
    assert net.connecting == 2 and net.counter.pending == 2
    first, second = net.accept(), net.accept()
    assert b"GET /0 " in first.taken() and b"GET /1 " in second.taken()
    net.turn()
    second.ok()
    assert b"GET /2 " in second.taken() and net.counter.pending == 1
    net.turn()
    first.answer(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert net.connecting == 0
    net.turn()
    assert net.connecting == 1, "the closed connection made room for another"
    third = net.accept()
    assert b"GET /3 " in third.taken()
    second.ok()
    third.ok()
    assert all(sink.complete for sink in sinks) and net.counter.pending == 0


def test_the_queue_is_bounded() -> None:
    net = Net(max_connections=1, max_pending=1)
    net.ask()
    waiting, _ = net.ask()
    _, refused = net.ask()
    net.turn()
    assert refused.kind == "overload" and not refused.failure.executed  # type: ignore[union-attr]
    waiting.cancel()
    assert net.counter.pending == 0
    _, taken = net.ask()
    net.turn()
    assert not taken.ended and net.counter.pending == 1


def test_a_freed_connection_serves_who_waited_for_a_new_one() -> None:
    net = Net()
    net.ask("GET", target="/0")
    wire = net.accept()
    net.turn()
    _, sink = net.ask("GET", target="/1")
    assert net.connecting == 1
    wire.ok()
    wire.taken()
    net.turn()
    wire.ok()
    assert sink.complete
    net.accept()
    assert net.upstreams.snapshot()[0]["idle"] == 2


def test_idle_connections_are_closed_in_time() -> None:
    net = Net(idle_timeout=30.0)
    net.upstreams.start()
    net.ask(timeout=100.0)
    net.ask(timeout=100.0)
    old, young = net.accept(), net.accept()
    net.turn()
    old.ok()
    net.turn(20.0)
    young.ok()
    for _ in range(9):
        net.turn(1.0)
    assert not old.closed
    net.turn(2.0)
    assert old.closed == "close" and not young.closed
    assert net.counter.connections == 1


# ------------------------------------------------------------------ deadline and cancellation


def test_deadlines_cover_every_stage() -> None:
    net = Net(max_connections=1)
    _, connecting = net.ask(timeout=1.0)
    _, queued = net.ask(timeout=1.0)
    net.turn(0.9)
    assert not connecting.ended and not queued.ended
    net.turn(0.2)
    assert connecting.kind == queued.kind == "timeout"
    assert not connecting.failure.executed and not queued.failure.executed  # type: ignore[union-attr]
    wire = net.accept()
    _, silent = net.ask(timeout=1.0)
    net.turn(1.1)
    assert silent.kind == "timeout" and silent.failure.executed  # type: ignore[union-attr]
    assert wire.closed == "abort"
    net.turn()
    _, halfway = net.ask("GET", timeout=1.0)
    wire = net.accept()
    wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    net.turn(1.1)
    assert halfway.body == b"abc" and halfway.kind == "timeout"
    _, late = net.ask(timeout=0.0)
    assert not late.ended
    net.turn()
    assert late.kind == "timeout" and not late.failure.executed  # type: ignore[union-attr]
    assert net.counter.timeouts == 5


def test_a_deadline_is_never_early() -> None:
    net = Net()
    net.turn(0.013)
    _, sink = net.ask(timeout=0.5)
    for _ in range(49):
        net.turn(0.01)
        assert not sink.ended
    net.turn(0.05)
    assert sink.kind == "timeout"


def test_cancelling_is_silent_at_every_stage() -> None:
    net = Net(max_connections=1)
    connecting, sink = net.ask()
    queued, other = net.ask()
    queued.cancel()
    connecting.cancel()
    wire = net.accept()
    net.turn()
    assert wire.taken() == b"" and not wire.closed
    sent, third = net.ask()
    sent.cancel()
    sent.cancel()
    assert wire.closed == "abort"
    net.turn(20.0)
    assert sink.calls == other.calls == third.calls == 0
    state = net.upstreams.snapshot()[0]
    assert (state["outstanding"], state["connections"]) == (0, 0)
    assert net.counter.failures == 0


def test_a_sink_may_cancel_from_within() -> None:
    net = Net()

    class Impatient(Sink):
        def started(self, *args: object) -> None:
            super().started(*args)  # type: ignore[arg-type]
            exchange.cancel()

    sink = Impatient()
    exchange = net.upstreams.request("c", _request(), sink)  # type: ignore[arg-type]
    wire = net.accept()
    wire.ok()
    assert sink.status == 200 and sink.body == b"" and not sink.ended and wire.closed == "abort"


def test_a_sink_may_ask_again_from_within() -> None:
    net = Net(max_connections=1)
    asked: list[Sink] = []

    class Curious(Sink):
        def finished(self) -> None:
            super().finished()
            asked.append(net.ask("GET")[1])

    sink = Curious()
    net.upstreams.request("c", _request(), sink)  # type: ignore[arg-type]
    wire = net.accept()
    net.turn()
    wire.ok()
    net.turn()
    wire.ok()
    assert asked[0].complete


def test_stop_ends_everything() -> None:
    net = Net(max_connections=1)
    net.upstreams.start()
    _, sent = net.ask()
    _, queued = net.ask()
    wire = net.accept()
    net.upstreams.stop()
    assert sent.kind == queued.kind == "cancelled"
    assert sent.failure.executed and not queued.failure.executed  # type: ignore[union-attr]
    assert wire.closed == "abort"
    net.turn()
    assert not net.clock.getDelayedCalls()
