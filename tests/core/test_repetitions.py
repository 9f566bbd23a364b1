"""Calls exactly as promised (MMTP specification 6.4): duplicates, repetitions, lost claims, both ways at once."""

from __future__ import annotations

import pytest

from accessgw.core.interfaces.stores import ClaimState, StoreUnavailable
from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.model.calls import Call
from accessgw.model.route_settings import RouteSettings
from accessgw.model.settings import CallSettings
from accessgw.policy.routing import RouteTable
from protocols.mmtp import events
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import Device, FakeAnswerStore, FakeResponder, Gateway

DURABLE = RouteSettings(operation="*", cluster="c", max_request_body=1 << 20)
MEMORY = RouteSettings(operation="*", cluster="c", once="memory")
IDEMPOTENT = RouteSettings(operation="*", cluster="c", idempotent=True)


def gateway_of(route: RouteSettings = DURABLE, **more: object) -> Gateway:
    """A gateway that has been up for long, so that it would remember every claim."""
    gateway = Gateway(route, **more)
    gateway.clock.advance(100.0)
    return gateway


def repeat(gateway: Gateway, call_id: int, body: bytes = b"{}", operation: str = "pay", **more: object) -> Device:
    """The same call, resent on a new connection."""
    device = gateway.device(token=str(more.pop("token", "ok")))
    device.call(operation, body, call_id=call_id, **more)
    return device


def answer_of(device: Device) -> tuple[int, bytes]:
    (event,) = device.take(events.ResponseReceived) or device.take(events.CallReset)
    return event.status, getattr(event, "body", b"")


@pytest.mark.parametrize("route", [DURABLE, MEMORY])
def test_a_repetition_gets_the_kept_answer(route: RouteSettings) -> None:
    gateway = gateway_of(route)
    first = gateway.device(call_base=7)
    first.call("pay", b"{}")
    first.lose()
    gateway.upstreams.last.answer(200, b"paid", [("x-receipt", "1")])
    second = repeat(gateway, 7)
    (response,) = second.take(events.ResponseReceived)
    assert (response.status, response.body, response.headers) == (0, b"paid", [("x-receipt", "1")])
    assert len(gateway.upstreams.exchanges) == 1
    assert gateway.records[-1].replayed
    assert gateway.call_counters.replayed == 1


@pytest.mark.parametrize("route", [DURABLE, MEMORY])
def test_a_repetition_joins_a_call_in_flight(route: RouteSettings) -> None:
    gateway = gateway_of(route)
    first = gateway.device(call_base=7)
    first.call("pay", b"{}")
    first.lose()
    second = repeat(gateway, 7)
    assert not second.take(events.ResponseReceived)
    gateway.upstreams.last.answer(200, b"paid")
    assert answer_of(second) == (0, b"paid")
    assert len(gateway.upstreams.exchanges) == 1


def test_two_ways_at_once_are_answered_once_and_one_may_give_up() -> None:
    for held in (False, True):
        gateway = gateway_of()
        gateway.store.hold = held
        device = gateway.device(call_base=7)
        number = device.call("pay", b"{}")
        session = gateway.sessions.registry.by_device("d1")
        assert session is not None
        short, long_gone = FakeResponder(), FakeResponder()
        call = {"operation": "pay", "identity": session.identity, "call_id": 7, "headers": [], "body": b"{}"}
        gateway.calls.start(Call(**call, resent=True, received_at=gateway.clock.seconds()), short)
        leaving = gateway.calls.start(Call(**call, resent=True, received_at=gateway.clock.seconds()), long_gone)
        leaving.cancel(Status.CANCELLED)
        assert long_gone.log == [("reset", Status.CANCELLED)]
        device.wire.reset(number, Status.CANCELLED)
        device.send()
        assert answer_of(device) == (Status.CANCELLED, b"")
        gateway.store.let_go()
        assert not gateway.upstreams.last.cancelled  # the other way waits for it
        gateway.upstreams.last.answer(200, b"paid")
        assert short.log == [("respond", 0, b"paid", False)]
        assert long_gone.log == [("reset", Status.CANCELLED)]


