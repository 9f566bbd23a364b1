"""Frames as lines of text, for accessgw-client -v."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.dict_frames import (
    DictKind,
    decode_chunk,
    decode_have,
    decode_offer,
    decode_retire,
    decode_use,
    decode_want,
)
from protocols.mmtp.digests import DIGEST_SIZE
from protocols.mmtp.frames import CODING_SHIFT, INCOMPLETE, MORE, FrameType, TableKind, cut
from protocols.mmtp.settings import DEFAULTS, MAX_FRAME
from protocols.mmtp.varint import decode_varint

_QUIET = frozenset((FrameType.HELLO, FrameType.WELCOME))
"""Their payloads carry credentials and keys."""
_CODINGS = {1: "mini", 2: "zstd", 3: "history"}
_CODED = frozenset((FrameType.REQUEST, FrameType.RESPONSE, FrameType.PUSH))
_ARROWS = {"send": "->", "early": "-> in early data:", "received": "<-"}
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
        arrow = _ARROWS[kind]
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
    if frame in (FrameType.TABLE, FrameType.DICT):
        try:
            said = _table(flags, payload) if frame is FrameType.TABLE else _dictionary(flags, payload)
        except (RemoteError, ValueError):
            pass  # shown like any other
        else:
            return f"{frame.name}  {said}  {size} B"
    parts = [frame.name]
    if frame in _CODED and flags >> CODING_SHIFT & 3:
        parts.append(_CODINGS[flags >> CODING_SHIFT & 3])
    if frame in (FrameType.REQUEST, FrameType.RESPONSE, FrameType.DATA):
        parts += ["more"] if flags & MORE else []
    elif flags:
        parts.append(f"flags {flags:x}")
    parts.append(f"{size} B")
    if payload and frame not in _QUIET:
        parts.append(payload[:SHOWN].hex(" ") + (" …" if len(payload) > SHOWN else ""))
    return "  ".join(parts)


def _table(flags: int, payload: bytes) -> str:
    """What a TABLE frame says. Raises RemoteError or ValueError."""
    kind = TableKind(flags)
    end = len(payload)
    number, pos = decode_varint(payload, 0, end)
    if kind in (TableKind.CHECKPOINT, TableKind.CHECKPOINT_ACK):
        return f"{'checkpoint' if kind is TableKind.CHECKPOINT else 'acknowledges checkpoint'} {number}"
    if kind is TableKind.START:
        return f"start of table {number}, from the empty state" if number else "start of profile H"
    if kind is TableKind.CHUNK:
        offset, pos = decode_varint(payload, pos, end)
        return f"chunk of table {number}: bytes {offset} to {offset + end - pos}"
    text = f"{kind.name.lower()} table {number}"
    if kind in (TableKind.OFFER, TableKind.HAVE):
        text += f" {payload[pos : pos + DIGEST_SIZE].hex()}"
    if kind is TableKind.OFFER:
        text += f", {decode_varint(payload, pos + DIGEST_SIZE, end)[0]} bytes"
    return text


def _dictionary(flags: int, payload: bytes) -> str:
    """What a DICT frame says. Raises RemoteError or ValueError."""
    end = len(payload)
    match DictKind(flags):
        case DictKind.OFFER:
            offer = decode_offer(payload, 0, end)
            delta = f", {offer.delta_size} as a delta to {offer.base}" if offer.base else ""
            return (
                f"offer dictionary {offer.id} {offer.digest.hex()} for {' '.join(offer.classes) or 'no class'}, "
                f"{offer.size} bytes, {offer.packed_size} packed{delta}"
            )
        case DictKind.WANT:
            id, base = decode_want(payload, 0, end)
            return f"want dictionary {id}" + (f" as a delta to {base}" if base else "")
        case DictKind.CHUNK:
            id, offset, part = decode_chunk(payload, 0, end)
            return f"chunk of dictionary {id}: bytes {offset} to {offset + len(part)}"
        case DictKind.HAVE:
            id, digest = decode_have(payload, 0, end)
            return f"have dictionary {id} {digest.hex()}"
        case DictKind.RETIRE:
            return f"retire dictionary {decode_retire(payload, 0, end)}"
        case DictKind.USE:
            id, name = decode_use(payload, 0, end)
            return f"use dictionary {id}" if id else f"use no dictionary for {name}"
