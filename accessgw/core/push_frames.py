"""The frame of a push, encoded (and compressed) once for all connections that get the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accessgw.core.interfaces.pushes import OutgoingPush
from protocols.mmtp.bodies import EXPLICIT, RAW
from protocols.mmtp.connection import Connection
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.pushes import PushFrame, encode_push
from protocols.mmtp.shared_bodies import SharedBody

_BODY = "mmtp body"
FRAME_HEAD = 16
"""About what a frame has beside its body."""


def _never(biz: str) -> bool:
    return False


def frame_of(
    push: OutgoingPush,
    gap: int,
    zstd: bool,
    compress_from: int,
    *,
    dictionary: Dictionary | None = None,
    witness: int = 0,
    is_secret: Callable[[str], bool] = _never,
) -> PushFrame:
    """The push for devices that have got everything before it but the `gap` numbers left out, that take zstd or not,
    and whose class has this dictionary (`witness`: the first of them, see Watcher); its token is (alias, seq). It is
    kept in `push.encodings`."""
    form: Any = ("mmtp", zstd, gap) if dictionary is None else ("mmtp", zstd, gap, dictionary)
    made: PushFrame | None = push.encodings.get(form)
    if made is None:
        secret = is_secret(push.stream.biz)
        frame = encode_push(
            push.alias,
            push.body,
            coding=EXPLICIT if zstd and not secret and len(push.body) >= compress_from else RAW,
            ttl=push.ttl,
            priority=push.priority,
            collapse=push.collapse,
            gap=gap,
            dictionary=None if secret else dictionary,
            witness=witness,
        )
        # The frame's head counts too when the body is compressed: a few bytes on the safe side.
        size = min(len(push.body), len(frame))
        made = push.encodings[form] = PushFrame(push.alias, push.seq, frame, size, (push.alias, push.seq))
    return made


def offer_after_history(
    wire: Connection, push: OutgoingPush, gap: int, is_secret: Callable[[str], bool] = _never
) -> int:
    """Send the push on a stream with history; about its bytes, 0 when the push window is full. What it is compressed to
    is shared by the devices of a user that have had the same bodies."""
    shared: SharedBody | None = push.encodings.get(_BODY)
    if shared is None:
        shared = push.encodings[_BODY] = SharedBody(push.body)
    taken = wire.offer_body(
        push.alias,
        push.seq,
        shared,
        (push.alias, push.seq),
        ttl=push.ttl,
        priority=push.priority,
        collapse=push.collapse,
        gap=gap,
        secret=is_secret(push.stream.biz),
    )
    return len(push.body) + FRAME_HEAD if taken else 0
