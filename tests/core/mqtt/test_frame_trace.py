"""What a trace shows of packets: enough to follow a message, never its payload."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.mqtt import frame_trace
from protocols.mqtt.encoding import encode, publish_parts
from protocols.mqtt.packets import V5, V31, V311, Pingresp, Publish, Subscribe, SubscriptionRequest

OUT = {"kind": "frame", "direction": "out", "frame": "publish"}


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_messages_that_go_out_show_their_topic(version: int) -> None:
    frame = encode(Publish("sensors/1", b"secret", 2, retain=True, dup=True, packet_id=7), version)
    more = {"topic": "sensors/1", "qos": 2, "bytes": 6, "retain": True, "dup": True, "id": 7}
    assert frame_trace.sent(frame, version, None) == OUT | more
    plain = frame_trace.sent(encode(Publish("t", b"", 0), version), version, None)
    assert plain == OUT | {"topic": "t", "qos": 0, "bytes": 0}


def test_a_topic_that_stands_behind_an_alias() -> None:
    def frame(with_topic: bool) -> bytes:
        more: Any = {"qos": 0, "retain": False, "alias": 3, "with_topic": with_topic}
        return publish_parts("sensors/1", b"x", V5, properties={}, identifiers=(), **more)[0]

    aliases = {3: "sensors/1"}
    for with_topic in (True, False):
        shown = frame_trace.sent(frame(with_topic), V5, aliases)
        assert shown == OUT | {"topic": "sensors/1", "qos": 0, "bytes": 1, "alias": 3}


def test_other_packets_and_what_is_none() -> None:
    assert frame_trace.sent(encode(Pingresp(), V5), V5, None)["frame"] == "pingresp"
    assert "unclear" in frame_trace.sent(b"\x30\x05\0", V5, None)
    assert frame_trace.received(Publish("t", b"secret", 1, packet_id=4)) == {
        "kind": "frame", "direction": "in", "frame": "publish", "topic": "t", "qos": 1, "bytes": 6, "id": 4,
    }  # fmt: skip
    assert frame_trace.received(Subscribe(1, [SubscriptionRequest("a/#")]))["filters"] == ["a/#"]
