"""SCRAM-SHA-256 for MQTT 5's enhanced authentication (section 4.12): passwords that never travel."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.credentials_file import CredentialsFile, Table
from accessgw.crypto.services import AuthenticatorServices
from accessgw.crypto.success_cache import digest
from accessgw.crypto.users import checked_user
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings
from protocols.scram import METHOD, MIN_ITERATIONS, ScramError, ServerFinal, ServerFirst, Verifier

NONCE = 18
"""Random bytes of our part of the nonce."""
SALT = 16


class ScramAuthenticator:
    """Makes exchanges on the users of one file. A name that the file does not have gets a challenge like any other."""

    method = METHOD

    def __init__(self, settings: AuthenticatorSettings, services: AuthenticatorServices, path: str = "scram") -> None:
        """Raises ValueError with the path, the file and the line."""
        self.name = settings.name or "scram"
        self.services = services
        self._file = CredentialsFile(settings.file, Verifier.parse, services, f"{path}.file")
        self._version = 0
        self._usual = (MIN_ITERATIONS, SALT)

    def begin(self, credentials: Credentials) -> ScramExchange:
        return ScramExchange(self, credentials)

    async def verifier(self, user: str) -> Verifier:
        """Of this user, or one that no proof fits."""
        table = await self._file.current()
        return table.entries.get(user) or self._decoy(user, table)

    def _decoy(self, user: str, table: Table[Verifier]) -> Verifier:
        if table.version != self._version:
            counted = Counter((one.iterations, len(one.salt)) for one in table.entries.values())
            self._usual = counted.most_common(1)[0][0] if counted else (MIN_ITERATIONS, SALT)
            self._version = table.version
        iterations, length = self._usual
        key, name = self.services.decoy_key(), user.encode("utf-8", "surrogatepass")
        salt = b"".join(digest(key, b"scram", name, bytes([n])) for n in range(1 + min(length, 1024) // 32))
        # Keys of nobody: random, so that not even a lucky guess of the decoy key fits.
        return Verifier(iterations, salt[:length], self.services.random_bytes(32), self.services.random_bytes(32))


class ScramExchange:
    """Two steps: the client's first message, then its proof. Anything else fails, and it is over."""

    __slots__ = ("_authenticator", "_credentials", "_final", "_over", "_user")

    def __init__(self, authenticator: ScramAuthenticator, credentials: Credentials) -> None:
        self._authenticator = authenticator
        self._credentials = credentials
        self._final: ServerFinal | None = None
        self._user = ""
        self._over = False

    def step(self, data: bytes) -> Deferred[tuple[bytes, Identity | None]]:
        return Deferred.fromCoroutine(self._step(data))

    async def _step(self, data: bytes) -> tuple[bytes, Identity | None]:
        if self._over:
            raise AuthenticationFailed("the exchange is over")
        self._over = True
        try:
            if self._final is None:
                answer: tuple[bytes, Identity | None] = (await self._challenge(ServerFirst(data)), None)
                self._over = False
                return answer
            return self._final.finish(data), self._identity()
        except (ScramError, AuthenticationFailed) as error:
            self._authenticator.services.failed(self._authenticator.name)
            if isinstance(error, ScramError):
                raise AuthenticationFailed(f"{error.value}: {error}") from None
            raise

    async def _challenge(self, first: ServerFirst) -> bytes:
        shown = self._credentials.username
        if shown and shown != first.user:
            raise AuthenticationFailed("the user name is not the one of the SCRAM exchange")
        self._user = checked_user(first.user, "SCRAM exchange")
        verifier = await self._authenticator.verifier(first.user)
        nonce = b64encode(self._authenticator.services.random_bytes(NONCE)).decode()
        self._final = first.challenge(verifier, nonce)
        return self._final.message

    def _identity(self) -> Identity:
        credentials = self._credentials
        certificate = credentials.certificate_identity
        if certificate and certificate != credentials.device:
            raise AuthenticationFailed("the client certificate belongs to another device")
        return Identity(
            device=credentials.device,
            user=self._user,
            app=credentials.app,
            app_version=credentials.app_version,
            strength=Strength.CERTIFICATE if certificate else Strength.TOKEN,
            authenticator=self._authenticator.name,
        )
