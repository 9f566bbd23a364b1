"""The bytes of one long connection between its transport and the client, with TLS where the address says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from accessgw.client.addresses import Address
from accessgw.client.tickets import NOT_TLS, Handshaken
from accessgw.client.tls import TlsConnection


class StreamOwner(Protocol):
    """Whom a long connection tells what happens."""

    def _secure(self, attempt: int, address: Address) -> TlsConnection:
        """The TLS of an attempt whose transport is there. Raises ValueError."""

    def _opened(self, attempt: int, tls: Handshaken) -> None: ...

    def _received(self, attempt: int, data: bytes) -> None: ...

    def _trace(self, kind: str, data: bytes) -> None:
        """Bytes of MMTP: `send` or `received`."""


class LongStream:
    """Between the two; a face's transport calls made() and received(), and sends what is written."""

    __slots__ = (
        "_abort",
        "_address",
        "_attempt",
        "_close",
        "_owner",
        "_tls",
        "_write",
        "opened",
        "refusal",
        "tls_failed",
    )

    def __init__(self, owner: StreamOwner, attempt: int, address: Address) -> None:
        self._owner = owner
        self._attempt = attempt
        self._address = address
        self._tls: TlsConnection | None = None
        self._write: Callable[[bytes], None] = _nowhere
        self._abort: Callable[[], None] = _nothing
        self._close: Callable[[], None] = _nothing
        self.opened = False
        """The client was told that it may send."""
        self.refusal = ""
        """Why it was aborted here."""
        self.tls_failed = False
        """Because one of the two sides found the other's TLS wrong."""

    def made(self, write: Callable[[bytes], None], close: Callable[[], None], abort: Callable[[], None]) -> None:
        """The transport is there."""
        self._write, self._close, self._abort = write, close, abort
        if not self._address.secure:
            self.opened = True
            self._owner._opened(self._attempt, NOT_TLS)
            return
        try:
            self._tls = self._owner._secure(self._attempt, self._address)
        except ValueError as error:
            self._refuse(str(error) or type(error).__name__)
        else:
            self._flush(self._tls)

    def received(self, data: bytes) -> None:
        """Bytes of the peer."""
        tls = self._tls
        if tls is None:
            self._deliver(data)
            return
        plaintext = tls.receive(data)
        self._flush(tls)
        if tls.handshaken is not None and not self.opened and tls.failure is None:
            self.opened = True
            self._owner._opened(self._attempt, tls.handshaken)
        if plaintext:
            self._deliver(plaintext)
        if tls.failure is not None:
            self.tls_failed = True
            self._refuse(str(tls.failure))
        elif tls.ended:
            self.refusal = self.refusal or "the peer closed the connection"
            self._close()

    def send(self, data: bytes) -> None:
        """What the client has to say."""
        if not self._address.websocket:
            self._owner._trace("send", data)
        tls = self._tls
        if tls is None:
            self._write(data)
        else:
            tls.send(data)
            self._flush(tls)

    def end(self) -> None:
        """Nothing more is sent. With TLS the peer's close_notify is waited for: until then it may not have read our
        last bytes, and the kernel would drop them if something of the peer's were unread."""
        tls = self._tls
        if tls is None or tls.handshaken is None:
            self._close()
        else:
            tls.close()
            self._flush(tls)

    def _deliver(self, data: bytes) -> None:
        if not self._address.websocket:  # of what is inside one the client knows more
            self._owner._trace("received", data)
        self._owner._received(self._attempt, data)

    def _flush(self, tls: TlsConnection) -> None:
        data = tls.to_send()
        if data:
            self._write(data)

    def _refuse(self, why: str) -> None:
        self.refusal = self.refusal or why
        self._abort()


def _nowhere(data: bytes) -> None:
    """Before the transport is there."""


def _nothing() -> None:
    """Before the transport is there."""
