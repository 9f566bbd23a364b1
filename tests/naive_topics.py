"""What topic filters mean, in the plainest words: tests compare the quick ways with it."""

from __future__ import annotations

from itertools import product


def matches(filter: str, topic: str) -> bool:
    """Whether a message of the topic is for the filter."""
    if topic.startswith("$") and filter[0] in "+#":
        return False
    return _matches(filter.split("/"), topic.split("/"))


def _matches(filter: list[str], topic: list[str]) -> bool:
    if filter == ["#"]:
        return True
    if not filter or not topic:
        return not filter and not topic
    return filter[0] in ("+", topic[0]) and _matches(filter[1:], topic[1:])


def all_topics(levels: tuple[str, ...], depth: int) -> list[str]:
    """Every topic of at most `depth` levels out of these."""
    found = ["/".join(some) for size in range(1, depth + 1) for some in product(levels, repeat=size)]
    return [topic for topic in found if topic]


def all_filters(levels: tuple[str, ...], depth: int) -> list[str]:
    """Every filter of at most `depth` levels out of these and wildcards."""
    found = []
    for size in range(1, depth + 1):
        for some in product((*levels, "+", "#"), repeat=size):
            if "#" not in some[:-1]:
                found.append("/".join(some))
    return [filter for filter in found if filter]
