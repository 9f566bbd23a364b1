"""A bad network on loopback: a TCP relay that cuts connections, refuses them, or swallows their bytes."""

from __future__ import annotations

import asyncio
import contextlib


class Relay:
    """Passes connections on to `host`:`port` until it is told to misbehave."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._passing: set[_Passage] = set()
        self.refusing = False
        """New connections are closed at once."""
        self.port = 0
        self.swallowed = 0
        """Bytes that went into black holes."""

    async def start(self) -> None:
        """Listen on a port of the kernel's choice."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._passing:
            await asyncio.sleep(0.01)

    def cut(self) -> int:
        """Break every connection; how many."""
        for passage in self._passing:
            passage.cut()
        return len(self._passing)

    def swallow(self) -> int:
        """From now on nothing passes on the connections of this moment, and nobody is told; how many."""
        for passage in self._passing:
            passage.swallowing = True
        return len(self._passing)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        passage = _Passage(self, (reader, writer), there)
        self._passing.add(passage)
        try:
            await passage.run()
        finally:
            self._passing.discard(passage)


class _Passage:
    """One connection through the relay."""

    def __init__(
        self,
        relay: Relay,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._relay = relay
        self._here = here
        self._there = there
        self.swallowing = False

    async def run(self) -> None:
        """Until either side ends."""
        up = asyncio.ensure_future(self._pass(self._here[0], self._there[1]))
        down = asyncio.ensure_future(self._pass(self._there[0], self._here[1]))
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)

    def cut(self) -> None:
        """Reset both sides."""
        self._here[1].transport.abort()
        self._there[1].transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.swallowing:
                    self._relay.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()
