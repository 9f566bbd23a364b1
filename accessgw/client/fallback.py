"""When a call goes over a short connection, and what its answer there means for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

from accessgw.client.calls import CallTable, OpenCall
from accessgw.client.commands import CancelPost, Command, Tell
from accessgw.client.model import CallFailed, Note, Reply
from accessgw.client.settings import ClientSettings
from accessgw.client.short import MAX_BODY, ShortAnswer, ShortConnections
from protocols.errors import LocalError
from protocols.mmtp.handshake import Hello, StreamCursor
from protocols.mmtp.statuses import Status

SHORT_BACKOFF = 0.2
SHORT_BACKOFF_CAP = 5.0
TRY_AGAIN = frozenset((Status.OK, Status.OVERLOAD, Status.RATE_LIMIT, Status.DRAINING, Status.INTERNAL))


class Fallback:
    """The calls that are under way over short connections, at most `max_posts` at once.

    A call is due when its `short_at` has come. The same id travels both ways, the gateway executes it
    once, and the first answer counts.
    """

    def __init__(
        self,
        settings: ClientSettings,
        calls: CallTable,
        random: Random,
        *,
        emit: Callable[[Command], None],
        ended: Callable[[OpenCall, Reply | CallFailed, float], None],
        still_open: Callable[[OpenCall], bool],
    ) -> None:
        self.codec = ShortConnections(settings)
        self._settings = settings
        self._calls = calls
        self._random = random
        self._emit = emit
        self._ended = ended
        self._still_open = still_open
        self._posts: dict[int, int] = {}
        self._numbers = itertools.count(1)

    @property
    def available(self) -> bool:
        """Another short connection may be made."""
        return self.codec.available and len(self._posts) < self._settings.max_posts

    def next_timer(self) -> float | None:
        """When a call is due."""
        if not self.available:
            return None
        return min((c.short_at for c in self._calls if c.post is None and c.short_at is not None), default=None)

    def handle_timer(
        self, now: float, hello: Callable[[], Hello], cursors: Callable[[], list[StreamCursor]], wall: float
    ) -> None:
        """Send the calls that are due; `wall` is the gateway's wall clock."""
        for call in self._calls:
            if not self.available:
                return
            if call.post is None and not call.streaming and call.short_at is not None and now >= call.short_at:
                self._send(call, now, hello, cursors, wall)

    def answered(self, post: int, status: int, body: bytes, now: float) -> ShortAnswer | None:
        """The HTTP response came; None when nobody waits for it."""
        if post not in self._posts:
            return None
        call = self._take(post)
        answer = self.codec.read(post, status, body)
        if call is not None:
            self._settle(call, answer, now)
        return answer

    def failed(self, post: int, reason: str, now: float, *, refused: bool) -> None:
        """No response came. `refused`: the peer's TLS has found our certificate, or the lack of one, wrong."""
        if post not in self._posts:
            return
        self._emit(Tell(Note("short_failed", reason)))
        call = self._take(post)
        self.codec.forget(post)
        self.codec.failed()
        if call is not None and refused and call.short_failures + 1 >= len(self._settings.short_addresses):
            # every address would refuse it again; the long connection may yet take it
            if not self._settings.addresses:
                self._ended(call, CallFailed(Status.AUTH, reason), now)
        elif call is not None:
            self._again(call, now)

    def finished(self, call: OpenCall) -> None:
        """The call has its outcome: nobody waits for its short connection."""
        if call.post is not None:
            del self._posts[call.post]
            self.codec.forget(call.post)
            self._emit(CancelPost(call.post))
            call.post = None

    def _send(
        self,
        call: OpenCall,
        now: float,
        hello: Callable[[], Hello],
        cursors: Callable[[], list[StreamCursor]],
        wall: float,
    ) -> None:
        call.short_at = None
        if len(call.body) > MAX_BODY:
            return  # only the long connection has room for it
        post = next(self._numbers)
        call_id = call.call_id if call.call_id is not None else self._random.getrandbits(64)
        remaining = max(0.001, call.deadline - now)
        try:
            command = self.codec.request(
                post, call, call_id, hello=hello, cursors=cursors, time=wall, timeout=remaining, age=now - call.created
            )
        except LocalError as error:
            self._ended(call, CallFailed(Status.PROTOCOL, str(error)), now)
            return
        self._calls.sent(call, call_id)
        call.post = post
        self._posts[post] = call.key
        self._emit(command)

    def _take(self, post: int) -> OpenCall | None:
        call = self._calls.get(self._posts.pop(post))
        if call is not None:
            call.post = None
        return call

    def _settle(self, call: OpenCall, answer: ShortAnswer, now: float) -> None:
        if answer.status == Status.SESSION_UNKNOWN:
            call.short_at = now  # the codec has forgotten the session: this one goes with HELLO
        elif answer.reply is None:
            if answer.status in TRY_AGAIN:
                self._again(call, now, answer.retry_after)
            else:
                self._refused(call, CallFailed(answer.status, answer.message), now)
        else:
            status, headers, body = answer.reply
            call.restart()
            call.status, call.reply_headers, call.parts = status, headers, [body]
            outcome = call.reply("short", now)
            if isinstance(outcome, Reply):
                self._ended(call, outcome, now)
            else:
                self._refused(call, outcome, now)

    def _refused(self, call: OpenCall, outcome: CallFailed, now: float) -> None:
        """While the long connection has the call, it may know better than `outcome unknown` or `not now`."""
        if outcome.status < 64 and self._still_open(call):
            call.held = outcome
        else:
            self._ended(call, outcome, now)

    def _again(self, call: OpenCall, now: float, at_least: float = 0.0) -> None:
        call.short_failures += 1
        bound = min(SHORT_BACKOFF_CAP, SHORT_BACKOFF * 2.0 ** min(call.short_failures, 10))
        call.short_at = now + max(at_least, bound * self._random.random())
