"""Services of authenticators that the test plays: time, threads, a service's answers, randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.services import AuthenticationUnavailable, AuthenticatorServices
from accessgw.model.identity import Credentials
from accessgw.model.settings import AuthenticatorSettings


class World:
    """`run` works at once, or waits for `work()` when `held`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.held = False
        self.full = False
        self.ran = 0
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.posts: list[tuple[AuthenticatorSettings, bytes, Deferred[tuple[int, bytes]]]] = []
        self.answer: tuple[int, bytes] | Exception | None = None
        self._random = 0
        self.failures: list[str] = []
        self.services = AuthenticatorServices(
            seconds=self.clock.seconds,
            run=self.run,
            post=self.post,
            random_bytes=self.random_bytes,
            decoy_key=lambda: b"decoy",
            failed=self.failures.append,
        )

    def run(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self.full:
            return fail(AuthenticationUnavailable("too much is waiting"))
        deferred: Deferred[Any] = Deferred()
        self._waiting.append((work, deferred))
        if not self.held:
            self.work()
        return deferred

    def work(self) -> None:
        """What waits is done."""
        waiting, self._waiting = self._waiting, []
        for work, deferred in waiting:
            self.ran += 1
            try:
                result = work()
            except Exception as error:
                deferred.errback(error)
            else:
                deferred.callback(result)

    def post(self, settings: AuthenticatorSettings, body: bytes) -> Deferred[tuple[int, bytes]]:
        deferred: Deferred[tuple[int, bytes]] = Deferred()
        self.posts.append((settings, body, deferred))
        if isinstance(self.answer, Exception):
            return fail(self.answer)
        return deferred if self.answer is None else succeed(self.answer)

    def random_bytes(self, size: int) -> bytes:
        self._random += 1
        return bytes([self._random % 256]) * size


def ask(one: Any, **credentials: Any) -> Any:
    """The identity, None, why it was refused, or the exception that means unavailable."""
    return outcome(one.authenticate(Credentials(**{"device": "d1", **credentials})))


def outcome(deferred: Deferred[Any]) -> Any:
    """The same of a Deferred that has fired."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results
    value = getattr(result, "value", result)
    return str(value) if isinstance(value, AuthenticationFailed) else value
