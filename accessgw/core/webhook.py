"""Delivers presence events to a webhook: at least once, in order per device, with back-off."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from msgspec import json
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.stores import OutboxStore
from accessgw.core.webhook_log import WebhookLog
from accessgw.model.calls import Headers
from accessgw.model.counters import WebhookCounters
from accessgw.model.presence import PresenceEvent
from accessgw.model.settings import WebhookSettings
from accessgw.model.words import in_words
from accessgw.policy.backoff import full_jitter

log = Logger()

Post = Callable[[str, Headers, bytes, float], Deferred[int]]
"""(url, headers, body, time-out in seconds) -> HTTP status; fails when there was no answer."""
MAX_WAITING = 1000
"""Devices in back-off at once. With so many the service is down, and asking for more would only read the outbox."""


class Webhook:
    """Works off the outbox. A device with a failed event waits; others go on."""

    def __init__(
        self,
        settings: WebhookSettings,
        outbox: OutboxStore,
        post: Post,
        *,
        clock: Clock,
        random: Callable[[], float],
        counters: WebhookCounters,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._post = post
        self._clock = clock
        self._random = random
        self._counters = counters
        self._told = WebhookLog(settings.url, clock.seconds)
        self._busy: set[str] = set()
        self._waiting: dict[str, Any] = {}
        """Device -> delayed call that ends its back-off."""
        self._attempts: dict[str, int] = {}
        """Of devices whose next event has failed before."""
        self._delivered: set[str] = set()
        """Devices whose event left the outbox since the look that is under way began: it may have seen the event still."""
        self._looking = False
        self._again = False
        self._running = False
        self._pause: Any = None

    def start(self) -> None:
        """Deliver what an earlier process left, and from now on what comes."""
        self._running = True
        self.wake()

    def stop(self) -> None:
        """Begin nothing more; what is not delivered stays in the outbox."""
        self._running = False
        for call in [*self._waiting.values(), self._pause]:
            if call is not None and call.active():
                call.cancel()
        self._waiting.clear()
        self._pause = None

    def wake(self) -> None:
        """There may be something to deliver."""
        if not self._running or self._pause is not None:
            return
        if self._looking:
            self._again = True
        elif len(self._busy) < self._settings.concurrency and len(self._waiting) < MAX_WAITING:
            self._looking = True
            # Devices that are busy or waiting come up too, so that many more are asked for.
            limit = self._settings.concurrency + len(self._busy) + len(self._waiting)
            self._outbox.pending(limit).addCallbacks(
                lambda events: self._found(events, len(events) < limit), self._unreadable
            ).addErrback(self._defect)

    def _found(self, events: list[PresenceEvent], whole: bool) -> None:
        """`whole`: no other device has one."""
        self._looking = False
        stale, self._delivered = self._delivered, set()
        if whole and self._attempts:
            self._forget_dropped({event.device for event in events})
        for event in events:
            if len(self._busy) >= self._settings.concurrency or not self._running:
                return
            if event.device not in self._busy and event.device not in self._waiting and event.device not in stale:
                self._deliver(event)
        if self._again:
            self._again = False
            self.wake()

    def _forget_dropped(self, left: set[str]) -> None:
        """The outbox drops events when it is full: nobody waits for theirs any more."""
        for device in [device for device in self._attempts if device not in left]:
            del self._attempts[device]
        if not self._attempts:
            self._told.caught_up()

    def _unreadable(self, failure: Failure) -> None:
        self._looking = False
        self._delivered.clear()
        log.error("the outbox cannot be read: {why}", why=in_words(failure.value))
        if self._running:
            self._pause = self._clock.callLater(self._settings.retry_max, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.wake()

    def _deliver(self, event: PresenceEvent) -> None:
        self._busy.add(event.device)
        body = json.encode(event)
        headers = [("content-type", "application/json")]
        if self._settings.secret:
            signature = hmac.new(self._settings.secret.encode(), body, hashlib.sha256).hexdigest()
            headers.append(("x-signature", f"sha256={signature}"))
        try:
            result = self._post(self._settings.url, headers, body, self._settings.timeout)
        except Exception as error:
            self._failed(event, in_words(error))
            return
        result.addCallbacks(
            lambda status: self._answered(event, status),
            lambda failure: self._failed(event, in_words(failure.value)),
        ).addErrback(self._defect)

    def _answered(self, event: PresenceEvent, status: int) -> None:
        if not 200 <= status <= 299:
            self._failed(event, f"HTTP status {status}")
            return
        self._counters.delivered += 1
        self._counters.pending = max(0, self._counters.pending - 1)
        self._attempts.pop(event.device, None)
        # The device stays busy until the event is gone from the outbox, or it would be found again.
        self._outbox.done(event).addCallbacks(
            lambda _: self._free(event.device), lambda failure: self._failed(event, in_words(failure.value))
        ).addErrback(self._defect)

    def _free(self, device: str) -> None:
        self._busy.discard(device)
        if not self._attempts:
            self._told.caught_up()
        if self._looking:
            self._delivered.add(device)
        self.wake()

    def _failed(self, event: PresenceEvent, why: str) -> None:
        device = event.device
        self._counters.failures += 1
        self._busy.discard(device)
        if not self._running:
            return
        attempt = self._attempts.get(device, 0)
        self._attempts[device] = attempt + 1
        delay = full_jitter(attempt, self._settings.retry_initial, self._settings.retry_max, self._random)
        self._told.failed(why)
        self._waiting[device] = self._clock.callLater(delay, self._retry, device)

    def _retry(self, device: str) -> None:
        self._waiting.pop(device, None)
        self.wake()

    @staticmethod
    def _defect(failure: Failure) -> None:
        log.failure("the webhook failed", failure=failure)
