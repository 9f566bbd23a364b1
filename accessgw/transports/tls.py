"""A TLS connection from its first bytes: the hand-shake, 0-RTT data, and the binding, which is chosen by ALPN."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from hashlib import sha256
from sys import intern

from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.connections import BindingFactory
from accessgw.core.interfaces.tls import TICKET_PROTOCOL, TlsContexts
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.early_data import EarlyPhase
from accessgw.transports.opening import Opening, chosen
from accessgw.transports.services import TransportServices
from accessgw.transports.stream import FLUSHING, HANDSHAKE
from accessgw.transports.tls_handshake import HANDSHAKE_RECORD, HELD, TlsHandshake
from accessgw.transports.tls_records import RecordConnection
from protocols.errors import RemoteError
from protocols.tls.alerts import NO_APPLICATION_PROTOCOL, name_of
from protocols.tls.engine import (
    EARLY_REFUSED,
    EarlyDataReceived,
    HandshakeCompleted,
    HandshakeRefused,
    TlsEvent,
    TlsRecords,
)

_log = Logger()

NEEDS_ALPN = frozenset({"mmtp/1", "h2"})
"""Protocols that a client must ask for by ALPN; without it one of the others is meant."""
EARLY_VERSION = "TLSv1.3"
"""Of every connection with early data, which older ones do not have."""
_FAILED_HANDSHAKES = (CloseReason.HANDSHAKE_FAILED, CloseReason.HANDSHAKE_TIMEOUT)


class TlsConnection(RecordConnection):
    """A RecordConnection, and the hand-shake that gives it its records.

    Lives as: the hand-shake (TlsHandshake, on threads) -> with 0-RTT data perhaps an EarlyPhase -> records, on the
    reactor's thread.
    """

    __slots__ = ("_contexts", "_early", "_factories", "_handshake", "_stalled")

    def __init__(  # noqa: PLR0917  # made by its listener alone
        self,
        sock: socket.SocketType,
        info: ConnectionInfo,
        services: TransportServices,
        address: str,
        factories: Mapping[str, BindingFactory],
        contexts: TlsContexts,
    ) -> None:
        super().__init__(sock, info, services, address)
        self._contexts = contexts
        self._factories = factories
        self._handshake: TlsHandshake | None = None
        self._early: EarlyPhase | None = None
        self._stalled = False
        """Not read, since much waits for a step of the hand-shake."""
        self._phase = HANDSHAKE

    def opened(self, data: bytes) -> None:
        """The first bytes have come from a peer whose PROXY header would not be believed."""
        if data[0] == HANDSHAKE_RECORD:
            self.begin_tls(data)
            return
        opening = Opening(self, False, self.begin_tls)
        self.receive_with(opening.data_received)
        opening.data_received(data)

    def begin_tls(self, data: bytes) -> None:
        """The first ciphertext has come. Where too many hand-shakes wait it is the last."""
        services = self._services
        if services.handshakes.full:
            services.tls.pool_refused += 1
            waiting, unfinished = services.tls.pool_waiting, services.tls.unfinished
            self.abort(CloseReason.OVERLOAD, f"{waiting} steps of {unfinished} hand-shakes wait")
            return
        contexts = self._contexts
        self._handshake = TlsHandshake(contexts.engine, services.handshakes, self._stepped, contexts.offloaded)
        self.receive_with(self._shake_hands)
        self._shake_hands(data)

    # ------------------------------------------------------------------ Connection

    def close(self, reason: CloseReason, detail: str = "") -> None:
        if self._early is not None:
            # There is no way to say close_notify before the peer's Finished has come (RFC 8446 6.1).
            self._early.close(reason, detail)
        else:
            super().close(reason, detail)

    def established(self) -> None:
        if self._early is not None:
            self._early.idle = self._services.limits.idle_timeout
        else:
            super().established()

    def set_idle(self, seconds: float) -> None:
        if self._early is not None:
            self._early.idle = seconds
        else:
            super().set_idle(seconds)

    def await_hello(self) -> None:
        if self._early is not None:
            self._early.idle = None
        else:
            super().await_hello()

    def pause(self) -> None:
        if self._stalled:
            self._paused = True
        else:
            super().pause()

    def resume(self) -> None:
        if self._stalled:
            self._paused = False
        else:
            super().resume()

    # ------------------------------------------------------------------ the hand-shake

    def _shake_hands(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None:
            return
        handshake.feed(data)
        if handshake.held > HELD and handshake.busy and not self._stalled and self._phase < FLUSHING:
            self._stalled = True
            if not self._paused:
                self._reactor.removeReader(self)

    def _stepped(self) -> None:
        """A step of the hand-shake is over."""
        handshake = self._handshake
        if handshake is not None and self._phase >= FLUSHING:
            self._handshake = None
            handshake.abandon()
        elif handshake is not None:
            try:
                if handshake.brought_a_flight:
                    self._send_flight(handshake)
                else:
                    self._take_step(handshake)
            except Exception:
                self._give_up_early()
                self._failed("a step of the hand-shake")
        self._unstall()

    def _send_flight(self, handshake: TlsHandshake) -> None:
        """The usual first step, which has nothing to tell."""
        flight, handshake.answer = handshake.answer, b""
        self._send(flight)
        if self._phase < FLUSHING:
            handshake.go_on()
            if self._eof and not handshake.busy:
                self._peer_finished()

    def _take_step(self, handshake: TlsHandshake) -> None:
        defect, handshake.defect = handshake.defect, None
        if defect is not None:
            self._defect(defect)
            return
        answer, events, failure = handshake.answer, handshake.events, handshake.failure
        handshake.answer, handshake.events = b"", []
        self._hold(answer)
        answers = self._services.answers
        answers.gathering = True
        try:
            self._go_through(handshake, events, failure)
        finally:
            answers.gathering = False
            self._send_held()

    def _go_through(self, handshake: TlsHandshake, events: list[TlsEvent], failure: RemoteError | None) -> None:
        if handshake.records is not None and self._phase < FLUSHING:
            self._completed(handshake, handshake.records)
        written = handshake.take_unsent()
        if written:
            self.write(written)
        self._handle(events)
        if failure is not None:
            self._refuse(failure)
        elif self._handshake is not None:
            handshake.go_on()
            if self._eof and not handshake.busy:
                self._peer_finished()
        elif self._phase < FLUSHING:
            self._after_handshake(handshake.take())

    def _completed(self, handshake: TlsHandshake, records: TlsRecords) -> None:
        self._records = records
        self._handshake = None
        self.receive_with(self._ciphertext)
        if handshake.detached:
            self._services.tls.detached += 1
        else:
            self._services.tls.kept += 1

    def _after_handshake(self, rest: bytes) -> None:
        """What came while the last step ran."""
        if rest:
            self._ciphertext(rest)
        if self._eof and self._phase < FLUSHING:
            self._peer_finished()

    def _unstall(self) -> None:
        handshake = self._handshake
        if not self._stalled or (handshake is not None and handshake.held > HELD and handshake.busy):
            return
        self._stalled = False
        # What is closing is read until the peer ends, whatever paused it.
        if self._fd >= 0 and not self._eof and not self._paused:
            self._reactor.addReader(self)

    def _handshake_event(self, event: TlsEvent) -> None:
        if type(event) is HandshakeCompleted:
            self._handshaken(event)
        elif type(event) is EarlyDataReceived:
            self._early_received(event)
        elif type(event) is HandshakeRefused:
            self._note_refused(event)

    def _handshaken(self, event: HandshakeCompleted) -> None:
        self._counters.handshakes += 1
        tls = self._services.tls
        if event.resumed:
            tls.resumed += 1
        else:
            tls.full += 1
        if event.early == EARLY_REFUSED:
            count(tls.early_refused, "ticket")
        info = self.info
        # The same few words for all connections: a copy of each costs more than the keys.
        info.alpn, info.tls_version, info.cipher = intern(event.alpn), intern(event.version), intern(event.cipher)
        info.server_name = event.server_name
        info.resumed = event.resumed
        if event.psk_identity:
            info.ticket = event.psk_identity
            if event.alpn != TICKET_PROTOCOL:
                count(tls.psk_refused, "other_protocol")
                why = f"expected a ticket over {TICKET_PROTOCOL}, got one over {event.alpn or 'no ALPN'}"
                self._refuse_handshake(NO_APPLICATION_PROTOCOL, why)
                return
        if event.peer_certificate:
            info.certificate = event.peer_certificate
            info.fingerprint = sha256(event.peer_certificate).digest()
            try:
                info.certificate_identity, info.serials = self._contexts.identify(
                    event.peer_certificate, event.peer_chain
                )
            except RemoteError as error:
                self._refuse_handshake(error.code, str(error))
                return
        early, self._early = self._early, None
        info.early = False
        if early is not None and early.binding is not None:
            self._end_early(early)
            return
        if early is not None and early.closing is not None:
            self.close(*early.closing)
            return
        if event.alpn:
            self.await_hello()
            self._speak(self._factories[event.alpn])
        else:
            self._speak_without_alpn()
        if early is not None and early.held:
            self._plaintext(b"".join(early.held))

    def _speak_without_alpn(self) -> None:
        """Many MQTT libraries offer no ALPN at all."""
        meant = {name: factory for name, factory in self._factories.items() if name not in NEEDS_ALPN}
        if not meant:
            # As RFC 9001 section 8.1 has it where ALPN must be used.
            why = f"no ALPN, and {', '.join(self._factories)} needs it"
            self._refuse_handshake(NO_APPLICATION_PROTOCOL, why, "no_alpn")
            return
        self.await_hello()
        if len(meant) == 1:
            self._speak(*meant.values())
        else:
            self._plaintext = lambda data: self._sniffed(meant, data)

    def _sniffed(self, meant: Mapping[str, BindingFactory], data: bytes) -> None:
        try:
            factory = chosen(meant, data)
        except RemoteError as error:
            self.close(CloseReason.PROTOCOL_ERROR, f"without ALPN: {error}")
            return
        self._speak(factory)
        self._plaintext(data)

    # ------------------------------------------------------------------ 0-RTT

    def _early_received(self, event: EarlyDataReceived) -> None:
        early = self._early
        if early is None:
            info = self.info
            info.early = info.resumed = True
            info.alpn, info.server_name = event.alpn, event.server_name
            info.tls_version = EARLY_VERSION
            if self._contexts.is_own_ticket(event.identity):
                info.ticket = event.identity
            early = self._early = EarlyPhase(self._services)
            factory = self._factories.get(event.alpn)
            if factory is not None and early.may_begin(factory, info):
                early.strike(event.identity, event.client_random)
                early.binding = self._start_binding(factory)
        early.received(event.data)

    def _end_early(self, early: EarlyPhase) -> None:
        """The hand-shake of a connection with a binding is complete: now it is a connection like others."""
        if early.idle is None:
            self.await_hello()
        else:
            self.set_idle(early.idle)
        if early.closing is not None:
            self.close(*early.closing)
        elif self._binding is not None:
            self._plaintext = self._binding.data_received
            early.complete()

    def _write_unready(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None or self._early is None or self._early.closing is not None:
            return
        ciphertext = handshake.encrypt(data)
        if ciphertext:
            self._send(ciphertext)
        elif handshake.unsent > self._services.limits.write_buffer:
            self._counters.write_overflows += 1
            self.abort(CloseReason.SLOW_READER, f"{handshake.unsent} bytes wait for the hand-shake")

    def _give_up_early(self) -> None:
        """From here on close() is in earnest."""
        self._early = None
        self.info.early = False

    # ------------------------------------------------------------------ the end

    def _refuse(self, error: RemoteError) -> None:
        if self._records is not None:
            super()._refuse(error)
        else:
            self._refuse_handshake(error.code, str(error))

    def _refuse_handshake(self, code: int, why: str, counted: str = "") -> None:
        """`counted`: under another name than the alert's."""
        reason = name_of(code)
        count(self._services.tls.refused, counted or reason)
        why = self._with_replay(why)
        self._give_up_early()
        if self._records is not None:
            # It was in order for TLS. Over 1.3 the peer hears why, see TlsRecords.refuse().
            self._records.refuse(code)
        super().close(CloseReason.HANDSHAKE_FAILED, f"alert {code} ({reason}): {why}")

    def _defect(self, error: BaseException) -> None:
        _log.failure("The hand-shake of connection {id} raised", Failure(error), id=self.info.id)
        self._give_up_early()
        self.close(CloseReason.INTERNAL, f"{type(error).__name__} in the hand-shake")

    def _note_refused(self, event: HandshakeRefused) -> None:
        """For the access log; no binding has such a connection."""
        info = self.info
        info.tls_version = intern(event.version)
        info.server_name = event.server_name or info.server_name
        if self._early is None:
            info.certificate = event.certificate

    def _peer_finished(self) -> None:
        handshake = self._handshake
        if handshake is None:
            super()._peer_finished()
        elif not handshake.busy:
            count(self._services.tls.refused, "peer_closed")
            detail = self._with_replay("the peer ended the connection during the hand-shake")
            self._give_up_early()
            self.close(CloseReason.HANDSHAKE_FAILED, detail)

    def _with_replay(self, detail: str) -> str:
        """For the access log: who shows a recorded flight again never completes the hand-shake, and this tells it from
        others that do not."""
        early = self._early
        if early is None or early.binding is None or not early.replayed:
            return detail
        return f"{detail}{detail and '; '}its early data was refused: a replay, or nobody could tell"

    def _lost(self, reason: CloseReason, detail: str) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            detail = self._with_replay(detail)
            handshake.abandon()
            if reason is CloseReason.HANDSHAKE_TIMEOUT:
                count(self._services.tls.refused, "timeout")
        self._early = None
        super()._lost(reason, detail)
        if self._reason in _FAILED_HANDSHAKES:
            self._counters.handshake_failures += 1


def count(counters: dict[str, int], reason: str) -> None:
    """One more of it."""
    counters[reason] = counters.get(reason, 0) + 1
