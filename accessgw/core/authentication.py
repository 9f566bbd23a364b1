"""The chain of authenticators: the first that knows the credentials decides, and whatever fails refuses."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger

from accessgw.core.bounded import bounded
from accessgw.core.interfaces.authentication import AuthenticationFailed, Authenticator
from accessgw.core.interfaces.clock import Clock
from accessgw.model.counters import SessionCounters
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.reasons import CloseReason
from accessgw.model.words import in_words
from protocols.mmtp.statuses import Status

log = Logger()


class AdmissionRefused(Exception):
    """A device is not welcome; carries what to tell it and what to write down."""

    def __init__(self, status: int, reason: CloseReason, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class AuthenticatorChain:
    """Asks authenticators in order. Without any, nobody is accepted."""

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        counters: SessionCounters,
        clock: Clock,
        timeout: float = 4.0,
    ) -> None:
        self.authenticators = tuple(authenticators)
        """Another object after each replace(): what those before said may be out of date."""
        self._counters = counters
        self._clock = clock
        self._timeout = timeout

    def replace(self, authenticators: Sequence[Authenticator]) -> None:
        """Ask these from now on; who is connected stays."""
        self.authenticators = tuple(authenticators)

    def ask(self, credentials: Credentials) -> Identity | Deferred[Identity | None] | None:
        """Who it is, where the first authenticator knows and says so at once, as most do: nobody waits, so that no
        coroutine is needed. Else its answer, for authenticate() to go on with. Raises AdmissionRefused."""
        if not self.authenticators:
            return None
        try:
            answer = self.authenticators[0].authenticate(credentials)
        except Exception:
            return fail()
        if answer.called and isinstance(answer.result, Identity):
            return self._with_certificate(credentials, answer.result)
        return answer

    async def authenticate(
        self, credentials: Credentials, asked: Deferred[Identity | None] | None = None
    ) -> Identity | None:
        """Who it is; None when no authenticator knows the credentials. `asked` is what ask() gave for them.

        Raises AdmissionRefused: with AUTH when an authenticator refused, with OVERLOAD (and reason
        auth_unavailable) when one failed or did not answer, since then nobody knows.
        """
        for authenticator in self.authenticators:
            try:
                answer = authenticator.authenticate(credentials) if asked is None else asked
                asked = None
                identity = await bounded(answer, self._timeout, self._clock, authenticator.name)
            except CancelledError:
                raise  # the device went away meanwhile: no verdict
            except AuthenticationFailed as error:
                self.count_failure(authenticator.name)
                raise AdmissionRefused(Status.AUTH, CloseReason.AUTH_FAILED, str(error)) from None
            except Exception as error:
                self.count_failure(authenticator.name)
                unavailable = self._counters.auth_unavailable
                unavailable[authenticator.name] = unavailable.get(authenticator.name, 0) + 1
                log.error(
                    "authenticator {name} is unavailable: {why}; {device} is refused",
                    name=authenticator.name,
                    why=in_words(error),
                    device=credentials.device,
                )
                raise AdmissionRefused(
                    Status.OVERLOAD, CloseReason.AUTH_UNAVAILABLE, "authentication is unavailable", 2.0
                ) from None
            if identity is not None:
                return self._with_certificate(credentials, identity)
        self.count_failure("none")
        return None

    async def require(self, credentials: Credentials, asked: Deferred[Identity | None] | None = None) -> Identity:
        """As authenticate, but unknown credentials are refused too."""
        identity = await self.authenticate(credentials, asked)
        if identity is None:
            raise AdmissionRefused(Status.AUTH, CloseReason.AUTH_FAILED, "the credentials are not known here")
        return identity

    def _with_certificate(self, credentials: Credentials, identity: Identity) -> Identity:
        """A verified client certificate makes the proof stronger, and must not contradict it."""
        certificate = credentials.certificate_identity
        if not certificate:
            return identity
        if certificate != identity.device:
            self.count_failure("certificate")
            raise AdmissionRefused(
                Status.AUTH, CloseReason.AUTH_FAILED, "the client certificate belongs to another device"
            )
        return replace(identity, strength=Strength.CERTIFICATE)

    def count_failure(self, name: str) -> None:
        """One more that `name` refused; also those that no chain was asked about."""
        failures = self._counters.auth_failures
        failures[name] = failures.get(name, 0) + 1
