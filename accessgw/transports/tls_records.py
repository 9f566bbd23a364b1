"""A TLS connection after its hand-shake: records between the socket and a binding, and the way to another process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from accessgw.core.interfaces.connections import Binding, BindingFactory
from accessgw.core.interfaces.handover import MovableBinding
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.services import TransportServices
from accessgw.transports.stream import ESTABLISHED, FLUSHING, HELLO, StreamConnection, ignore
from protocols.errors import LocalError, RemoteError, without_frames
from protocols.tls.alerts import NO_RENEGOTIATION, name_of
from protocols.tls.engine import CloseNotifyReceived, PlaintextReceived, TlsEvent, TlsRecords
from protocols.tls.record_protection import ALERT
from protocols.tls.records import RecordLayer


@dataclass(slots=True, frozen=True)
class Released:
    """What another process goes on with."""

    binding: bytes = field(repr=False)
    records: bytes = field(repr=False)
    """RecordLayer.export_state(): the keys, and what is unread and unsent."""


class RecordConnection(StreamConnection):
    """A Connection whose bytes are TLS records on the wire. Byte counters count the wire.

    Who makes it gives it its records: TlsConnection by a hand-shake, adopt() of what another process has released.
    """

    __slots__ = ("_plaintext", "_records", "_released")

    def __init__(
        self, sock: socket.SocketType, info: ConnectionInfo, services: TransportServices, address: str
    ) -> None:
        super().__init__(sock, info, services, address)
        self._records: TlsRecords | None = None
        self._plaintext: Callable[[bytes], None] = ignore
        self._released = False
        """Its keys are on the way to another process, or there."""

    # ------------------------------------------------------------------ Connection

    def write(self, data: bytes) -> None:
        if self._phase >= FLUSHING:
            return
        records = self._records
        if records is None:
            self._write_unready(data)
            return
        try:
            records.encrypt(data)
        except LocalError:
            # The peer broke TLS in the bytes that are being worked through; the close is about to come.
            return
        self._send(records.to_send())

    def close(self, reason: CloseReason, detail: str = "") -> None:
        if self._released:
            # Only the owner of the keys may say something, and a FIN would be its FIN, too.
            self._lost(reason, detail)
        else:
            super().close(reason, detail)

    def pause(self) -> None:
        if self._released:
            self._paused = True
        else:
            super().pause()

    def resume(self) -> None:
        if self._released:
            # What comes now is for who has the keys: to read it would lose it. take_back() reads on.
            self._paused = False
        else:
            super().resume()

    def finish(self, reason: CloseReason, detail: str = "") -> None:
        # The peer should hear close_notify (RFC 8446 6.1), and its own may still be unread.
        self.close(reason, detail)

    def hand_over(self, binding: Binding, farewell: Callable[[CloseReason], bytes]) -> None:
        if self._phase < FLUSHING:
            self._binding = binding
            self._farewell = farewell
            self._plaintext = binding.data_received

    # ------------------------------------------------------------------ records

    def _ciphertext(self, data: bytes) -> None:
        records = self._records
        if records is None:
            return
        failure: RemoteError | None = None
        try:
            records.feed(data)
        except RemoteError as error:
            failure = without_frames(error)
        answer = records.to_send()
        if answer:
            self._send(answer)
            if failure is None and answer[0] == ALERT:
                # In the clear, so TLS 1.2, which goes on after a warning. The only one that reading brings about.
                failure = RemoteError(NO_RENEGOTIATION, "TLS: the peer wants to renegotiate")
        self._handle(records.events())
        if failure is not None:
            self._refuse(failure)

    def _handle(self, events: list[TlsEvent]) -> None:
        for event in events:
            if self._phase >= FLUSHING:
                return
            if type(event) is PlaintextReceived:
                self._plaintext(event.data)
            elif type(event) is CloseNotifyReceived:
                # Nothing may come after it (RFC 8446 6.1), so its FIN need not be waited for either.
                self._eof = True
                self.close(CloseReason.PEER_CLOSED)
            else:
                self._handshake_event(event)

    def _speak(self, factory: BindingFactory) -> None:
        binding = self._start_binding(factory)
        self._plaintext = ignore if binding is None else binding.data_received

    def _write_unready(self, data: bytes) -> None:
        """What is written while there are no records."""

    def _handshake_event(self, event: TlsEvent) -> None:
        """What only happens in a hand-shake."""

    # ------------------------------------------------------------------ to another process, see handover

    def release(self) -> Released | None:
        """Leave the reactor with the socket open, and give what another goes on with. None for a connection that has to
        stay: OpenSSL has its records, it has no binding yet or none that can move, it is ending, or the last step of its
        hand-shake is being told, behind which there may be more to say and to read."""
        records, binding = self._records, self._binding
        leave = getattr(binding, "leave", None)
        if leave is None or not isinstance(records, RecordLayer):
            return None
        if self._farewell is not None or self._held is not None or self._phase not in (HELLO, ESTABLISHED):
            return None
        # In full: the other process will have the file too, so that closing ours would not take it out of the set.
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unsent, self._out, self.buffered = bytes(self._out or b""), None, 0
        released = Released(leave(), records.export_state(unsent))
        self._records = None
        self._plaintext = ignore
        self._released = True
        return released

    def take_back(self, released: Released) -> None:
        """It was not taken: go on here, unless it was closed meanwhile."""
        if self._phase < FLUSHING:
            self._released = False
            self._go_on(released.records)
            binding = cast("MovableBinding", self._binding)
            self._plaintext = binding.data_received
            binding.stay()
            self._ciphertext(b"")

    def surrender(self) -> bool:
        """It is the other process's now, and over here. False: it was closed meanwhile."""
        if self._phase >= FLUSHING:
            return False
        self._lost(CloseReason.DRAINING, "handed over to another process")
        return True

    def adopt(self, state: bytes, factory: BindingFactory) -> None:
        """Instead of begin(): go on with the records that release() of another process gave. The age begins anew.
        ValueError when that is no such state."""
        self._go_on(state)
        self._speak(factory)
        self._ciphertext(b"")

    def _go_on(self, state: bytes) -> None:
        self._records = records = RecordLayer.import_state(state)
        self.receive_with(self._ciphertext)
        self._phase = HELLO
        self.established()
        if not self._paused:
            self._reactor.addReader(self)
        unsent = records.to_send()
        if unsent:
            self._send(unsent)

    # ------------------------------------------------------------------ the end

    def _refuse(self, error: RemoteError) -> None:
        self.close(CloseReason.PROTOCOL_ERROR, f"alert {error.code} ({name_of(error.code)}): {error}")

    def _say_goodbye(self) -> None:
        records = self._records
        if records is not None:
            records.close()
            last = records.to_send()
            if last:
                self._send(last)

    def _peer_finished(self) -> None:
        records = self._records
        if records is None:
            self.close(CloseReason.PEER_CLOSED)
            return
        try:
            records.feed_eof()
        except RemoteError as error:
            self.close(CloseReason.PEER_RESET, str(error))
        else:
            self.close(CloseReason.PEER_CLOSED)

    def _lost(self, reason: CloseReason, detail: str) -> None:
        self._plaintext = ignore
        super()._lost(reason, detail)
        self._records = None
