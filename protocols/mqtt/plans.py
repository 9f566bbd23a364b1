"""Who gets the messages of a topic: the receivers of all filters that match it, each once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from itertools import filterfalse
from typing import Generic, TypeVar

from protocols.mqtt.groups import FilterNode, Group
from protocols.mqtt.shared import Options, SharedGroup

R = TypeVar("R", bound=Hashable)


class Plan(Generic[R]):
    """The receivers of a topic, for all topics that match the same filters.

    With one filter the lists are those of the filter itself: nothing is rebuilt when receivers come and go. With
    several, the receivers of the largest filter stay where they are and only the others are merged.
    """

    __slots__ = ("_overlap", "_stamp", "groups", "merged", "nodes", "several", "shared", "topics")

    def __init__(self, nodes: tuple[FilterNode[R], ...]) -> None:
        self.nodes = nodes
        self.groups: list[Group[R]] = []
        """Each receiver is in one of them. Live, like their receivers: whoever may change subscriptions on the way goes
        through copies."""
        self.shared: list[SharedGroup[R]] = []
        """Each gives the message to one of its members (section 4.8.2)."""
        self.merged = 0
        """Receivers that this plan itself has in memory."""
        self.topics = 0
        """Topics that are cached with it."""
        self._overlap = 0
        self._stamp = -1
        self.several = len(nodes) > 1
        """It is merged, and has to be merged again now and then."""
        if len(nodes) == 1:
            self.groups, self.shared = nodes[0].groups, nodes[0].shared

    @property
    def receiver_count(self) -> int:
        """Receivers in `groups`, without going through them; shared groups are one more each."""
        return sum(node.count for node in self.nodes) - self._overlap

    @property
    def only(self) -> R | None:
        """The receiver, when there is but one, and no shared group; it is that of the only group then."""
        groups = self.groups
        if len(groups) == 1 and not self.shared:
            receivers = groups[0].receivers
            if len(receivers) == 1:
                for receiver in receivers:
                    return receiver
        return None

    @property
    def fresh(self) -> bool:
        """False when a merged plan has to be merged again."""
        return not self.several or sum([node.version for node in self.nodes]) == self._stamp

    def merge(self) -> None:
        """Merge the receivers of several filters anew (section 3.3.4: overlapping subscriptions)."""
        nodes = self.nodes
        self._stamp = sum([node.version for node in nodes])
        self.shared = [shared for node in nodes for shared in node.shared]
        base = max(nodes, key=_count)
        asked: dict[R, list[Options]] = {}
        for node in nodes:
            if node is not base:
                for receiver, options in node.subscribers():
                    asked.setdefault(receiver, []).append(options)
        total = sum(len(several) for several in asked.values())
        self.merged = len(asked)
        left_out: dict[Group[R], set[R]] = {}
        for receiver, several in asked.items():
            there = base.group_of(receiver)
            if there is not None:
                left_out.setdefault(there, set()).add(receiver)
                several.append(there.options)
        self._overlap = total - len(asked) + sum(map(len, left_out.values()))
        if not asked:
            self.groups = base.groups
            return
        alike: dict[tuple[int, bool, bool, tuple[int, ...]], dict[R, None]] = {}
        for receiver, several in asked.items():
            alike.setdefault(_combine(several), {})[receiver] = None
        self.groups = [Group(*options, receivers) for options, receivers in alike.items()]
        for group in base.groups:
            without = left_out.get(group)
            if without is None:
                self.groups.append(group)
            elif len(without) < len(group.receivers):
                self.groups.append(_but(group, without))


class AllBut(Collection[R]):
    """The receivers of a group without some of them; the group stays the only one that holds them."""

    __slots__ = ("_all", "_without")

    def __init__(self, everyone: Collection[R], without: set[R]) -> None:
        self._all = everyone
        self._without = without

    def __len__(self) -> int:
        return len(self._all) - len(self._without)

    def __iter__(self) -> Iterator[R]:
        return filterfalse(self._without.__contains__, self._all)

    def __contains__(self, receiver: object) -> bool:
        return receiver in self._all and receiver not in self._without


def _but(group: Group[R], without: set[R]) -> Group[R]:
    receivers = AllBut(group.receivers, without)
    return Group(group.qos, group.no_local, group.retain_as_published, group.identifiers, receivers)


def _count(node: FilterNode[R]) -> int:
    return node.count


def _combine(several: list[Options]) -> tuple[int, bool, bool, tuple[int, ...]]:
    if len(several) == 1:
        qos, no_local, retain_as_published, identifier = several[0]
        return qos, no_local, retain_as_published, (identifier,) if identifier else ()
    return (
        max(options.qos for options in several),
        all(options.no_local for options in several),
        any(options.retain_as_published for options in several),
        tuple(sorted({options.identifier for options in several if options.identifier})),
    )
