"""One call of an MMTP connection: the way back to the device, and the credit for its upload."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from accessgw.core.call_headers import BUSY, TRY_AGAIN
from accessgw.core.interfaces.calls import CallUpload
from accessgw.model.calls import Call, Headers
from protocols.errors import LocalError
from protocols.mmtp.statuses import Status

if TYPE_CHECKING:
    from accessgw.core.mmtp_binding import MmtpBinding


class MmtpCall:
    """A CallResponder. After its last frame, or the end of the connection, it does nothing."""

    __slots__ = ("_binding", "_credits", "_number", "_over", "call", "upload")

    def __init__(self, binding: MmtpBinding, number: int) -> None:
        self._binding = binding
        self._number = number
        self._over = False
        # Credit counts bytes on the wire, the call service counts expanded bytes: pairs of both.
        self._credits: deque[list[int]] = deque()
        self.call: Call | None = None
        self.upload: CallUpload | None = None

    # ---------------------------------------------------------------- CallResponder

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        if self._over:
            return
        binding = self._binding
        secret = self.call is not None and binding.is_secret(self.call)
        try:
            binding.wire.respond(self._number, status, headers, body, more=more, secret=secret)
        except LocalError as error:
            # An upstream's headers that the wire cannot carry: the call ends, the connection goes on.
            binding.log_local_error(self._number, error)
            self.reset(Status.INTERNAL)
            return
        binding.sent("response", {"call": self._number, "status": status, "bytes": len(body), "more": more})
        if not more:
            self._end()

    def data(self, data: bytes, more: bool) -> None:
        if self._over:
            return
        try:
            self._binding.wire.send_data(self._number, data, more)
        except LocalError:
            self._end()
            return
        self._binding.sent("data", {"call": self._number, "bytes": len(data), "more": more})
        if not more:
            self._end()

    def reset(self, status: int) -> None:
        if self._over or (status in BUSY and self._ask_to_wait(status)):
            return
        # The wire may have ended the call already (a body that it had to decline).
        with suppress(LocalError):
            self._binding.wire.reset(self._number, status)
        self._binding.sent("reset", {"call": self._number, "status": status})
        self._end()

    def _ask_to_wait(self, status: int) -> bool:
        """Refuse with the time to try again; False when an answer has begun, or the wire has ended the call."""
        try:
            self._binding.wire.respond(self._number, status, TRY_AGAIN, b"", more=False)
        except LocalError:
            return False
        self._binding.sent("response", {"call": self._number, "status": status, "bytes": 0, "more": False})
        self._end()
        return True

    def unsent(self) -> int:
        if self._over:
            return 0
        return self._binding.wire.unsent(self._number) + self._binding.connection.buffered

    def upload_consumed(self, size: int) -> None:
        wire_bytes = 0
        credits = self._credits
        while credits:
            part = credits[0]
            if part[0] > size:
                part[0] -= size
                break
            # A part's credit goes back when the whole of it was taken.
            size -= part[0]
            wire_bytes += part[1]
            credits.popleft()
        if wire_bytes and not self._over:
            self._binding.wire.consumed(self._number, wire_bytes)
            self._binding.touch()

    # ---------------------------------------------------------------- from the binding

    def received(self, expanded: int, wire_bytes: int) -> None:
        """A part of the upload came."""
        if wire_bytes:
            self._credits.append([expanded, wire_bytes])

    def drained(self) -> None:
        """Go on, if all that waited for the device has left."""
        if self.upload is not None and not self._over and self.unsent() == 0:
            self.upload.drained()

    def lost(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            if self.upload is not None:
                self.upload.detach()

    def _end(self) -> None:
        self._over = True
        self._credits.clear()
        self._binding.call_over(self._number)
