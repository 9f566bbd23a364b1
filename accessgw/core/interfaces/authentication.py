"""Who is this: the links of the authenticator chain."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from accessgw.model.identity import Credentials, Identity


class AuthenticationFailed(Exception):
    """The credentials are known to be wrong; nobody further down the chain is asked."""


class Authenticator(Protocol):
    """One link of the chain."""

    name: str

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        """The identity, or None when this authenticator does not know such credentials.

        Fails with AuthenticationFailed to refuse; any other failure means "unavailable", and the
        chain refuses as well (it fails closed).
        """
