"""Sessions of the made-up app: 20 calls, 100 pushes and 10 heartbeats of one device each.

Training and test sessions of a seed share no device, and a quarter of the words of the test does not occur in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from loadtest.corpus.calls import CALLS, Call, answered, refused
from loadtest.corpus.devices import JSON, PROTOBUF, Device, Headers
from loadtest.corpus.dice import Dice
from loadtest.corpus.fields import Fields, to_json, to_protobuf
from loadtest.corpus.notices import NOTICES, Notice
from loadtest.corpus.vocabulary import Vocabulary

HEARTBEATS = 10
EARLIER_CALLS = 6


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call: what the device sends and what the service answers."""

    operation: str
    request_headers: Headers
    request: bytes
    response_headers: Headers
    response: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push of a service, number `seq` of the device's stream of that biz."""

    biz: str
    content_type: str
    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened for long."""


Event = Exchange | Pushed | Heartbeat


@dataclass(frozen=True, slots=True)
class Session:
    """What happens to one device, in order."""

    device: str
    user: str
    events: list[Event]
    before: list[Exchange] = field(default_factory=list)
    """Calls of the device's connection before this one, which header states may be resumed from."""

    @property
    def exchanges(self) -> list[Exchange]:
        return [event for event in self.events if isinstance(event, Exchange)]

    @property
    def pushes(self) -> list[Pushed]:
        return [event for event in self.events if isinstance(event, Pushed)]

    @property
    def bodies(self) -> list[bytes]:
        """Every body, both directions."""
        calls = [body for call in self.exchanges for body in (call.request, call.response)]
        return calls + [push.body for push in self.pushes]


def sessions(seed: int, count: int, *, training: bool = False) -> Iterator[Session]:
    """`count` sessions of as many devices."""
    dice = Dice(f"sessions {seed} {training}")
    words = Vocabulary(seed, training)
    plan: list[Call | Notice | None] = [None] * HEARTBEATS
    for made in (*CALLS, *NOTICES):
        plan += [made] * made.share
    for _ in range(count):
        device = Device(dice, words)
        before = [_exchange(device, kind) for kind in dice.random.sample(CALLS, EARLIER_CALLS)]
        dice.random.shuffle(plan)
        following: dict[str, int] = {}
        events: list[Event] = []
        for kind in plan:
            device.wait()
            if isinstance(kind, Call):
                events.append(_exchange(device, kind))
            elif kind is None:
                events.append(Heartbeat())
            else:
                seq = following[kind.biz] = following.get(kind.biz, dice.random.randrange(10, 4000)) + 1
                events.append(_pushed(device, kind, seq))
        yield Session(device.id, device.user, events, before)


def samples(seed: int, count: int) -> Iterator[Session]:
    """Training sessions with one event of every kind, of `count` devices: what a reservoir of live traffic comes to
    have, a body each of many users."""
    dice = Dice(f"samples {seed}")
    words = Vocabulary(seed, True)
    plan: list[Call | Notice] = [*CALLS, *NOTICES]
    for _ in range(count):
        device = Device(dice, words)
        dice.random.shuffle(plan)
        events: list[Event] = []
        for kind in plan:
            device.wait()
            events.append(_exchange(device, kind) if isinstance(kind, Call) else _pushed(device, kind, 1))
        yield Session(device.id, device.user, events)


def _pushed(device: Device, kind: Notice, seq: int) -> Pushed:
    content_type, body = _encoded(device, kind.biz, kind.protobuf, kind.body(device))
    return Pushed(kind.biz, content_type, seq, body)


def _exchange(device: Device, kind: Call) -> Exchange:
    content_type, request = _encoded(device, kind.operation, kind.protobuf, kind.question(device))
    headers = device.request_headers(kind.operation, content_type, request)
    made = refused(device) if device.dice.share("refused?", 5) else answered(device, kind.answer(device))
    response = to_json(made, device.names) if content_type == JSON else to_protobuf(made)
    return Exchange(
        kind.operation, headers, request, device.response_headers(content_type, dict(headers)["x-trace-id"]), response
    )


def _encoded(device: Device, name: str, protobuf: int, fields: Fields) -> tuple[str, bytes]:
    if device.dice.share(f"protobuf/{name}", protobuf):
        return PROTOBUF, to_protobuf(fields)
    return JSON, to_json(fields, device.names)
