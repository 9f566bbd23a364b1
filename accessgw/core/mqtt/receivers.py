"""Sends a message to its receivers: to groups with the same options, and to one of each group of shared subscribers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.publication import PACKET_IDS, Parts, Publication, properties_at
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from protocols.mqtt.encoding import publish_frame, publish_parts
from protocols.mqtt.packets import V5, V311
from protocols.mqtt.topics import Group, Plan, SharedGroup

SHARED = 4
"""Receivers that take as long as choosing one of a group of shared subscribers."""


class LocalReceiver:
    """A receiver of the subscription tree that is no client."""

    __slots__ = ("client_id", "deliver")

    outlet = None
    """It has no connection: this sends the hot path to where local receivers are looked for."""
    durable = False

    def __init__(self, client_id: str, deliver: Callable[[Message, int, bool], None]) -> None:
        """`deliver(message, qos, retain)`: `qos` is what this subscription gets, `retain` what it gets to see."""
        self.client_id = client_id
        self.deliver = deliver


Receiver = MqttSession | LocalReceiver


class Receivers:
    """Devices that are connected and read are sent frames here;
    what has to wait, or to be stored first, is Outbound's."""

    __slots__ = ("_counters", "_outbound", "_random", "_settings", "_trace", "_wall", "reached")

    def __init__(
        self,
        settings: MqttSettings,
        *,
        outbound: Outbound,
        wall: Callable[[], float],
        random: Callable[[], float],
        counters: MqttCounters,
        trace: TopicTrace,
    ) -> None:
        """`random` in [0, 1) chooses among shared subscribers."""
        self.reached = 0
        """Receivers of all messages so far."""
        self._settings = settings
        self._outbound = outbound
        self._wall = wall
        self._random = random
        self._counters = counters
        self._trace = trace

    def deliver(self, pub: Publication, plan: Plan[Receiver]) -> None:
        """To all of a plan at once."""
        for group in tuple(plan.groups):
            # A copy: what happens to a receiver may change who they are.
            receivers = tuple(group.receivers)
            if self._trace.watched:
                self._to_watched(pub, group, receivers)
            else:
                self._to_group(pub, group, receivers)
        if plan.shared:
            self._to_shared(pub, plan.shared)
        self.reached += pub.reached

    def deliver_in_slices(self, pub: Publication, plan: Plan[Receiver], size: int) -> Iterator[int]:
        """To all of a plan, about `size` in each step; how many it has served. A group of shared subscribers counts as
        SHARED."""
        for group, receivers in [(group, iter(list(group.receivers))) for group in plan.groups]:
            while part := list(islice(receivers, size)):
                self._to_group(pub, group, part)
                yield len(part)
        shared = iter(tuple(plan.shared))
        while groups := list(islice(shared, size // SHARED)):
            self._to_shared(pub, groups)
            yield len(groups) * SHARED
        self.reached += pub.reached

    def to_only(self, message: Message, group: Group[Receiver], session: Receiver) -> bool:
        """The short way to the only receiver of a topic; False, and nothing done, when it needs the long one."""
        outlet = session.outlet
        qos, most = message.qos, group.qos
        qos = qos if qos < most else most
        if (
            outlet is None
            or type(session) is not MqttSession
            or not session.window
            or session.aliases is not None
            or session.max_packet
            or group.no_local
        ):
            return False
        if qos and (session.durable or session.parked is not None or len(session.inflight) >= session.window):
            return False
        if outlet.buffered > (self._outbound.max_buffer if qos else self._settings.max_qos0_buffer):
            return False
        payload = message.payload
        self.reached += 1
        counters = self._counters
        counters.sent_bytes += len(payload)
        if qos == 1:
            counters.sent_qos1 += 1
        elif qos:
            counters.sent_qos2 += 1
        else:
            counters.sent_qos0 += 1
        v5 = session.v5
        if v5 and (message.properties or message.expires_at is not None or group.identifiers):
            head, tail = publish_parts(
                message.topic,
                payload,
                V5,
                qos=qos,
                retain=False,
                properties=properties_at(message, self._wall()),
                identifiers=group.identifiers,
            )
            outlet.put(head + PACKET_IDS[session.allocate(qos)] + tail if qos else head)
            return True
        packet_id = PACKET_IDS[session.allocate(qos)] if qos else b""
        outlet.put(publish_frame(message.topic, payload, V5 if v5 else V311, qos << 1, packet_id))
        return True

    def _to_watched(self, pub: Publication, group: Group[Receiver], receivers: Iterable[Receiver]) -> None:
        """As _to_group, while somebody watches topics: what became of the message at each receiver."""
        for receiver in receivers:
            reached, waiting = pub.reached, len(pub.targets)
            parked = len(receiver.parked or ()) if isinstance(receiver, MqttSession) else 0
            self._to_group(pub, group, (receiver,))
            if pub.reached == reached:
                event = "dropped"
            elif len(pub.targets) > waiting:
                event = "queued" if pub.targets[-1][1] is None else "delivered"
            else:
                still = len(receiver.parked or ()) if isinstance(receiver, MqttSession) else 0
                event = "queued" if still > parked else "delivered"
            self._trace.tell(pub.message, event, client=receiver.client_id)

    def _to_group(self, pub: Publication, group: Group[Receiver], receivers: Iterable[Receiver]) -> None:
        """Send to receivers with the same options.
        The first branches are those of devices that are connected and read."""
        message = pub.message
        qos = group.qos if group.qos < message.qos else message.qos
        retain = message.retain and group.retain_as_published
        identifiers = group.identifiers
        publisher = message.publisher if group.no_local else None
        if qos:
            self._to_group_reliably(pub, group, receivers, qos)
            return
        send = self._outbound.send
        limit = self._settings.max_qos0_buffer
        newer: bytes | None = None
        older: bytes | None = None
        sent = 0
        for receiver in receivers:
            outlet = receiver.outlet
            if receiver.client_id == publisher:
                continue
            if outlet is None:
                if type(receiver) is LocalReceiver:
                    self._to_local(pub, receiver, qos, retain)
                continue
            assert type(receiver) is MqttSession
            if receiver.aliases is not None or receiver.max_packet or not receiver.window or outlet.buffered > limit:
                send(pub, receiver, 0, retain, identifiers)
                continue
            if receiver.v5:
                if newer is None:
                    newer = pub.parts(True, 0, retain, identifiers)[0]
                outlet.put(newer)
            else:
                if older is None:
                    older = pub.parts(False, 0, retain, ())[0]
                outlet.put(older)
            sent += 1
        pub.reached += sent
        self._counters.sent_qos0 += sent
        self._counters.sent_bytes += sent * len(message.payload)

    def _to_group_reliably(
        self, pub: Publication, group: Group[Receiver], receivers: Iterable[Receiver], qos: int
    ) -> None:
        """QoS 1 and 2: those with room are sent it at once, the others as Outbound sees fit."""
        message = pub.message
        retain = message.retain and group.retain_as_published
        identifiers = group.identifiers
        publisher = message.publisher if group.no_local else None
        max_buffer = self._outbound.max_buffer
        newer: Parts | None = None
        older: Parts | None = None
        sent = 0
        for receiver in receivers:
            if receiver.client_id == publisher:
                continue
            if type(receiver) is not MqttSession:
                self._to_local(pub, receiver, qos, retain)
                continue
            outlet = receiver.outlet
            if (
                outlet is None
                or receiver.durable
                or receiver.parked is not None
                or receiver.aliases is not None
                or receiver.max_packet
                or len(receiver.inflight) >= receiver.window
                or outlet.buffered > max_buffer
            ):
                self._outbound.send(pub, receiver, qos, retain, identifiers)
                continue
            if receiver.v5:
                if newer is None:
                    newer = pub.parts(True, qos, retain, identifiers)
                head, tail = newer
            else:
                if older is None:
                    older = pub.parts(False, qos, retain, ())
                head, tail = older
            outlet.put(head + PACKET_IDS[receiver.allocate(qos)] + tail)
            sent += 1
        pub.reached += sent
        if qos == 1:
            self._counters.sent_qos1 += sent
        else:
            self._counters.sent_qos2 += sent
        self._counters.sent_bytes += sent * len(message.payload)

    def _to_local(self, pub: Publication, receiver: Receiver, qos: int, retain: bool) -> None:
        pub.reached += 1
        assert isinstance(receiver, LocalReceiver)
        receiver.deliver(pub.message, qos, retain)

    def _to_shared(self, pub: Publication, groups: Iterable[SharedGroup[Receiver]]) -> None:
        """To one member of each group of shared subscribers (section 4.8.2)."""
        message = pub.message
        strategy = self._settings.shared_strategy
        key = message.publisher if strategy == "hash_client" else message.topic
        for shared in groups:
            receiver = shared.choose(strategy, key, _usable, random=self._random, allow_unusable=True)
            if receiver is None:
                continue
            options = shared.options(receiver)
            qos = min(options.qos, message.qos)
            retain = message.retain and options.retain_as_published
            if isinstance(receiver, MqttSession):
                identifiers = (options.identifier,) if options.identifier else ()
                self._outbound.send(pub, receiver, qos, retain, identifiers)
            else:
                self._to_local(pub, receiver, qos, retain)


def _usable(receiver: Receiver) -> bool:
    if isinstance(receiver, LocalReceiver):
        return True
    return receiver.outlet is not None and len(receiver.inflight) < receiver.window and receiver.parked is None
