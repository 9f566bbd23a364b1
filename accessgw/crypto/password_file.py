"""User names and passwords of a file, checked off the reactor, without telling which names exist."""

from __future__ import annotations

import argon2.low_level
from argon2.exceptions import VerifyMismatchError
from twisted.internet.defer import Deferred, succeed

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.crypto.credentials_file import CredentialsFile, Table
from accessgw.crypto.services import AuthenticatorServices
from accessgw.crypto.success_cache import SuccessCache, digest
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings
from protocols.passwords import PasswordHash, password_bytes

ARGON2 = {
    "argon2id": argon2.low_level.Type.ID,
    "argon2i": argon2.low_level.Type.I,
    "argon2d": argon2.low_level.Type.D,
}


class FileAuthenticator:
    """A name that the file does not have is left to the next link, after a check that takes as long as any other."""

    def __init__(self, settings: AuthenticatorSettings, services: AuthenticatorServices, path: str = "file") -> None:
        """Raises ValueError with the path, the file and the line."""
        self.name = settings.name or "file"
        self._services = services
        self._file = CredentialsFile(settings.file, PasswordHash.parse, services, f"{path}.file")
        self._successes: SuccessCache[bool] = SuccessCache(settings.cache)
        self._key = b""

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        if not credentials.username:
            return succeed(None)
        return Deferred.fromCoroutine(self._authenticate(credentials))

    async def _authenticate(self, credentials: Credentials) -> Identity | None:
        table = await self._file.current()
        if not table.users:
            return None
        user, password = credentials.username, password_bytes(credentials.token)
        self._key = self._key or self._services.random_bytes(32)
        shown = digest(self._key, password_bytes(user), password, table.version.to_bytes(8, "big"))
        if not self._successes.get(shown, self._services.seconds()):
            known = table.entries.get(user)
            expected = known or self._decoy(user, table)
            right = await self._services.run(lambda: verified(expected, password))
            if known is None:
                return None
            if not right:
                raise AuthenticationFailed("wrong user name or password")
            self._successes.put(shown, True, self._services.seconds())
        return Identity(
            device=credentials.device,
            user=user,
            app=credentials.app,
            app_version=credentials.app_version,
            strength=Strength.TOKEN,
            authenticator=self.name,
        )

    def _decoy(self, user: str, table: Table[PasswordHash]) -> PasswordHash:
        """Some real user's hash, always the same one for a name: unknown names cost what known ones do."""
        number = int.from_bytes(digest(self._services.decoy_key(), b"file", password_bytes(user))[:8], "big")
        return table.entries[table.users[number % len(table.users)]]


def verified(expected: PasswordHash, password: bytes) -> bool:
    """Whether the password is the right one; takes its time. Any error of argon2 but a mismatch is raised."""
    kind = ARGON2.get(expected.scheme)
    if kind is None:
        return expected.verify(password)
    try:
        return argon2.low_level.verify_secret(expected.text.encode(), password, kind)
    except VerifyMismatchError:
        return False
