"""Runs a back end on a few threads, in batches of what has come, with a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from accessgw.crypto.signers.backend import Backend, Job, Refused
from protocols.signing import FAILED

T = TypeVar("T")
Results = list[tuple[T, bytes | Refused]]


class SigningThreads(Generic[T]):
    """Runs a back end. `done` is called on a thread, with what a batch gave; it must not raise."""

    def __init__(self, backend: Backend, done: Callable[[Results[T]], None], *, threads: int, waiting: int) -> None:
        """`waiting`: jobs that may wait. Threads begin with the first job."""
        self.backend = backend
        """May be replaced; batches that run end with the old one."""
        self._done = done
        self._size = threads
        self._bound = waiting
        self._queue: deque[tuple[T, Job]] = deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, token: T, job: Job) -> bool:
        """False when too many wait, or after stop()."""
        with self._condition:
            if self._stopped or len(self._queue) >= self._bound:
                return False
            if not self._threads:
                self._start()
            self._queue.append((token, job))
            self._condition.notify()
            return True

    def stop(self, timeout: float = 5.0) -> None:
        """Finish what waits, and end."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout)

    def _start(self) -> None:
        for number in range(self._size):
            thread = threading.Thread(target=self._serve, name=f"accessgw-signer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self) -> None:
        while batch := self._take():
            try:
                signed = self.backend.sign([job for _, job in batch])
            except Exception as error:  # a back end of hardware may fail in any way, and the threads must live on
                signed = [Refused(FAILED, f"{self.backend.name}: {error}")] * len(batch)
            self._done([(token, result) for (token, _), result in zip(batch, signed, strict=True)])

    def _take(self) -> list[tuple[T, Job]]:
        """The next batch, with those that come while its first lingers; empty at the end."""
        queue, condition = self._queue, self._condition
        with condition:
            while not queue:
                if self._stopped:
                    return []
                condition.wait()
            backend = self.backend
            batch = [queue.popleft()]
            if not backend.linger:
                # Told together, they wake whoever waits once; but none of the threads should go without.
                while queue and len(batch) < min(backend.batch, len(queue) // self._size):
                    batch.append(queue.popleft())
                return batch
            until = time.monotonic() + backend.linger
            while len(batch) < backend.batch:
                if queue:
                    batch.append(queue.popleft())
                elif self._stopped or (left := until - time.monotonic()) <= 0 or not condition.wait(left):
                    break
            if queue:
                # The wake-ups of those that this thread took while it lingered may have been theirs.
                condition.notify()
            return batch
