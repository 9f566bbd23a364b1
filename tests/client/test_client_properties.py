"""Whatever is lost and whenever: each call ends exactly once, each push is delivered once, in order of its stream."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accessgw.client.model import CallFailed, Reply, State
from protocols.mmtp.handshake import Goaway
from protocols.mmtp.statuses import Status
from tests.client.driver import Driver
from tests.client.fake_gateway import FakeGateway
from tests.client.wire_gateway import NEWS, ORDERS, TABLE, WireGateway

STREAMS = [("device", "d1", "orders"), ("user", "u1", "chat"), ("broadcast", "", "news")]

step = st.one_of(
    st.tuples(st.just("call"), st.sampled_from(["echo", "slow", "broken"])),
    st.tuples(st.just("push"), st.integers(0, 2)),
    st.tuples(st.just("process"), st.integers(0, 5)),
    st.tuples(st.just("advance"), st.sampled_from([0.01, 0.2, 1.0, 7.0])),
    st.tuples(st.just("lose"), st.none()),
    st.tuples(st.just("cut"), st.integers(1, 60)),
    st.tuples(st.just("hole"), st.booleans()),
    st.tuples(st.just("accept"), st.booleans()),
    st.tuples(st.just("post"), st.booleans()),
    st.tuples(st.just("goaway"), st.sampled_from([0, int(Status.SLOW_READER), int(Status.DRAINING)])),
    st.tuples(st.just("save"), st.booleans()),
    st.tuples(st.just("forget"), st.none()),
)


def lossy_push(driver: Driver, stream: tuple[str, str, str], body: bytes) -> None:
    driver.gateway.log.setdefault(stream, []).append(body)
    if driver.gateway.links:
        driver.gateway.links[-1].deliver()
    for attempt in list(driver.links):
        driver.from_gateway(attempt)


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(step, max_size=40),
    persistent=st.booleans(),
    short=st.booleans(),
    coded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_each_call_once_each_push_once(
    steps: list[tuple[str, object]], persistent: bool, short: bool, coded: bool, seed: int
) -> None:
    gateway = WireGateway(offers=[ORDERS, NEWS], offered_table=TABLE) if coded else FakeGateway()
    driver = Driver("mmtps://gw:7443" if short else "mmtp://gw:7080", persistent=persistent, seed=seed, gateway=gateway)
    driver.gateway.statuses["broken"] = 500
    driver.gateway.hold.add("slow")
    calls: dict[int, str] = {}
    for count, (action, value) in enumerate(steps):
        if action == "call":
            calls[driver.call(str(value), b"%d" % count, timeout=25.0)] = f"{value}:{count}"
        elif action == "push":
            lossy_push(driver, STREAMS[value], b"%d" % count)  # type: ignore[index,call-overload]
        elif action == "process":
            waiting = [push for push in driver.pushes if not push.acked]
            if waiting:
                driver.process(waiting[value % len(waiting)])  # type: ignore[operator]
        elif action == "advance":
            driver.advance(value)  # type: ignore[arg-type]
        elif action == "lose" and driver.links:
            driver.lose()
        elif action == "cut" and driver.links:
            # half of an answer arrives, then the connection breaks
            attempt = max(driver.links)
            link = driver.links[attempt]
            link.deliver()
            link.connection.ping(answer=True)
            data = link.connection.to_send(driver.now)[:value]  # type: ignore[misc]
            if data and not driver.black_hole:
                driver.arrive(attempt, data)
            if attempt in driver.links:
                driver.lose(attempt)
        elif action == "hole":
            driver.black_hole = bool(value)
        elif action == "accept":
            driver.accepting = bool(value)
        elif action == "post":
            driver.auto_post = bool(value)
        elif action == "goaway" and driver.links:
            attempt = max(driver.links)
            link = driver.links[attempt]
            if link.open and not link.connection.closed:
                link.connection.go_away(Goaway(int(value), delay=0.5))  # type: ignore[call-overload]
                driver.from_gateway(attempt)
        elif action == "forget" and isinstance(gateway, WireGateway):
            gateway.forget()
        elif action == "save":
            if value and driver.unsaved:
                driver.saved()
            driver.auto_save = bool(value)
    # the world heals
    driver.black_hole = False
    driver.accepting = driver.auto_post = driver.auto_save = True
    driver.gateway.hold.clear()
    if driver.unsaved:
        driver.saved()
    for _ in range(12):
        driver.advance(10.0)
        for attempt in list(driver.links):
            driver.links[attempt].deliver()
            driver.from_gateway(attempt)
        for push in [push for push in driver.pushes if not push.acked]:
            driver.process(push)
    # each call ended once (the driver fails on a second end), and those that ended well with their own answer
    assert set(driver.outcomes) == set(calls)
    for key, outcome in driver.outcomes.items():
        if isinstance(outcome, Reply):
            assert outcome.body.decode() == calls[key]
        else:
            assert isinstance(outcome, CallFailed)
            assert outcome.status in (500, Status.DEADLINE), outcome
    # each push once, in order, and all of them acknowledged in the end
    for stream in STREAMS:
        expected = list(range(1, len(driver.gateway.log.get(stream, [])) + 1))
        assert [push.seq for push in driver.pushes if push.stream == stream] == expected
        if expected:
            assert driver.gateway.cursors.get(stream) == expected[-1] or any(
                (cursor.scope, cursor.id, cursor.biz, cursor.seq) == (*stream, expected[-1])
                for cursor in driver.core._pushes.hello_cursors()
            )


@settings(max_examples=150, deadline=None)
@given(data=st.lists(st.binary(max_size=40), max_size=6), status=st.integers(100, 599), body=st.binary(max_size=60))
def test_hostile_bytes_raise_nothing_and_cost_one_connection(data: list[bytes], status: int, body: bytes) -> None:
    driver = Driver()
    driver.strict = driver.auto_post = False
    key = driver.call("slow" if status % 2 else "echo")
    for part in data:
        if 1 in driver.links:
            driver.core.received(1, part, driver.now)
            driver.run()
    driver.advance(2.0)
    for post in list(driver.posts):
        driver.core.posted(post.post, status, body, driver.now)
        driver.run()
    driver.advance(40.0)
    assert key in driver.outcomes


@pytest.mark.parametrize("coded", [False, True])
def test_frames_of_every_type_from_the_gateway_raise_nothing(coded: bool) -> None:
    for first in range(256):
        for payload in (b"", b"\x00\x00", b"\x01\x01\x01", b"\x07\x00" * 9, b"\xff" * 9):
            driver = Driver("mmtp://gw:7080", gateway=WireGateway(offers=[ORDERS]) if coded else FakeGateway())
            driver.strict = False
            driver.core.received(1, bytes((first, len(payload))) + payload, driver.now)
            driver.run()
            driver.advance(6.0)
            if driver.core.state is not State.CLOSED:
                assert driver.core.state is State.CONNECTED, (first, payload)
