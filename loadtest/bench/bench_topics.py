"""Microseconds of what MQTT's topics cost: subscriptions, plans, topic rules, retained messages.

usage: make bench-topics [JSON=path] [SEED=n]      bounds itself: about 15 seconds

Without any network or disk: 100,000 filters (a third exact, a third with +, a third with #), one filter with 100,000
receivers, 10,000 retained messages, and 10,000 rules of the ACL, which `python -m accessgw.core.mqtt.topic_rules_probe`
measures in a process of its own. CPU time, the median of several rounds.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any

from loadtest.bench.report import Report, arguments
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.retained import RetainedStore
from protocols.mqtt.shared import Options, SharedGroup
from protocols.mqtt.topics import TopicTree

ROUNDS = 5


@dataclass(eq=False, slots=True)
class Retained:
    topic: str
    payload: bytes
    expires_at: float | None = None


def main() -> None:
    parser = arguments(__doc__ or "")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    report = Report("MQTT topics")
    subscriptions(report, dice)
    rules(report, options.seed)
    retained(report, dice)
    report.print()
    if options.json:
        report.write(options.json)


def measure(call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> float:
    """Microseconds of one call, the median of rounds through equal parts of the arguments."""
    every = list(arguments)
    size = len(every) // ROUNDS
    found = []
    for number in range(ROUNDS):
        part = every[number * size : (number + 1) * size]
        begin = process_time()
        for some in part:
            call(*some)
        found.append((process_time() - begin) / size * 1e6)
    return statistics.median(found)


def filter_of(number: int) -> str:
    return ("site/{}/line/state", "site/{}/+/state", "site/{}/alarm/#")[number % 3].format(number)


def subscriptions(report: Report, dice: random.Random) -> None:
    def add(case: str, call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], note: str = "") -> None:
        report.add(case, "topics", measure(call, arguments), "us", note)

    tree: TopicTree[object] = TopicTree()
    everyone = [object() for _ in range(1000)]
    asked = [(dice.choice(everyone), SubscriptionRequest(filter_of(number), 1)) for number in range(100_000)]
    add("subscribe, new filter", tree.subscribe, asked, "up to 100,000 filters")
    topics = [
        (f"site/{number}/{dice.choice(('line/state', 'x/state', 'alarm/a/b'))}",)
        for number in dice.sample(range(100_000), 50_000)
    ]
    add("plan, topic not seen before", tree.plan, topics, "cache of 10,000 full")
    add("plan, cached", tree.plan, topics[-5000:] * 20)
    add("unsubscribe, filter vanishes", tree.unsubscribe, [(who, some.filter) for who, some in asked[:50_000]])

    crowd = [object() for _ in range(100_000)]
    news = SubscriptionRequest("news/#", 1)
    add("subscribe, the same filter", tree.subscribe, [(who, news) for who in crowd], "up to 100,000 receivers")
    churn = [(who, news) for who in dice.sample(crowd, 10_000)]

    def come_and_go(who: object, request: SubscriptionRequest) -> None:
        tree.unsubscribe(who, "news/#")
        tree.plan("news/today")
        tree.subscribe(who, request)
        tree.plan("news/today")

    add("leave, plan, come, plan", come_and_go, churn, "one filter of 100,000 receivers")
    tree.subscribe(everyone[0], SubscriptionRequest("news/today", 2))
    add("leave, plan, come, plan", come_and_go, churn[:5000], "that filter and one of 1 receiver")
    plan = tree.plan("news/today")

    def walk() -> None:
        for group in plan.groups:
            for _ in list(group.receivers):
                pass

    report.add("walk through 100,001 receivers", "topics", measure(walk, [()] * 10) / 100_001, "us", "per receiver")

    everything = SubscriptionRequest("#", 0)
    for topic in topics:
        tree.plan(*topic)

    def first_of_all() -> None:
        tree.subscribe(everyone[0], everything)
        tree.unsubscribe(everyone[0], "#")
        tree.plan("news/today")

    report.add(
        "first subscriber of # comes and goes",
        "topics",
        measure(first_of_all, [()] * 5),
        "us",
        "10,000 topics go stale",
    )

    group: SharedGroup[object] = SharedGroup("g", "f")
    for who in everyone:
        group.add(who, Options(1))
    for strategy in ("round_robin", "sticky", "hash_topic", "random"):
        choose = partial(group.choose, strategy, usable=bool, random=dice.random)
        add("choose a member of 1,000", choose, topics[:20_000], strategy)


def rules(report: Report, seed: int) -> None:
    """The gateway's own part is measured in a process of its own."""
    command = [sys.executable, "-m", "accessgw.core.mqtt.topic_rules_probe", "--seed", str(seed)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for name, values in found.items():
        report.add("compile 10,000 rules", name, values["compile_us"], "us")
        report.add("check a publish, 10,000 rules", name, values["publish_us"], "us", "2,500 identities in turn")
        report.add("check a subscribe, 10,000 rules", name, values["subscribe_us"], "us", "2,500 identities in turn")


def retained(report: Report, dice: random.Random) -> None:
    store: RetainedStore[Retained] = RetainedStore()
    messages = [(Retained(f"d/{number}/state", b"x" * 100, 1e9 + number),) for number in range(10_000)]
    dice.shuffle(messages)
    report.add("set, new topic", "retained", measure(store.set, messages), "us", "up to 10,000")
    report.add("set, known topic", "retained", measure(store.set, messages), "us")
    for filter in ("d/+/state", "#"):
        taken = measure(lambda asked: sum(1 for _ in store.match(asked, 0.0)), [(filter,)] * 10) / 10_000
        report.add(f"match {filter}", "retained", taken, "us", "per message, of 10,000")
    begin = measure(lambda: next(store.match("d/+/state", 0.0)), [()] * 50)
    report.add("first message of a match", "retained", begin, "us", "of 10,000")
    report.add("match one topic", "retained", measure(lambda: list(store.match("d/77/state", 0.0)), [()] * 5000), "us")
    report.add("page of 100", "retained", measure(lambda: store.page("#", "d/5", 100, 0.0), [()] * 100), "us")
    begin = process_time()
    while store.sweep(3e9, 1000):
        pass
    report.add("sweep", "retained", (process_time() - begin) / 10_000 * 1e6, "us", "per message, in batches of 1,000")


if __name__ == "__main__":
    main()
