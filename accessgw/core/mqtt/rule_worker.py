"""One rule at work: gathers its messages into batches, posts them to the service, tries again, gives up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.interfaces.clock import Clock, Timer, Timers
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.upstreams import UpstreamClient, UpstreamExchange, UpstreamFailure, UpstreamRequest
from accessgw.core.mqtt.rule_bodies import json_body, raw_headers
from accessgw.core.mqtt.rule_queue import RuleQueue, Taken
from accessgw.model.calls import Headers
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MessageRuleSettings
from accessgw.policy.backoff import full_jitter
from protocols.mqtt.reasons import Reason

log = Logger()

RETRY_INITIAL = 0.25
RETRY_MAX = 30.0
"""Seconds of back-off; also the most that a service's Retry-After counts."""
MAX_BATCH_BYTES = 1024 * 1024
"""Payload bytes of one POST, unless a single message is larger."""
MAX_RESPONSE = 64 * 1024
"""Nothing of an answer but its status matters."""
LOG_INTERVAL = 1.0
_TRY_AGAIN = frozenset({408, 425, 429})


class RuleWorker:
    """Takes messages and sees to it that the service gets them.

    At least once while the process lives: a POST whose outcome is unknown is made again. A publisher has messages in
    one POST at a time, so that the service sees them in order; a POST that waits for its next attempt keeps its place
    among the `concurrency`, so that a service that is down is not asked more than that.
    """

    def __init__(
        self,
        settings: MessageRuleSettings,
        upstreams: UpstreamClient,
        *,
        clock: Clock,
        timers: Timers,
        wall: Callable[[], float],
        random: Callable[[], float],
        counters: MqttCounters,
    ) -> None:
        self.settings = settings
        self.queue = RuleQueue(settings.queue, settings.queue_bytes, wall)
        self.upstreams = upstreams
        self.clock = clock
        self.timers = timers
        self.random = random
        self.counters = counters
        self.name = settings.name
        for slot in (counters.rule_taken, counters.rule_delivered, counters.rule_failed, counters.rule_dropped):
            slot.setdefault(settings.name, 0)
        counters.rule_queued.setdefault(settings.name, 0)
        self._wall = wall
        self._posts: set[_Post] = set()
        self._leave_call: Any = None
        self._leaves_at = 0.0
        self._closing = False
        self._idle: list[Callable[[], None]] = []
        self._logged_at = float("-inf")
        self._unlogged = 0

    def __len__(self) -> int:
        """Messages that are not over."""
        return len(self.queue) + sum(len(post.batch) for post in self._posts)

    def apply(self, settings: MessageRuleSettings) -> None:
        """Go on by other settings; what waits stays."""
        self.settings = settings
        self.queue.max_messages, self.queue.max_bytes = settings.queue, settings.queue_bytes
        self._plan()

    # ---------------------------------------------------------------- messages come

    def has_room(self, size: int) -> bool:
        """Whether `take` may be called."""
        return not self._closing and self.queue.has_room(size)

    def take(self, message: Message, size: int) -> Deferred[int] | None:
        """Let it wait for its POST. What the service says of it, where the rule acknowledges on that."""
        taken = self.queue.put(message, size)
        counters = self.counters
        counters.rule_taken[self.name] += 1
        counters.rule_queued[self.name] += 1
        if self._leave_call is None or self.queue.available >= self._batch:
            self._plan()
        if self.settings.acknowledge == "accept" or not message.qos:
            return None
        taken.answered = Deferred()
        return taken.answered

    def refuse(self) -> None:
        """There was no room for a message."""
        self._dropped(1, "the queue is full")

    # ---------------------------------------------------------------- batches leave

    @property
    def _batch(self) -> int:
        return 1 if self.settings.format == "raw" else self.settings.batch

    def _plan(self) -> None:
        """See to it that what waits leaves in time: at the end of this turn when a batch is full."""
        available = self.queue.available
        if not available or len(self._posts) >= self.settings.concurrency:
            return
        delay = 0.0 if self._closing or available >= self._batch else self.settings.linger
        due = self.clock.seconds() + delay
        if self._leave_call is not None:
            if self._leaves_at <= due:
                return
            self._leave_call.cancel()
        self._leaves_at = due
        self._leave_call = self.clock.callLater(delay, self._leave)

    def _leave(self) -> None:
        self._leave_call = None
        while self.queue.available and len(self._posts) < self.settings.concurrency:
            batch = self.queue.take(self._batch, MAX_BATCH_BYTES)
            now = self._wall()
            fresh = [t for t in batch if t.message.expires_at is None or t.message.expires_at > now]
            if len(fresh) < len(batch):
                kept = set(map(id, fresh))
                self._give_up([t for t in batch if id(t) not in kept], Reason.UNSPECIFIED, "their time was over")
            if not fresh:
                self.queue.done(batch)
                continue
            post = _Post(self, fresh, batch)
            self._posts.add(post)
            post.send()
        self._look_idle()

    # ---------------------------------------------------------------- a POST is over

    def delivered(self, post: _Post) -> None:
        """The service has said 2xx."""
        count = len(post.batch)
        self.counters.rule_delivered[self.name] += count
        self.counters.rule_queued[self.name] -= count
        _answer(post.batch, Reason.SUCCESS)
        self._over(post)

    def failed(self, post: _Post, reason: int, why: str) -> None:
        """It was refused, or the last attempt has failed."""
        self._give_up(post.batch, reason, why)
        self._over(post)

    def _over(self, post: _Post) -> None:
        self._posts.discard(post)
        self.queue.done(post.lanes)
        self._plan()
        self._look_idle()

    def _give_up(self, batch: Sequence[Taken], reason: int, why: str) -> None:
        self.counters.rule_queued[self.name] -= len(batch)
        self._dropped(len(batch), why)
        _answer(batch, reason)

    def _dropped(self, count: int, why: str) -> None:
        self.counters.rule_dropped[self.name] += count
        self._unlogged += count
        now = self.clock.seconds()
        if now - self._logged_at >= LOG_INTERVAL:
            log.warn("rule {rule}: {count} messages dropped, lately because {why}", rule=self.name,
                     count=self._unlogged, why=why)  # fmt: skip
            self._logged_at = now
            self._unlogged = 0

    # ---------------------------------------------------------------- the end

    def close(self, idle: Callable[[], None]) -> None:
        """Take nothing more, post what waits without lingering; `idle` is called when nothing is left."""
        self._closing = True
        self._idle.append(idle)
        self._plan()
        self._look_idle()

    def abandon(self) -> None:
        """Give up what is left, now."""
        self._closing = True
        if self._leave_call is not None:
            self._leave_call.cancel()
            self._leave_call = None
        self._give_up_all(self.queue.clear())
        for post in tuple(self._posts):
            post.cancel()
            self._give_up_all(post.batch)
        self._posts.clear()
        self._look_idle()

    def _give_up_all(self, batch: Sequence[Taken]) -> None:
        if batch:
            self._give_up(batch, Reason.UNSPECIFIED, "the gateway stops")

    def _look_idle(self) -> None:
        if self._idle and not len(self):
            idle, self._idle = self._idle, []
            for callback in idle:
                callback()


