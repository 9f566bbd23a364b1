"""Reads complete message heads strictly: what they ask for, and how their body is framed.

Everything on which two HTTP parsers could disagree about the end of a message (RFC 9112 11.2,
request smuggling) is decided here on the raw bytes, before a library sees them: line ends, folding,
control characters, Content-Length and Transfer-Encoding.
"""

from __future__ import annotations

import re

from protocols.errors import RemoteError
from protocols.http.backends import Backend
from protocols.http.events import Headers, RequestReceived, ResponseReceived
from protocols.http.limits import HttpLimits

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
"""Requests with others are answered 501; CONNECT and TRACE have no meaning here."""

CHUNKED = -1
"""Body length: chunks tell."""
UNTIL_CLOSE = -2
"""Body length: up to the end of the connection (responses only)."""

BAD_REQUEST = 400
BAD_GATEWAY = 502
"""Code of all errors of a server's response: what a gateway answers for it."""

MARK_CONTROLS = bytes(0 if (b < 0x20 and b not in {0x09, 0x0A, 0x0D}) or b == 0x7F else b for b in range(256))
"""Translation that turns control characters other than tab, CR and LF into NUL: none of them may stand in a
field value (RFC 9110 5.5), and one search then finds them all."""
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"/[!\"$-~]*")  # visible ASCII without '#'
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r]*)?\r\n")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_CODINGS = re.compile(rb"\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*\r")
_MAX_DIGITS = 18

_names: dict[bytes, str] = {}
_NAMES_MAX = 4096


def check_bytes(head: bytes, code: int) -> None:
    """Refuse control characters, bare CR or LF, and folded lines."""
    if b"\0" in head.translate(MARK_CONTROLS):
        raise RemoteError(code, "control character in the message head")
    lines = len(head.split(b"\r\n")) - 1
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise RemoteError(code, "bare CR or LF in the message head")
    if b"\n " in head or b"\n\t" in head:
        raise RemoteError(code, "folded header line (RFC 9112 5.2)")


def find_framing(head: bytes, code: int, unknown_coding: int) -> int | None:
    """Length of the body that a checked head states: a number, CHUNKED, or None when it says nothing."""
    lowered = head.lower()
    at = lowered.find(b"\ncontent-length:")
    if b"\ntransfer-encoding:" in lowered:
        codings = _CODINGS.findall(lowered)
        if at >= 0:
            raise RemoteError(code, "both Content-Length and Transfer-Encoding")
        if codings == [b"chunked"]:
            return CHUNKED
        if len(codings) == 1 and not codings[0].startswith(b"chunked"):
            raise RemoteError(unknown_coding, f"transfer coding {_show(codings[0])}: only chunked is known")
        raise RemoteError(code, f"Transfer-Encoding: expected chunked once, got {_show(b', '.join(codings))}")
    if at < 0:
        return None
    end = lowered.index(b"\r", at)
    digits = lowered[at + 16 : end].strip(b" \t")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise RemoteError(code, f"Content-Length: expected a number, got {_show(digits)}")
    if lowered.find(b"\ncontent-length:", end) >= 0:
        raise RemoteError(code, "Content-Length more than once")
    return int(digits)


def decode_fields(raw: list[tuple[bytes, bytes]], limits: HttpLimits, code: int, too_many: int) -> Headers:
    """Lower-cased names and latin-1 values; refuses names that are no tokens."""
    if len(raw) > limits.max_fields:
        raise RemoteError(too_many, f"more than {limits.max_fields} header fields")
    fields: Headers = []
    for name, value in raw:
        key = _names.get(name)
        if key is None:
            if not _TOKEN.fullmatch(name):
                raise RemoteError(code, f"header name {_show(name)} is no token")
            key = name.decode("ascii").lower()
            if len(_names) < _NAMES_MAX:
                _names[name] = key
        fields.append((key, value.strip().decode("latin-1")))  # whitespace is space and tab here
    return fields


