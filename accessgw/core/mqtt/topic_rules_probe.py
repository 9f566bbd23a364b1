"""Measures the topic rules by themselves, in microseconds, as JSON.

`python -m accessgw.core.mqtt.topic_rules_probe [--seed n]`
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from time import process_time

from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import TopicRuleSettings
from accessgw.policy.topic_rules import TopicRules

RULES = 10_000
PEOPLE = RULES // 4
CHECKS = 20_000


def main() -> None:
    """Print one object per kind of rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    dice = random.Random(parser.parse_args().seed)
    print(json.dumps({name: measure(make, topic, dice) for name, (make, topic) in CASES.items()}))


def measure(
    make: Callable[[int], TopicRuleSettings], topic: Callable[[int], str], dice: random.Random
) -> dict[str, float]:
    """What it takes to compile the rules, and to check for many identities in random order."""
    begin = process_time()
    rules = TopicRules([make(number) for number in range(RULES)], "deny")
    compiled = process_time()
    people = [
        Identity(f"fleet{number}-{number}", user=f"u{number}", app="app", attributes={"tenant": f"t{number}"})
        for number in range(PEOPLE)
    ]
    numbers = [dice.randrange(PEOPLE) for _ in range(CHECKS)]
    publishes = [(people[number], topic(number)) for number in numbers]
    subscribes = [(identity, name.rpartition("/")[0] + "/#") for identity, name in publishes]
    ready = process_time()
    for identity, name in publishes:
        rules.check_publish(identity, name, 1)
    published = process_time()
    for identity, name in subscribes:
        rules.check_subscribe(identity, name)
    return {
        "compile_us": (compiled - begin) * 1e6,
        "publish_us": (published - ready) / CHECKS * 1e6,
        "subscribe_us": (process_time() - published) / CHECKS * 1e6,
    }


def _mixed_rule(number: int) -> TopicRuleSettings:
    kind, who = number % 4, number // 4
    if kind == 0:
        return TopicRuleSettings(topics=(f"home/{who}/#",), user=f"u{who}")
    if kind == 1:
        return TopicRuleSettings(topics=("site/{device}/#",), device=f"fleet{who}-*")
    if kind == 2:
        return TopicRuleSettings(topics=(f"site/{who}/+/secret",), permit="deny")
    return TopicRuleSettings(topics=(f"tenant/{who}/#",), attributes={"tenant": f"t{who}"})


def _mixed_topic(who: int) -> str:
    return (f"home/{who}/lamp", f"site/fleet{who}-{who}/a", f"site/{who}/a/secret", f"tenant/{who}/b")[who % 4]


CASES: dict[str, tuple[Callable[[int], TopicRuleSettings], Callable[[int], str]]] = {
    "by topic": (
        lambda number: TopicRuleSettings(topics=(f"site/{number}/+/state",)),
        lambda who: f"site/{who}/x/state",
    ),
    "by user": (
        lambda number: TopicRuleSettings(topics=(f"home/{number}/#",), user=f"u{number}"),
        lambda who: f"home/{who}/kitchen/lamp",
    ),
    "mixed": (_mixed_rule, _mixed_topic),
}


if __name__ == "__main__":
    main()
