"""Keeps the pauses of Python's garbage collector short, however many connections there are.

Left alone, the collector now and then looks at every object of the process: a fifth of a second with a hundred
thousand connections, in which nothing else happens. But the connections' objects form no cycles, so it never finds
anything there. Here the whole heap is not looked at automatically; four times a second what is new is collected, and
what survives is put aside (`gc.freeze`), so that each look costs what came since the last. What was put aside is still
freed when its last reference goes; only a cycle that closes after it stays, until memory has grown so much that one
look at everything is due.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from accessgw.core.interfaces.clock import Clock

INTERVAL = 0.25
"""Seconds between two looks at what is new."""
WHOLE_INTERVAL = 3600.0
"""Seconds between two looks at everything, at least."""
GROWTH = 1.5
"""Everything is looked at again when the process has grown by this factor since."""
YOUNG = 5_000
"""New container objects after which the youngest are looked at: about 0.2 ms."""
MIDDLE = 4
"""Such looks after which the survivors of all of them are looked at."""
NEVER = 1_000_000_000


class CollectorControl(Protocol):
    """What is used of the gc module."""

    def collect(self, generation: int = 2, /) -> int: ...

    def freeze(self) -> None: ...

    def unfreeze(self) -> None: ...

    def get_threshold(self) -> tuple[int, int, int]: ...

    def set_threshold(self, threshold0: int, threshold1: int, threshold2: int, /) -> None: ...


def resident() -> int:
    """Pages that the process has in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class CollectorPauses:
    """Collects in small pieces between `start` and `stop`, which leaves the collector as it was."""

    def __init__(self, clock: Clock, control: CollectorControl = gc, memory: Callable[[], int] = resident) -> None:
        self._clock = clock
        self._control = control
        self._memory = memory
        self._call: Any = None
        self._before: tuple[int, int, int] = (0, 0, 0)
        self._size = 0
        self._whole_at = 0.0

    def start(self) -> None:
        """Begin with a look at everything: the modules and the rooms are all that there is yet."""
        self._before = self._control.get_threshold()
        self._control.set_threshold(YOUNG, MIDDLE, NEVER)
        self._whole()
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """Leave the collector as it was. Idempotent."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self._control.unfreeze()
            self._control.set_threshold(*self._before)

    def _look(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look)
        due = self._clock.seconds() >= self._whole_at + WHOLE_INTERVAL
        if due and self._memory() > self._size * GROWTH:
            self._whole()
        else:
            self._control.collect(1)  # the survivors of earlier looks lie in generation 2
            self._control.freeze()

    def _whole(self) -> None:
        self._control.unfreeze()
        self._control.collect()
        self._control.freeze()
        self._size = self._memory()
        self._whole_at = self._clock.seconds()
