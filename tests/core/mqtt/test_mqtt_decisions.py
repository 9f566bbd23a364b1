"""What the log says of the decisions of topic rules."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.mqtt.services import DENIED_PER_SECOND, MqttServices
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import MqttSettings, TopicRuleSettings
from accessgw.policy.topic_rules import TopicRules

ALICE = Identity(device="d1", user="alice")
RULES = (TopicRuleSettings(topics=("open/#",)), TopicRuleSettings(permit="deny", topics=("shut/#",)))


@pytest.fixture
def said():
    lines: list[str] = []

    def observe(event):
        if event.get("log_namespace") == "accessgw.core.mqtt.services":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def services(what: str) -> MqttServices:
    found = MqttServices.__new__(MqttServices)
    found.settings = MqttSettings(acl=RULES, acl_default="deny", acl_log=what)
    found.access = TopicRules(RULES, "deny")
    found.counters, found.clock = MqttCounters(), Clock()
    found.log_second, found.logged = -1, 0
    return found


def ask(found: MqttServices) -> None:
    for topic in ("open/1", "shut/1", "other/1"):
        decision = found.may_publish(ALICE, topic, 1, False)
        if not decision.allowed:
            found.denied("publish", ALICE, topic, decision)
    if found.may_subscribe(ALICE, "open/#").allowed:
        found.denied("publish", ALICE, "$SYS/x")


REFUSED = [
    "denied: d1 (user alice) may not publish shut/1: mqtt.acl[1]",
    "denied: d1 (user alice) may not publish other/1: mqtt.acl_default",
    "denied: d1 (user alice) may not publish $SYS/x: the topic is the gateway's own",
]


@pytest.mark.parametrize("what", ["none", "denied", "all"])
def test_each_decision_has_one_line_that_names_the_rule(said, what):
    found = services(what)
    ask(found)
    assert found.counters.denied == {"publish": 3}
    assert [line for line in said if line.startswith("denied")] == (REFUSED if what != "none" else [])
    allowed = [line for line in said if line.startswith("allowed")]
    assert allowed == (
        [
            "allowed: d1 (user alice) may publish open/1: mqtt.acl[0]",
            "allowed: d1 (user alice) may subscribe open/#: mqtt.acl[0]",
        ]
        if what == "all"
        else []
    )


def test_a_flood_of_refusals_is_summed_up(said):
    found = services("denied")
    for _ in range(DENIED_PER_SECOND + 7):
        found.denied("publish", ALICE, "x")
    assert len(said) == DENIED_PER_SECOND
    found.clock.advance(1)
    found.denied("publish", ALICE, "x")
    assert said[DENIED_PER_SECOND] == "denied: 7 more, without a line each" and len(said) == DENIED_PER_SECOND + 2
