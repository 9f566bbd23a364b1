"""Bearer tokens of the control API: who asks, and what they may do (RFC 6750)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from accessgw.core.interfaces.control import ControlError
from accessgw.model.http import HttpRequest
from accessgw.model.settings import ControlTokenSettings


class Unauthorized(ControlError):
    """No token, or none that is accepted; carries the challenge for WWW-Authenticate."""

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(401, "unauthorized", message)
        self.challenge = challenge


def authorize(request: HttpRequest, role: str, tokens: Sequence[ControlTokenSettings]) -> None:
    """Return when the request's token has the role (every request has the empty one).

    Every configured token is compared, each in constant time. Raises Unauthorized without an
    accepted token, ControlError 403 when the token lacks the role.
    """
    if not role:
        return
    header = request.header("authorization")
    scheme, _, shown = header.partition(" ")
    if scheme.lower() != "bearer" or not shown.strip():
        raise Unauthorized("expected a header Authorization: Bearer TOKEN", 'Bearer realm="accessgw"')
    given = shown.strip().encode(errors="replace")
    found: ControlTokenSettings | None = None
    for token in tokens:
        same = hmac.compare_digest(given, token.token.encode())
        if same and (request.connection.loopback or not token.loopback_only):
            found = token
    if found is None:
        raise Unauthorized(
            "unknown token, or one that is accepted from loopback addresses only",
            'Bearer realm="accessgw", error="invalid_token"',
        )
    if role not in found.roles:
        has = ", ".join(found.roles)
        raise ControlError(403, "forbidden", f"this needs a token with the role {role}, this one has: {has}")
