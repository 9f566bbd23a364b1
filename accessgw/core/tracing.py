"""Watching one device: its frames and calls as they happen, at no cost while nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

from msgspec import to_builtins

from accessgw.model.calls import CallRecord
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from protocols.mmtp import events
from protocols.mmtp.dict_frames import DictKind
from protocols.mmtp.frames import INCOMPLETE, FrameType, TableKind, cut
from protocols.mmtp.handshake import decode_goaway
from protocols.mmtp.varint import decode_varint

Emit = Callable[[dict[str, Any]], None]

_NAMES: dict[type, str] = {
    events.RequestReceived: "request",
    events.DataReceived: "data",
    events.CallReset: "reset",
    events.PushesAcked: "ack",
    events.PingReceived: "ping",
    events.PongReceived: "pong",
    events.GoawayReceived: "goaway",
    events.CheckpointTaken: "table",
    events.CheckpointAcked: "table",
    events.TableHeld: "table",
    events.DictionaryHeld: "dict",
    events.DictionaryRetired: "dict",
}
"""The wire's names of the frames that come in; its SETTINGS and WINDOW, and of TABLE and DICT want, start and use, are
not told to anybody."""
_MADE_BY_WIRE = frozenset({
    FrameType.PING, FrameType.PONG, FrameType.ACK, FrameType.SETTINGS, FrameType.WINDOW, FrameType.GOAWAY,
    FrameType.TABLE, FrameType.DICT,
})  # fmt: skip
_KINDS: dict[FrameType, type[IntEnum]] = {FrameType.TABLE: TableKind, FrameType.DICT: DictKind}
_CHECKPOINTS = (TableKind.CHECKPOINT, TableKind.CHECKPOINT_ACK)
_ANY_SIZE = 1 << 62


class Tracing:
    """Who watches which device. Bindings look the device up once, and again when `changed` says so."""

    def __init__(self, wall: Callable[[], float], max_watchers: int = 100) -> None:
        self.watched: dict[str, list[Emit]] = {}
        """Device -> watchers. Empty (and so false) when nobody watches."""
        self._wall = wall
        self._max_watchers = max_watchers
        self.changed: Callable[[str], None] = lambda device: None
        """Called with a device whose first watcher came or whose last one left."""

    def watch(self, device: str, emit: Emit) -> Callable[[], None]:
        """Give `emit` every event of the device until the returned function is called.

        Raises ValueError when there are too many watchers.
        """
        if sum(map(len, self.watched.values())) >= self._max_watchers:
            raise ValueError(f"expected at most {self._max_watchers} traces at once")
        watchers = self.watched.setdefault(device, [])
        watchers.append(emit)
        if len(watchers) == 1:
            self.changed(device)

        def stop() -> None:
            if emit in watchers:
                watchers.remove(emit)
            if not watchers and self.watched.get(device) is watchers:
                del self.watched[device]
                self.changed(device)

        return stop

    def tracer(self, device: str) -> Emit | None:
        """What a binding of the device calls for each frame; None when nobody watches."""
        if device not in self.watched:
            return None

        def emit(event: dict[str, Any]) -> None:
            self._emit(device, event)

        return emit

    def call(self, record: CallRecord) -> None:
        """A call of a watched device has ended."""
        fields = to_builtins(record)
        fields["call_id"] = f"{record.call_id:016x}"
        if not record.reason:
            del fields["reason"], fields["detail"]
        self._emit(record.device, {"kind": "call", **fields})

    def _emit(self, device: str, event: dict[str, Any]) -> None:
        stamped = {"at": self._wall(), **event}
        for emit in tuple(self.watched.get(device, ())):
            emit(stamped)


def connected(info: ConnectionInfo) -> dict[str, Any]:
    """The event of a connection whose HELLO names the device; nothing has proved yet that it is the device."""
    return {"kind": "connect", "connection": info.id, "listener": info.listener, "peer": info.peer}


def closed(info: ConnectionInfo, reason: CloseReason, detail: str) -> dict[str, Any]:
    """The event of its end."""
    told = {"kind": "close", "connection": info.id, "reason": reason.value}
    return {**told, "detail": detail} if detail else told


def received(event: events.Event) -> dict[str, Any] | None:
    """What a trace shows of a frame that came in: never bodies or credentials. None when it was no frame."""
    name = _NAMES.get(type(event))
    if name is None or (isinstance(event, events.CheckpointTaken) and event.direction == events.DOWN):
        return None
    details: dict[str, Any] = {"kind": "frame", "direction": "in", "frame": name}
    if isinstance(event, events.RequestReceived):
        details.update(call=event.call, operation=event.operation, bytes=event.wire_size, more=event.more)
    elif isinstance(event, events.DataReceived):
        details.update(call=event.call, bytes=event.wire_size, more=event.more)
    elif isinstance(event, events.CallReset):
        details.update(call=event.call, status=event.status)
    elif isinstance(event, events.PushesAcked):
        details.update(pushes=len(event.tokens))
    elif isinstance(event, events.GoawayReceived):
        details.update(status=event.goaway.status)
    elif isinstance(event, events.CheckpointTaken):
        details.update(what="checkpoint", number=event.number)
    elif isinstance(event, events.CheckpointAcked):
        details.update(what="checkpoint_ack", number=event.number)
    elif isinstance(event, events.TableHeld | events.DictionaryHeld):
        details.update(what="have", id=event.id)
    elif isinstance(event, events.DictionaryRetired):
        details.update(what="retire", id=event.id)
    return details


def sent(frame: str, details: dict[str, Any]) -> dict[str, Any]:
    """What a trace shows of a frame that goes out."""
    return {"kind": "frame", "direction": "out", "frame": frame, **details}


def sent_by_wire(data: bytes) -> Iterator[dict[str, Any]]:
    """The same for the frames in `data` that the wire makes by itself, and GOAWAY, which it may."""
    pos = 0
    while pos < len(data):
        start, stop, _ = cut(data, pos, len(data), _ANY_SIZE)
        if start == INCOMPLETE:
            return
        frame = FrameType(data[pos] >> 4)
        if frame in _MADE_BY_WIRE:
            details: dict[str, Any] = {}
            if frame is FrameType.GOAWAY:
                goaway = decode_goaway(data, start, stop)
                details = {"status": goaway.status, "message": goaway.message}
            elif frame in _KINDS:
                kind = _KINDS[frame](data[pos] & 15)
                name = "number" if frame is FrameType.TABLE and kind in _CHECKPOINTS else "id"
                details = {"what": kind.name.lower(), name: decode_varint(data, start, stop)[0], "bytes": stop - start}
            yield sent(frame.name.lower(), details)
        pos = stop