def test_the_same_id_with_another_body_or_operation_is_a_duplicate() -> None:
    for when in ("running", "answered", "forgotten"):
        gateway = gateway_of()
        gateway.device(call_base=7).call("pay", b"one")
        if when != "running":
            gateway.upstreams.last.answer(200)
        if when == "forgotten":
            gateway.clock.advance(61.0)
        assert answer_of(repeat(gateway, 7, b"two")) == (Status.DUPLICATE, b""), when
        assert answer_of(repeat(gateway, 7, b"one", "refund")) == (Status.DUPLICATE, b""), when
        assert len(gateway.upstreams.exchanges) == 1


def test_a_duplicate_id_without_the_resent_mark_is_caught_too() -> None:
    gateway = gateway_of()
    gateway.device(call_base=7).call("pay", b"{}")
    gateway.upstreams.last.answer(200, b"paid")
    second = gateway.device(call_base=7)
    second.call("pay", b"{}")
    assert answer_of(second) == (0, b"paid")
    assert len(gateway.upstreams.exchanges) == 1


def test_another_users_call_with_the_same_id_is_another_call() -> None:
    gateway = gateway_of()
    gateway.device(call_base=7, token="ok:alice").call("pay", b"{}")
    gateway.upstreams.last.answer(200, b"alice's")
    second = repeat(gateway, 7, token="ok:bob")
    gateway.upstreams.last.answer(200, b"bob's")
    assert answer_of(second) == (0, b"bob's")


def test_past_the_horizon_the_outcome_is_unknown() -> None:
    for route in (DURABLE, MEMORY):
        gateway = gateway_of(route)
        gateway.device(call_base=7).call("pay", b"{}")
        gateway.upstreams.last.answer(200, b"paid")
        gateway.clock.advance(61.0)
        assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")
        assert len(gateway.upstreams.exchanges) == 1


def test_an_answer_too_large_to_keep_is_unknown_to_a_repetition() -> None:
    gateway = gateway_of(calls=CallSettings(max_kept_answer=10))
    gateway.device(call_base=7).call("pay", b"{}")
    gateway.upstreams.last.answer(200, b"x" * 11)
    assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")


def test_a_claim_left_open_by_a_dead_worker_is_never_executed_again() -> None:
    store = FakeAnswerStore()
    dead = gateway_of(store=store)
    dead.device(call_base=7).call("pay", b"{}")
    assert len(dead.upstreams.exchanges) == 1  # executed by the upstream, and then kill -9
    alive = Gateway(DURABLE, store=store)
    assert answer_of(repeat(alive, 7)) == (Status.OUTCOME_UNKNOWN, b"")
    assert answer_of(repeat(alive, 7, b"other")) == (Status.DUPLICATE, b"")
    assert not alive.upstreams.exchanges


def test_a_repetition_whose_first_attempt_never_came_is_executed() -> None:
    for route in (DURABLE, MEMORY):
        gateway = gateway_of(route)
        device = repeat(gateway, 7)
        gateway.upstreams.last.answer(200, b"paid")
        assert answer_of(device) == (0, b"paid")


def test_claims_in_memory_are_unknown_while_a_predecessor_may_have_held_them() -> None:
    gateway = Gateway(MEMORY)
    assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")
    device = gateway.device()
    device.call("pay", b"{}")  # not a repetition: nothing to fear
    assert len(gateway.upstreams.exchanges) == 1


def test_memory_claims_forgotten_for_want_of_room_are_unknown() -> None:
    gateway = gateway_of(MEMORY, calls=CallSettings(max_answers=2))
    device = gateway.device(call_base=100)
    for _ in range(3):
        device.call("pay", b"{}")
        gateway.upstreams.last.answer(200)
    assert answer_of(repeat(gateway, 100)) == (Status.OUTCOME_UNKNOWN, b"")
    assert len(gateway.upstreams.exchanges) == 3


