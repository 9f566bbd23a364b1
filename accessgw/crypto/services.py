"""What authenticators need of a running gateway, given to them after the settings have been checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from twisted.internet.defer import Deferred

from accessgw.model.settings import AuthenticatorSettings

T = TypeVar("T")


class AuthenticationUnavailable(Exception):
    """Nobody can say now whether the credentials are right; so they are refused."""


class Run(Protocol):
    """Does costly work elsewhere (crypto.workers)."""

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        """Fires on the reactor's thread with what `work` returned or raised. Fails with
        AuthenticationUnavailable when too much is waiting. Cancelled before it began, the work is not done."""


Post = Callable[[AuthenticatorSettings, bytes], Deferred[tuple[int, bytes]]]
"""Posts a JSON body to an authenticator's url within its timeout: (HTTP status, body of the answer). Fails without a
complete answer."""


def _not_running(*_: Any, **__: Any) -> NoReturn:
    raise AuthenticationUnavailable("the gateway is not running yet")


@dataclass(slots=True)
class AuthenticatorServices:
    """Empty until `bind`; whoever asks before gets AuthenticationUnavailable, and so nobody is accepted."""

    seconds: Callable[[], float] = _not_running
    """The worker's clock."""
    run: Run = _not_running
    post: Post = _not_running
    random_bytes: Callable[[int], bytes] = _not_running
    failed: Callable[[str], None] = lambda name: None
    """Counts a refusal by the name of the authenticator, where no chain does."""
    decoy_key: Callable[[], bytes] = _not_running
    """A secret that outlives the process: what unknown users are shown must not change with a restart."""

    def bind(self, other: AuthenticatorServices) -> None:
        """Use what `other` has from now on."""
        self.seconds = other.seconds
        self.run = other.run
        self.post = other.post
        self.random_bytes = other.random_bytes
        self.decoy_key = other.decoy_key
        self.failed = other.failed
