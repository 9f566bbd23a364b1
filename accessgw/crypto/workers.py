"""Costly work (password hashes, large files) on a few threads, so that the reactor never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from accessgw.crypto.services import AuthenticationUnavailable

T = TypeVar("T")


class Workers:
    """At most `threads` at work and `waiting` in the queue. Threads begin with the first work.

    `call_from_thread(function, *arguments)` is the reactor's callFromThread. Use it from the reactor's thread.
    """

    def __init__(self, call_from_thread: Callable[..., object], threads: int = 2, waiting: int = 256) -> None:
        self._call_from_thread = call_from_thread
        self._bound = threads + waiting
        self._pool = ThreadPoolExecutor(threads, "accessgw-passwords")
        self._stopped = False
        self.pending = 0
        """At work or in the queue."""

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """See crypto.services.Run."""
        if self._stopped:
            return fail(AuthenticationUnavailable("the gateway is stopping"))
        if self.pending >= self._bound:
            return fail(AuthenticationUnavailable(f"{self.pending} password checks are waiting already"))
        future = self._pool.submit(work)
        self.pending += 1

        def cancelled(_: Deferred[T]) -> None:
            future.cancel()

        deferred: Deferred[T] = Deferred(cancelled)
        future.add_done_callback(lambda done: self._call_from_thread(self._finished, done, deferred))
        return deferred

    def stop(self) -> None:
        """Take nothing more, drop what has not begun, and do not wait for what has."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finished(self, future: Future[Any], deferred: Deferred[Any]) -> None:
        self.pending -= 1
        if deferred.called:
            return
        if future.cancelled():
            deferred.errback(AuthenticationUnavailable("the gateway is stopping"))
        elif error := future.exception():
            deferred.errback(error)
        else:
            deferred.callback(future.result())