def test_idempotent_routes_claim_in_memory_only() -> None:
    gateway = gateway_of(IDEMPOTENT)
    gateway.device(call_base=7).call("get", b"{}")
    for status in (answer_of(repeat(gateway, 7, b"other", "get")), answer_of(repeat(gateway, 7, operation="put"))):
        assert status == (Status.DUPLICATE, b"")
    joined = repeat(gateway, 7, operation="get")
    gateway.upstreams.last.answer(200, b"got")
    assert answer_of(joined) == (0, b"got")
    assert answer_of(repeat(gateway, 7, operation="get")) == (0, b"got")
    assert answer_of(repeat(gateway, 7, b"other", "get")) == (Status.DUPLICATE, b"")
    assert len(gateway.upstreams.exchanges) == 1
    assert not gateway.store.claims


def test_an_idempotent_call_of_which_nothing_is_known_is_executed_again() -> None:
    for reason in ("past the horizon", "too large", "lost", "cancelled", "may be tried again"):
        gateway = gateway_of(IDEMPOTENT, calls=CallSettings(max_kept_answer=10))
        first = gateway.device(call_base=7)
        number = first.call("get", b"{}")
        if reason == "past the horizon":
            gateway.upstreams.last.answer(200, b"got")
            gateway.clock.advance(61.0)
        elif reason == "too large":
            gateway.upstreams.last.answer(200, b"x" * 11)
        elif reason == "lost":
            gateway.upstreams.last.sink.failed(UpstreamFailure("reset", "", executed=True))
        elif reason == "cancelled":
            first.wire.reset(number, Status.CANCELLED)
            first.send()
        else:
            gateway.upstreams.last.answer(503, b"soon")
        second = repeat(gateway, 7, operation="get")
        assert len(gateway.upstreams.exchanges) == 2, reason
        gateway.upstreams.last.answer(200, b"got")
        assert answer_of(second) == (0, b"got")


def test_those_who_wait_for_an_idempotent_call_that_is_cut_off_execute_it_themselves_once() -> None:
    gateway = gateway_of(IDEMPOTENT)
    first = gateway.device(call_base=7)
    first.call("get", b"ab", more=True)
    waiting = gateway.device()
    waiting.call("get", b"abcd", call_id=7)
    waiting.call("get", b"abcd", call_id=7)
    assert len(gateway.upstreams.exchanges) == 1
    first.lose()
    assert len(gateway.upstreams.exchanges) == 2
    assert gateway.upstreams.last.request.body == b"abcd"
    gateway.upstreams.last.answer(200, b"got")
    assert [event.body for event in waiting.take(events.ResponseReceived)] == [b"got", b"got"]


def test_an_idempotent_upload_that_is_repeated_is_executed_again() -> None:
    gateway = gateway_of(IDEMPOTENT)
    upload(gateway.device(call_base=7), [b"ab", b"cd"])
    gateway.upstreams.last.answer(200, b"stored")
    device = gateway.device()
    upload(device, [b"abc", b"d"], call_id=7)
    assert len(gateway.upstreams.exchanges) == 2
    gateway.upstreams.last.answer(200, b"again")
    assert answer_of(device) == (0, b"again")
    assert answer_of(repeat(gateway, 7, b"abcd")) == (0, b"stored"), "one that comes whole is compared"


def test_an_idempotent_call_may_follow_a_claim_whose_outcome_is_unknown() -> None:
    gateway = gateway_of(MEMORY)
    device = gateway.device(call_base=7)
    device.call("pay", b"{}")
    gateway.upstreams.last.sink.failed(UpstreamFailure("reset", "", executed=True))
    assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")
    gateway.calls.routes = RouteTable([IDEMPOTENT])
    repeat(gateway, 7)
    assert len(gateway.upstreams.exchanges) == 2


def test_answers_of_idempotent_calls_make_room_first() -> None:
    gateway = gateway_of(calls=CallSettings(max_answers=2))
    gateway.calls.routes = RouteTable([RouteSettings(operation="get", cluster="c", idempotent=True), DURABLE])
    device = gateway.device(call_base=100)
    for operation in ("pay", "get", "get"):
        device.call(operation, b"{}")
        gateway.upstreams.last.answer(200, b"kept")
    assert gateway.claims.kept == 2
    assert answer_of(repeat(gateway, 100)) == (0, b"kept")
    assert answer_of(repeat(gateway, 102, operation="get")) == (0, b"kept")
    gateway.clock.pump([1.0] * 80)
    assert gateway.claims.kept == 0


