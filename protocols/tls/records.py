"""The TLS 1.3 record layer of a connection whose hand-shake another made: records, alerts, key updates, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from protocols.errors import LocalError, RemoteError
from protocols.tls.alerts import CLOSE_NOTIFY, DECODE_ERROR, UNEXPECTED_EOF, UNEXPECTED_MESSAGE, USER_CANCELED, name_of
from protocols.tls.engine import CloseNotifyReceived, PlaintextReceived, TlsEvent
from protocols.tls.key_schedule import SUITES, keying_material, next_secret, traffic_keys
from protocols.tls.post_handshake import KEY_UPDATE, is_update_requested, key_update, session_ticket, take_message
from protocols.tls.record_backends import Backend, Direction, get_backend
from protocols.tls.record_protection import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    MAX_PLAINTEXT,
    REFUSALS,
    is_incomplete,
)
from protocols.tls.record_state import DetachedState

_NOTHING = bytearray()
"""Shared by all that keep nothing; never changed."""


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """The bounds of a connection; one object serves all."""

    rekey_after: int = 1 << 23
    """Records under one key after which we update ours, and ask the peer to update its own. Below 2**24."""
    records_per_key: int = 23_726_566
    """Records under one key that we read at most: 2**24.5 (RFC 8446 section 5.5)."""
    control_messages: int = 32
    """KeyUpdates, tickets and warnings that a peer may send beyond one per reception of application data. At most
    65,535."""


_LIMITS = RecordLimits()


class RecordLayer:
    """A TLS 1.3 connection after its hand-shake (RFC 8446 sections 4.6, 5 and 6). See protocols.tls.engine.TlsRecords.

    `state` must be used by nobody else: two that write under one key repeat a nonce. Call start() once, for what had
    come before the hand-over. Raises ValueError for a state that no connection can be in.
    """

    __slots__ = (
        "_closed",
        "_controls",
        "_events",
        "_exporter",
        "_failure",
        "_fragment",
        "_handed_over",
        "_is_server",
        "_limits",
        "_out",
        "_peer_closed",
        "_reader",
        "_suite",
        "_unread",
        "_update_asked",
        "_update_due",
        "_writer",
    )

    handshaken = True

    def __init__(
        self, state: DetachedState, *, limits: RecordLimits = _LIMITS, backend: Backend = get_backend("auto")
    ) -> None:
        if state.sealer is None:  # what proved its count of records is in order
            state.check()
        self._suite = suite = SUITES[state.suite]
        self._limits = limits
        self._is_server = state.is_server
        self._reader = backend.make_opener(suite, state.read_secret, state.read_sequence)
        self._reader.empty_records = state.empty_records
        self._writer = backend.make_sealer(
            suite, state.write_secret, state.write_sequence, state.sealer, state.write_keys
        )
        self._exporter = bytearray(state.exporter_secret) if state.exporter_secret else _NOTHING
        self._fragment = bytearray(state.fragment) if state.fragment else _NOTHING
        self._unread = bytearray(state.unread) if state.unread else _NOTHING
        self._out: list[bytes] | None = [state.unsent] if state.unsent else None
        self._events: list[TlsEvent] | None = None
        self._failure: tuple[int, str] | None = None
        self._handed_over = False
        self._closed = state.closed
        self._peer_closed = state.peer_closed
        self._update_due = state.update_due
        self._update_asked = state.update_asked
        self._controls = state.control_messages

    # ------------------------------------------------------------------ in

    def start(self) -> None:
        """Handle what had come before the hand-over. Raises as feed() does."""
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        if self._handed_over or self._failure is not None:
            self._refuse_input()
        if self._peer_closed:
            return
        unread = self._unread
        if unread:
            unread += data
            if is_incomplete(unread):
                return
            data = bytes(unread)
            self._unread = _NOTHING
        if not data:
            return
        reader = self._reader
        if reader.sequence >= self._limits.rekey_after:
            self._press_for_update()
        # A handshake message that has begun must go on in the next record, so each is looked at alone then.
        plain, at, kind, content = reader.open(data, 0, bool(self._fragment))
        if kind:
            at = self._read_on(data, plain, at, kind, content)
        elif plain:
            self._received(plain)
        if at < len(data):
            self._unread = bytearray(memoryview(data)[at:])

    def feed_eof(self) -> None:
        if self._handed_over or self._failure is not None:
            self._refuse_input()
        if not self._peer_closed:
            error = RemoteError(UNEXPECTED_EOF, "TLS: the connection ended without close_notify")
            self._give_up(error, tell=False)
            raise error

    def events(self) -> list[TlsEvent]:
        events = self._events
        if events is None:
            if self._handed_over:
                raise _handed_over()
            return []
        self._events = None
        return events

    def _read_on(self, data: bytes, plain: bytes, at: int, kind: int, content: bytes) -> int:
        """Handle the record that is not application data, and all behind it; gives where an incomplete one begins."""
        parts = [plain]
        told: list[TlsEvent] = []
        try:
            while kind:
                self._handle(kind, content, told)
                if self._peer_closed:
                    at = len(data)
                    break
                plain, at, kind, content = self._reader.open(data, at, bool(self._fragment))
                parts.append(plain)
        except RemoteError as error:
            if self._failure is None:
                self._give_up(error)
            raise
        finally:
            # What was good is told, also before a failure.
            whole = b"".join(parts)
            if whole:
                self._received(whole)
            if told:
                self._events = (self._events or []) + told
        return at

    def _handle(self, kind: int, content: bytes, told: list[TlsEvent]) -> None:
        if kind < 0:
            raise _broken(*REFUSALS[kind])
        if kind == HANDSHAKE:
            self._handshake(content, told)
        elif self._fragment:
            raise _broken(UNEXPECTED_MESSAGE, f"expected the rest of a handshake message, got content type {kind}")
        elif kind == ALERT:
            self._alert(content, told)
        else:
            raise _broken(UNEXPECTED_MESSAGE, f"expected application data, an alert or a handshake message, got {kind}")

    def _received(self, plain: bytes) -> None:
        if self._controls:
            self._controls -= 1
        event = PlaintextReceived(plain)
        if self._events is None:
            self._events = [event]
        else:
            self._events.append(event)

    def _handshake(self, content: bytes, told: list[TlsEvent]) -> None:
        if not content:
            raise _broken(UNEXPECTED_MESSAGE, "expected a handshake message, got an empty record")
        data = self._fragment
        if data:
            data += content
        else:
            data = bytearray(content)
        at = 0
        while (message := take_message(data, at, self._is_server)) is not None:
            kind, body = message
            at += 4 + len(body)
            self._count_control()
            if kind == KEY_UPDATE:
                if at != len(data):
                    raise _broken(UNEXPECTED_MESSAGE, "expected KeyUpdate at the end of a record")
                self._update_due |= is_update_requested(body)
                self._update_asked = False
                self._rekey(self._reader)
            else:
                told.append(session_ticket(body))
        del data[:at]
        self._fragment = data or _NOTHING

    def _alert(self, content: bytes, told: list[TlsEvent]) -> None:
        if len(content) != 2:
            code = DECODE_ERROR if content else UNEXPECTED_MESSAGE
            raise _broken(code, f"expected an alert of 2 bytes, got {len(content)}")
        code = content[1]
        if code == CLOSE_NOTIFY:
            self._peer_closed = True
            told.append(CloseNotifyReceived())
        elif code == USER_CANCELED:
            self._count_control()
        else:
            # Whatever its level says (RFC 8446 section 6.2). Nobody listens to an answer.
            self._out = None
            error = RemoteError(code, f"TLS: the peer sent alert {code} ({name_of(code)})")
            self._give_up(error, tell=False)
            raise error

    def _count_control(self) -> None:
        self._controls += 1
        if self._controls > self._limits.control_messages:
            raise _broken(
                UNEXPECTED_MESSAGE,
                f"expected at most {self._limits.control_messages} control messages without application data",
            )

    def _press_for_update(self) -> None:
        """The peer has used its key for long: ask it for the next one, and in the end refuse to read on."""
        if self._reader.sequence >= self._limits.records_per_key:
            error = _broken(
                UNEXPECTED_MESSAGE, f"expected at most {self._limits.records_per_key} records under one key"
            )
            self._give_up(error)
            raise error
        if not self._update_asked and not self._closed:
            self._update_asked = True
            self._update_writer(ask=True)

    # ------------------------------------------------------------------ out

    def encrypt(self, data: bytes) -> None:
        if self._handed_over:
            raise _handed_over()
        if self._closed or self._failure is not None:
            raise LocalError("application data after the end of the connection")
        if not data:
            return
        if self._update_due:
            self._update_writer()
        writer = self._writer
        if writer.sequence + len(data) // MAX_PLAINTEXT >= self._limits.rekey_after:
            self._encrypt_across_keys(data)
        elif self._out is None:
            self._out = [writer.seal(APPLICATION_DATA, data)]
        else:
            self._out.append(writer.seal(APPLICATION_DATA, data))

    def to_send(self) -> bytes:
        if self._update_due:
            # As late as this, one answer serves all requests that have come (RFC 8446 section 4.6.3).
            self._update_writer()
        out = self._out
        if out is None:
            if self._handed_over:
                raise _handed_over()
            return b""
        self._out = None
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        if self._handed_over:
            raise _handed_over()
        if self._closed or self._failure is not None:
            return
        if self._update_due:
            self._update_writer()
        self._closed = True
        self._put(ALERT, bytes((1, CLOSE_NOTIFY)))

    def refuse(self, code: int) -> None:
        if self._handed_over:
            raise _handed_over()
        if not self._closed and self._failure is None:
            self._give_up(RemoteError(code, f"TLS: the peer was refused with alert {code} ({name_of(code)})"))

    def _put(self, kind: int, content: bytes) -> None:
        record = self._writer.seal(kind, content)
        if self._out is None:
            self._out = [record]
        else:
            self._out.append(record)

    def _encrypt_across_keys(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            room = self._limits.rekey_after - self._writer.sequence
            if room <= 0:
                self._update_writer()
                continue
            self._put(APPLICATION_DATA, data[at : at + room * MAX_PLAINTEXT])
            at += room * MAX_PLAINTEXT

    def _update_writer(self, ask: bool = False) -> None:
        """KeyUpdate, the last record under our key."""
        self._update_due = False
        if self._closed:
            return
        self._put(HANDSHAKE, key_update(ask))
        self._rekey(self._writer)

    def _rekey(self, direction: Direction) -> None:
        secret = next_secret(self._suite, direction.secret())
        direction.rekey(secret, *traffic_keys(self._suite, secret))

    # ------------------------------------------------------------------ the end

    def _give_up(self, error: RemoteError, tell: bool = True) -> None:
        """This error for ever; the peer is told by its alert."""
        if tell and not self._closed:
            self._put(ALERT, bytes((2, error.code)))
        self._wipe()
        # Not the exception itself: it would keep its traceback, and grow by one with every raise.
        self._failure = error.code, str(error)

    def _wipe(self) -> None:
        self._reader.wipe()
        self._writer.wipe()
        for kept in (self._exporter, self._fragment, self._unread):
            kept[:] = bytes(len(kept))
        self._exporter = self._fragment = self._unread = _NOTHING
        self._update_due = False

    def _refuse_input(self) -> NoReturn:
        if self._failure is not None:
            raise RemoteError(*self._failure)
        raise _handed_over()

    # ------------------------------------------------------------------ beside the stream

    def export_keying_material(self, label: bytes, size: int, context: bytes = b"") -> bytes:
        """`size` bytes for another protocol (RFC 8446 section 7.5); LocalError when the exporter secret is not here."""
        if self._handed_over:
            raise _handed_over()
        if not self._exporter:
            raise LocalError("TLS: this connection has no exporter secret")
        return keying_material(self._suite, self._exporter, label, context, size)

    def export_state(self, unsent: bytes = b"") -> bytes:
        """The connection for another owner, see record_state; this one's keys are overwritten and it is dead. `unsent` is
        what to_send() gave before and the transport could not send.

        The bytes hold the keys, and cannot be overwritten: hand them over and forget them. LocalError, with nothing
        changed, while events wait, and after the end.
        """
        if self._handed_over:
            raise _handed_over()
        if self._failure is not None:
            raise LocalError("TLS: a connection that has failed cannot be handed over")
        if self._events:
            raise LocalError("TLS: collect the events before the connection is handed over")
        reader, writer = self._reader, self._writer
        state = DetachedState(
            suite=self._suite.id,
            is_server=self._is_server,
            read_secret=reader.secret(),
            write_secret=writer.secret(),
            read_sequence=reader.sequence,
            write_sequence=writer.sequence,
            unread=bytes(self._unread),
            exporter_secret=bytes(self._exporter),
            unsent=b"".join((unsent, *(self._out or ()))),
            fragment=bytes(self._fragment),
            closed=self._closed,
            peer_closed=self._peer_closed,
            update_due=self._update_due,
            update_asked=self._update_asked,
            control_messages=self._controls,
            empty_records=reader.empty_records,
        ).to_bytes()
        self._wipe()
        self._out = None
        self._handed_over = True
        return state

    @classmethod
    def import_state(
        cls, data: bytes, *, limits: RecordLimits = _LIMITS, backend: Backend = get_backend("auto")
    ) -> RecordLayer:
        """The connection that export_state() gave away; start() it. ValueError when the bytes are not such a state."""
        return cls(DetachedState.from_bytes(data), limits=limits, backend=backend)


def _broken(code: int, message: str) -> RemoteError:
    return RemoteError(code, f"TLS: {message}")


def _handed_over() -> LocalError:
    return LocalError("TLS: this connection was handed over")
