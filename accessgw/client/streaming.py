"""Calls whose bodies are streams: chunks go up as there is credit, chunks of the answer come as they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from accessgw.client.commands import CallChunk, CallHead, CallRoom
from accessgw.client.model import CallFailed, Headers, Reply

if TYPE_CHECKING:
    from accessgw.client.base import BaseClient

Chunks = Iterable[bytes] | AsyncIterable[bytes]


class StreamReply:
    """The answer of a streaming call: status and headers, then an asynchronous iterator of its body.

    What the application has not taken holds the gateway back (64 KiB per call). The iteration raises
    CallFailed when the call ends before its answer is complete.
    """

    def __init__(self, client: BaseClient) -> None:
        self.status = 0
        self.headers: Headers = []
        self._client = client
        self._key = -1
        self._chunks: deque[CallChunk] = deque()
        self._begun = False
        self._ended = False
        self._failure: CallFailed | None = None
        self._room = False
        self._waiting: dict[str, Any] = {}

    @property
    def ok(self) -> bool:
        """The status is 0."""
        return self.status == 0

    def cancel(self) -> None:
        """The rest is of no use: end the call at the gateway."""
        if not self._ended:
            self._client.core.cancel(self._key, self._client._now())
            self._client._asked()

    def __aiter__(self) -> StreamReply:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            await self._wait("chunk")
        chunk = self._chunks.popleft()
        self._client.core.call_consumed(self._key, chunk.wire_size, self._client._now())
        self._client._asked()
        return chunk.data

    # ------------------------------------------------------------------ for the face

    def news(self, command: CallHead | CallChunk | CallRoom) -> None:
        """The core has something about this call."""
        match command:
            case CallHead():
                self.status = command.status
                self.headers = command.headers
                self._begun = True
                self._wake("head")
            case CallChunk():
                self._chunks.append(command)
                self._wake("chunk")
            case CallRoom():
                self._room = True
                self._wake("room")

    def finished(self, outcome: Reply | CallFailed) -> None:
        """The call is over. A failure that came as an answer is in status, headers and body."""
        self._ended = True
        if isinstance(outcome, CallFailed) and outcome.reply is None:
            self._failure = outcome
        for what in list(self._waiting):
            self._wake(what)

    async def begin(self, key: int) -> StreamReply:
        """Wait for the head."""
        self._key = key
        if not self._begun and not self._ended:
            await self._wait("head")
        if self._failure is not None:
            raise self._failure
        return self

    async def upload(self, chunks: Chunks) -> None:
        """Send the request's body, a chunk when the one before it has left."""
        try:
            if isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    if not await self._send(chunk):
                        return
            else:
                for chunk in chunks:
                    if not await self._send(chunk):
                        return
            await self._send(b"", more=False)
        except Exception as error:  # of the application's iterable
            self.cancel()
            self._client._report(error)

    async def _send(self, chunk: bytes, more: bool = True) -> bool:
        while not self._room and not self._ended:
            await self._wait("room")
        if self._ended:
            return False
        self._room = False
        self._client.core.call_data(self._key, chunk, more, self._client._now())
        self._client._asked()
        return True

    async def _wait(self, what: str) -> None:
        future = self._waiting[what] = self._client._future(None)
        await future

    def _wake(self, what: str) -> None:
        future = self._waiting.pop(what, None)
        if future is not None:
            self._client._finish(future, None)
