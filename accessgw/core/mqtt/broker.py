"""The broker: takes each message to all who are to get it, and says when the gateway answers for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.mqtt import MessageRules, MqttStore
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.publication import Publication
from accessgw.core.mqtt.receivers import SHARED, Receiver, Receivers
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from protocols.mqtt.reasons import FAILURE, Reason
from protocols.mqtt.retained import RetainedStore
from protocols.mqtt.topic_index import BRANCH_BYTES
from protocols.mqtt.topics import Plan, TopicTree

log = Logger()

# Plain numbers: an IntEnum is no `int` to those who ask for the type alone.
SUCCESS = int(Reason.SUCCESS)
OVERHEAD = 10
"""Receivers whose deliveries take as long as what else there is to do for a message."""
MAX_BACKLOG = 10_000
"""Messages behind a large fan-out; past it, and past MAX_BACKLOG_BYTES, they are refused, or dropped and counted."""
MAX_BACKLOG_BYTES = 32 * 1024 * 1024
FEW = 4
"""So many receivers cost no more than the message itself: they are not counted."""
NO_MATCHING_SUBSCRIBERS = int(Reason.NO_MATCHING_SUBSCRIBERS)
QUOTA_EXCEEDED = int(Reason.QUOTA_EXCEEDED)
SLICE = 2000
"""Receivers that one turn of the reactor serves: about two milliseconds."""
NOBODY: Plan[Receiver] = Plan(())


class Broker:
    """Messages in, messages out. Sessions come and go by `sessions` (see session_keeper)."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        store: MqttStore,
        outbound: Outbound,
        clock: Clock,
        wall: Callable[[], float],
        random: Callable[[], float],
        counters: MqttCounters,
        trace: TopicTrace,
        rules: MessageRules | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.outbound = outbound
        self.clock = clock
        self.wall = wall
        self.counters = counters
        self.trace = trace
        self.rules = rules
        self.receivers = Receivers(
            settings, outbound=outbound, wall=wall, random=random, counters=counters, trace=trace
        )
        self.sessions: dict[str, MqttSession] = {}
        self.tree: TopicTree[Receiver] = TopicTree()
        self.retained: RetainedStore[Message] = RetainedStore(
            settings.max_retained, settings.max_retained_bytes, size=attrgetter("size"), branch_bytes=BRANCH_BYTES
        )
        self.sample: Callable[[Message], int] = lambda message: 1
        """Told of a message now and then, to know who talks most; says how many come before the next."""
        self.returned: Callable[[Message], bool] | None = None
        """Asked of every message, when there are bridges: whether we have carried it out already."""
        self.bridge_clients: set[str] = set()
        """Connected clients that say they are bridges (of MQTT 3.1.1)."""
        self.origin = ""
        """Our name among bridged brokers, told to bridges that connect; empty while we have none."""
        self.served = 0
        """Receivers of what has been published in this turn of the reactor: past SLICE the rest waits for the next
        ones. Whoever publishes much at once sets it to 0 when it begins."""
        self._unsampled = 0
        self._backlog: deque[tuple[Publication, Iterator[int], Deferred[int]]] = deque()
        """Fan-outs too large for one turn, and what came after them."""
        self._backlog_bytes = 0
        self._put_off: Publication | None = None
        """The last message that was put there."""
        self._slicing = False
        """A turn that goes on with them is to come, or runs."""

    # ---------------------------------------------------------------- publishing

    def publish(
        self, message: Message, received: tuple[str, int] | None = None, will_of: str = ""
    ) -> int | Deferred[int]:
        """A reason code when the gateway answers for the message already, else a Deferred of it, which does not fail.

        0: somebody gets it, 0x10: nobody does; 0x97: a bound was met, 0x80: it could not be stored; then nobody is
        sent it. With `received` the client id and packet id of a QoS 2 message become durable with it, with
        `will_of` that client's will is gone once it is.
        """
        if self.returned is not None and self.returned(message):
            self.counters.drop("loop")
            return NO_MATCHING_SUBSCRIBERS
        if self.rules is not None and self.rules.active:
            taken = self.rules.offer(message)
            if not isinstance(taken, int):
                return self._after_rules(taken, message, received, will_of)
            if taken >= FAILURE:
                return taken
            return self._publish(message, received, will_of, ruled=True)
        return self._publish(message, received, will_of)

    def count_subscriptions(self) -> None:
        """They have changed."""
        self.counters.subscriptions = len(self.tree)
        self.counters.shared_subscriptions = self.tree.shared_groups

    def announce(self, message: Message) -> None:
        """A retained message of our own, of QoS 0, that is made anew after a restart: for subscribers alone."""
        self.retained.set(message)
        self.receivers.deliver(Publication(message, self.wall()), self.tree.plan(message.topic))

    def publish_counted(self, message: Message) -> Deferred[tuple[int, int]]:
        """As publish: the reason code, and how many it reached or waits for."""
        before = self.receivers.reached
        self.served = 0
        self._put_off = None
        outcome = self.publish(message)
        at_once, put_off = self.receivers.reached - before, self._put_off
        whole = succeed(int(outcome)) if isinstance(outcome, int) else outcome
        return whole.addCallback(lambda reason: (reason, at_once if put_off is None else put_off.reached))

    def _after_rules(
        self, taken: Deferred[int], message: Message, received: tuple[str, int] | None, will_of: str
    ) -> Deferred[int]:
        """Subscribers do not wait for the service, its sender does."""
        reason = self._publish(message, received, will_of, ruled=True)
        ours = succeed(reason) if isinstance(reason, int) else reason
        both: Deferred[list[tuple[bool, int]]] = DeferredList([ours, taken])
        return both.addCallback(_worst)

    def _publish(
        self, message: Message, received: tuple[str, int] | None, will_of: str, *, ruled: bool = False
    ) -> int | Deferred[int]:
        """`ruled`: there are rules, which may have consumed it."""
        backlog, retain = self._backlog, message.retain
        if backlog and not will_of and self._backlog_full():
            self.counters.drop("backlog")
            return QUOTA_EXCEEDED
        if retain and not self._retain(message):
            return QUOTA_EXCEEDED
        self._unsampled = unsampled = self._unsampled - 1
        if unsampled <= 0:
            self._unsampled = self.sample(message)
        watched = self.trace.watched
        if watched:
            self.trace.tell(message, "published")
        plan = self.tree.plan(message.topic)
        if not (retain or backlog or watched or ruled or will_of) and received is None:
            groups = plan.groups
            if len(groups) == 1 and not plan.shared and len(groups[0].receivers) == 1:
                (only,) = groups[0].receivers
                if self.receivers.to_only(message, groups[0], only):
                    return SUCCESS
        pub = Publication(message, self.wall())
        if ruled and self.rules is not None and self.rules.consumes(message.topic):
            plan = NOBODY
        served = plan.receiver_count + len(plan.shared) * SHARED
        if served > FEW:
            served += self.served
        if self._backlog or served > SLICE:
            return self._publish_in_slices(pub, plan is NOBODY, received, will_of)
        if served > FEW:
            self.served = served
        self.receivers.deliver(pub, plan)
        if pub.enqueues is None and received is None and not will_of and not (message.retain and message.qos):
            return self._outcome(pub)
        return self._commit(pub, message.retain and message.qos > 0, received, will_of)

    def deliver_alone(
        self, message: Message, session: MqttSession, qos: int, identifiers: tuple[int, ...] = (), retain: bool = False
    ) -> None:
        """To one session only: a retained message for a new subscription, an answer."""
        pub = Publication(message, self.wall())
        self.outbound.send(pub, session, qos, retain, identifiers)
        if pub.enqueues is not None:
            self._commit(pub, False, None, "")

    def _retain(self, message: Message) -> bool:
        """Make it the retained message of its topic (section 3.3.1.3). False when there is no room for another."""
        retained = self.retained
        if not message.payload:
            retained.remove(message.topic)
        elif not retained.set(message):
            return False
        if not message.qos:
            self.store.retain(message)
        self.counters.retained = len(retained)
        self.counters.retained_bytes = retained.bytes
        return True

    def sweep(self) -> None:
        """Forget retained messages that have expired, a bounded batch."""
        self.retained.sweep(self.wall())
        self.counters.retained = len(self.retained)
        self.counters.retained_bytes = self.retained.bytes

    def _commit(
        self, pub: Publication, retained: bool, received: tuple[str, int] | None, will_of: str
    ) -> Deferred[int]:
        stored = self.store.publish(
            pub.message, pub.enqueues or (), retained=retained, received=received, will_of=will_of
        )
        return stored.addCallbacks(self._stored, self._not_stored, (pub,), errbackArgs=(pub,))

    def _stored(self, numbers: list[int], pub: Publication) -> int:
        if pub.enqueues is not None:
            self.outbound.stored(pub, numbers)
        return self._outcome(pub)

    def _outcome(self, pub: Publication) -> int:
        if pub.reached or (self.rules is not None and self.rules.active and self.rules.takes(pub.message.topic)):
            return SUCCESS
        return NO_MATCHING_SUBSCRIBERS

    def _not_stored(self, failure: Failure, pub: Publication) -> int:
        log.error("a message of {topic} cannot be stored: {error}", topic=pub.message.topic, error=failure.value)
        self.outbound.not_stored(pub)
        self.counters.drop("store_unavailable")
        return Reason.UNSPECIFIED

    # ---------------------------------------------------------------- large fan-outs

    def _publish_in_slices(
        self, pub: Publication, hidden: bool, received: tuple[str, int] | None, will_of: str
    ) -> Deferred[int]:
        done: Deferred[int] = Deferred()
        self._put_off = pub
        self._backlog.append((pub, self._sliced(pub, hidden), done))
        self._backlog_bytes += pub.size

        def commit(_: int) -> int | Deferred[int]:
            nonlocal will_of
            self.outbound.refresh(pub, self.sessions)
            successor = self.sessions.get(will_of)
            if successor is not None and successor.will is not None:
                will_of = ""  # the client is back with another will, which is not to be forgotten
            if (
                pub.enqueues is None
                and received is None
                and not will_of
                and not (pub.message.retain and pub.message.qos)
            ):
                return self._outcome(pub)
            return self._commit(pub, pub.message.retain and pub.message.qos > 0, received, will_of)

        done.addCallback(commit)
        if not self._slicing:
            self._slicing = True
            if self.served:
                self.clock.callLater(0, self._go_on)
            else:
                self._go_on()
        return done

    def _sliced(self, pub: Publication, hidden: bool) -> Iterator[int]:
        """Its receivers are those of the moment at which it begins."""
        plan = NOBODY if hidden else self.tree.plan(pub.message.topic)
        yield from self.receivers.deliver_in_slices(pub, plan, SLICE)

    def _backlog_full(self) -> bool:
        return len(self._backlog) >= MAX_BACKLOG or self._backlog_bytes >= MAX_BACKLOG_BYTES

    def _go_on(self) -> None:
        """One turn's worth of the backlog: a slice of one large fan-out, or many small ones."""
        left = SLICE
        self.served = 0
        while self._backlog and left > 0:
            pub, steps, done = self._backlog[0]
            left -= OVERHEAD
            try:
                served = next(steps, 0)
            except Exception:
                log.failure("a message of {topic} did not reach all of its receivers", topic=pub.message.topic)
                served = 0
            if served:
                left -= served
                continue
            self._backlog.popleft()
            self._backlog_bytes -= pub.size
            done.callback(0)
        if self._backlog:
            self.clock.callLater(0, self._go_on)
        else:
            self._slicing = False


def _worst(results: list[tuple[bool, int]]) -> int:
    return max((value for worked, value in results if worked), default=Reason.UNSPECIFIED)
