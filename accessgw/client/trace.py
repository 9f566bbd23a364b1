"""Frames as lines of text, for accessgw-client -v."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.frames import INCOMPLETE, MORE, FrameType, cut
from protocols.mmtp.settings import DEFAULTS, MAX_FRAME

_QUIET = frozenset((FrameType.HELLO, FrameType.WELCOME))
"""Their payloads carry credentials and keys."""
SHOWN = 24


class FrameTrace:
    """Cuts both directions of a connection into frames and describes each in a line."""

    def __init__(self) -> None:
        self._buffers: dict[str, bytes] = {}

    def lines(self, kind: str, data: bytes) -> list[str]:
        """What to print for one news of Client.on_trace."""
        if kind == "connect":
            self._buffers.clear()
            return [f"** connecting to {data.decode()}"]
        if kind == "close":
            return ["** closing"]
        if kind in ("post", "posted"):
            return [f"{'=>' if kind == 'post' else '<='} short connection, {len(data)} bytes"]
        arrow = "->" if kind == "send" else "<-"
        return [f"{arrow} {line}" for line in self._frames(kind, data)]

    def _frames(self, kind: str, data: bytes) -> list[str]:
        data = self._buffers.pop(kind, b"") + data
        lines: list[str] = []
        pos = 0
        while pos < len(data):
            try:
                start, stop, _ = cut(data, pos, len(data), DEFAULTS[MAX_FRAME])
            except RemoteError as error:
                return [*lines, f"not a frame: {error}"]
            if start == INCOMPLETE:
                self._buffers[kind] = data[pos:]
                break
            lines.append(describe(data[pos], data[start:stop], stop - pos))
            pos = stop
        return lines


def describe(first: int, payload: bytes, size: int) -> str:
    """One frame: its name, flags, size on the wire, and the beginning of its payload."""
    frame = FrameType(first >> 4)
    flags = first & 15
    parts = [frame.name]
    if frame in (FrameType.REQUEST, FrameType.RESPONSE, FrameType.DATA):
        parts += ["more"] if flags & MORE else []
    elif flags:
        parts.append(f"flags {flags:x}")
    parts.append(f"{size} B")
    if payload and frame not in _QUIET:
        parts.append(payload[:SHOWN].hex(" ") + (" …" if len(payload) > SHOWN else ""))
    return "  ".join(parts)
