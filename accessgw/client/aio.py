"""The SDK on asyncio: the same names as the Twisted face, awaitable. Pulls nothing of Twisted."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from accessgw.client.addresses import Address
from accessgw.client.base import BaseClient
from accessgw.client.commands import Post
from accessgw.client.exchange import PostExchange
from accessgw.client.iteration import Pushes
from accessgw.client.long_stream import LongStream
from accessgw.client.model import CallFailed, CannotConnect, Note, Push, Reply, State
from accessgw.client.payloads import topic_list
from accessgw.client.rtt import TCP_INFO_SIZE
from accessgw.client.streaming import Chunks, StreamReply
from protocols.errors import RemoteError

ALPN_SHORT = "http/1.1"
CLOSE_TIMEOUT = 2.0
"""Seconds for the last bytes of connections that are closed."""
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the device sleeps, where the system has such a clock, as the event loop's own does not: what the client
thinks of silence and of the gateway's clock has to hold after it."""

__all__ = ["CallFailed", "CannotConnect", "Client", "Note", "Push", "Reply", "State"]


class Client(BaseClient):
    """A device's client, to be used in a running event loop. Arguments: see accessgw.client.base.

    It is an asynchronous context manager: `async with Client(...) as client` connects and closes.
    """

    def __init__(self, url: str | Sequence[str], device: str, token: str = "", **options: Any) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._transports: dict[int, _LongProtocol] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._posting: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._short_context: ssl.SSLContext | None = None
        self._all_over: asyncio.Future[None] | None = None
        super().__init__(url, device, token, **options)

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def connect(self, timeout: float = 30.0) -> None:
        """Connect and stay connected; returns at the first WELCOME.

        Raises CannotConnect when there will be none, or has been none for `timeout` seconds: then it
        says what was wrong last, and the client goes on trying until it is closed.
        """
        try:
            await asyncio.wait_for(self._connect(), timeout)
        except TimeoutError:
            raise self._too_late(timeout) from None

    async def call(
        self,
        operation: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float = 10.0,
        idempotent: bool = False,
        raw: bool = False,
        secret: bool = False,
    ) -> Reply:
        """Ask for an operation. The payload becomes JSON unless it is bytes (`raw`: must be). That of a `secret` call
        is not compressed: a part of it that others choose would tell by its length what else is in it. One that is
        `idempotent` may be executed twice, so on a new connection, where the gateway gave a ticket, it leaves with the
        first flight of TLS, unless it is `secret`.

        Raises CallFailed for a status other than 0. Cancelling the task cancels the call.
        """
        reply: Reply = await self._call(
            operation, payload, headers=headers, timeout=timeout, idempotent=idempotent, raw=raw, secret=secret
        )
        return reply

    async def call_stream(
        self,
        operation: str,
        chunks: Chunks | None = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float = 60.0,
    ) -> StreamReply:
        """Ask with a body that is sent chunk by chunk, and take the answer chunk by chunk.

        It is sent once, on the long connection: losing that fails it with status outcome_unknown.
        """
        return await self._stream(operation, chunks, headers=headers, timeout=timeout)

    async def subscribe(self, *topics: str) -> None:
        """Get the pushes of these topics from now on, on every connection of this device."""
        await self.call("gw.subscribe", topic_list(topics), idempotent=True)

    async def unsubscribe(self, *topics: str) -> None:
        """Do not get them any more."""
        await self.call("gw.unsubscribe", topic_list(topics), idempotent=True)

    async def subscriptions(self) -> list[str]:
        """The topics of this device."""
        reply = await self.call("gw.subscriptions", idempotent=True)
        return list(reply.json()["topics"])

    def pushes(self, biz: str | None = None) -> Pushes:
        """The pushes of one biz (of all that nobody else iterates when left out), as they come."""
        return Pushes(self, biz)

    async def close(self) -> None:
        """Leave; returns when the connections have ended and all is stored."""
        self.core.close(self._now())
        self._run()
        if self._transports:
            self._all_over = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._all_over, CLOSE_TIMEOUT)
            except TimeoutError:
                for protocol in list(self._transports.values()):
                    protocol.transport.abort()
        while self._tasks:  # what was changed while it was being stored is stored once more
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, attempt: int, reason: str, *, tls_failed: bool) -> None:
        self._transports.pop(attempt, None)
        self._lost(attempt, reason, tls_failed=tls_failed)
        if self._all_over is not None and not self._transports and not self._all_over.done():
            self._all_over.set_result(None)

    # ------------------------------------------------------------------ clock, futures, threads

    def _now(self) -> float:
        return time.clock_gettime(_CLOCK)

    def _arm(self, at: float | None) -> None:
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
        self._timer = None
        self._timer_at = at
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._fire)

    def _fire(self) -> None:
        self._timer = self._timer_at = None
        self._tick()

    def _at_turn_end(self) -> None:
        asyncio.get_running_loop().call_soon(self._turn_over)

    def _future(self, cancelled: Callable[[], None] | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if cancelled is not None:
            future.add_done_callback(lambda done: cancelled() if done.cancelled() else None)
        return future

    def _finish(self, future: Any, outcome: Any) -> bool:
        if future is None or future.done():
            return False
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return True

    def _abandoned(self, biz: str | None, future: Any) -> None:
        super()._abandoned(biz, future)
        if future.done() and not future.cancelled() and future.result() is not None:
            self._inbox.put_back(future.result())  # given in the same turn in which the task was cancelled
            self.core.untaken()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._start(coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _in_thread(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        async def work() -> None:
            try:
                await asyncio.to_thread(job)
            except Exception as error:
                done(error)
            else:
                done(None)

        self._start(work())

    def _report(self, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a callback of the client's application failed", "exception": error}
        )

    # ------------------------------------------------------------------ transports

    def _open(self, attempt: int, address: Address) -> None:
        async def connect() -> None:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: _LongProtocol(self, attempt, address), address.host, address.port
                )
            except (OSError, ValueError) as error:
                self._lost(attempt, str(error) or type(error).__name__)
            finally:
                self._opening.pop(attempt, None)

        self._opening[attempt] = self._start(connect())

    def _write(self, attempt: int, data: bytes) -> None:
        protocol = self._transports.get(attempt)
        if protocol is not None:
            protocol.stream.send(data)

    def _close(self, attempt: int, abort: bool) -> None:
        opening = self._opening.pop(attempt, None)
        protocol = self._transports.get(attempt)
        if protocol is None:
            if opening is not None:
                opening.cancel()
        elif abort:
            protocol.transport.abort()
        else:
            protocol.end()

    def _tcp_info(self, attempt: int) -> bytes:
        protocol = self._transports.get(attempt)
        handle = None if protocol is None else protocol.transport.get_extra_info("socket")
        if handle is None:
            return b""
        try:
            info: bytes = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except (OSError, AttributeError):
            return b""
        return info

    def _post(self, post: Post) -> None:
        async def exchange() -> None:
            try:
                async with asyncio.timeout(post.timeout):
                    outcome = await self._exchange(post)
            except (OSError, ValueError, RemoteError) as error:
                self._posting.pop(post.post, None)
                self._posted(post.post, error)
            else:
                self._posting.pop(post.post, None)
                self._posted(post.post, outcome)

        self._posting[post.post] = self._start(exchange())

    async def _exchange(self, post: Post) -> tuple[int, bytes]:
        address = post.address
        reader, writer = await asyncio.open_connection(
            address.host,
            address.port,
            ssl=self._context() if address.secure else None,
            server_hostname=address.name if address.secure else None,
        )
        try:
            exchange = PostExchange(post)
            writer.write(exchange.request)
            while data := await reader.read(65536):
                answer = exchange.receive(data)
                if answer is not None:
                    return answer
            answer = exchange.receive_eof()
            if answer is None:
                raise ConnectionError("the connection ended before the response")
            return answer
        finally:
            writer.close()

    def _cancel_post(self, post: int) -> None:
        task = self._posting.pop(post, None)
        if task is not None:
            task.cancel()

    def _context(self) -> ssl.SSLContext:
        """Of short connections; ValueError, which names the file, for one that cannot be used."""
        context = self._short_context
        if context is None:
            self._tls.check()
            context = ssl.create_default_context(cafile=None if self._ca is None else os.fspath(self._ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols([ALPN_SHORT])
            if self._insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self._cert is not None:
                context.load_cert_chain(self._cert, self._key)
            self._short_context = context
        return context


class _LongProtocol(asyncio.Protocol):
    """A long connection on a transport."""

    transport: asyncio.Transport

    def __init__(self, client: Client, attempt: int, address: Address) -> None:
        self._client = client
        self._attempt = attempt
        self.stream = LongStream(client, attempt, address)
        self._aborter: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._client._transports[self._attempt] = self
        self.stream.made(transport.write, transport.close, transport.abort)

    def data_received(self, data: bytes) -> None:
        self.stream.received(data)

    def end(self) -> None:
        """The core is done with it."""
        self.stream.end()
        self._aborter = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._aborter is not None:
            self._aborter.cancel()
        stream = self.stream
        why = stream.refusal or str(exc or "the peer closed the connection")
        self._client._ended(self._attempt, why, tls_failed=stream.tls_failed)
