"""Subscriptions by topic filter, and a cached plan per topic of who gets its messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from protocols.mqtt.groups import FilterNode, Group
from protocols.mqtt.ordered import OrderedNames
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.plans import Plan
from protocols.mqtt.shared import Options, SharedGroup
from protocols.mqtt.topic_index import LOOK, TopicIndex

__all__ = ["Entry", "Group", "Options", "Plan", "SharedGroup", "TopicTree"]

R = TypeVar("R", bound=Hashable)

MANY_STALE = 256
"""Past so many topics that a new or vanished filter matches, all cached plans go."""

VAIN_LOOK = 16
"""Of those, what looking at LOOK topics costs that the filter does not match."""

_SHARE = "$share/"


class Entry(NamedTuple):
    """One filter of a listing; that of a shared subscription as it was asked for, `$share/{group}/{filter}`."""

    filter: str
    subscribers: int


class _Branch(Generic[R]):
    """One level of the filters with wildcards."""

    __slots__ = ("below", "node", "plus", "rest")

    def __init__(self) -> None:
        self.below: dict[str, _Branch[R]] | None = None
        self.plus: _Branch[R] | None = None
        self.node: FilterNode[R] | None = None
        """Of the filter that ends here."""
        self.rest: FilterNode[R] | None = None
        """Of the filter that goes on with `#`."""

    @property
    def empty(self) -> bool:
        return not (self.below or self.plus or self.node or self.rest)


class TopicTree(Generic[R]):
    """Who subscribes to what (sections 3.8.4, 3.10.4, 4.7).

    Receivers are any hashable objects that are equal only to themselves. Filters and topics must have been checked:
    see `protocols.mqtt.names`. Filters without wildcards are in a dict, the others in a tree by levels; matching visits
    no more than the tree's own branches at each level of the topic, whatever the filters look like.

    The plans of the `max_plans` topics published to most lately for the first time are kept. A new or vanished filter
    makes the plans of those topics stale that it matches (of all when they are many); receivers that come to or leave a
    filter only make merged plans stale. Plans together merge at most about `max_merged` receivers; past it the oldest
    topics go.
    """

    def __init__(self, max_plans: int = 10_000, max_merged: int = 1_000_000) -> None:
        if max_plans < 1:
            raise ValueError(f"max_plans must be at least 1, got {max_plans}")
        self.visited = 0
        """Branches and filters looked at so far to subscribe, unsubscribe and plan; for measurements."""
        self._max_plans = max_plans
        self._max_merged = max_merged
        self._exact: dict[str, FilterNode[R]] = {}
        self._root: _Branch[R] = _Branch()
        self._nodes: dict[str, FilterNode[R]] = {}
        """Filters with wildcards."""
        self._shared: dict[str, SharedGroup[R]] = {}
        """By `$share/{group}/{filter}`."""
        self._names = OrderedNames()
        self._count = 0
        # None: known to the index, but stale.
        self._plans: OrderedDict[str, Plan[R] | None] = OrderedDict()
        self._topics = TopicIndex()
        self._by_nodes: dict[tuple[FilterNode[R], ...], Plan[R]] = {}
        self._merged = 0

    def __len__(self) -> int:
        """Subscriptions."""
        return self._count

    @property
    def shared_groups(self) -> int:
        """Groups of shared subscribers, one for each `$share/{group}/{filter}`."""
        return len(self._shared)

    @property
    def merged(self) -> int:
        """Receivers held by merged plans."""
        return self._merged

    @property
    def cached(self) -> int:
        """Topics whose plans are kept, stale ones too."""
        return len(self._plans)

    # ------------------------------------------------------------------ subscriptions

    def subscribe(self, receiver: R, request: SubscriptionRequest, identifier: int = 0) -> bool:
        """Add the subscription, or replace the receiver's one to the same filter (True; section 3.8.4)."""
        asked = request.filter
        options = Options(request.qos, request.no_local, request.retain_as_published, identifier)
        if asked.startswith(_SHARE):
            replaced = self._subscribe_shared(receiver, asked, options)
        else:
            node = self._find(asked)
            if node is None:
                node = self._make(asked)
            if not node.count:
                self._names.add(asked)
            replaced = node.add(receiver, options)
        if not replaced:
            self._count += 1
        return replaced

    def unsubscribe(self, receiver: R, filter: str) -> bool:
        """Remove the receiver's subscription to this very filter; False when there was none (section 3.10.4)."""
        if filter.startswith(_SHARE):
            removed = self._unsubscribe_shared(receiver, filter)
        else:
            node = self._find(filter)
            removed = node is not None and node.remove(receiver)
            if node is not None and removed and not node.count:
                self._names.remove(filter)
                self._drop_if_empty(node)
        if removed:
            self._count -= 1
        return removed

    def subscribers(self, filter: str) -> Iterator[tuple[R, Options]]:
        """Who subscribes to this very filter (`$share/{group}/{filter}`: the members), with their options."""
        if filter.startswith(_SHARE):
            shared = self._shared.get(filter)
            return iter(()) if shared is None else ((member, shared.options(member)) for member in shared)
        node = self._find(filter)
        return iter(()) if node is None else node.subscribers()

    def entries(self, after: str = "", limit: int = 100) -> list[Entry]:
        """The filters > `after` in order, at most `limit` of them."""
        found: list[Entry] = []
        for name in self._names.after(after):
            if len(found) >= limit:
                break
            if name.startswith(_SHARE):
                found.append(Entry(name, len(self._shared[name])))
            else:
                node = self._find(name)
                assert node is not None
                found.append(Entry(name, node.count))
        return found

    # ------------------------------------------------------------------ plans

    def branches(self) -> int:
        """Branches of the tree, by going through all of it; 1 when no filter has wildcards."""
        count, pending = 0, [self._root]
        while pending:
            branch = pending.pop()
            count += 1
            pending.extend((branch.below or {}).values())
            if branch.plus is not None:
                pending.append(branch.plus)
        return count

    def plan(self, topic: str) -> Plan[R]:
        """Who gets a message of this topic. Valid until the next change of subscriptions; cheap to ask for again."""
        plan = self._plans.get(topic)
        if plan is None:
            return self._plan(topic)
        if plan.several and not plan.fresh:
            self._merge(plan)
        return plan

    def matching(self, topic: str) -> list[FilterNode[R]]:
        """The filters that match, without the cache."""
        found: list[FilterNode[R]] = []
        exact = self._exact.get(topic)
        if exact is not None:
            found.append(exact)
        if not self._nodes:
            return found
        branches = [self._root]
        # Leading wildcards do not match topics that begin with $ (section 4.7.2).
        hidden = topic.startswith("$")
        for level in topic.split("/"):
            self.visited += len(branches)
            following: list[_Branch[R]] = []
            for branch in branches:
                if branch.rest is not None and not hidden:
                    found.append(branch.rest)
                if branch.below is not None:
                    below = branch.below.get(level)
                    if below is not None:
                        following.append(below)
                if branch.plus is not None and not hidden:
                    following.append(branch.plus)
            if not following:
                return found
            branches, hidden = following, False
        self.visited += len(branches)
        for branch in branches:
            if branch.node is not None:
                found.append(branch.node)
            if branch.rest is not None:
                # `a/#` matches `a` as well (section 4.7.1.2).
                found.append(branch.rest)
        return found

    def _plan(self, topic: str) -> Plan[R]:
        nodes = tuple(self.matching(topic))
        plan = self._by_nodes.get(nodes)
        if plan is None:
            plan = self._by_nodes[nodes] = Plan(nodes)
        plan.topics += 1
        if topic not in self._plans:
            self._topics.add(topic)
            if len(self._plans) >= self._max_plans:
                self._forget_oldest()
        self._plans[topic] = plan
        if not plan.fresh:
            self._merge(plan)
        return plan

    def _merge(self, plan: Plan[R]) -> None:
        self._merged -= plan.merged
        plan.merge()
        self._merged += plan.merged
        while self._merged > self._max_merged and self._plans:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        topic, plan = self._plans.popitem(last=False)
        self._topics.remove(topic)
        if plan is not None:
            self._release(plan)

    def _release(self, plan: Plan[R]) -> None:
        plan.topics -= 1
        if not plan.topics:
            del self._by_nodes[plan.nodes]
            self._merged -= plan.merged

    def _stale(self, filter: str) -> None:
        """Topics that this filter matches have to be matched anew."""
        if filter in self._nodes:
            topics: Iterator[str | None] = self._topics.look(filter)
        else:
            topics = iter((filter,) if filter in self._plans else ())
        left = MANY_STALE
        for topic in topics:
            self.visited += 1 if topic is not None else LOOK
            left -= 1 if topic is not None else VAIN_LOOK
            if left < 0:
                # To drop everything is quicker than to go on, and the worker must not stand still for one `#`.
                self._forget_all()
                return
            if topic is None:
                continue
            plan = self._plans[topic]
            if plan is not None:
                self._plans[topic] = None
                self._release(plan)

    def _forget_all(self) -> None:
        self._plans.clear()
        self._topics = TopicIndex()
        self._by_nodes.clear()
        self._merged = 0

    # ------------------------------------------------------------------ filters

    def _find(self, filter: str) -> FilterNode[R] | None:
        return self._exact.get(filter) or self._nodes.get(filter)

    def _make(self, filter: str) -> FilterNode[R]:
        node: FilterNode[R] = FilterNode(filter)
        levels = filter.split("/")
        if levels[-1] != "#" and "+" not in levels:
            self._exact[filter] = node
        else:
            self._nodes[filter] = node
            branch = self._root
            for level in levels[:-1] if levels[-1] == "#" else levels:
                self.visited += 1
                if level == "+":
                    if branch.plus is None:
                        branch.plus = _Branch()
                    branch = branch.plus
                else:
                    if branch.below is None:
                        branch.below = {}
                    below = branch.below.get(level)
                    if below is None:
                        below = branch.below[level] = _Branch()
                    branch = below
            if levels[-1] == "#":
                branch.rest = node
            else:
                branch.node = node
        self._stale(filter)
        return node

    def _drop_if_empty(self, node: FilterNode[R]) -> None:
        if not node.empty:
            return
        filter = node.filter
        self._stale(filter)
        if self._exact.pop(filter, None) is not None:
            return
        del self._nodes[filter]
        levels = filter.split("/")
        whole = levels[-1] != "#"
        if not whole:
            levels.pop()
        path = [self._root]
        for level in levels:
            self.visited += 1
            branch = path[-1]
            below = branch.plus if level == "+" else branch.below and branch.below[level]
            assert below
            path.append(below)
        if whole:
            path[-1].node = None
        else:
            path[-1].rest = None
        while len(path) > 1 and path.pop().empty:
            level, branch = levels[len(path) - 1], path[-1]
            if level == "+":
                branch.plus = None
            elif branch.below is not None:
                del branch.below[level]

    def _subscribe_shared(self, receiver: R, asked: str, options: Options) -> bool:
        shared = self._shared.get(asked)
        if shared is None:
            _, name, filter = asked.split("/", 2)
            shared = self._shared[asked] = SharedGroup(name, filter)
            node = self._find(filter)
            if node is None:
                node = self._make(filter)
            node.add_shared(shared)
            self._names.add(asked)
        return shared.add(receiver, options)

    def _unsubscribe_shared(self, receiver: R, asked: str) -> bool:
        shared = self._shared.get(asked)
        if shared is None or not shared.remove(receiver):
            return False
        if not shared:
            del self._shared[asked]
            self._names.remove(asked)
            node = self._find(shared.filter)
            assert node is not None
            node.remove_shared(shared)
            self._drop_if_empty(node)
        return True
