"""Calls: between the bindings that take them and the service that has them answered."""

from __future__ import annotations

from typing import Protocol

from accessgw.model.calls import Call, Headers


class CallResponder(Protocol):
    """The way back of one call, given by whoever received it. Exactly one final call comes:
    `respond` without more, `data` without more, or `reset`. Calls after the device has gone are
    harmless."""

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        """Status and headers with the first part of the body."""

    def data(self, data: bytes, more: bool) -> None: ...

    def reset(self, status: int) -> None: ...

    def unsent(self) -> int:
        """Answer bytes that wait for the device (credit or kernel); the call service pauses the
        upstream above 64 KiB and goes on when `CallUpload.drained` is called."""

    def upload_consumed(self, size: int) -> None:
        """`size` more request body bytes went on to the upstream: give credit back."""


class CallUpload(Protocol):
    """What the call service gives to whoever started a call."""

    def data(self, data: bytes, more: bool) -> None:
        """The next part of a streaming request body."""

    def cancel(self, status: int) -> None:
        """The device asked to end it (RESET). Still answered exactly once through the responder."""

    def detach(self) -> None:
        """The connection is gone: a complete request goes on and its answer is kept; an incomplete
        upload is cancelled."""

    def drained(self) -> None:
        """`unsent()` fell to 0."""


class CallService(Protocol):
    """Takes calls from any binding."""

    def start(self, call: Call, responder: CallResponder) -> CallUpload: ...
