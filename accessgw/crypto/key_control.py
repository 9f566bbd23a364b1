"""Ticket secrets and revocations as the control API sees them, and what has to be done about them every second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.control import ControlError
from accessgw.crypto.key_store import Epoch, KeyStore
from accessgw.crypto.revocations import RevocationStore, TooManyRevocations
from accessgw.crypto.services import AuthenticationUnavailable, Run
from accessgw.crypto.shared_file import SharedFileError

T = TypeVar("T")

INTERVAL = 1.0
"""Seconds between two looks at what other processes wrote."""


class Keys:
    """A KeyControl; `start` begins the rotation and the watch for revocations of other processes."""

    def __init__(
        self,
        store: KeyStore,
        revocations: RevocationStore,
        *,
        run: Run,
        timers: Timers,
        wall: Callable[[], float],
    ) -> None:
        """`run` does what waits for the disk."""
        self._store = store
        self._revocations = revocations
        self._run = run
        self._timers = timers
        self._wall = wall
        self._rotating = False

    def start(self) -> None:
        """Every INTERVAL from now on."""
        self._timers.schedule(INTERVAL, self._tick)

    def overview(self) -> dict[str, Any]:
        now = self._wall()
        rows = [_row(epoch, now) for epoch in self._store.epochs(now)]
        minting = [row for row in rows if row["state"] == "current"]
        for row in minting[:-1]:
            row["state"] = "previous"
        return {"epochs": rows, "revoked": self._revocations.count()}

    def rotate(self) -> Deferred[dict[str, Any]]:
        now = self._wall()

        def done(epoch: Epoch) -> dict[str, Any]:
            # one that waited for its time already was made before
            return _row(epoch, self._wall()) | {"new": epoch.made == now}

        return self._do(lambda: self._store.rotate(now)).addCallback(done)

    def revoke_epoch(self, number: int) -> Deferred[dict[str, Any]]:
        def done(was_there: bool) -> dict[str, Any]:
            if not was_there:
                raise ControlError(404, "not_found", f"no such epoch: {number}")
            return {"epoch": number, "revoked": True}

        now = self._wall()
        return self._do(lambda: self._store.drop(number, now)).addCallback(done)

    def revoke_device(self, device: str) -> Deferred[dict[str, Any]]:
        now = self._wall()
        done = self._do(lambda: self._revocations.revoke_device(device, now))
        return done.addCallback(self._revoked, {"device": device, "revoked": True})

    def revoke_certificate(self, fingerprint: bytes) -> Deferred[dict[str, Any]]:
        now = self._wall()
        done = self._do(lambda: self._revocations.revoke_certificate(fingerprint, now))
        return done.addCallback(self._revoked, {"certificate": fingerprint.hex(), "revoked": True})

    def _revoked(self, _: None, answer: dict[str, Any]) -> dict[str, Any]:
        self._revocations.poll(self._wall())
        return answer

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        return self._run(work).addErrback(_refusal)

    def _tick(self) -> None:
        # before anything can fail: a rotation and a revocation must not wait for a restart
        self.start()
        now = self._wall()
        self._revocations.poll(now)
        # one at a time: while a disk hangs, more of them would only keep password checks from the threads
        if self._store.is_due(now) and not self._rotating:
            self._rotating = True
            self._run(lambda: self._store.maintain(now)).addBoth(self._rotated)

    def _rotated(self, result: object) -> None:
        self._rotating = False
        if isinstance(result, Failure):
            # tried again at the next tick
            result.trap(AuthenticationUnavailable)


def _row(epoch: Epoch, now: float) -> dict[str, Any]:
    state = "next" if epoch.mints_from > now else "current"
    return {"epoch": epoch.number, "state": state, "made": epoch.made, "mints_from": epoch.mints_from}


def _refusal(failure: Failure) -> Any:
    error = failure.value
    if isinstance(error, SharedFileError):
        raise ControlError(503, "store_unavailable", str(error)) from None
    if isinstance(error, AuthenticationUnavailable):
        raise ControlError(503, "busy", str(error)) from None
    if isinstance(error, TooManyRevocations):
        raise ControlError(409, "too_many", str(error)) from None
    return failure
