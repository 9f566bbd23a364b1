"""An MMTP connection as its session's pushes see it, and what it has to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from accessgw.core import tracing as traces
from accessgw.core.interfaces.clock import Timer
from accessgw.core.interfaces.connections import Connection
from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.link_codings import LinkCodings
from accessgw.core.mmtp_room import MmtpRoom
from accessgw.core.push_frames import frame_of, offer_after_history
from accessgw.core.registry import DeviceSession
from accessgw.model.identity import ConnectionInfo
from accessgw.model.pushes import StreamKey
from accessgw.model.reasons import CloseReason
from protocols.mmtp.connection import Connection as Wire
from protocols.mmtp.connection import Role
from protocols.mmtp.handshake import Goaway, StreamCursor
from protocols.mmtp.nothing import NOTHING

if TYPE_CHECKING:
    from accessgw.core.mmtp_call import MmtpCall
    from accessgw.core.mmtp_early import EarlyCalls
    from accessgw.core.mmtp_handshake import Handshake

log = Logger()


class MmtpLink:
    """A Link, and the state of the whole connection; MmtpBinding is the rest."""

    __slots__ = (
        "_calls",
        "_close_when_done",
        "_closed",
        "_codings",
        "_dirty",
        "_early",
        "_handshake",
        "_histories",
        "_in_batch",
        "_peer_leaves",
        "_queued",
        "_services",
        "_timer",
        "_timer_at",
        "_trace",
        "_zstd",
        "connection",
        "info",
        "session",
        "wire",
    )

    def __init__(self, connection: Connection, services: MmtpRoom) -> None:
        self.connection = connection
        self.info: ConnectionInfo = connection.info
        self._services = services
        self.wire = Wire(Role.SERVER, limits=services.limits, now=services.clock.seconds())
        self.session: DeviceSession | None = None
        self._handshake: Handshake | None = None
        """Between HELLO and WELCOME."""
        self._early: EarlyCalls | None = None
        """From the first early data to the end of the TLS hand-shake."""
        self._codings: LinkCodings | None = None
        self._histories = False
        """Some stream may have been introduced with a history."""
        self._calls: dict[int, MmtpCall] = NOTHING
        self._closed = False
        self._close_when_done = False
        self._peer_leaves = False
        self._in_batch = False
        self._dirty = False
        self._queued = 0
        """Bytes of pushes that leave at the end of this turn."""
        self._zstd = False
        self._trace: traces.Emit | None = None
        self._timer: Timer | None = None
        self._timer_at = 0.0

    # ---------------------------------------------------------------- Link: what the session's pushes use

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet, or is about to be given."""
        return self.connection.buffered + self._queued

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        if not self._closed:
            cursor = StreamCursor(stream.scope, stream.id, stream.biz, epoch, after)
            self.wire.introduce_stream(alias, cursor, history=self._history(stream))
            self.touch()

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        if self._closed:
            return False
        services, wire = self._services, self.wire
        if self.connection.buffered + self._queued > services.push_buffer:
            return False
        if self._histories and wire.stream_has_history(push.alias):
            size = offer_after_history(wire, push, gap, services.is_secret)
            if not size:
                return False
        else:
            shared = frame_of(
                push,
                gap,
                self._zstd,
                services.compress_from,
                dictionary=None if self._codings is None else wire.push_dictionary(push.stream.biz),
                witness=wire.witness,
                is_secret=services.is_secret,
            )
            if not wire.offer_push(shared):
                return False
            size = len(shared.frame)
        self._queued += size
        if self._trace is not None:
            self.sent("push", {"alias": push.alias, "seq": push.seq, "bytes": size})
        elif not self._dirty:
            self.touch()
        return True

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        if not self._closed:
            cursor = StreamCursor(stream.scope, stream.id, stream.biz, epoch, floor)
            self.wire.note_stream(cursor, alias, note, history=self._history(stream))
            self.touch()

    def _history(self, stream: StreamKey) -> int:
        codings = self._services.codings
        history = 0 if codings is None else codings.history_of(stream)
        if history:
            self._histories = True
        return history

    def close(self, reason: CloseReason, status: int) -> None:
        if self._closed:
            return
        self.wire.go_away(Goaway(status=status, message=reason.value))
        self._finish(reason)

    def go_away(self, status: int, address: str, delay: float) -> None:
        if not self._closed:
            self.wire.go_away(Goaway(status=status, address=address, delay=delay))
            self.touch()

    # ---------------------------------------------------------------- sending

    def sent(self, what: str, details: dict[str, Any]) -> None:
        """Something was given to the wire: it leaves with the rest of this turn."""
        if self._trace is not None:
            self._trace(traces.sent(what, details))
        self.touch()

    def touch(self) -> None:
        """There are bytes to send: at the end of the reactor's turn; what is within a batch is seen to at its end."""
        if not self._in_batch and not self._dirty:
            self._dirty = True
            self._services.flusher.add(self)

    def flush(self) -> None:
        """Write what the wire has to send."""
        self._dirty = False
        self._queued = 0
        data = self.wire.to_send(self._services.clock.seconds())
        if data:
            if self._trace is not None:
                for frame in traces.sent_by_wire(data):
                    self._trace(frame)
            self.connection.write(data)

    def retrace(self) -> None:
        """Somebody began or ceased to watch this device."""
        session = self.session
        self._trace = None if session is None else self._services.tracing.tracer(session.identity.device)

    def log_local_error(self, call: int, error: Exception) -> None:
        """An answer that the wire refused."""
        log.error(
            "connection {id}: the answer to call {call} cannot be sent: {error}",
            id=self.info.id,
            call=call,
            error=error,
        )

    # ---------------------------------------------------------------- the end

    def _finish(self, reason: CloseReason, detail: str = "") -> None:
        """Write what is left and close; nothing is received or sent after it."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        self.connection.close(reason, detail)