def test_the_claim_is_durable_before_the_upstream_is_called() -> None:
    gateway = gateway_of()
    gateway.store.hold = True
    device = gateway.device()
    device.call("pay", b"{}")
    assert gateway.store.claims
    assert not gateway.upstreams.exchanges
    gateway.store.let_go()
    assert len(gateway.upstreams.exchanges) == 1


def test_a_store_that_fails_refuses_the_call_unexecuted() -> None:
    gateway = gateway_of()
    gateway.store.fail = StoreUnavailable("disk full")
    device = gateway.device(call_base=7)
    device.call("pay", b"{}")
    assert answer_of(device) == (Status.OVERLOAD, b"")
    assert not gateway.upstreams.exchanges
    gateway.store.fail = None
    second = repeat(gateway, 7)
    gateway.upstreams.last.answer(200, b"paid")
    assert answer_of(second) == (0, b"paid")


def test_a_store_that_never_answers_costs_the_deadline_only() -> None:
    gateway = gateway_of()
    gateway.store.hold = True
    device = gateway.device()
    device.call("pay", b"{}", timeout=2.0)
    gateway.clock.pump([0.25] * 10)
    assert answer_of(device) == (Status.DEADLINE, b"")
    gateway.store.let_go()
    assert not gateway.upstreams.exchanges
    assert not gateway.store.claims  # released: it was never sent


def test_what_was_not_executed_may_be_tried_again() -> None:
    gateway = gateway_of()
    gateway.device(call_base=7).call("pay", b"{}")
    gateway.upstreams.last.sink.failed(UpstreamFailure("connect", "refused"))
    second = repeat(gateway, 7)
    gateway.upstreams.last.answer(200, b"paid")
    assert answer_of(second) == (0, b"paid")


@pytest.mark.parametrize("route", [DURABLE, MEMORY])
@pytest.mark.parametrize("kind", ["reset", "timeout", "protocol"])
def test_what_may_have_been_executed_is_unknown_for_ever(route: RouteSettings, kind: str) -> None:
    gateway = gateway_of(route)
    gateway.device(call_base=7).call("pay", b"{}")
    gateway.upstreams.last.sink.failed(UpstreamFailure(kind, "", executed=True))
    assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")
    assert len(gateway.upstreams.exchanges) == 1


def test_a_cancelled_call_is_unknown_and_never_executed_again() -> None:
    gateway = gateway_of()
    device = gateway.device(call_base=7)
    number = device.call("pay", b"{}")
    device.wire.reset(number, Status.CANCELLED)
    device.send()
    assert gateway.upstreams.last.cancelled
    assert answer_of(repeat(gateway, 7)) == (Status.OUTCOME_UNKNOWN, b"")


def test_a_call_cancelled_before_its_claim_was_durable_is_free_again() -> None:
    gateway = gateway_of()
    gateway.store.hold = True
    device = gateway.device(call_base=7)
    number = device.call("pay", b"{}")
    device.wire.reset(number, Status.CANCELLED)
    device.send()
    assert answer_of(device) == (Status.CANCELLED, b"")
    gateway.store.let_go()
    assert not gateway.upstreams.exchanges
    assert not gateway.store.claims


def test_those_who_wait_get_the_failure_of_the_first_attempt() -> None:
    gateway = gateway_of()
    first = gateway.device(call_base=7)
    first.call("pay", b"{}")
    first.lose()
    second = repeat(gateway, 7)
    gateway.upstreams.last.sink.failed(UpstreamFailure("connect", "refused"))
    assert answer_of(second) == (Status.UPSTREAM_UNAVAILABLE, b"")


# -------------------------------------------------------------------- streaming uploads (docs/adr/0030)


def upload(device: Device, parts: list[bytes], **more: object) -> None:
    number = device.call("pay", parts[0], more=True, **more)
    for index, part in enumerate(parts[1:]):
        device.wire.send_data(number, part, index + 2 < len(parts))
        device.send()


