"""How the garbage collector is kept from looking at everything."""

from __future__ import annotations

from twisted.internet.task import Clock

from accessgw.ops.collector import GROWTH, INTERVAL, NEVER, WHOLE_INTERVAL, CollectorPauses, resident


class Collector:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.threshold = (700, 10, 10)
        self.done: list[str] = []

    def collect(self, generation: int = 2, /) -> int:
        self.done.append("collect" if generation == 2 else f"collect {generation}")
        return 0

    def freeze(self) -> None:
        self.done.append("freeze")

    def unfreeze(self) -> None:
        self.done.append("unfreeze")

    def get_threshold(self) -> tuple[int, int, int]:
        return self.threshold

    def set_threshold(self, threshold0: int, threshold1: int, threshold2: int, /) -> None:
        self.threshold = (threshold0, threshold1, threshold2)


def taken(collector: Collector) -> list[str]:
    done, collector.done = collector.done, []
    return done


def test_what_is_new_is_collected_and_put_aside() -> None:
    clock, collector = Clock(), Collector()
    pauses = CollectorPauses(clock, collector, lambda: 100)
    pauses.start()
    assert taken(collector) == ["unfreeze", "collect", "freeze"]
    assert collector.threshold[2] == NEVER
    clock.advance(INTERVAL)
    assert taken(collector) == ["collect 1", "freeze"]
    clock.advance(INTERVAL)
    assert taken(collector) == ["collect 1", "freeze"]


def test_everything_is_looked_at_when_memory_has_grown_and_not_too_often() -> None:
    clock, collector = Clock(), Collector()
    size = 100.0
    pauses = CollectorPauses(clock, collector, lambda: int(size))
    pauses.start()
    size *= GROWTH + 0.1
    taken(collector)
    clock.advance(INTERVAL)
    assert taken(collector) == ["collect 1", "freeze"]
    clock.advance(WHOLE_INTERVAL)
    assert taken(collector) == ["unfreeze", "collect", "freeze"]
    clock.advance(WHOLE_INTERVAL)
    assert taken(collector) == ["collect 1", "freeze"]


def test_stopping_leaves_it_as_it_was() -> None:
    clock, collector = Clock(), Collector()
    pauses = CollectorPauses(clock, collector, lambda: 100)
    pauses.start()
    pauses.stop()
    assert collector.threshold == (700, 10, 10)
    assert collector.done[-1] == "unfreeze"
    assert not clock.getDelayedCalls()
    taken(collector)
    pauses.stop()
    assert not collector.done


def test_the_size_of_the_process_is_known() -> None:
    assert resident() > 0
