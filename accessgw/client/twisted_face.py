"""The SDK on Twisted: methods return Deferreds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from twisted.python import log
from twisted.python.failure import Failure

from accessgw.client.addresses import Address
from accessgw.client.base import BaseClient
from accessgw.client.commands import Post
from accessgw.client.exchange import PostExchange
from accessgw.client.iteration import Pushes
from accessgw.client.model import Reply
from accessgw.client.payloads import topic_list
from accessgw.client.rtt import TCP_INFO_SIZE
from accessgw.client.streaming import Chunks, StreamReply
from accessgw.client.twisted_transports import ALPN_SHORT, Endpoints, LongProtocol, PostProtocol

_failure: Any = Failure  # carries no annotations
_log_error: Any = log.err


class Client(BaseClient):
    """A device's client. Its methods return Deferreds; `pushes` gives an asynchronous iterator.

    `reactor` is the one that runs when it is left out. The other arguments: see accessgw.client.base.
    """

    def __init__(
        self, url: str | Sequence[str], device: str, token: str = "", *, reactor: Any = None, **options: Any
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # an application has its reactor; importing us must not install one
        self.reactor = reactor
        self._timer: Any = None
        self._turn_end: Any = None
        self._transports: dict[int, LongProtocol] = {}
        self._opening: dict[int, Deferred[Any]] = {}
        self._posts: dict[int, Deferred[Any]] = {}
        self._endpoints: Endpoints | None = None
        self._working: set[Deferred[None]] = set()
        """Of threads."""
        self._closing: list[Deferred[None]] = []
        super().__init__(url, device, token, **options)

    def connect(self, timeout: float = 30.0) -> Deferred[None]:
        """Connect and stay connected; fires at the first WELCOME.

        Fails with CannotConnect when there will be none, or has been none for `timeout` seconds: then it
        says what was wrong last, and the client goes on trying until it is closed.
        """
        future: Deferred[None] = self._connect()

        def late(failure: Failure) -> Failure:
            return _failure(self._too_late(timeout)) if isinstance(failure.value, TimeoutError) else failure

        return future.addTimeout(timeout, self.reactor).addErrback(late)

    def call(
        self,
        operation: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float = 10.0,
        idempotent: bool = False,
        raw: bool = False,
        secret: bool = False,
    ) -> Deferred[Reply]:
        """Ask for an operation. The payload becomes JSON unless it is bytes (`raw`: must be). That of a `secret` call
        is not compressed: a part of it that others choose would tell by its length what else is in it. One that is
        `idempotent` may be executed twice, so on a new connection, where the gateway gave a ticket, it leaves with the
        first flight of TLS, unless it is `secret`.

        Fails with CallFailed for a status other than 0. Cancelling the Deferred cancels the call.
        """
        future: Deferred[Reply] = self._call(
            operation, payload, headers=headers, timeout=timeout, idempotent=idempotent, raw=raw, secret=secret
        )
        return future

    def call_stream(
        self,
        operation: str,
        chunks: Chunks | None = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float = 60.0,
    ) -> Deferred[StreamReply]:
        """Ask with a body that is sent chunk by chunk, and take the answer chunk by chunk.

        It is sent once, on the long connection: losing that fails it with status outcome_unknown.
        """
        return Deferred.fromCoroutine(self._stream(operation, chunks, headers=headers, timeout=timeout))

    def subscribe(self, *topics: str) -> Deferred[None]:
        """Get the pushes of these topics from now on, on every connection of this device."""
        call = self.call("gw.subscribe", topic_list(topics), idempotent=True)
        return call.addCallback(lambda reply: None)

    def unsubscribe(self, *topics: str) -> Deferred[None]:
        """Do not get them any more."""
        call = self.call("gw.unsubscribe", topic_list(topics), idempotent=True)
        return call.addCallback(lambda reply: None)

    def subscriptions(self) -> Deferred[list[str]]:
        """The topics of this device."""
        call = self.call("gw.subscriptions", idempotent=True)
        return call.addCallback(lambda reply: list(reply.json()["topics"]))

    def pushes(self, biz: str | None = None) -> Pushes:
        """The pushes of one biz (of all that nobody else iterates when left out), as they come."""
        return Pushes(self, biz)

    def close(self) -> Deferred[None]:
        """Leave; fires when the long connection has ended and all is stored."""
        self.core.close(self._now())
        self._run()
        if self._turn_ends:
            self._turn_ends = False
            self._turn_end.cancel()
        done: Deferred[None] = Deferred()
        self._closing.append(done)
        self._perhaps_over()
        return done

    def _perhaps_over(self) -> None:
        if self._closing and not self._transports and not self._working:
            closing, self._closing = self._closing, []
            for done in closing:
                done.callback(None)

    # ------------------------------------------------------------------ clock, futures, threads

    def _now(self) -> float:
        return float(self.reactor.seconds())

    def _arm(self, at: float | None) -> None:
        if self._timer is not None and self._timer.active():
            if at is not None and self._timer.getTime() == at:
                return
            self._timer.cancel()
        self._timer = None
        if at is not None:
            self._timer = self.reactor.callLater(max(0.0, at - self._now()), self._tick)

    def _at_turn_end(self) -> None:
        self._turn_end = self.reactor.callLater(0, self._turn_over)

    def _future(self, cancelled: Callable[[], None] | None) -> Deferred[Any]:
        return Deferred(None if cancelled is None else lambda _: cancelled())

    def _finish(self, future: Any, outcome: Any) -> bool:
        if future is None or future.called:
            return False
        if isinstance(outcome, BaseException):
            future.errback(_failure(outcome))
        else:
            future.callback(outcome)
        return True

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(coroutine).addErrback(_log_error)

    def _in_thread(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        from twisted.internet.threads import deferToThreadPool

        working = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), job)
        self._working.add(working)
        working.addBoth(partial(self._worked, working, done)).addErrback(_log_error)

    def _worked(self, working: Deferred[None], done: Callable[[BaseException | None], None], outcome: Any) -> None:
        self._working.discard(working)
        try:
            done(outcome.value if isinstance(outcome, Failure) else None)
        finally:
            self._perhaps_over()

    def _report(self, error: BaseException) -> None:
        _log_error(error)

    # ------------------------------------------------------------------ transports

    def _connect_short(self, address: Address, protocol: Callable[[], Any]) -> Deferred[Any]:
        if self._endpoints is None:
            self._endpoints = Endpoints(
                self.reactor, ca=self._ca, cert=self._cert, key=self._key, insecure=self._insecure
            )
        try:
            connecting: Deferred[Any] = self._endpoints.endpoint(address, ALPN_SHORT).connect(
                Factory.forProtocol(protocol)
            )
        except Exception as error:  # a certificate file that is not there, a host that is no name
            connecting = Deferred()
            connecting.errback(_failure(error))
        return connecting

    def _open(self, attempt: int, address: Address) -> None:
        try:
            endpoint: Any = HostnameEndpoint(self.reactor, address.host, address.port)
            opening: Deferred[Any] = endpoint.connect(
                Factory.forProtocol(lambda: LongProtocol(self, attempt, address, self.reactor))
            )
        except Exception as error:  # a host that is no name
            opening = Deferred()
            opening.errback(_failure(error))
        self._opening[attempt] = opening

        def failed(failure: Failure) -> None:
            if self._opening.pop(attempt, None) is not None:
                self._lost(attempt, failure.getErrorMessage())

        opening.addCallbacks(lambda _: self._opening.pop(attempt, None), failed)

    def _made(self, attempt: int, protocol: LongProtocol) -> None:
        self._transports[attempt] = protocol

    def _ended(self, attempt: int, reason: str, *, tls_failed: bool) -> None:
        self._transports.pop(attempt, None)
        self._lost(attempt, reason, tls_failed=tls_failed)
        self._perhaps_over()

    def _write(self, attempt: int, data: bytes) -> None:
        protocol = self._transports.get(attempt)
        if protocol is not None:
            protocol.stream.send(data)

    def _close(self, attempt: int, abort: bool) -> None:
        opening = self._opening.pop(attempt, None)
        protocol = self._transports.get(attempt)
        if protocol is not None:
            protocol.end(abort)
        elif opening is not None:
            opening.cancel()

    def _tcp_info(self, attempt: int) -> bytes:
        protocol = self._transports.get(attempt)
        if protocol is None:
            return b""
        raw: Any = getattr(protocol.transport, "transport", protocol.transport)
        try:
            handle: socket.socket = raw.getHandle()
            return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except (OSError, AttributeError):
            return b""

    def _post(self, post: Post) -> None:
        connecting = self._connect_short(post.address, lambda: PostProtocol(PostExchange(post)))
        answer: Deferred[Any] = connecting.addCallback(lambda protocol: protocol.done)
        answer.addTimeout(post.timeout, self.reactor)
        self._posts[post.post] = answer

        def finished(outcome: Any) -> None:
            if self._posts.pop(post.post, None) is not None:
                self._posted(
                    post.post, (outcome.value or ConnectionError("lost")) if isinstance(outcome, Failure) else outcome
                )

        answer.addBoth(finished)

    def _cancel_post(self, post: int) -> None:
        whole = self._posts.pop(post, None)
        if whole is not None:
            whole.cancel()