def test_a_streaming_repetition_is_compared_by_its_whole_body() -> None:
    gateway = gateway_of()
    first = gateway.device(call_base=7)
    upload(first, [b"ab", b"cd"])
    gateway.upstreams.last.answer(200, b"stored")
    for parts, expected in (
        ([b"a", b"b", b"cd"], (0, b"stored")),
        ([b"ab", b"cX"], (Status.DUPLICATE, b"")),
    ):
        device = gateway.device()
        upload(device, parts, call_id=7)
        assert answer_of(device) == expected
    assert answer_of(repeat(gateway, 7, b"abcd")) == (0, b"stored")
    assert len(gateway.upstreams.exchanges) == 1


def test_a_streaming_repetition_after_the_horizon_is_unknown() -> None:
    gateway = gateway_of()
    upload(gateway.device(call_base=7), [b"ab", b"cd"])
    gateway.upstreams.last.answer(200, b"stored")
    gateway.clock.advance(61.0)
    device = gateway.device()
    upload(device, [b"ab", b"cd"], call_id=7)
    assert answer_of(device) == (Status.OUTCOME_UNKNOWN, b"")
    assert len(gateway.upstreams.exchanges) == 1


def test_an_upload_that_was_cut_off_is_unknown() -> None:
    gateway = gateway_of()
    first = gateway.device(call_base=7)
    first.call("pay", b"ab", more=True)
    first.lose()
    device = gateway.device()
    upload(device, [b"ab", b"cd"], call_id=7)
    assert answer_of(device) == (Status.OUTCOME_UNKNOWN, b"")
    assert gateway.store.claims["d1", "", 7][1] == ClaimState.OPEN


def test_an_answer_before_the_end_of_the_upload_is_not_kept() -> None:
    gateway = gateway_of()
    first = gateway.device(call_base=7)
    first.call("pay", b"ab", more=True)
    gateway.upstreams.last.answer(413, b"too much")
    assert answer_of(first)[0] == 413
    device = gateway.device()
    upload(device, [b"ab", b"cd"], call_id=7)
    assert answer_of(device) == (Status.OUTCOME_UNKNOWN, b"")


# -------------------------------------------------------------------- bounds


def test_kept_answers_are_bounded_by_number_and_bytes_least_recently_used_first() -> None:
    gateway = gateway_of(calls=CallSettings(max_answers=2))
    device = gateway.device(call_base=100)
    for _ in range(2):
        device.call("pay", b"{}")
        gateway.upstreams.last.answer(200, b"kept")
    assert answer_of(repeat(gateway, 100)) == (0, b"kept")  # used: now the younger one
    third = gateway.device(call_base=102)
    third.call("pay", b"{}")
    gateway.upstreams.last.answer(200, b"kept")
    assert gateway.claims.kept == 2
    assert answer_of(repeat(gateway, 101)) == (Status.OUTCOME_UNKNOWN, b"")
    assert answer_of(repeat(gateway, 100)) == (0, b"kept")

    gateway = gateway_of(calls=CallSettings(max_answer_bytes=2500))
    device = gateway.device(call_base=100)
    for _ in range(4):
        device.call("pay", b"{}")
        gateway.upstreams.last.answer(200, b"x" * 600)
    assert gateway.claims.kept == 2


def test_old_answers_and_claims_are_swept() -> None:
    gateway = gateway_of(calls=CallSettings(claim_horizon=100.0))
    gateway.claims.start()
    gateway.device().call("pay", b"{}")
    gateway.upstreams.last.answer(200, b"x")
    gateway.clock.pump([1.0] * 80)
    assert gateway.claims.kept == 0
    assert gateway.store.claims
    gateway.clock.pump([1.0] * 90)
    assert not gateway.store.claims


@pytest.mark.parametrize("route", [DURABLE, MEMORY])
def test_a_repetition_older_than_claims_are_kept_is_unknown(route: RouteSettings) -> None:
    horizon = CallSettings().claim_horizon
    gateway = gateway_of(route)
    gateway.clock.advance(2 * horizon)
    assert answer_of(repeat(gateway, 7, age=horizon)) == (Status.OUTCOME_UNKNOWN, b"")
    assert not gateway.upstreams.exchanges
    repeat(gateway, 8, age=horizon - 1.0)
    assert len(gateway.upstreams.exchanges) == 1


