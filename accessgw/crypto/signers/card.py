"""An accelerator card that is not there: takes its time, does so many at once, and can fail. Proves the way to a real one."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, fail

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.signers.backend import Backend, Job, Refused
from accessgw.model.counters import TlsCounters

NAME = "card"


class SimulatedCard:
    """A Signer that answers each request `latency` seconds after it has a place among `depth`."""

    def __init__(
        self,
        backend: Backend,
        counters: TlsCounters,
        clock: Any,
        *,
        latency: float = 0.005,
        depth: int = 64,
        waiting: int = 4096,
    ) -> None:
        """`backend` makes the signatures, in place: it must cost next to nothing."""
        self._backend = backend
        self._counters = counters
        self._clock = clock
        self._latency = latency
        self._depth = depth
        self._bound = waiting
        self._inside = 0
        self._waiting: deque[tuple[Job, Deferred[bytes]]] = deque()
        self.broken = False
        """While it is, everything fails, also what is inside."""

    def sign(self, key: str, algorithm: int, data: bytes) -> Deferred[bytes]:
        """See core.interfaces.tls.Signer."""
        if self.broken or len(self._waiting) >= self._bound:
            self._counters.signer_failures += 1
            return fail(SigningFailed("the card is broken" if self.broken else "too many signatures wait"))
        deferred: Deferred[bytes] = Deferred(lambda _: None)
        self._counters.signer_waiting += 1
        self._waiting.append((Job(key, algorithm, data), deferred))
        self._fill()
        return deferred

    def _fill(self) -> None:
        while self._waiting and self._inside < self._depth:
            self._inside += 1
            self._clock.callLater(self._latency, self._ready, *self._waiting.popleft())

    def _ready(self, job: Job, deferred: Deferred[bytes]) -> None:
        self._inside -= 1
        self._counters.signer_waiting -= 1
        (result,) = [Refused(0, "the card is broken")] if self.broken else self._backend.sign([job])
        self._fill()
        if isinstance(result, Refused):
            self._counters.signer_failures += 1
        else:
            self._counters.signatures[NAME] = self._counters.signatures.get(NAME, 0) + 1
        if deferred.called:
            return
        if isinstance(result, Refused):
            deferred.errback(SigningFailed(str(result)))
        else:
            deferred.callback(result)
