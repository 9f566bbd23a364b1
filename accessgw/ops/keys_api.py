"""The paths under /v1/keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.keys import KeyControl
from accessgw.ops.http_api import Reply, Request, Route
from accessgw.ops.queries import shown

log = Logger()

MAX_DEVICE = 256
"""Bytes."""
FINGERPRINT = 32


class KeysApi:
    """Handlers over a KeyControl; without one the paths answer 404 `not_enabled`.

    `end_session(device, True)` ends the session of a revoked device with its connection.
    """

    def __init__(self, control: KeyControl | None, end_session: Callable[[str, bool], bool]) -> None:
        self._given = control
        self._end_session = end_session

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/keys", "read", lambda request: Reply(self._control.overview())),
            Route("POST", "/v1/keys/rotate", "operate", self._rotate),
            Route("POST", "/v1/keys/revoke", "operate", self._revoke),
        ]

    @property
    def _control(self) -> KeyControl:
        if self._given is None:
            raise ControlError(404, "not_enabled", "this gateway makes no tickets")
        return self._given

    def _rotate(self, request: Request) -> Deferred[Reply]:
        for key in request.json():
            raise ControlError(400, "invalid", f"{key}: unknown key, expected none", key)
        return self._control.rotate().addCallback(Reply)

    def _revoke(self, request: Request) -> Deferred[Reply]:
        body = request.json()
        if len(body) != 1 or not body.keys() <= _WHAT.keys():
            raise ControlError(
                400, "invalid", f"expected one of {', '.join(_WHAT)}, got {', '.join(body) or 'nothing'}"
            )
        ((what, value),) = body.items()
        done = _WHAT[what](self._control, value)
        if what == "device":
            # now that its tickets are worthless, it cannot come back by one of them
            done.addCallback(lambda answer: answer | {"closed": self._end_session(value, True)})
        return done.addCallback(_noted, what).addCallback(Reply)


def _noted(answer: dict[str, Any], what: str) -> dict[str, Any]:
    log.info("revoked: {what} {name}", what=what, name=answer[what])
    return answer


def _epoch(control: KeyControl, value: Any) -> Deferred[dict[str, Any]]:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise ControlError(400, "invalid", f"epoch: expected an integer in 0..255, got {shown(value)}", "epoch")
    return control.revoke_epoch(value)


def _device(control: KeyControl, value: Any) -> Deferred[dict[str, Any]]:
    # what is written in escapes may be half a character
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "surrogatepass")) <= MAX_DEVICE:
        raise ControlError(400, "invalid", f"device: expected a name of 1 to {MAX_DEVICE} bytes", "device")
    return control.revoke_device(value)


def _certificate(control: KeyControl, value: Any) -> Deferred[dict[str, Any]]:
    try:
        fingerprint = bytes.fromhex(value.replace(":", "")) if isinstance(value, str) else b""
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != FINGERPRINT:
        expected = f"the SHA-256 fingerprint of a certificate, {2 * FINGERPRINT} hexadecimal digits"
        raise ControlError(400, "invalid", f"certificate: expected {expected}", "certificate")
    return control.revoke_certificate(fingerprint)


_WHAT = {"epoch": _epoch, "device": _device, "certificate": _certificate}
