"""The opening hand-shake of WebSocket over HTTP/1.1 (RFC 6455, section 4), for both roles."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

from protocols.errors import RemoteError
from protocols.http.backends import get_backend
from protocols.http.events import Headers, RequestReceived
from protocols.http.heads import BAD_GATEWAY, BAD_REQUEST, read_response
from protocols.http.limits import DEFAULT_LIMITS, HttpLimits
from protocols.http.writing import HeadWriter, request_line

VERSION = "13"
UPGRADE_REQUIRED = 426
KEY_SIZE = 16
"""Random bytes behind Sec-WebSocket-Key."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_token(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def answer_upgrade(request: RequestReceived, subprotocols: Sequence[str], *, required: bool) -> tuple[Headers, str]:
    """The fields of the 101 answer, and the sub-protocol that was chosen (empty: none).

    `subprotocols` are those served, best first; a client that offers some must offer one of them, and one that offers
    none is refused when `required`. RemoteError with the HTTP status to answer: 426 where the answer has to name
    what is expected (see `expectation`), else 400.
    """
    if "websocket" not in _tokens(request.upgrade.lower()):
        raise RemoteError(UPGRADE_REQUIRED, "expected a WebSocket upgrade (Upgrade: websocket, over HTTP/1.1)")
    if any(n == "transfer-encoding" or (n == "content-length" and v != "0") for n, v in request.headers):
        raise RemoteError(BAD_REQUEST, "expected an upgrade request without a body")
    version = _single(request.headers, "sec-websocket-version")
    if version != VERSION:
        raise RemoteError(UPGRADE_REQUIRED, f"Sec-WebSocket-Version: expected {VERSION}, got {version or 'none'}")
    key = _single(request.headers, "sec-websocket-key")
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != KEY_SIZE:
        raise RemoteError(BAD_REQUEST, f"Sec-WebSocket-Key: expected {KEY_SIZE} bytes in base64, got {key[:60]!r}")
    offered = [name for field, value in request.headers if field == "sec-websocket-protocol" for name in _tokens(value)]
    chosen = next((name for name in subprotocols if name in offered), "")
    if not chosen and (offered or required):
        served = " or ".join(subprotocols)
        got = ", ".join(offered)[:100] or "none"
        raise RemoteError(BAD_REQUEST, f"Sec-WebSocket-Protocol: expected {served}, got {got}")
    headers = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept_token(key))]
    if chosen:
        headers.append(("sec-websocket-protocol", chosen))
    return headers, chosen


def expectation(status: int) -> Headers:
    """Fields of the answer that refuses an upgrade with `status` (RFC 6455 4.4, RFC 9110 15.5.22)."""
    if status != UPGRADE_REQUIRED:
        return []
    return [("upgrade", "websocket"), ("connection", "close, upgrade"), ("sec-websocket-version", VERSION)]


class ClientHandshake:
    """The client's side: `request` to send, then `receive` until it returns the bytes behind the answer."""

    def __init__(
        self,
        authority: str,
        target: str,
        nonce: bytes,
        subprotocols: Sequence[str] = (),
        *,
        origin: str = "",
        limits: HttpLimits = DEFAULT_LIMITS,
    ) -> None:
        """`nonce` is 16 random bytes; `authority` becomes the Host header."""
        self._key = base64.b64encode(nonce).decode("ascii")
        self._offered = tuple(subprotocols)
        self._limits = limits
        self._buffer = bytearray()
        self.subprotocol = ""
        """What the server chose."""
        headers = [
            ("host", authority),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", VERSION),
            ("sec-websocket-key", self._key),
        ]
        if self._offered:
            headers.append(("sec-websocket-protocol", ", ".join(self._offered)))
        if origin:
            headers.append(("origin", origin))
        self.request = HeadWriter(request_line("GET", target), headers).encode()

    def receive(self, data: bytes) -> bytes | None:
        """None while the answer is incomplete.
        RemoteError (502, or the status of a refusal) when it is no 101 that fits."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end + 4 > self._limits.max_head or (end < 0 and len(self._buffer) > self._limits.max_head):
            raise RemoteError(BAD_GATEWAY, f"response head of more than {self._limits.max_head} bytes")
        if end < 0:
            return None
        head, rest = bytes(self._buffer[: end + 4]), bytes(self._buffer[end + 4 :])
        response, _ = read_response(head, "GET", get_backend("auto"), self._limits)
        if response.status != 101:
            raise RemoteError(max(response.status, 200), f"the server answered the upgrade with {response.status}")
        for name, expected in (
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", accept_token(self._key)),
        ):
            value = _single(response.headers, name)
            good = value == expected if name == "sec-websocket-accept" else expected in _tokens(value.lower())
            if not good:
                raise RemoteError(BAD_GATEWAY, f"{name}: expected {expected}, got {value[:60]!r}")
        self.subprotocol = _single(response.headers, "sec-websocket-protocol")
        if self.subprotocol and self.subprotocol not in self._offered:
            raise RemoteError(BAD_GATEWAY, f"sec-websocket-protocol: {self.subprotocol[:60]!r} was not offered")
        if _single(response.headers, "sec-websocket-extensions"):
            raise RemoteError(BAD_GATEWAY, "sec-websocket-extensions: none was offered")
        return rest


def _tokens(value: str) -> list[str]:
    return [token for token in (part.strip(" \t") for part in value.split(",")) if token]


def _single(headers: Headers, name: str) -> str:
    """The value of a field that may come once; empty when it is absent or repeated."""
    values = [value for field, value in headers if field == name]
    return values[0] if len(values) == 1 else ""
