"""Calls: mapping, refusals, upstream failures, streaming both ways, cancelling."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from accessgw.core.interfaces import Filter, Refused
from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.model.calls import Answer
from accessgw.model.route_settings import RouteSettings
from accessgw.model.settings import CallSettings
from protocols.mmtp import events
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import Gateway


def route(**settings: object) -> RouteSettings:
    return RouteSettings(**{"operation": "*", "cluster": "c", **settings})


def status_of(device: object) -> int:
    (event,) = device.take(events.ResponseReceived) or device.take(events.CallReset)
    return event.status


# -------------------------------------------------------------------- headers and targets


def test_headers_that_only_the_gateway_may_set_are_dropped() -> None:
    gateway = Gateway(route())
    forged = [(name, "forged") for name in (
        "x-device-id", "x-user-id", "x-app", "x-app-version", "x-call-id", "x-deadline-ms", "x-zone", "x-stress",
        "x-forwarded-for", "x-real-ip", "forwarded", "early-data", "host", "connection", "transfer-encoding",
        "content-length", "te", "upgrade", "traceparent", "x_user_id", "x-user_id", "content_length",
    )]  # fmt: skip
    gateway.device(token="ok:bob").call(headers=[*forged, ("authorization", "kept"), ("content-type", "a/b")])
    headers = gateway.upstreams.last.request.headers
    assert not [h for h in headers if h[1] == "forged"]
    assert ("authorization", "kept") in headers
    assert ("content-type", "a/b") in headers


def test_a_valid_traceparent_is_kept_and_another_is_made() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    mine = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    device.call(headers=[("traceparent", mine)])
    assert dict(gateway.upstreams.last.request.headers)["traceparent"] == mine
    device.call(headers=[("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01")])
    made = dict(gateway.upstreams.last.request.headers)["traceparent"]
    assert made != mine
    assert [len(part) for part in made.split("-")] == [2, 32, 16, 2]


def test_identities_cannot_break_out_of_their_header() -> None:
    gateway = Gateway(route())
    gateway.device(token="ok:张 三%\r\n").call()
    assert dict(gateway.upstreams.last.request.headers)["x-user-id"] == "%E5%BC%A0%20%E4%B8%89%25%0D%0A"


def test_an_operation_that_would_climb_out_of_its_path_is_refused() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    device.call("..")
    assert status_of(device) == Status.PROTOCOL
    assert not gateway.upstreams.exchanges
    assert not gateway.store.claims  # certainly not executed: the id is free again


# -------------------------------------------------------------------- refusals


def test_refusals_before_the_upstream() -> None:
    gateway = Gateway(
        route(operation="big", max_request_body=3),
        route(operation="strong", require="certificate"),
    )
    device = gateway.device()
    device.call("none")
    assert status_of(device) == Status.UNKNOWN_OPERATION
    device.call("big", b"1234")
    assert status_of(device) == Status.FRAME_SIZE
    device.call("strong")
    assert status_of(device) == Status.FORBIDDEN
    device.call("big", b"1", timeout=0.0)
    assert status_of(device) == Status.DEADLINE
    assert not gateway.upstreams.exchanges
    assert gateway.call_counters.finished == {13: 1, 2: 1, 23: 1, 11: 1}
    assert gateway.call_counters.open == 0


def test_the_shorter_of_route_and_device_time_is_the_deadline() -> None:
    gateway = Gateway(route(operation="slow", timeout=30.0), route(), calls=CallSettings(default_timeout=7.0))
    device = gateway.device()
    now = gateway.clock.seconds()
    device.call("slow", timeout=100.0)
    assert gateway.upstreams.last.request.deadline == now + 30.0
    device.call("other")
    assert gateway.upstreams.last.request.deadline == now + 7.0


@pytest.mark.parametrize(
    ("kind", "executed", "idempotent", "expected"),
    [
        ("connect", False, False, Status.UPSTREAM_UNAVAILABLE),
        ("no_endpoint", False, False, Status.UPSTREAM_UNAVAILABLE),
        ("overload", False, False, Status.OVERLOAD),
        ("timeout", True, False, Status.DEADLINE),
        ("reset", True, False, Status.OUTCOME_UNKNOWN),
        ("reset", False, False, Status.UPSTREAM_UNAVAILABLE),
        ("reset", True, True, Status.UPSTREAM_UNAVAILABLE),
        ("protocol", True, False, Status.OUTCOME_UNKNOWN),
        ("too_large", True, False, Status.INTERNAL),
    ],
)
def test_upstream_failures(kind: str, executed: bool, idempotent: bool, expected: Status) -> None:
    gateway = Gateway(route(idempotent=idempotent))
    device = gateway.device()
    device.call()
    gateway.upstreams.last.sink.failed(UpstreamFailure(kind, "why " * 100, executed, "http://u:1", 2))
    assert status_of(device) == expected
    record = gateway.records[-1]
    assert (record.endpoint, record.attempts) == ("http://u:1", 2)
    assert (record.reason, record.detail) == (kind, "why " * 64)


def test_a_call_that_was_answered_has_no_reason() -> None:
    gateway = Gateway(route())
    gateway.device().call()
    gateway.upstreams.last.answer(503)
    assert (gateway.records[-1].status, gateway.records[-1].reason) == (Status.UPSTREAM_UNAVAILABLE, "")


def test_an_overloaded_upstream_says_when_to_try_again() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    device.call(body=b"part", more=True)
    gateway.upstreams.last.sink.failed(UpstreamFailure("overload", "why", False, "http://u:1", 2))
    (response,) = device.take(events.ResponseReceived)
    assert (response.status, response.headers) == (Status.OVERLOAD, [("retry-after", "1")])
    device.call()
    sink = gateway.upstreams.last.sink
    sink.started(200, [], "http://u:1", 1)
    sink.data(b"begun")
    sink.failed(UpstreamFailure("overload", "why", True, "http://u:1", 2))
    (reset,) = device.take(events.CallReset)
    assert reset.status == Status.OVERLOAD
    assert device.connection.closed is None


def test_http_statuses_are_mapped_and_the_body_comes_along() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    for http_status, status in ((404, 404), (403, Status.FORBIDDEN), (503, Status.UPSTREAM_UNAVAILABLE), (500, 500)):
        device.call()
        gateway.upstreams.last.answer(http_status, b"why")
        (response,) = device.take(events.ResponseReceived)
        assert (response.status, response.body) == (status, b"why")


# -------------------------------------------------------------------- filters


class Answers(Filter):
    def call(self, call: object) -> Answer:
        return Answer(0, [], b"from the filter")


class Raises(Filter):
    def call(self, call: object) -> None:
        raise ZeroDivisionError


class Refuses(Filter):
    def call(self, call: object) -> None:
        raise Refused(Status.RATE_LIMIT, "slowly")


class Waits(Filter):
    def __init__(self) -> None:
        self.pending: list[Deferred[Answer | None]] = []

    def call(self, call: object) -> Deferred[Answer | None]:
        self.pending.append(Deferred())
        return self.pending[-1]


def test_a_filter_may_answer_or_refuse() -> None:
    device = Gateway(route(), filters=[("a", Answers())]).device()
    device.call()
    (response,) = device.take(events.ResponseReceived)
    assert response.body == b"from the filter"
    device = Gateway(route(), filters=[("r", Refuses()), ("a", Answers())]).device()
    device.call()
    (response,) = device.take(events.ResponseReceived)
    assert (response.status, response.headers, response.body) == (Status.RATE_LIMIT, [("retry-after", "1")], b"")


def test_a_filter_that_raises_costs_one_call() -> None:
    gateway = Gateway(route(), filters=[("bad", Raises())])
    device = gateway.device()
    device.call()
    assert status_of(device) == Status.INTERNAL
    assert gateway.call_counters.filter_errors == 1
    assert device.connection.closed is None
    device.call()
    assert status_of(device) == Status.INTERNAL


def test_a_deferred_filter_is_waited_for_within_a_bound() -> None:
    waits = Waits()
    gateway = Gateway(route(), filters=[("w", waits), ("after", Filter())])
    device = gateway.device()
    device.call(body=b"one")
    assert not gateway.upstreams.exchanges
    waits.pending[0].callback(None)
    assert gateway.upstreams.last.request.body == b"one"
    device.call(body=b"two")
    gateway.clock.pump([0.25] * 21)
    assert status_of(device) == Status.INTERNAL
    assert len(gateway.upstreams.exchanges) == 1
    assert gateway.call_counters.filter_errors == 1


# -------------------------------------------------------------------- streaming


def test_an_upload_streams_and_its_credit_comes_back_as_the_upstream_takes_it() -> None:
    gateway = Gateway(route(max_request_body=1 << 20))
    device = gateway.device()
    number = device.call(body=b"a" * 1000, more=True)
    exchange = gateway.upstreams.last
    assert exchange.request.more
    device.wire.send_data(number, b"b" * 200_000, True)
    device.send()
    taken = sum(map(len, exchange.uploaded))
    assert 60_000 < taken <= 65_536  # one call window, and no more until the upstream has taken it
    for _ in range(6):
        before = sum(map(len, exchange.uploaded))
        exchange.sink.upload_sent(65_536)
        device.send()
        device.send()
        assert sum(map(len, exchange.uploaded)) >= before
    device.wire.send_data(number, b"end", False)
    device.send()
    assert b"".join(exchange.uploaded) == b"a" * 1000 + b"b" * 200_000 + b"end"
    assert exchange.upload_over
    exchange.answer(200, b"ok")
    assert status_of(device) == 0
    assert gateway.records[-1].bytes_in == 201_003


def test_an_upload_past_the_route_limit_is_cut_off() -> None:
    gateway = Gateway(route(max_request_body=1500))
    device = gateway.device()
    number = device.call(body=b"a" * 1000, more=True)
    device.wire.send_data(number, b"b" * 1000, True)
    device.send()
    assert status_of(device) == Status.FRAME_SIZE
    assert gateway.upstreams.last.cancelled


def test_a_long_answer_is_throttled_by_the_device() -> None:
    gateway = Gateway(route(idempotent=True))
    device = gateway.device()
    device.call()
    exchange = gateway.upstreams.last
    exchange.sink.started(200, [], "http://u:1", 1)
    for _ in range(20):
        exchange.sink.data(b"x" * 10_000)
    assert exchange.paused
    received = b""
    for _ in range(10):
        for event in device.take(events.ResponseReceived) + device.take(events.DataReceived):
            body = event.body if isinstance(event, events.ResponseReceived) else event.data
            received += body
            device.wire.consumed(event.call, event.wire_size)
        device.send()
    assert not exchange.paused
    exchange.sink.finished()
    received += b"".join(e.data for e in device.take(events.DataReceived))
    assert received == b"x" * 200_000


def test_a_kernel_that_takes_nothing_pauses_the_upstream_too() -> None:
    gateway = Gateway(route(idempotent=True))
    device = gateway.device()
    device.call()
    exchange = gateway.upstreams.last
    exchange.sink.started(200, [], "http://u:1", 1)
    device.connection.buffered = 100_000
    exchange.sink.data(b"x")
    assert exchange.paused
    device.connection.buffered = 0
    device.binding.drained()
    assert not exchange.paused


# -------------------------------------------------------------------- cancelling


def test_reset_cancels_with_exactly_one_last_frame() -> None:
    gateway = Gateway(route(idempotent=True))
    device = gateway.device()
    number = device.call()
    device.wire.reset(number, Status.CANCELLED)
    device.send()
    assert gateway.upstreams.last.cancelled
    assert [e.status for e in device.take(events.CallReset)] == [Status.CANCELLED]
    assert gateway.records[-1].status == Status.CANCELLED


def test_a_cancel_that_crosses_the_answer_is_ignored() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    number = device.call()
    device.wire.reset(number, Status.CANCELLED)
    gateway.upstreams.last.answer(200, b"done")
    gateway.clock.advance(0)
    device.send()
    (response,) = device.take(events.ResponseReceived)
    assert response.body == b"done"
    assert not device.take(events.CallReset)
    assert device.connection.closed is None


def test_a_lost_connection_does_not_cancel_a_complete_call() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    device.call()
    device.lose()
    exchange = gateway.upstreams.last
    assert not exchange.cancelled
    exchange.answer(200, b"late")
    assert gateway.records[-1].status == 0
    assert gateway.call_counters.open == 0


def test_a_lost_connection_cancels_an_incomplete_upload() -> None:
    gateway = Gateway(route())
    device = gateway.device()
    device.call(body=b"part", more=True)
    device.lose()
    assert gateway.upstreams.last.cancelled
    assert gateway.call_counters.open == 0


# -------------------------------------------------------------------- the gateway's own operations


def test_builtin_operations() -> None:
    gateway = Gateway(route())
    device = gateway.device()

    def ask(operation: str, body: bytes = b"") -> events.ResponseReceived:
        device.call(operation, body)
        (response,) = device.take(events.ResponseReceived)
        return response

    assert ask("gw.subscribe", b'{"topics": ["news/sport", "news/art"]}').status == 0
    assert gateway.pushes.topics == {"d1": {"news/sport", "news/art"}}
    assert ask("gw.unsubscribe", b'{"topics": ["news/art"]}').body == b'{"topics":["news/sport"]}'
    assert ask("gw.subscriptions").body == b'{"topics":["news/sport"]}'
    assert ask("gw.time").body == b'{"time":%.1f}' % gateway.wall()
    for body in (b"", b"{}", b'{"topics": []}', b'{"topics": [""]}', b'{"topics": ["a\\u0000b"]}', b'{"topics": [1]}',
                 b'{"topics": ["' + b"x" * 201 + b'"]}'):  # fmt: skip
        assert ask("gw.subscribe", body).status == 400, body
    many = b'{"topics": [' + b",".join(b'"t%d"' % n for n in range(100)) + b"]}"
    assert ask("gw.subscribe", many).status == 400  # with the one it has that would be 101
    device.call("gw.nothing")
    assert status_of(device) == Status.UNKNOWN_OPERATION
    assert not gateway.upstreams.exchanges


def test_an_upload_to_the_gateway_itself_that_stalls_ends_with_its_time() -> None:
    gateway = Gateway(calls=CallSettings(default_timeout=5.0))
    device = gateway.device()
    device.call("gw.subscribe", b'{"topics": [', more=True)
    gateway.clock.pump([1.0] * 4)
    assert not device.take(events.CallReset)
    gateway.clock.pump([1.0] * 4)
    assert status_of(device) == Status.DEADLINE
    assert gateway.call_counters.open == 0


def test_credit_of_an_upload_to_the_gateway_itself_comes_back() -> None:
    """Else a body that is too large could not be shown to be so: the device would wait for credit for ever."""
    gateway = Gateway()
    device = gateway.device()
    number = device.call("gw.subscribe", b"x" * 60_000, more=True)
    device.wire.send_data(number, b"x" * 20_000, True)
    device.send()
    device.send()
    assert status_of(device) == Status.FRAME_SIZE
