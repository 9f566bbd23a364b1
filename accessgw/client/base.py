"""What both faces share: arguments, the loop that carries out the core's commands, the application's callbacks."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from accessgw.client.addresses import Address
from accessgw.client.commands import (
    AskToken,
    CallChunk,
    CallHead,
    CallRoom,
    CancelPost,
    Carried,
    Changed,
    Close,
    Command,
    Connect,
    Deliver,
    Finish,
    Inspect,
    Keep,
    Post,
    Save,
    Tell,
    Write,
)
from accessgw.client.core import ClientCore, make_connection
from accessgw.client.face import Face
from accessgw.client.inbox import Inbox
from accessgw.client.model import CallFailed, CannotConnect, Note, Push, State
from accessgw.client.payloads import encode_payload, header_list
from accessgw.client.rtt import unacknowledged
from accessgw.client.settings import ClientSettings, addresses_of
from accessgw.client.state_directory import StateDirectory
from accessgw.client.streaming import Chunks, StreamReply
from accessgw.client.tickets import Handshaken
from accessgw.client.tls import ClientTls, TlsConnection
from accessgw.client.tls_errors import is_refusal, words_of
from protocols.mmtp.statuses import Status

TokenSource = Callable[[], "str | Awaitable[str | None] | None"]


class BaseClient(Face):
    """See accessgw.client.Client; subclasses bring what accessgw.client.face names."""

    def __init__(
        self,
        url: str | Sequence[str],
        device: str,
        token: str = "",
        *,
        user: str = "",
        app: str = "",
        app_version: str = "",
        attributes: Mapping[str, str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        state_dir: str | os.PathLike[str] | None = None,
        short_url: str = "",
        network: int = 0,
        on_note: Callable[[Note], None] | None = None,
        on_state: Callable[[State, int, str], None] | None = None,
        on_token: TokenSource | None = None,
        on_trace: Callable[[str, bytes], None] | None = None,
        **bounds: Any,
    ) -> None:
        """Nothing happens before connect() or the first call.

        `url`: `mmtps://host:port`, `mmtp://host:port` (plain), `wss://host:port/mmtp` (in WebSocket, where only
        HTTP gets through; `ws://` without TLS) or `https://host:port` (short connections only); a list
        is raced. `ca`: PEM file of the only authorities to trust (the system's otherwise); `insecure=True` trusts
        anybody. `state_dir`: directory for cursors, which makes an acknowledgement mean "stored", and for header
        states, tables, dictionaries and tickets, which make the next connection's bytes fewer (without it, they are
        kept as long as the client lives). `on_token` is asked for another token when the gateway refuses the present one.
        `bounds`: fields of ClientSettings. ValueError says what is wrong with an argument.
        """
        if cert is None and key is not None:
            raise ValueError("key: expected together with cert")
        urls = [url] if isinstance(url, str) else list(url)
        long, short = addresses_of(urls, short_url)
        self._tls = ClientTls(ca=ca, cert=cert, key=key if key is not None else cert, insecure=insecure)
        self._ca = ca
        self._cert = cert
        self._key = key if key is not None else cert
        self._insecure = insecure
        settings = ClientSettings(
            addresses=long,
            short_addresses=short,
            device=device,
            token=token,
            user=user,
            app=app,
            app_version=app_version,
            attributes=dict(attributes or {}),
            network=network,
            persistent=state_dir is not None,
            **bounds,
        )
        self._kept = StateDirectory(state_dir, settings)
        self.core = ClientCore(
            settings,
            random=SystemRandom(),
            make_connection=make_connection,
            wall_clock=time.time(),
            now=self._now(),
            memory=self._kept.memory(),
            wire_memory=self._kept.wire_memory(),
            tickets=self._kept.tickets(),
        )
        self.on_note = on_note
        self.on_state = on_state
        self.on_token = on_token
        self.on_trace = on_trace
        self.reason: CannotConnect | None = None
        """Why the client is closed for good."""
        self._inbox: Inbox[Any] = Inbox(self._finish, self._unclaimed)
        self._calls: dict[int, Any] = {}
        self._streams: dict[int, StreamReply] = {}
        self._connect_waiters: list[Any] = []
        self._trouble = ""
        """What was wrong last with a connection."""
        self._running = False
        self._leaving: dict[int, list[bytes]] = {}
        """What the commands carried out so far have to write, by attempt."""
        self._turn_ends = False
        """_turn_over() will be called."""

    def check_files(self) -> None:
        """Raises ValueError for the first of `ca`, `cert` and `key` that cannot be used, which it names; for an application
        that wants to know at once: connections are tried again, since a file may come later."""
        self._tls.check()

    # ------------------------------------------------------------------ facts

    @property
    def state(self) -> State:
        """Where the client stands."""
        return self.core.state

    @property
    def session(self) -> str:
        """Id of the session, empty before the first WELCOME."""
        return self.core.session

    @property
    def round_trip(self) -> float | None:
        """Smoothed round trip in seconds, None before it was measured."""
        return self.core.rtt.smoothed

    @property
    def metered(self) -> bool:
        """Whether the network costs by the byte: then no dictionaries and tables are fetched. Set it as it changes."""
        return self.core.metered

    @metered.setter
    def metered(self, on: bool) -> None:
        self.core.metered = on

    # ------------------------------------------------------------------ shared halves of the methods

    def _connect(self) -> Any:
        """A future of being connected."""
        future = self._future(None)
        if self.reason is not None:
            self._finish(future, self.reason)
        elif self.state is State.CONNECTED:
            self._finish(future, None)
        else:
            self._connect_waiters.append(future)
            self.core.connect(self._now())
            self._run()
        return future

    def _call(
        self,
        operation: str,
        payload: Any,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None,
        timeout: float,
        idempotent: bool,
        raw: bool,
        secret: bool,
    ) -> Any:
        """A future of the Reply, or of CallFailed."""
        body, content_type = encode_payload(payload, raw)
        self.core.connect(self._now())
        try:
            key = self.core.call(
                operation,
                header_list(headers, content_type),
                body,
                timeout=timeout,
                idempotent=idempotent,
                now=self._now(),
                secret=secret,
            )
        except CallFailed as failure:
            future = self._future(None)
            self._finish(future, failure)
            return future
        future = self._calls[key] = self._future(lambda: self._cancelled(key))
        self._asked()
        return future

    async def _stream(
        self,
        operation: str,
        chunks: Chunks | None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None,
        timeout: float,
    ) -> StreamReply:
        self.core.connect(self._now())
        key = self.core.call_stream(
            operation, header_list(headers, ""), timeout=timeout, more=chunks is not None, now=self._now()
        )
        reply = self._streams[key] = StreamReply(self)
        if chunks is not None:
            self._spawn(reply.upload(chunks))
        self._asked()
        return await reply.begin(key)

    def _cancelled(self, key: int) -> None:
        if self._calls.pop(key, None) is not None:
            self.core.cancel(key, self._now())
            self._asked()

    def _take_push(self, biz: str | None) -> Push | None:
        push = self._inbox.take(biz)
        if push is not None:
            self.core.taken(self._now())
        return push

    def _wait_push(self, biz: str | None) -> Any:
        """A future of the next push, or of None when the client is closed."""
        future = self._future(lambda: self._inbox.forget(biz, future))
        self._inbox.wait(biz, future)
        return future

    def _abandoned(self, biz: str | None, future: Any) -> None:
        """Whoever waited was interrupted; a push that it had just been given goes to the next."""
        self._inbox.forget(biz, future)

    def _acked(self, push: Push) -> None:
        self.core.processed(push, self._now())
        self._asked()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        """Carry out what the core wants, in order, then write, once per connection, then arm the core's timer.

        What the application's callbacks ask for meanwhile leaves with the rest.
        """
        if self._running:
            return
        self._running = True
        try:
            self._carry_out()
            while self.core.unsettled:
                self.core.settle(self._now())
                self._carry_out()
        finally:
            self._running = False
            for attempt in list(self._leaving):
                self._leave(attempt)
            self._store_tickets()
        self._arm(self.core.next_timer())

    def _asked(self) -> None:
        """After a wish of the application: what it asks for in this turn of the event loop leaves in one write."""
        if self._running:
            return
        if not self.core.unsettled or self.state is State.CLOSED:
            self._run()
            return
        if not self._turn_ends:
            self._turn_ends = True
            self._at_turn_end()
        if self.core.commanding:
            self._running = True
            try:
                self._carry_out()
            finally:
                self._running = False

    def _turn_over(self) -> None:
        """The call that _at_turn_end() has ordered."""
        self._turn_ends = False
        self._run()

    def _carry_out(self) -> None:
        while commands := self.core.take_commands():
            for command in commands:
                self._perform(command)

    def _leave(self, attempt: int) -> None:
        parts = self._leaving.pop(attempt, None)
        if parts is not None:
            self._write(attempt, parts[0] if len(parts) == 1 else b"".join(parts))

    def _perform(self, command: Command) -> None:
        match command:
            case Write():
                self._leaving.setdefault(command.attempt, []).append(command.data)
            case Carried():
                self._trace("send" if command.sent else "received", command.data)
            case Finish():
                self._finish(self._calls.pop(command.call, None), command.outcome)
                stream = self._streams.pop(command.call, None)
                if stream is not None:
                    stream.finished(command.outcome)
            case CallHead() | CallChunk() | CallRoom():
                stream = self._streams.get(command.call)
                if stream is not None:
                    stream.news(command)
            case Deliver():
                command.push.on_ack = self._acked
                if self._inbox.put(command.push):
                    self.core.taken(self._now())
            case Tell():
                self._guard(self.on_note, command.note)
            case Changed():
                self._changed(command)
            case Save():
                self._in_thread(partial(self._kept.store, command.memory), self._save_done)
            case Keep():
                self._keep(command)
            case Connect():
                self._trace("connect", str(command.address).encode())
                self._open(command.attempt, command.address)
            case Close():
                self._leave(command.attempt)
                self._trace("close", b"")
                self._close(command.attempt, command.abort)
            case Post():
                self._trace("post", command.body)
                self._post(command)
            case CancelPost():
                self._cancel_post(command.post)
            case Inspect():
                info = self._tcp_info(command.attempt)
                stuck = unacknowledged(info, self.core.rtt.inspect_after)
                self.core.inspected(command.attempt, stuck, self._now())
            case AskToken():
                self._spawn(self._ask_token())

    def _too_late(self, timeout: float) -> CannotConnect:
        """What `connect` fails with when its time is over; the client goes on trying until it is closed."""
        return CannotConnect(Status.DEADLINE, f"no gateway answered within {timeout:g} s; {self._trouble}".rstrip("; "))

    def _changed(self, changed: Changed) -> None:
        self._trouble = changed.message or self._trouble
        if changed.state in (State.CONNECTED, State.CLOSED):
            if changed.state is State.CLOSED:
                self.reason = CannotConnect(changed.status, changed.message)
                for waiter in self._inbox.waiters():
                    self._finish(waiter, None)
            waiters, self._connect_waiters = self._connect_waiters, []
            for waiter in waiters:
                self._finish(waiter, self.reason)
        self._guard(self.on_state, changed.state, changed.status, changed.message)

    def _unclaimed(self, biz: str, count: int) -> None:
        self._guard(self.on_note, Note("unclaimed", "nobody iterates these pushes", biz=biz, count=count))

    def _trace(self, kind: str, data: bytes) -> None:
        self._guard(self.on_trace, kind, data)

    def _guard(self, callback: Callable[..., None] | None, *args: Any) -> None:
        """An exception of the application's callback is reported, and costs nothing else."""
        if callback is not None:
            try:
                callback(*args)
            except Exception as error:
                self._report(error)

    def _save_done(self, error: BaseException | None) -> None:
        if error is None:
            self.core.saved(self._now())
        else:
            self.core.save_failed(str(error), self._now())
        self._run()

    def _keep(self, keep: Keep) -> None:
        if self._kept.keeps_wire:
            self._in_thread(partial(self._kept.store_wire, keep.memory, keep.retired), self._keep_done)
        else:
            self._keep_done(None)

    def _keep_done(self, error: BaseException | None) -> None:
        if error is None:
            self.core.wire.kept(self._now())
        else:
            self.core.wire.keep_failed(str(error), self._now())
        self._run()

    # ------------------------------------------------------------------ news of a face

    def _tick(self) -> None:
        self.core.timer(self._now())
        self._run()

    def _received(self, attempt: int, data: bytes) -> None:
        self.core.received(attempt, data, self._now())
        self._run()

    def _lost(self, attempt: int, reason: str, *, tls_failed: bool = False) -> None:
        self.core.lost(attempt, reason, self._now(), tls_failed=tls_failed)
        self._run()

    def _secure(self, attempt: int, address: Address) -> TlsConnection:
        """The TLS of a long connection whose transport is there. Raises ValueError."""
        flight = self.core.reached(attempt, self._now())
        self._store_tickets()
        connection = self._tls.connection(address, flight)
        if flight.early:
            self._trace("early", flight.early)
        self._run()
        return connection

    def _store_tickets(self) -> None:
        """At once, since what is about to be used must be gone from the disk."""
        memory = self.core.ticket_memory()
        if memory is not None:
            try:
                self._kept.store_tickets(memory)
            except OSError as error:
                self._guard(self.on_note, Note("ticket_failed", str(error)))

    def _opened(self, attempt: int, tls: Handshaken) -> None:
        self.core.connected(attempt, self._now(), tls)
        self._run()

    def _posted(self, post: int, outcome: tuple[int, bytes] | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self.core.post_failed(post, words_of(outcome), self._now(), refused=is_refusal(outcome))
        else:
            self._trace("posted", outcome[1])
            self.core.posted(post, *outcome, self._now())
        self._run()

    async def _ask_token(self) -> None:
        token = None
        if self.on_token is not None:
            try:
                answer = self.on_token()
                token = answer if answer is None or isinstance(answer, str) else await answer
            except Exception as error:
                self._report(error)
        self.core.token(token, self._now())
        self._run()
