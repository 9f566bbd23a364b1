from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from accessgw.core.interfaces.control import ControlError
from accessgw.core.mqtt.requests import Requests
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import MqttCounters
from protocols.mqtt.packets import V5, V311, Property
from protocols.mqtt.reasons import Reason


class World:
    def __init__(self, **more: Any) -> None:
        self.clock = Clock()
        self.counters = MqttCounters()
        self.versions = {"new": V5, "old": V311}
        self.sent: list[Any] = []
        self.works = True
        numbers = count(1)
        self.requests = Requests(
            self, timers=TimingWheel(self.clock), random_bytes=lambda size: next(numbers).to_bytes(size, "big"),
            counters=self.counters, **more,
        )  # fmt: skip

    def version(self, client_id: str) -> int:
        return self.versions.get(client_id, 0)

    def send(self, *message: Any) -> bool:
        self.sent.append(message)
        return self.works

    def ask(self, client_id: str = "new", timeout: float = 5.0) -> list[Any]:
        found: list[Any] = []
        self.requests.ask(client_id, "cmd/reboot", b"now", timeout).addBoth(found.append)
        return found


def token(number: int) -> str:
    return f"{number:032x}"


def test_a_client_of_mqtt_5_is_told_where_to_answer() -> None:
    world = World()
    found = world.ask()
    response = f"$response/{token(1)}"
    assert world.sent == [
        ("new", "cmd/reboot", b"now", {Property.RESPONSE_TOPIC: response, Property.CORRELATION_DATA: token(1).encode()})
    ]
    assert world.requests.is_answer(response)
    assert found == []
    properties = {Property.CONTENT_TYPE: "text/plain"}
    assert world.requests.answered("new", response, b"done", properties) == Reason.SUCCESS
    assert found == [{"status": "answered", "payload": b"done", "content_type": "text/plain"}]
    assert world.requests.answered("new", response, b"again", {}) == Reason.NO_MATCHING_SUBSCRIBERS
    assert world.counters.device_requests == {"answered": 1}
    assert len(world.requests) == 0


def test_an_older_client_finds_the_token_at_the_end_of_the_topic() -> None:
    world = World()
    found = world.ask("old")
    assert world.sent == [("old", f"cmd/reboot/{token(1)}", b"now", {})]
    world.requests.answered("old", f"$response/{token(1)}", b"done", {})
    assert found == [{"status": "answered", "payload": b"done"}]


def test_who_is_not_connected_is_offline_at_once() -> None:
    world = World()
    assert world.ask("gone") == [{"status": "offline"}]
    world.works = False
    assert world.ask("new") == [{"status": "offline"}]
    assert len(world.requests) == 0
    assert world.counters.device_requests == {"offline": 2}


def test_no_answer_in_time() -> None:
    world = World()
    found = world.ask(timeout=2)
    for _ in range(7):
        world.clock.advance(0.25)
    assert found == []
    for _ in range(3):
        world.clock.advance(0.25)
    assert found == [{"status": "timeout"}]
    assert world.requests.answered("new", f"$response/{token(1)}", b"", {}) == Reason.NO_MATCHING_SUBSCRIBERS


def test_nobody_answers_for_another() -> None:
    world = World()
    found = world.ask()
    assert world.requests.answered("old", f"$response/{token(1)}", b"", {}) == Reason.NO_MATCHING_SUBSCRIBERS
    assert found == []


def test_an_answer_may_come_at_once() -> None:
    world = World()
    world.send = lambda client, topic, payload, properties: (  # type: ignore[method-assign]
        world.requests.answered(client, properties[Property.RESPONSE_TOPIC], b"!", {}) == Reason.SUCCESS
    )
    assert world.ask() == [{"status": "answered", "payload": b"!"}]


@pytest.mark.parametrize("bounds", [{"max_pending": 2}, {"max_per_client": 2}])
def test_only_so_many_wait(bounds: dict[str, int]) -> None:
    world = World(**bounds)
    world.ask()
    world.ask()
    (failure,) = world.ask()
    assert failure.check(ControlError)
    assert failure.value.status == 503
    world.requests.answered("new", f"$response/{token(1)}", b"", {})
    assert world.ask() == []


def test_a_request_may_be_cancelled() -> None:
    world = World()
    waiting = world.requests.ask("new", "a", b"", 5)
    found: list[Any] = []
    waiting.addErrback(lambda failure: found.append(failure.check(CancelledError)))
    waiting.cancel()
    assert found == [CancelledError]
    assert len(world.requests) == 0


def test_closing_ends_the_wait() -> None:
    world = World()
    found = world.ask()
    world.requests.close()
    assert found == [{"status": "timeout"}]
