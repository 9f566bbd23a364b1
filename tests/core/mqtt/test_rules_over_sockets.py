"""Rules against a real server that fails now and then."""

from __future__ import annotations

import json
import random
from typing import Any

from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.mqtt.rules import ServiceRules
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import MessageRuleSettings
from accessgw.model.route_settings import ClusterSettings
from accessgw.upstreams.client import HttpUpstreams
from protocols.mqtt.packets import Property
from tests.reactor_loop import run
from tests.upstreams import hostile_servers as servers

CLIENTS, MESSAGES = 20, 100


class Clumsy(servers.Handler):
    """Keeps what it gets; every fifth POST of a list is kept and then answered with 500."""

    lists: list[Any] = []
    raw: list[Any] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/raw":
            self.raw.append((dict(self.headers), body))
        else:
            self.lists.append(json.loads(body))
        status = 500 if self.path != "/raw" and len(self.lists) % 5 == 0 else 204
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


async def deliver(reactor: Any) -> dict[str, Any]:
    endpoint, _ = servers.http_server(Clumsy)
    upstreams = HttpUpstreams(
        reactor, [ClusterSettings(name="c", endpoints=(endpoint,))], random=random.Random(1).random, counters={}
    )
    upstreams.start()
    counters = MqttCounters()
    rules = ServiceRules(
        [
            MessageRuleSettings(name="all", topics=("m/#",), cluster="c", path="/list", batch=50, concurrency=4),
            MessageRuleSettings(name="one", topics=("m/0",), cluster="c", path="/raw", format="raw"),
        ],
        upstreams, clock=reactor, timers=TimingWheel(reactor), counters=counters, wall=lambda: 1.7e9,
        random=lambda: 0.01,
    )  # fmt: skip
    properties = {Property.CONTENT_TYPE: "text/plain", Property.USER_PROPERTY: [("名", "é\r\n")]}
    for number in range(MESSAGES):
        for client in range(CLIENTS):
            identity = Identity(device=f"d{client}", user="名")
            taken = rules.offer(
                Message(f"m/{client}", b"%d" % number, qos=1, properties=properties, publisher=f"d{client}",
                        identity=identity)
            )  # fmt: skip
            assert taken == 0
    await rules.close(30)
    return {
        "lists": Clumsy.lists, "raw": Clumsy.raw, "delivered": counters.rule_delivered,
        "dropped": counters.rule_dropped, "failed": counters.rule_failed, "queued": counters.rule_queued,
    }  # fmt: skip


def test_every_message_arrives_in_the_order_of_its_publisher() -> None:
    found = run(deliver)
    assert found["delivered"] == {"all": CLIENTS * MESSAGES, "one": MESSAGES}
    assert found["dropped"] == {"all": 0, "one": 0}
    assert found["queued"] == {"all": 0, "one": 0}
    assert found["failed"]["all"] > 0
    seen: dict[str, list[int]] = {}
    for batch in found["lists"]:
        for message in batch:
            numbers = seen.setdefault(message["client"], [])
            if message["seq"] not in numbers:
                numbers.append(message["seq"])
            assert message["payload"] == str(message["seq"] - 1)
    assert seen == {f"d{client}": list(range(1, MESSAGES + 1)) for client in range(CLIENTS)}
    assert [body for _, body in found["raw"]] == [b"%d" % number for number in range(MESSAGES)]
    headers = found["raw"][0][0]
    assert headers["x-user-id"] == "%E5%90%8D"
    assert headers["x-mqtt-user-property"] == "%E5%90%8D=%C3%A9%0D%0A"
    assert headers["content-type"] == "text/plain"
