"""From what the application asks to its one outcome: which way a call goes, when it goes again, what ends it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from accessgw.client.calls import CallTable, OpenCall
from accessgw.client.commands import Command, Finish
from accessgw.client.connections import Connections
from accessgw.client.fallback import Fallback
from accessgw.client.longcalls import LongCalls
from accessgw.client.model import CallFailed, CannotConnect, Headers, Reply
from accessgw.client.retry import Verdict, judge
from accessgw.client.settings import ClientSettings
from protocols.mmtp.statuses import Status


class CallDesk:
    """The way of calls through the client: each is in the table until its Finish, which comes exactly once.

    A call waits for the long connection, and after `patience` goes over a short one as well. What is lost, refused for
    now or not read by the gateway goes again under the same id.
    """

    def __init__(
        self,
        settings: ClientSettings,
        table: CallTable,
        connections: Connections,
        random: Random,
        *,
        emit: Callable[[Command], None],
        missed: Callable[[int], None],
    ) -> None:
        """`missed`: the gateway could not read a request, with this status."""
        self._table = table
        self._connections = connections
        self._emit = emit
        self._tell_missed = missed
        self._patience = settings.patience if settings.addresses else 0.0
        """Seconds that a call waits for a long connection before it goes over a short one."""
        self.long = LongCalls(settings, table, emit=emit, ended=self._ended, finish=self._finish, missed=self._missed)
        self.short = Fallback(settings, table, random, emit=emit, ended=self._ended, still_open=self._still_open)

    # ------------------------------------------------------------------ what the application asks

    def open(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        timeout: float,
        idempotent: bool,
        now: float,
        secret: bool = False,
    ) -> int:
        """A call that is ready to be sent; its key. CallFailed when too many wait."""
        call = self._table.add(operation, headers, body, idempotent=idempotent, now=now, timeout=timeout, secret=secret)
        call.short_at = now + self._patience
        return call.key

    def open_stream(self, operation: str, headers: Headers, *, timeout: float, more: bool, now: float) -> int:
        """One whose body goes on, if `more`, and whose answer comes in chunks; as `open`."""
        call = self._table.add(operation, headers, b"", idempotent=False, now=now, timeout=timeout)
        call.streaming = True
        call.more = more
        return call.key

    def data(self, key: int, data: bytes, more: bool, now: float) -> bool:
        """The next part of a streaming body. False when nobody takes it any more."""
        call = self._table.get(key)
        if call is None or call.link is None or not call.more:
            return False
        link = self._connections.links.get(call.link)
        if link is None:
            return False
        call.more = more
        self.long.upload(link, call, data, more, now)
        return True

    def consumed(self, key: int, wire_size: int) -> bool:
        """The application took a chunk. False when its connection is gone."""
        call = self._table.get(key)
        if call is None or call.link is None:
            return False
        link = self._connections.links.get(call.link)
        if link is None:
            return False
        link.connection.consumed(call.number, wire_size)
        return True

    def cancel(self, key: int) -> bool:
        """Nobody waits for the call any more. False when it has its outcome."""
        call = self._table.get(key)
        if call is None:
            return False
        self._give_up(call, CallFailed(Status.CANCELLED, "cancelled by the application"))
        return True

    # ------------------------------------------------------------------ time

    def handle_timer(self, now: float) -> None:
        """End the calls that are out of time, and send those again whose time has come."""
        for call in self._table.expired(now):
            failure = CallFailed(Status.DEADLINE, f"no answer within {now - call.created:.3g} s")
            self._give_up(call, call.held or failure)
        for call in self._table.resumed(now):
            self._again(call, now)

    # ------------------------------------------------------------------ news of connections

    def lost(self, key: int, now: float) -> None:
        """The connection that had the call is gone, or will not execute it."""
        call = self._table.get(key)
        if call is None:
            return
        if call.held is not None:
            self._finish(call, call.held)
        elif call.streaming:
            self._finish(call, CallFailed(Status.OUTCOME_UNKNOWN, "the connection was lost"))
        else:
            self._again(call, now)

    def suspect(self, key: int, now: float) -> None:
        """The connection that has the call is silent."""
        call = self._table.get(key)
        if call is not None and call.short_at is None:
            call.short_at = now

    def stop(self, why: CannotConnect) -> None:
        """No call gets an answer any more."""
        for call in self._table:
            self._finish(call, call.held or CallFailed(why.status, f"the client is closed ({why})"))

    # ------------------------------------------------------------------ what a last frame means

    def _ended(self, call: OpenCall, outcome: Reply | CallFailed, now: float) -> None:
        """A call got its last frame, on either way."""
        verdict, wait = judge(call, outcome, now)
        if verdict is Verdict.FINAL:
            self._finish(call, outcome)
        elif verdict is Verdict.REPEAT:
            self._again(call, now)
        else:
            self._table.postpone(call, now + wait)

    def _missed(self, call: OpenCall, status: int, now: float) -> None:
        """The gateway could not read it, so it goes again at once; the application sees nothing of that."""
        self._tell_missed(status)
        self._again(call, now)

    def _again(self, call: OpenCall, now: float) -> None:
        """Send it again, with its id."""
        self._table.requeue(call)
        if call.post is None:
            call.short_at = now + self._patience

    def _give_up(self, call: OpenCall, outcome: CallFailed) -> None:
        link = None if call.link is None else self._connections.links.get(call.link)
        if link is not None and call.number in link.calls:
            link.connection.reset(call.number, Status.CANCELLED)
        self._finish(call, outcome)

    def _finish(self, call: OpenCall, outcome: Reply | CallFailed) -> None:
        self._table.remove(call)
        self.short.finished(call)
        self._emit(Finish(call.key, outcome))

    def _still_open(self, call: OpenCall) -> bool:
        early = self._connections.flights.early
        return call.link in self._connections.links or (early is not None and call.link == early.attempt)
