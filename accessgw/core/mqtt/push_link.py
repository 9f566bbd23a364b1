"""Pushes of the gateway's streams over MQTT: each a PUBLISH of QoS 1 on a topic of its own; PUBACK moves the cursor."""

from __future__ import annotations

from typing import Any

from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.mqtt.connection_state import MqttConnection
from accessgw.core.mqtt.publication import PACKET_IDS, Parts
from accessgw.core.mqtt.session import PUSH, MqttSession
from accessgw.core.registry import DeviceSession
from accessgw.model.pushes import StreamKey
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.encoding import publish_parts
from protocols.mqtt.packets import NO_PROPERTIES, V5, V311, Property


class PushLink(MqttConnection):
    """A connection as a Link of the gateway's session."""

    __slots__ = ()

    def _admit_pushes(self) -> None:
        """There may be room for those that were refused."""
        self._push_waits = False
        if self._device is not None and self._device.link is self:
            self._services.pushes.writable(self._device)

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        """A push names its stream itself."""

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        session = self.session
        services = self._services
        if session is None or self._closed or not services.settings.push_topic:
            return False
        if len(session.inflight) >= session.window or self.buffered > services.outbound.max_buffer:
            self._push_waits = True
            return False
        head, tail = self._push_parts(push, session.v5)
        if session.max_packet and len(head) + 2 + len(tail) > session.max_packet:
            # It will never fit: the device is as if it had got it (section 3.1.2.11.4).
            services.counters.drop("too_large")
            services.clock.callLater(0, self._push_skipped, push.alias, push.seq)
            return True
        packet_id = session.allocate(PUSH)
        if session.pushes is NOTHING:
            session.pushes = {}
        session.pushes[packet_id] = (push.alias, push.seq)
        services.counters.sent_qos1 += 1
        services.counters.sent_bytes += len(push.body)
        self.put(head + PACKET_IDS[packet_id] + tail)
        return True

    def _push_skipped(self, alias: int, seq: int) -> None:
        if self._device is not None and self._device.link is self:
            self._services.pushes.acked(self._device, [(alias, seq)])

    def _push_parts(self, push: OutgoingPush, v5: bool) -> Parts:
        """Encoded once for all that speak the same version."""
        parts: Parts | None = push.encodings.get(("mqtt", v5))
        if parts is None:
            stream = push.stream
            properties: dict[int, Any] = {
                Property.USER_PROPERTY: [
                    ("scope", stream.scope.value),
                    ("stream", stream.id),
                    ("epoch", str(push.epoch)),
                    ("seq", str(push.seq)),
                ]
            }
            if push.ttl is not None:
                properties[Property.MESSAGE_EXPIRY] = max(1, round(push.ttl))
            topic = self._services.settings.push_topic.replace("{biz}", stream.biz)
            parts = push.encodings[("mqtt", v5)] = publish_parts(
                topic,
                push.body,
                V5 if v5 else V311,
                qos=1,
                retain=False,
                properties=properties if v5 else NO_PROPERTIES,
            )
        return parts

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        """MQTT has no word for it: the epoch and the sequence numbers of pushes tell."""

    def _attach(self, _: None, device: DeviceSession, session: MqttSession) -> None:
        """What was in flight is known, so that pushes take no packet id of it."""
        if not self._closed and session.outlet is self:
            self._services.pushes.attach(device, [], passing=not session.durable)

    def _push_acked(self, session: MqttSession, packet_id: int) -> None:
        place = session.pushes.pop(packet_id)
        session.inflight.pop(packet_id, None)
        if self._device is not None and self._device.link is self:
            self._services.pushes.acked(self._device, [place])
        self._services.outbound.pull(session)
