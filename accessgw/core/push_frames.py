"""The frame of a push, encoded (and compressed) once for all connections that get the same bytes."""

from __future__ import annotations

from accessgw.core.interfaces import OutgoingPush
from protocols.mmtp.bodies import EXPLICIT, RAW
from protocols.mmtp.pushes import PushFrame, encode_push


def frame_of(push: OutgoingPush, gap: int, zstd: bool, compress_from: int) -> PushFrame:
    """The push for devices that have got everything before it but the `gap` numbers left out, and that take
    zstd or not; its token is (alias, seq). It is kept in `push.encodings`."""
    form = ("mmtp", zstd, gap)
    made: PushFrame | None = push.encodings.get(form)
    if made is None:
        frame = encode_push(
            push.alias,
            push.body,
            coding=EXPLICIT if zstd and len(push.body) >= compress_from else RAW,
            ttl=push.ttl,
            priority=push.priority,
            collapse=push.collapse,
            gap=gap,
        )
        # The frame's head counts too when the body is compressed: a few bytes on the safe side.
        size = min(len(push.body), len(frame))
        made = push.encodings[form] = PushFrame(push.alias, push.seq, frame, size, (push.alias, push.seq))
    return made