def test_a_repetition_from_the_time_of_durable_claims_forgotten_for_want_of_room_is_unknown() -> None:
    gateway = gateway_of()
    gateway.store.forgotten = gateway.wall() - 30.0
    assert answer_of(repeat(gateway, 7, age=31.0)) == (Status.OUTCOME_UNKNOWN, b"")
    assert answer_of(repeat(gateway, 8)) == (Status.OUTCOME_UNKNOWN, b""), "without an age: the answer horizon"
    assert not gateway.upstreams.exchanges
    gateway.device(call_base=9).call("pay", b"{}")
    repeat(gateway, 10, age=29.0)
    assert len(gateway.upstreams.exchanges) == 2


def test_memory_claims_trust_the_age_of_a_repetition() -> None:
    gateway = Gateway(MEMORY)
    gateway.clock.advance(5.0)
    repeat(gateway, 7, age=4.0)
    assert len(gateway.upstreams.exchanges) == 1, "its first attempt would be known"
    assert answer_of(repeat(gateway, 8, age=6.0)) == (Status.OUTCOME_UNKNOWN, b"")


def test_an_idempotent_repetition_has_no_age() -> None:
    gateway = gateway_of(IDEMPOTENT)
    repeat(gateway, 7, operation="get", age=1e9)
    assert len(gateway.upstreams.exchanges) == 1


def test_a_repetition_waits_no_longer_than_its_own_time() -> None:
    gateway = Gateway()
    gateway.device().call("pay", call_id=9)
    attempt = gateway.upstreams.last
    again = gateway.device(generation=(2, 1))
    again.call("pay", call_id=9, timeout=2.0)
    gateway.clock.pump([0.5] * 8)
    (reset,) = again.take(events.CallReset)
    assert reset.status == Status.DEADLINE
    attempt.answer(body=b"late")
    assert not again.take(events.ResponseReceived)
    assert gateway.call_counters.open == 0


def test_a_streaming_repetition_that_stalls_ends_with_its_time() -> None:
    gateway = Gateway()
    first = gateway.device()
    number = first.call("pay", b"a", more=True, call_id=9)
    first.wire.send_data(number, b"b", False)
    first.send()
    again = gateway.device(generation=(2, 1))
    again.call("pay", b"a", more=True, call_id=9, timeout=2.0)
    gateway.clock.pump([0.5] * 8)
    (reset,) = again.take(events.CallReset)
    assert reset.status == Status.DEADLINE


@pytest.mark.parametrize(("route", "refused"), [(DURABLE, True), (MEMORY, True), (IDEMPOTENT, False)])
def test_early_data_is_served_on_idempotent_routes_only(route: RouteSettings, refused: bool) -> None:
    gateway = gateway_of(route)
    gateway.device()
    session = gateway.sessions.registry.by_device("d1")
    assert session is not None
    responder = FakeResponder()
    call = Call("get", session.identity, 5, [], early=True, received_at=gateway.clock.seconds())
    gateway.calls.start(call, responder)
    if refused:
        assert responder.log == [("reset", Status.EARLY_DATA_REFUSED)]
        assert not gateway.upstreams.exchanges
        assert not gateway.store.claims
    else:
        assert ("early-data", "1") in gateway.upstreams.last.request.headers


def test_a_memory_claim_whose_answer_is_not_kept_still_tells_bodies_apart() -> None:
    gateway = gateway_of(MEMORY, calls=CallSettings(max_kept_answer=1))
    gateway.device(call_base=7).call("pay", b"one")
    gateway.upstreams.last.answer(200, b"too large to keep")
    assert answer_of(repeat(gateway, 7, b"two")) == (Status.DUPLICATE, b"")
    assert answer_of(repeat(gateway, 7, b"one")) == (Status.OUTCOME_UNKNOWN, b"")
    assert len(gateway.upstreams.exchanges) == 1