class _Post:
    """One batch on its way, with all its attempts. An UpstreamSink of each."""

    __slots__ = ("_attempt", "_exchange", "_retry_after", "_status", "_timer", "_worker", "batch", "lanes")

    def __init__(self, worker: RuleWorker, batch: list[Taken], lanes: list[Taken]) -> None:
        self._worker = worker
        self.batch = batch
        self.lanes = lanes
        """Everything that was taken out together, expired messages too: their lanes are busy."""
        self._attempt = 0
        self._status = 0
        self._retry_after = 0.0
        self._exchange: UpstreamExchange | None = None
        self._timer: Timer | None = None

    def send(self) -> None:
        """Make an attempt."""
        worker = self._worker
        settings = worker.settings
        self._timer = None
        self._status, self._retry_after = 0, 0.0
        first = self.batch[0]
        # The form may have changed at a reload, with a batch of many on its way.
        if settings.format == "raw" and len(self.batch) == 1:
            body, headers = first.message.payload, raw_headers(first)
        else:
            body, headers = json_body(self.batch), [("content-type", "application/json")]
        headers.append(("x-mqtt-rule", worker.name))
        request = UpstreamRequest(
            method="POST",
            target=settings.path,
            headers=headers,
            body=body,
            deadline=worker.clock.seconds() + settings.timeout,
            max_response_body=MAX_RESPONSE,
        )
        self._exchange = worker.upstreams.request(settings.cluster, request, self)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._timer is not None:
            self._timer.cancel()
        elif self._exchange is not None:
            self._exchange.cancel()

    # ---------------------------------------------------------------- UpstreamSink

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None:
        self._status = status
        for name, value in headers:
            if name == "retry-after" and value.isascii() and value.isdigit():
                self._retry_after = min(RETRY_MAX, float(value[:9]))

    def data(self, data: bytes) -> None:
        """Only the status matters."""

    def upload_sent(self, size: int) -> None:
        """The body was there as a whole."""

    def finished(self) -> None:
        self._exchange = None
        status = self._status
        if 200 <= status <= 299:
            self._worker.delivered(self)
            return
        if status >= 500 or status in _TRY_AGAIN:
            self._again(f"the service answered {status}")
            return
        self._worker.counters.rule_failed[self._worker.name] += 1
        reason = Reason.NOT_AUTHORIZED if status in (401, 403) else Reason.IMPLEMENTATION_SPECIFIC
        self._worker.failed(self, reason, f"the service answered {status}")

    def failed(self, failure: UpstreamFailure) -> None:
        if failure.kind == "too_large" and self._status:
            self.finished()
            return
        self._exchange = None
        self._again(f"{failure.kind}: {failure.message}")

    def _again(self, why: str) -> None:
        worker = self._worker
        worker.counters.rule_failed[worker.name] += 1
        if self._attempt >= worker.settings.retries:
            worker.failed(self, Reason.UNSPECIFIED, why)
            return
        delay = max(self._retry_after, full_jitter(self._attempt, RETRY_INITIAL, RETRY_MAX, worker.random))
        self._attempt += 1
        self._timer = worker.timers.schedule(delay, self.send)


def _answer(batch: Sequence[Taken], reason: int) -> None:
    for taken in batch:
        answered, taken.answered = taken.answered, None
        if answered is not None:
            answered.callback(reason)


def first_failure(waits: list[Deferred[int]]) -> Deferred[int]:
    """Fires when all have fired: with the first reason that is a failure, else with success."""
    if len(waits) == 1:
        return waits[0]
    result: Deferred[int] = Deferred()
    left = len(waits)
    found = int(Reason.SUCCESS)

    def answered(reason: int, index: int) -> None:
        nonlocal left, found
        left -= 1
        found = found or reason
        if not left:
            result.callback(found)

    for index, wait in enumerate(waits):
        wait.addCallback(partial(answered, index=index))
    return result
