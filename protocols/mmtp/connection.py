"""One MMTP connection, either role: bytes and the time in, events and bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from protocols.mmtp.events import Event, Headers
from protocols.mmtp.handshake import Goaway, Hello, StreamCursor, Welcome


class Role(Enum):
    """Which side of the connection we are."""

    SERVER = "server"
    CLIENT = "client"


class Connection:
    """The protocol's connection object (skeleton; being written)."""

    def __init__(self, role: Role, *, limits: Any, now: float) -> None: ...

    # --- bytes and time
    def receive(self, data: bytes, now: float) -> None:
        """Feed bytes. Events queue up, see events(). Raises RemoteError (a GOAWAY with its code is then in to_send(),
        events decoded before the violation are still in events()); after that every call does nothing."""

    def receive_eof(self, now: float) -> None:
        """The transport's orderly end."""

    def events(self) -> list[Event]: ...

    def to_send(self, now: float) -> bytes:
        """All bytes to write now, one piece, so that what leaves together leaves in one record."""
        return b""

    def next_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    # --- hand-shake
    def send_hello(self, hello: Hello) -> None: ...

    def send_welcome(self, welcome: Welcome) -> None:
        """welcome.result != 0 refuses: the connection is closed after it."""

    # --- calls, client
    def request(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        more: bool = False,
        call_id: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Open a call and return its number. `call_id` marks a repetition (its own id and *resent* go along).
        LocalError when too many are open."""
        return 0

    # --- calls, server
    def respond(self, call: int, status: int, headers: Headers, body: bytes, *, more: bool = False) -> None: ...

    # --- both
    def send_data(self, call: int, data: bytes, more: bool) -> None:
        """Queues what credit does not allow yet; see unsent() and CallDrained."""

    def reset(self, call: int, status: int) -> None:
        """Server: ends the call. Client: asks to cancel."""

    def unsent(self, call: int) -> int: ...

    def consumed(self, call: int, size: int) -> None:
        """Give `size` wire bytes of body credit back (call and connection)."""

    def ping(self, answer: bool = True) -> None: ...

    def go_away(self, goaway: Goaway) -> None:
        """Server: last_call is filled in here; later calls are refused with the goaway's status."""

    # --- pushes, server
    def push_room(self, size: int) -> bool:
        """There is room in the push window for a body of `size` bytes."""
        return False

    def introduce_stream(self, alias: int, cursor: StreamCursor) -> None:
        """The next push of `alias` carries the stream's names; its seq counts from cursor.seq + 1."""

    def note_stream(self, cursor: StreamCursor, alias: int, note: str) -> None: ...

    def send_push(self, alias: int, seq: int, frame: bytes, size: int, token: Any) -> None:
        """Send a push in order whose frame was made by pushes.encode_push; `token` comes back in PushesAcked."""

    # --- pushes, client
    def ack(self, count: int = 1) -> None:
        """`count` more pushes, in order of arrival, were processed; sent with the next bytes or by ack timer."""

    def ack_ranges(self, indexes: Sequence[int]) -> None: ...
