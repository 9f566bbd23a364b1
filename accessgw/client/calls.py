"""The table of open calls: what was asked, where it was sent under which id, and until when it may take."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from accessgw.client.model import CallFailed, Headers, Reply, Via
from protocols.mmtp.statuses import Status


class OpenCall:
    """One call from the application's asking to its one outcome."""

    __slots__ = (
        "attempts",
        "body",
        "call_id",
        "created",
        "deadline",
        "headers",
        "held",
        "idempotent",
        "key",
        "link",
        "misses",
        "more",
        "number",
        "operation",
        "parts",
        "plain",
        "post",
        "reply_headers",
        "secret",
        "short_at",
        "short_failures",
        "size",
        "status",
        "streaming",
    )

    def __init__(
        self,
        key: int,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        idempotent: bool,
        created: float,
        deadline: float,
        secret: bool = False,
    ) -> None:
        self.key = key
        self.operation = operation
        self.headers = headers
        self.body = body
        self.idempotent = idempotent
        self.secret = secret
        """Its body is never compressed."""
        self.plain = False
        """The gateway did not have the dictionary of its body: it travels raw."""
        self.misses = 0
        """How often it was sent again for what the gateway did not have."""
        self.created = created
        self.deadline = deadline
        self.call_id: int | None = None
        """Given when it is first sent; every repetition carries the same."""
        self.attempts = 0
        self.link: int | None = None
        """Long connection that it is open on."""
        self.number = 0
        """Its number there."""
        self.post: int | None = None
        """Short connection that carries it."""
        self.short_at: float | None = None
        """When it may go over a short connection."""
        self.short_failures = 0
        self.held: CallFailed | None = None
        """A refusal of a short connection that the long one may still prove wrong."""
        self.streaming = False
        self.more = False
        """Streaming: the application has not ended the request body."""
        self.status = 0
        self.reply_headers: Headers = []
        self.parts: list[bytes] = []
        self.size = 0

    def reply(self, via: Via, now: float) -> Reply | CallFailed:
        """The outcome from what has come."""
        reply = Reply(self.status, self.reply_headers, b"".join(self.parts), via, now - self.created, self.attempts)
        return reply if reply.ok else CallFailed(reply.status, failure_text(reply), reply)

    def restart(self) -> None:
        """Forget a partial answer: the connection that brought it is gone."""
        self.parts.clear()
        self.size = 0


def failure_text(reply: Reply) -> str:
    """What the gateway or the upstream said about a failure, at most 200 characters."""
    text = reply.header("message") or reply.body[:800].decode("utf-8", "replace")
    return text if len(text) <= 200 else text[:199] + "…"


class CallTable:
    """Every call without an outcome, within bounds.

    `waiting` are those to be sent on the long connection, oldest first.
    """

    def __init__(self, *, max_open: int, max_waiting: int) -> None:
        self.max_open = max_open
        self.max_waiting = max_waiting
        self.waiting: deque[int] = deque()
        self._calls: dict[int, OpenCall] = {}
        self._by_id: dict[int, int] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._postponed: list[tuple[float, int]] = []
        self._next_key = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[OpenCall]:
        return iter(list(self._calls.values()))

    def get(self, key: int) -> OpenCall | None:
        """The call, None once it has its outcome."""
        return self._calls.get(key)

    def by_id(self, call_id: int) -> OpenCall | None:
        """The open call that was sent under this id."""
        key = self._by_id.get(call_id)
        return None if key is None else self._calls.get(key)

    def add(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        idempotent: bool,
        now: float,
        timeout: float,
        secret: bool = False,
    ) -> OpenCall:
        """A new call at the end of the queue.
        CallFailed(overload) when `max_open` + `max_waiting` are without outcome."""
        if len(self._calls) >= self.max_open + self.max_waiting:
            raise CallFailed(
                Status.OVERLOAD, f"expected at most {self.max_open + self.max_waiting} calls at once, none was sent"
            )
        key = self._next_key
        self._next_key += 1
        call = OpenCall(
            key, operation, headers, body, idempotent=idempotent, created=now, deadline=now + timeout, secret=secret
        )
        self._calls[key] = call
        self.waiting.append(key)
        heapq.heappush(self._deadlines, (call.deadline, key))
        return call

    def sent(self, call: OpenCall, call_id: int) -> None:
        """It left under this id."""
        call.attempts += 1
        if call.call_id is None:
            call.call_id = call_id
            self._by_id[call_id] = call.key

    def requeue(self, call: OpenCall) -> None:
        """Its long connection is gone or refused it: send it again, in the order of asking."""
        call.link = None
        call.restart()
        if call.key in self.waiting:
            return
        position = next((i for i, key in enumerate(self.waiting) if key > call.key), len(self.waiting))
        self.waiting.insert(position, call.key)

    def remove(self, call: OpenCall) -> None:
        """It has its outcome."""
        self._calls.pop(call.key, None)
        if call.call_id is not None:
            self._by_id.pop(call.call_id, None)
        # keys left in `waiting` and in the heap are skipped when they are met
        if len(self._deadlines) > 64 + 4 * len(self._calls):
            self._deadlines = [(c.deadline, c.key) for c in self._calls.values()]
            heapq.heapify(self._deadlines)
            self.waiting = deque(key for key in self.waiting if key in self._calls)

    def next_waiting(self) -> OpenCall | None:
        """The call to send next; it stays in the queue until took_waiting()."""
        while self.waiting:
            call = self._calls.get(self.waiting[0])
            if call is not None and call.link is None:
                return call
            self.waiting.popleft()
        return None

    def took_waiting(self) -> None:
        """The call of next_waiting() was sent."""
        self.waiting.popleft()

    def early(self) -> list[OpenCall]:
        """Those that wait and may be sent in early data, in order: who reads it later learns nothing that was said to
        be secret, and who sends it again changes nothing."""
        found = (self._calls.get(key) for key in self.waiting)
        return [
            call
            for call in found
            if call is not None
            and call.link is None
            and call.idempotent
            and not (call.streaming or call.secret or call.operation.startswith("gw."))
        ]

    def unsend(self, calls: list[OpenCall]) -> None:
        """They were sent as early data, which TLS refused: nobody has seen them. They are the next to be sent."""
        for call in reversed(calls):
            call.link = None
            call.attempts -= 1
            if not call.attempts and call.call_id is not None:
                del self._by_id[call.call_id]
                call.call_id = None
            if call.key in self.waiting:
                self.waiting.remove(call.key)
            self.waiting.appendleft(call.key)

    def postpone(self, call: OpenCall, at: float) -> None:
        """The gateway named the time of the next attempt."""
        heapq.heappush(self._postponed, (at, call.key))

    def resumed(self, now: float) -> list[OpenCall]:
        """Postponed calls whose time has come."""
        out = []
        while self._postponed and self._postponed[0][0] <= now:
            call = self._calls.get(heapq.heappop(self._postponed)[1])
            if call is not None:
                out.append(call)
        return out

    def next_timer(self) -> float | None:
        """When expired() or resumed() will have something."""
        deadline = self.next_deadline()
        if self._postponed and (deadline is None or self._postponed[0][0] < deadline):
            return self._postponed[0][0]
        return deadline

    def next_deadline(self) -> float | None:
        """When the first open call runs out of time."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: float) -> list[OpenCall]:
        """Open calls whose time is over."""
        out = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            out.append(self._calls[heapq.heappop(self._deadlines)[1]])
        return out
