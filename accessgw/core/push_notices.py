"""What workers tell each other of appended pushes. A notice may get lost; the store has the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from accessgw.model.pushes import Priority, Scope, StoredPush, StreamKey

TOPIC = "pushes"
"""Topic of the bus."""
INLINE_BODY = 16 * 1024
"""Larger bodies do not travel; who needs them reads the store."""
MESSAGE_BYTES = 128 * 1024
"""A message is ended after this much body."""


class Notice(msgspec.Struct, array_like=True, omit_defaults=True):
    """One append. Without `body` it only says that the stream has grown."""

    scope: str
    id: str
    biz: str
    epoch: int
    seq: int
    priority: int = 0
    body: bytes | None = None
    appended_at: float = 0.0
    expires_at: float | None = None
    collapse: str = ""
    where: dict[str, Any] = {}

    @property
    def stream(self) -> StreamKey:
        return StreamKey(Scope(self.scope), self.id, self.biz)

    def stored(self) -> StoredPush | None:
        """The push itself, when it came along."""
        if self.body is None:
            return None
        return StoredPush(
            self.seq, self.body, self.appended_at, self.expires_at, self.collapse, Priority(self.priority), self.where
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Notice])


def notice_of(stream: StreamKey, epoch: int, push: StoredPush, inline: bool = True) -> Notice:
    """The notice of an appended push."""
    notice = Notice(stream.scope, stream.id, stream.biz, epoch, push.seq, int(push.priority))
    if inline and len(push.body) <= INLINE_BODY:
        notice.body = push.body
        notice.appended_at = push.appended_at
        notice.expires_at = push.expires_at
        notice.collapse = push.collapse
        notice.where = push.where
    return notice


def encode(notices: Sequence[Notice]) -> Iterable[bytes]:
    """Messages of a bounded size."""
    part: list[Notice] = []
    size = 0
    for notice in notices:
        part.append(notice)
        size += 128 + len(notice.body or b"")
        if size >= MESSAGE_BYTES:
            yield _encoder.encode(part)
            part, size = [], 0
    if part:
        yield _encoder.encode(part)


def decode(message: bytes) -> list[Notice]:
    """Raises msgspec.MsgspecError for what is no message of ours."""
    return _decoder.decode(message)
