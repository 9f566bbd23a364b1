"""The frame of a push, encoded (and compressed) once for all connections that get the same bytes."""

from __future__ import annotations

from accessgw.core.interfaces import OutgoingPush
from protocols.mmtp.bodies import EXPLICIT, RAW
from protocols.mmtp.pushes import encode_push


def frame_of(push: OutgoingPush, gap: int, zstd: bool, compress_from: int) -> bytes:
    """The frame for devices that have got everything before it but the `gap` numbers left out, and that take
    zstd or not. It is kept in `push.encodings`."""
    form = ("mmtp", zstd, gap)
    frame: bytes | None = push.encodings.get(form)
    if frame is None:
        frame = push.encodings[form] = encode_push(
            push.alias,
            push.body,
            coding=EXPLICIT if zstd and len(push.body) >= compress_from else RAW,
            ttl=push.ttl,
            priority=push.priority,
            collapse=push.collapse,
            gap=gap,
        )
    return frame
