"""A signer that fails, and one in software behind it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import Signer, SigningFailed
from accessgw.model.counters import TlsCounters


class FallbackSigner:
    """Signs by `first`; what that fails to sign, and what it has not signed in time, `second` does."""

    def __init__(self, first: Signer, second: Signer, counters: TlsCounters, clock: Any, timeout: float) -> None:
        """`timeout`: seconds for `first`; what it does afterwards is dropped."""
        self._first = first
        self._second = second
        self._counters = counters
        self._clock = clock
        self._timeout = timeout

    def sign(self, key: str, algorithm: int, data: bytes) -> Deferred[bytes]:
        """See core.interfaces.tls.Signer."""

        def again(failure: Failure) -> Deferred[bytes]:
            failure.trap(SigningFailed)
            self._counters.signer_fallbacks += 1
            return self._second.sign(key, algorithm, data)

        asked = self._first.sign(key, algorithm, data)
        asked.addTimeout(self._timeout, self._clock, lambda result, timeout: _late(timeout))
        return asked.addErrback(again)


def _late(timeout: float) -> Any:
    raise SigningFailed(f"no signature within {timeout:g} s")
