"""Devices that show no secret of their own: a client certificate alone, or nothing at all."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.settings import AuthenticatorSettings


class CertificateAuthenticator:
    """Accepts whoever has a verified client certificate, as the device that it names."""

    def __init__(self, settings: AuthenticatorSettings) -> None:
        self.name = settings.name or "certificate"

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        device = credentials.certificate_identity
        if not device:
            return succeed(None)
        if credentials.device and credentials.device != device:
            return fail(
                AuthenticationFailed(f"the client certificate belongs to another device than {credentials.device!r}")
            )
        return succeed(_identity(credentials, device, Strength.CERTIFICATE, self.name))


class AnonymousAuthenticator:
    """Accepts whoever shows neither user name nor password or token; as no user."""

    def __init__(self, settings: AuthenticatorSettings) -> None:
        self.name = settings.name or "anonymous"
        self._loopback_only = settings.loopback_only

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        if credentials.username or credentials.token:
            return succeed(None)
        if self._loopback_only and not credentials.loopback:
            return fail(AuthenticationFailed("without credentials, loopback addresses only are accepted"))
        return succeed(_identity(credentials, credentials.device, Strength.ANONYMOUS, self.name))


def _identity(credentials: Credentials, device: str, strength: Strength, name: str) -> Identity:
    return Identity(
        device=device,
        app=credentials.app,
        app_version=credentials.app_version,
        strength=strength,
        authenticator=name,
    )
