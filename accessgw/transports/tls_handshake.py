"""The TLS engine of one connection until its hand-shake is complete: a step at a time, on the threads of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.transports.handshake_crew import HandshakeCrew
from accessgw.transports.handshakes import HandshakePool, PinnedHandshakes
from protocols.errors import LocalError, RemoteError, without_frames
from protocols.tls.crew import OffloadedEngine
from protocols.tls.engine import TlsEngine, TlsEvent, TlsRecords
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer
from protocols.tls.remote_keys import SigningEngine, SigningNeeded

_log = Logger()

HELD = 64 * 1024
"""Bytes of ciphertext that may wait while a step runs; above, the connection is not read."""
HANDSHAKE_RECORD = 22
SHORT = 4096
"""Bytes of ciphertext up to which a last step is short: early data, too, may come in thousands of records."""
_HEADER = 5
_LARGEST = 1 << 14
"""Bytes in a record (RFC 8446 section 5.1); one that says it has more is refused at once."""


class TlsHandshake:
    """A Step of HandshakePool, again and again: feeds the engine what has come, and tells what came of it.

    One thread at a time has the engine: while `busy` what comes waits here. It is made with the first whole record, so
    that a peer that says little costs little. Of a TLS 1.3 connection the records go over to a RecordLayer as soon
    as the hand-shake is complete; where the engine does not let go it goes on itself, on the reactor's thread.
    Where its private key is elsewhere the engine stops for a signature, and is `busy` until the step after that.
    """

    __slots__ = (
        "_abandoned", "_asked", "_counted", "_crew", "_engine", "_inbox", "_make", "_pending", "_pool", "_signed", "_told", "_wanted",
        "_work",
        "answer", "busy", "defect", "detached", "events", "failure", "held", "records",
    )  # fmt: skip

    def __init__(
        self,
        make: Callable[[], TlsEngine],
        pool: HandshakePool | PinnedHandshakes,
        told: Callable[[], None],
        offloaded: bool = False,
    ) -> None:
        """`make` is called on a thread of the pool; `told` on the reactor's, after each step. `offloaded`: it makes an
        OffloadedEngine, whose steps are for the pool's crew if there is one."""
        self._make = make
        self._pool = pool.lane()
        self._crew = self._pool.crew if offloaded else None
        self._pool.begun()
        self._counted = True
        """Among the unfinished ones."""
        self._told = told
        self._engine: TlsEngine | None = None
        self._inbox: list[bytes] = []
        self._work = b""
        self._pending: list[bytes] = []
        self._abandoned = False
        self._wanted: SigningNeeded | None = None
        """What the last step stopped for."""
        self._asked: Deferred[Any] | None = None
        """While the signer is at it."""
        self._signed: tuple[int, bytes | SigningFailed] | None = None
        """What it gave, for the next step: the number of the question, and signature or reason."""
        self.held = 0
        """Bytes in the inbox."""
        self.busy = False
        # What the last step brought:
        self.answer = b""
        self.events: list[TlsEvent] = []
        self.failure: RemoteError | None = None
        self.defect: BaseException | None = None
        """An error of ours. Its frames have this object: take it away."""
        self.records: TlsRecords | None = None
        """Once the hand-shake is complete: what goes on with the connection."""
        self.detached = False

    # ------------------------------------------------------------------ the reactor's thread

    def feed(self, data: bytes) -> None:
        """Ciphertext of the peer."""
        if not self.busy and not self._inbox and (self._engine is not None or _is_whole(data)):
            self._run_step(data)
            return
        self._inbox.append(data)
        self.held += len(data)
        self.go_on()

    def go_on(self) -> None:
        """Run a step if something waits for one."""
        if self.busy or not self._inbox:
            return
        data = self.take()
        if self._engine is not None or _is_whole(data):
            self._run_step(data)
        else:
            self._inbox = [data]
            self.held = len(data)

    def _run_step(self, data: bytes) -> None:
        self.busy = True
        engine = self._engine
        if engine is not None and engine.only_finished_left and len(data) <= SHORT:
            self._work = data
            self._pool.submit_last(self)
        elif self._crew is not None:
            self._offload(self._crew, data)
        else:
            self._work = data
            self._pool.submit(self, engine is not None)

    def _offload(self, crew: HandshakeCrew, data: bytes) -> None:
        engine = self._engine
        try:
            if engine is None:
                self._engine = self._make()
            crew.submit(cast("OffloadedEngine", self._engine), data, self, engine is not None)
        except Exception as error:
            self.defect = error
            self.done()

    def take(self) -> bytes:
        """What has come and is not worked through."""
        inbox, self._inbox, self.held = self._inbox, [], 0
        return inbox[0] if len(inbox) == 1 else b"".join(inbox)

    def encrypt(self, data: bytes) -> bytes:
        """Ciphertext of what is written before the hand-shake is complete (0.5-RTT); it waits while a step runs."""
        engine = self._engine
        if engine is None or self.busy:
            self._pending.append(data)
            return b""
        try:
            engine.encrypt(data)
        except LocalError:
            # The hand-shake has failed, and the close is about to come.
            return b""
        return engine.to_send()

    @property
    def brought_a_flight(self) -> bool:
        """The last step has something to send, and that is all."""
        return bool(self.answer) and not (
            self.events or self._pending or self.failure or self.records is not None or self.defect is not None
        )

    @property
    def unsent(self) -> int:
        """Bytes of plaintext that wait for the end of a step."""
        return sum(map(len, self._pending))

    def take_unsent(self) -> bytes:
        """Plaintext that was written while the last step ran."""
        if not self._pending:
            return b""
        pending, self._pending = self._pending, []
        return b"".join(pending)

    def abandon(self) -> None:
        """The connection is gone: do nothing more, and tell nobody."""
        self._abandoned = True
        self._finish()
        self._inbox.clear()
        self._pending.clear()
        self._told = _nobody
        if self._asked is not None:
            self._asked.cancel()
            self.busy = False
        if not self.busy:
            self._let_go()
        elif self._crew is not None and self._engine is not None:
            cast("OffloadedEngine", self._engine).cancel()

    def _let_go(self) -> None:
        """Free the engine. One that has stopped for a signature only its own thread can: with a last step."""
        self.busy = self._is_stopped()
        if self.busy:
            self._pool.submit(self, True)
        else:
            self._engine = None

    def _is_stopped(self) -> bool:
        if self._pool.signer is None or self._engine is None:
            return False
        return cast("SigningEngine", self._engine).pending_signature() is not None

    def _finish(self) -> None:
        if self._counted:
            self._counted = False
            self._pool.finished()

    def resume(self, state: int) -> None:
        """The crew has made the step; done() follows."""
        engine = self._engine
        if self._abandoned or engine is None:
            self._engine = None
            return
        try:
            try:
                cast("OffloadedEngine", engine).resume(state)
            except RemoteError as error:
                self.failure = without_frames(error)
            self._collect(engine)
        except Exception as error:
            self.defect = error

    def done(self) -> None:
        if self.records is not None:
            self._finish()
        wanted, self._wanted = self._wanted, None
        self.busy = wanted is not None and not self._abandoned
        if not self._abandoned:
            self._told()
        if self._abandoned:
            self.records = self.defect = None
            if wanted is not None or not self.busy:
                self._let_go()
        elif wanted is not None:
            self._ask(wanted)

    def _ask(self, wanted: SigningNeeded) -> None:
        signer = self._pool.signer
        assert signer is not None

        def failed(failure: Failure) -> SigningFailed:
            failure.trap(SigningFailed, CancelledError)
            return SigningFailed(failure.getErrorMessage())

        def answered(result: bytes | SigningFailed) -> None:
            self._asked = None
            if not self._abandoned:
                self._signed = wanted.number, result
                self._pool.submit(self, True)

        asked = signer.sign(wanted.key, wanted.algorithm, wanted.data).addErrback(failed)
        self._asked = asked
        asked.addCallback(answered).addErrback(_unexpected)

    # ------------------------------------------------------------------ a thread of the pool

    def run(self) -> None:
        if self._abandoned:
            # The last reference to it.
            self._engine = None
            return
        try:
            self._step(self._work)
        except BaseException as error:  # a panic of cryptography's is no Exception, and would end the thread
            self.defect = error
        self._work = b""

    def _step(self, data: bytes) -> None:
        engine = self._engine
        if engine is None:
            engine = self._engine = self._make()
        try:
            if self._signed is None:
                engine.feed(data)
            else:
                self._go_on_signed(cast("SigningEngine", engine), *self._signed)
        except RemoteError as error:
            self.failure = without_frames(error)
        if self._pool.signer is not None and self.failure is None:
            self._wanted = cast("SigningEngine", engine).pending_signature()
        self._collect(engine)

    def _collect(self, engine: TlsEngine) -> None:
        """What a step brought."""
        self.answer = engine.to_send()
        self.events = engine.events()
        if not engine.handshaken or self.failure is not None:
            return
        state = engine.detach()
        if state is not None:
            self._detach(engine, state)
            return
        self.records = engine
        self.events += engine.events()
        self.answer += engine.to_send()

    def _go_on_signed(self, engine: SigningEngine, number: int, result: bytes | SigningFailed) -> None:
        self._signed = None
        if isinstance(result, SigningFailed):
            engine.sign_failed(number, str(result))
        else:
            engine.signed(number, result)

    def _detach(self, engine: TlsEngine, state: DetachedState) -> None:
        self.detached = True
        self.answer += engine.to_send()
        self._engine = None
        self.records = layer = RecordLayer(state)
        try:
            layer.start()
        except RemoteError as error:
            self.failure = without_frames(error)
        self.events += layer.events()
        self.answer += layer.to_send()


def _is_whole(data: bytes) -> bool:
    """Whether the first record is here, or something that is none."""
    if data[0] != HANDSHAKE_RECORD:
        return True
    size = int.from_bytes(data[3:5], "big")
    return len(data) >= _HEADER and (len(data) >= _HEADER + size or size > _LARGEST)


def _unexpected(failure: Failure) -> None:
    _log.failure("A step of a TLS hand-shake could not be begun", failure)


def _nobody() -> None:
    """Is told after the connection is gone."""