def read_request(head: bytes, backend: Backend, limits: HttpLimits) -> tuple[RequestReceived, int]:
    """The request of a complete head and its body's length (or CHUNKED); RemoteError with an HTTP status."""
    check_bytes(head, BAD_REQUEST)
    line = head[: head.index(b"\r\n")]
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[2]):
        raise RemoteError(BAD_REQUEST, f"request line: expected METHOD target HTTP/1.1, got {_show(line)}")
    method, target, version = parts
    known = _VERSIONS.get(version)
    if known is None:
        raise RemoteError(505, f"expected HTTP/1.1 or HTTP/1.0, got {_show(version)}")
    if method not in METHODS:
        raise RemoteError(501, f"method {_show(method)} is not known")
    if len(target) > limits.max_target:
        raise RemoteError(414, f"request target longer than {limits.max_target} bytes")
    if not _TARGET.fullmatch(target) and not (target == b"*" and method == b"OPTIONS"):
        raise RemoteError(BAD_REQUEST, f"request target: expected a path (origin form), got {_show(target)}")
    length = find_framing(head, BAD_REQUEST, 501) or 0
    if length == CHUNKED and known == "1.0":  # RFC 9112 6.1: a sign of a smuggled request
        raise RemoteError(BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 request")
    if limits.max_body is not None and length > limits.max_body:
        raise RemoteError(413, f"body of {length} bytes, at most {limits.max_body} are taken")
    try:
        raw = backend.split_request(head)
    except ValueError as error:
        raise RemoteError(BAD_REQUEST, f"request head: {error}") from None
    headers = decode_fields(raw, limits, BAD_REQUEST, 431)
    request = RequestReceived(method.decode("ascii"), target.decode("ascii"), headers, known, known == "1.1")
    _read_options(request)
    return request, length


def _read_options(request: RequestReceived) -> None:
    """What HTTP/1.0 did not know yet is ignored in its requests: Expect, Upgrade (RFC 9110 10.1.1, 7.8)."""
    old = request.version == "1.0"
    hosts = 0
    offered = ""
    tokens: list[str] = []
    for name, value in request.headers:
        if name == "host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise RemoteError(BAD_REQUEST, f"Host: expected host[:port], got {value!r}")
        elif name == "connection":
            tokens += [token.strip(" \t").lower() for token in value.split(",")]
        elif name == "upgrade":
            offered = value
        elif name == "expect":
            if value.lower() != "100-continue":
                raise RemoteError(417, f"Expect: only 100-continue is known, got {value!r}")
            request.expect_continue = not old
    if hosts > 1 or (hosts == 0 and not old):
        raise RemoteError(BAD_REQUEST, f"expected one Host header, got {hosts}")
    if tokens:
        request.keep_alive = "close" not in tokens and (not old or "keep-alive" in tokens)
        if "upgrade" in tokens and not old:
            request.upgrade = offered


def read_response(head: bytes, method: str, backend: Backend, limits: HttpLimits) -> tuple[ResponseReceived, int]:
    """The response of a complete head to a request with `method`, and its body's length (RFC 9112 6.3)."""
    check_bytes(head, BAD_GATEWAY)
    line = _STATUS_LINE.match(head)
    if line is None:
        raise RemoteError(BAD_GATEWAY, f"status line: expected HTTP/1.1 and a status, got {_show(head[:80])}")
    status = int(line[2])
    old = line[1] == b"0"
    length = find_framing(head, BAD_GATEWAY, BAD_GATEWAY)
    if old and length == CHUNKED:
        raise RemoteError(BAD_GATEWAY, "Transfer-Encoding in an HTTP/1.0 response")
    try:
        raw = backend.split_response(head)
    except ValueError as error:
        raise RemoteError(BAD_GATEWAY, f"response head: {error}") from None
    headers = decode_fields(raw, limits, BAD_GATEWAY, BAD_GATEWAY)
    keep_alive = not old
    for name, value in headers:
        if name == "connection" and "close" in [token.strip(" \t").lower() for token in value.split(",")]:
            keep_alive = False
    response = ResponseReceived(status, headers, keep_alive)
    if method == "HEAD" or status < 200 or status in {204, 304}:
        response.length = 0
        return response, 0
    if length is None:
        response.keep_alive = False
        return response, UNTIL_CLOSE
    if length >= 0:
        response.length = length
    if limits.max_body is not None and length > limits.max_body:
        raise RemoteError(BAD_GATEWAY, f"body of {length} bytes, at most {limits.max_body} are taken")
    return response, length


def _show(data: bytes) -> str:
    """A short printable form of a peer's bytes for messages."""
    return repr(data[:60])[1:] + ("..." if len(data) > 60 else "")
