"""What one turn brings about for a device is one TLS record, on a real engine; and the order of those that wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.turns import MAX_ANSWERING, TurnFlusher
from accessgw.crypto.contexts import ServerContexts
from accessgw.model.pushes import Scope, StreamKey
from protocols.mmtp import events
from protocols.mmtp.frames import FrameType
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.core.gateway_fakes import Device, Gateway
from tests.crypto.certificates import self_signed
from tests.protocols.mmtp.dialogue import split_frames
from tests.tls_tap import record_sizes

STREAM = StreamKey(Scope.USER, "alice", "orders")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return ServerContexts([self_signed(directory, "localhost")], ["mmtp/1"]).context()


class Records:
    """Puts a TLS engine, its hand-shake done, under the connection of a device: `take()` has the records since."""

    def __init__(self, device: Device, context: Any) -> None:
        plain = SSL.Context(SSL.TLS_CLIENT_METHOD)
        plain.set_alpn_protos([b"mmtp/1"])
        client = PyOpenSSLEngine(plain, server=False, server_name="localhost")
        self.engine = PyOpenSSLEngine(context, server=True)
        client.start()
        while data := client.to_send():
            self.engine.feed(data)
            client.feed(self.engine.to_send())
        assert not self.engine.to_send()
        self._write = device.connection.write
        device.connection.write = self.write  # type: ignore[method-assign]

    def write(self, data: bytes) -> None:
        self.engine.encrypt(data)
        self._write(data)

    def take(self) -> list[int]:
        return record_sizes(self.engine.to_send())


def push(seq: int) -> OutgoingPush:
    return OutgoingPush(STREAM, 3, 1, seq, b"hello")


def types_of(data: bytes) -> list[FrameType]:
    return [FrameType(frame[0] >> 4) for frame in split_frames(data)]


def test_calls_a_push_and_credit_of_one_turn_are_one_record(context: Any) -> None:
    gateway = Gateway()
    device = gateway.device(token="ok:alice")
    device.binding.introduce(3, STREAM, 1, 0)
    waiting = device.call("upstream")
    device.listen()
    tls = Records(device, context)
    for _ in range(3):
        device.wire.request("gw.time", [], bytes(60_000))
    device.binding.data_received(device.wire.to_send(gateway.clock.seconds()))
    assert tls.take() == []  # the turn is not over
    gateway.upstreams.last.answer(200, b"late")
    assert device.binding.send_push(push(1), 0)
    device.listen()
    sent = device.connection.written[-1]
    assert tls.take() == [len(sent)]
    assert types_of(sent).count(FrameType.RESPONSE) == 4
    assert {FrameType.WINDOW, FrameType.PUSH} < set(types_of(sent))
    assert waiting in [answer.call for answer in device.take(events.ResponseReceived)]


@pytest.mark.parametrize("later", [False, True], ids=["at once", "admitted later"])
def test_welcome_and_pushes_that_are_replayed_are_one_record(
    context: Any, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway()

    def replay(session: Any) -> None:
        session.link.introduce(3, STREAM, 1, 0)
        assert session.link.send_push(push(1), 0)
        assert session.link.send_push(push(2), 0)

    def attach(session: Any, cursors: Any, *, passing: bool = False) -> None:
        gateway.clock.callLater(0, replay, session)

    monkeypatch.setattr(gateway.pushes, "attach", attach)
    turns = FakeTurns()
    gateway.services.flusher = TurnFlusher(gateway.clock, turns=turns)
    gateway.authenticator.hold = later
    device = Device(gateway)
    tls = Records(device, context)
    device.hello(token="ok:alice")
    if later:
        gateway.authenticator.let_go()
        device.listen()
    assert tls.take() == []
    (end,) = turns.ends
    end()
    sent = device.connection.written
    assert tls.take() == [len(sent[0])]
    assert len(sent) == 1
    types = types_of(sent[0])
    assert (types[0], types[-2:]) == (FrameType.WELCOME, [FrameType.PUSH, FrameType.PUSH])
    assert [came.seq for came in device.take(events.PushReceived)] == [1, 2]


def test_a_batch_that_brings_nothing_about_waits_for_no_turn() -> None:
    gateway = Gateway()
    device = gateway.device()
    device.listen()
    device.wire.ping(False)
    device.binding.data_received(device.wire.to_send(gateway.clock.seconds()))
    assert not device.binding._dirty
    assert not device.binding.wire.has_to_send


def test_the_end_of_a_connection_takes_what_waited_along(context: Any) -> None:
    gateway = Gateway()
    device = gateway.device()
    device.listen()
    tls = Records(device, context)
    device.wire.request("gw.time", [], b"")
    device.binding.data_received(device.wire.to_send(gateway.clock.seconds()))
    assert tls.take() == []
    device.binding.data_received(b"\x81")
    assert len(tls.take()) == 1  # without waiting for the turn
    assert device.connection.closed is not None
    assert types_of(device.connection.written[-1]) == [FrameType.RESPONSE, FrameType.GOAWAY]


# ---------------------------------------------------------------- who waits


class One:
    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails = name, log, fails

    def flush(self) -> None:
        self.log.append(self.name)
        if self.fails:
            raise ValueError("a defect")


class FakeTurns:
    def __init__(self) -> None:
        self.over = False
        self.ends: list[Any] = []
        self.at_turn_end = self.ends.append

    def turn_is_over(self) -> bool:
        return self.over


def test_answers_leave_before_what_was_sent_to_many() -> None:
    clock, log = Clock(), list[str]()
    flusher = TurnFlusher(clock)
    flusher.add(One("push", log))
    flusher.answer(One("answer", log))
    assert log == []
    clock.advance(0)
    assert log == ["answer", "push"]
    assert not clock.getDelayedCalls()


def test_in_a_long_turn_answers_wait_for_few_others() -> None:
    clock, log = Clock(), list[str]()
    flusher = TurnFlusher(clock)
    for number in range(MAX_ANSWERING + 1):
        flusher.answer(One(str(number), log))
    assert len(log) == MAX_ANSWERING
    clock.advance(0)
    assert len(log) == MAX_ANSWERING + 1


def test_an_answer_leaves_at_once_where_the_turn_has_nothing_else() -> None:
    turns, log = FakeTurns(), list[str]()
    flusher = TurnFlusher(Clock(), turns=turns)
    flusher.answer(One("waits", log))
    assert (log, len(turns.ends)) == ([], 1)
    turns.over = True
    flusher.answer(One("at once", log))
    turns.ends.pop()()
    assert log == ["at once", "waits"]
    assert not turns.ends


def test_an_answer_leaves_at_once_where_it_is_sent_together_with_more() -> None:
    turns, log = FakeTurns(), list[str]()
    flusher = TurnFlusher(Clock(), turns=turns)
    flusher.gathering = True
    flusher.answer(One("gathered", log))
    flusher.gathering = False
    flusher.answer(One("waits", log))
    assert log == ["gathered"]
    turns.ends.pop()()
    assert log == ["gathered", "waits"]


def test_a_defect_of_one_is_nobody_else_s_trouble() -> None:
    clock, log = Clock(), list[str]()
    flusher = TurnFlusher(clock)
    for round_ in ("first", "second"):
        for one in (One("bad", log, True), One(round_, log)):
            flusher.answer(one)
            flusher.add(one)
        clock.advance(0)
    assert log == ["bad", "first"] * 2 + ["bad", "second"] * 2
