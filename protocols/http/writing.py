"""Writes message heads and chunks; whatever could smuggle a line into them is a LocalError."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from protocols.errors import LocalError
from protocols.http.heads import MARK_CONTROLS

LAST_CHUNK = b"0\r\n\r\n"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"(?:/[!\"$-~]*|\*)")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}

_PLAIN, _LENGTH, _CODING, _CONNECTION = range(4)
_SPECIAL = {"content-length": _LENGTH, "transfer-encoding": _CODING, "connection": _CONNECTION}

_kinds: dict[str, int] = {}
"""Kind of every header name that was seen, so that each is checked once."""
_KINDS_MAX = 4096


def status_line(status: int) -> str:
    """The first line of a response; LocalError when the status is no final one."""
    line = _STATUS_LINES.get(status)
    if line is None or status < 200:
        if not 200 <= status <= 599:
            raise LocalError(f"expected a final HTTP status (200 to 599), got {status}")
        return f"HTTP/1.1 {status} \r\n"
    return line


def request_line(method: str, target: str) -> str:
    """The first line of a request; LocalError for a method or target that is not one word of ASCII."""
    if not _TOKEN.fullmatch(method):
        raise LocalError(f"expected a method, got {method!r}")
    if not _TARGET.fullmatch(target):
        raise LocalError(f"expected a request target in origin form, got {target!r}")
    return f"{method} {target} HTTP/1.1\r\n"


class HeadWriter:
    """Writes one head: `first` (with its CRLF), the fields and the empty line.

    Values are latin-1 as received ones are; a value with other characters makes the head UTF-8.
    """

    __slots__ = ("connection", "length", "lines")

    def __init__(self, first: str, headers: Iterable[tuple[str, str]], *, without_length: bool = False) -> None:
        """LocalError when a name is no token, or a field tells about framing what it must not.
        `without_length` leaves a content-length out."""
        self.lines = lines = [first]
        self.length: int | None = None
        """What content-length says."""
        self.connection = ""
        """What connection says."""
        kinds = _kinds
        for name, value in headers:
            kind = kinds.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind:
                if kind == _CONNECTION:
                    self.connection = value
                elif kind == _CODING:
                    raise LocalError("transfer-encoding is chosen here, not by the caller")
                elif without_length:
                    continue
                elif self.length is not None or not (value.isascii() and value.isdigit()):
                    raise LocalError(f"content-length: expected one number, got {value!r}")
                else:
                    self.length = int(value)
            lines.append(f"{name}: {value}\r\n")

    def encode(self) -> bytes:
        """The bytes; LocalError when a value holds CR, LF or another control character."""
        self.lines.append("\r\n")
        text = "".join(self.lines)
        try:
            head = text.encode("latin-1")
        except UnicodeEncodeError:
            try:
                head = text.encode("utf-8")
            except UnicodeEncodeError:
                raise LocalError("a header value holds half of a surrogate pair") from None
        count = len(self.lines)
        if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head.translate(MARK_CONTROLS):
            raise LocalError("a header value holds a control character")
        return head


def _kind_of(name: str) -> int:
    if not _TOKEN.fullmatch(name):
        raise LocalError(f"header name {name!r} is no token")
    kind = _SPECIAL.get(name.lower(), _PLAIN)
    if len(_kinds) < _KINDS_MAX:
        _kinds[name] = kind
    return kind


def encode_chunk(data: bytes) -> bytes:
    """One chunk; empty data gives nothing, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class BodyWriter:
    """Frames the body of one outgoing message and makes sure that it keeps what its head said."""

    __slots__ = ("_chunked", "_left", "_silent", "_until_close")

    def __init__(self, length: int | None, *, chunked: bool = True, silent: bool = False) -> None:
        """`length` None: chunked, or else up to the end of the connection. `silent`: the message has no body
        whatever the head says (HEAD)."""
        self._chunked = length is None and chunked
        self._until_close = length is None and not chunked
        self._left = length or 0
        self._silent = silent

    def data(self, data: bytes) -> bytes:
        """The wire form of the next part."""
        if self._silent:
            return b""
        if self._chunked:
            return encode_chunk(data)
        if self._until_close:
            return data
        if len(data) > self._left:
            raise LocalError(f"{len(data)} bytes of body where content-length leaves {self._left}")
        self._left -= len(data)
        return data

    def finish(self) -> bytes:
        """What ends the body."""
        if self._silent:
            return b""
        if self._chunked:
            return LAST_CHUNK
        if self._left:
            raise LocalError(f"{self._left} bytes of body are missing to content-length")
        return b""
