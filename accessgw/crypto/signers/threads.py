"""Signatures on a few threads of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.signers.backend import Backend, Job, Refused
from accessgw.crypto.signers.batching import Results, SigningThreads
from accessgw.model.counters import TlsCounters


class ThreadSigner:
    """A Signer of a back end in this process."""

    def __init__(
        self,
        backend: Backend,
        counters: TlsCounters,
        call_from_thread: Callable[..., object],
        *,
        threads: int = 2,
        waiting: int = 4096,
    ) -> None:
        """`call_from_thread` is the reactor's."""
        self._counters = counters
        self._call_from_thread = call_from_thread
        self._threads: SigningThreads[Deferred[bytes]] = SigningThreads(
            backend, self._done, threads=threads, waiting=waiting
        )

    def sign(self, key: str, algorithm: int, data: bytes) -> Deferred[bytes]:
        """See core.interfaces.tls.Signer."""
        deferred: Deferred[bytes] = Deferred(_forget)
        if not self._threads.submit(deferred, Job(key, algorithm, data)):
            self._counters.signer_failures += 1
            return fail(SigningFailed("too many signatures wait"))
        self._counters.signer_waiting += 1
        return deferred

    def use(self, backend: Backend) -> None:
        """Sign with another back end from now on."""
        self._threads.backend = backend

    def stop(self) -> None:
        """Finish what waits, and end."""
        self._threads.stop()

    def _done(self, results: Results[Deferred[bytes]]) -> None:
        self._call_from_thread(self._tell, results)

    def _tell(self, results: Results[Deferred[bytes]]) -> None:
        counters, name = self._counters, self._threads.backend.name
        for deferred, result in results:
            counters.signer_waiting -= 1
            if isinstance(result, Refused):
                counters.signer_failures += 1
            else:
                counters.signatures[name] = counters.signatures.get(name, 0) + 1
            if deferred.called:
                continue
            if isinstance(result, Refused):
                deferred.errback(SigningFailed(str(result)))
            else:
                deferred.callback(result)


def _forget(_: Deferred[Any]) -> None:
    """Cancelled: the result is dropped when it comes."""
