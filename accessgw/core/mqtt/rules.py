"""Messages of certain topics go to services: finds the rules of a topic, each of which works by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.upstreams import UpstreamClient
from accessgw.core.mqtt.rule_worker import RuleWorker, first_failure
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MessageRuleSettings
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.reasons import Reason
from protocols.mqtt.topics import TopicTree


class ServiceRules:
    """A MessageRules. Nothing here waits for a service: subscribers get their messages as if there were no rule."""

    def __init__(
        self,
        settings: Sequence[MessageRuleSettings],
        upstreams: UpstreamClient,
        *,
        clock: Clock,
        timers: Timers,
        counters: MqttCounters,
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._timers = timers
        self._counters = counters
        self._wall = wall
        self._random = random
        self._workers: dict[str, RuleWorker] = {}
        self._leaving: set[RuleWorker] = set()
        """Of rules that a reload has removed, until they have nothing left."""
        self._tree: TopicTree[RuleWorker] = TopicTree()
        self.active = False
        """There are rules; the broker need not ask otherwise."""
        self.apply(settings)

    def apply(self, settings: Sequence[MessageRuleSettings]) -> None:
        """The rules from now on. One that keeps its name keeps its queue; what waits for one that is gone still
        goes to its service."""
        workers: dict[str, RuleWorker] = {}
        tree: TopicTree[RuleWorker] = TopicTree()
        for one in settings:
            worker = self._workers.pop(one.name, None)
            if worker is None:
                worker = self._make(one)
            else:
                worker.apply(one)
            workers[one.name] = worker
            for topic in one.topics:
                tree.subscribe(worker, SubscriptionRequest(topic, 2))
        for gone in self._workers.values():
            self._leaving.add(gone)
            gone.close(partial(self._leaving.discard, gone))
        self._workers = workers
        self._tree = tree
        self.active = bool(workers)

    def _make(self, settings: MessageRuleSettings) -> RuleWorker:
        return RuleWorker(
            settings,
            self._upstreams,
            clock=self._clock,
            timers=self._timers,
            wall=self._wall,
            random=self._random,
            counters=self._counters,
        )

    # ---------------------------------------------------------------- messages

    def offer(self, message: Message) -> int | Deferred[int]:
        """See MessageRules. Where one queue is full, no rule takes the message, since its publisher may send it
        again; at QoS 0 each rule takes or drops it by itself."""
        if not self.active:
            return Reason.SUCCESS
        groups = self._tree.plan(message.topic).groups
        if not groups:
            return Reason.SUCCESS
        found = [worker for group in groups for worker in group.receivers]
        size = message.size
        full = [worker for worker in found if not worker.has_room(size)]
        for worker in full:
            worker.refuse()
        if full and message.qos:
            return Reason.QUOTA_EXCEEDED
        waits = []
        for worker in found:
            if worker not in full:
                answered = worker.take(message, size)
                if answered is not None:
                    waits.append(answered)
        return first_failure(waits) if waits else Reason.SUCCESS

    def takes(self, topic: str) -> bool:
        """Whether a rule matches: then a message without subscribers is not one that nobody gets (0x10)."""
        return self.active and bool(self._tree.plan(topic).groups)

    def consumes(self, topic: str) -> bool:
        """Subscribers do not get messages of this topic: a rule of it says `local = false`."""
        return self.active and any(
            not worker.settings.local for group in self._tree.plan(topic).groups for worker in group.receivers
        )

    def session_ended(self, client_id: str) -> None:
        """See MessageRules."""
        for worker in self._workers.values():
            worker.queue.forget(client_id)

    # ---------------------------------------------------------------- the end

    def close(self, seconds: float) -> Deferred[None]:
        """Take nothing more and post what waits; fires when that is done, or after `seconds`, when the rest has been
        given up."""
        done: Deferred[None] = Deferred()
        workers = {*self._workers.values(), *self._leaving}
        left = set(workers)

        def late() -> None:
            for worker in workers:
                worker.abandon()

        call = self._clock.callLater(seconds, late)

        def idle(worker: RuleWorker) -> None:
            left.discard(worker)
            finish()

        def finish() -> None:
            if not left and not done.called:
                if call.active():
                    call.cancel()
                done.callback(None)

        for worker in workers:
            worker.close(partial(idle, worker))
        finish()
        return done
