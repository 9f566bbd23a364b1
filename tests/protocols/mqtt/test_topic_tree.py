from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocols.mqtt import groups, topics
from protocols.mqtt.packets import SubscriptionRequest
from protocols.mqtt.topics import Entry, Options, Plan, TopicTree
from tests.naive_topics import all_filters, all_topics, matches


class Receiver:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


A, B, C = (Receiver(name) for name in "ABC")


def request(filter: str, qos: int = 0, no_local: bool = False, retain_as_published: bool = False):
    return SubscriptionRequest(filter, qos, no_local, retain_as_published)


def told(plan: Plan[Receiver]) -> dict[Receiver, tuple[int, bool, bool, tuple[int, ...]]]:
    """Receiver -> options of its delivery; each at most once."""
    found = {}
    for group in plan.groups:
        assert len(group.receivers) == len(list(group.receivers)) > 0
        for receiver in group.receivers:
            assert receiver not in found
            assert receiver in group.receivers
            found[receiver] = (group.qos, group.no_local, group.retain_as_published, group.identifiers)
    assert plan.receiver_count == len(found)
    assert plan.only is (next(iter(found)) if len(found) == 1 and not plan.shared else None)
    return found


def receivers(tree: TopicTree[Receiver], topic: str) -> set[Receiver]:
    return set(told(tree.plan(topic)))


@pytest.mark.parametrize(
    ("filter", "fit", "unfit"),
    [
        ("sport/tennis/#", ["sport/tennis", "sport/tennis/a", "sport/tennis/a/b"], ["sport", "sport/tenniss"]),
        ("sport/+", ["sport/", "sport/a"], ["sport", "sport/a/b"]),
        ("+/+", ["/finance", "a/b"], ["finance", "$SYS/b"]),
        ("/+", ["/finance"], ["finance"]),
        ("#", ["a", "/", "a/b"], ["$SYS", "$SYS/a"]),
        ("+/monitor/#", ["a/monitor"], ["$SYS/monitor", "$SYS/monitor/a"]),
        ("$SYS/#", ["$SYS", "$SYS/a"], ["SYS"]),
        ("$SYS/+/x", ["$SYS/a/x"], ["$SYS/a"]),
        ("a/$b/+", ["a/$b/c"], ["a/b/c"]),
        ("a/+", ["a/$b"], []),
    ],
)
def test_which_topics_a_filter_matches(filter, fit, unfit):
    """[MQTT-4.7.2-1] [MQTT3-4.7.2-1]"""
    tree = TopicTree()
    tree.subscribe(A, request(filter))
    assert {topic: receivers(tree, topic) for topic in fit} == {topic: {A} for topic in fit}
    assert {topic: receivers(tree, topic) for topic in unfit} == {topic: set() for topic in unfit}


@pytest.mark.parametrize("topic", ["Accounts", "/accounts", "accounts/", "accounts ", "áccounts", "áccounts"])
def test_topics_are_compared_as_they_are(topic):
    """[MQTT-4.7.3-4] [MQTT3-4.7.3-4]"""
    tree = TopicTree()
    tree.subscribe(A, request("accounts"))
    tree.subscribe(B, request("áccounts"))
    assert receivers(tree, topic) == ({B} if topic == "áccounts" else set())


def test_the_same_filter_again_replaces_the_subscription():
    """[MQTT-3.8.4-3] [MQTT3-3.8.4-3]"""
    tree = TopicTree()
    assert tree.subscribe(A, request("a/+", 1), 7) is False
    assert tree.subscribe(A, request("a/+", 2, True, True), 8) is True
    assert told(tree.plan("a/b")) == {A: (2, True, True, (8,))}
    assert tree.subscribe(A, request("a/+", 2, True, True), 8) is True
    assert len(tree) == 1


def test_unsubscribe_compares_filters_character_by_character():
    """[MQTT-3.10.4-1] [MQTT3-3.10.4-1]"""
    tree = TopicTree()
    tree.subscribe(A, request("a/+"))
    assert not tree.unsubscribe(A, "a/b")
    assert not tree.unsubscribe(A, "A/+")
    assert not tree.unsubscribe(B, "a/+")
    assert not tree.unsubscribe(A, "$share/g/a/+")
    assert receivers(tree, "a/b") == {A}
    assert tree.unsubscribe(A, "a/+")
    assert not tree.unsubscribe(A, "a/+")
    assert receivers(tree, "a/b") == set() and len(tree) == 0


def test_overlapping_filters_make_one_delivery_with_the_highest_qos_and_all_identifiers():
    """[MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT3-3.3.5-1]"""
    tree = TopicTree()
    tree.subscribe(A, request("a/#", 0, no_local=True, retain_as_published=True), 3)
    tree.subscribe(A, request("a/+", 2, no_local=False), 1)
    tree.subscribe(A, request("a/b", 1, no_local=True), 0)
    tree.subscribe(A, request("+/b", 1, no_local=True), 3)
    tree.subscribe(B, request("a/b", 1, no_local=True), 0)
    tree.subscribe(B, request("#", 0, no_local=True), 0)
    assert told(tree.plan("a/b")) == {A: (2, False, True, (1, 3)), B: (1, True, False, ())}


def test_a_plan_of_one_filter_is_not_rebuilt_when_receivers_come_and_go():
    tree = TopicTree()
    tree.subscribe(A, request("a/+", 1))
    plan = tree.plan("a/b")
    groups, group = plan.groups, plan.groups[0]
    visited = tree.visited
    crowd = [Receiver(str(number)) for number in range(1000)]
    for receiver in crowd:
        tree.subscribe(receiver, request("a/+", 1))
    tree.subscribe(B, request("a/+", 2), 5)
    assert tree.plan("a/b") is plan and plan.groups is groups and groups[0] is group
    assert plan.receiver_count == 1002 and len(group.receivers) == 1001
    for receiver in (A, *crowd):
        tree.unsubscribe(receiver, "a/+")
    assert tree.plan("a/b") is plan and told(plan) == {B: (2, False, False, (5,))}
    assert tree.visited == visited


def test_topics_of_the_same_filters_share_a_plan_and_its_merge():
    tree = TopicTree()
    for filter in ("news/#", "news/+"):
        tree.subscribe(A, request(filter))
    tree.subscribe(B, request("news/+"))
    assert tree.plan("news/a") is tree.plan("news/b")
    assert tree.merged == 1


def test_a_merge_leaves_the_receivers_of_the_largest_filter_where_they_are():
    tree = TopicTree()
    crowd = [Receiver(str(number)) for number in range(500)]
    for receiver in crowd:
        tree.subscribe(receiver, request("all/#", 1))
    tree.subscribe(crowd[0], request("all/x", 2))
    tree.subscribe(A, request("all/x", 2))
    found = told(tree.plan("all/x"))
    assert len(found) == 501 and found[crowd[0]] == found[A] == (2, False, False, ())
    assert found[crowd[1]] == (1, False, False, ())
    assert tree.merged == 2


def test_a_group_without_anyone_left_is_not_in_the_plan():
    tree = TopicTree()
    tree.subscribe(A, request("a/+", 1))
    tree.subscribe(B, request("a/+", 0))
    tree.subscribe(C, request("a/+", 0))
    tree.subscribe(A, request("a/b", 0))
    plan = tree.plan("a/b")
    assert sorted(len(group.receivers) for group in plan.groups) == [1, 2]


def test_only_topics_that_a_new_filter_matches_are_matched_again():
    tree = TopicTree()
    for number in range(1000):
        tree.plan(f"t/{number}/x")
    before = tree.visited
    tree.subscribe(A, request("t/7/+"))
    tree.subscribe(A, request("t/8/x"))
    tree.subscribe(A, request("other/#"))
    tree.unsubscribe(A, "other/#")
    assert tree.visited - before < 20
    assert [topic for topic in range(1000) if receivers(tree, f"t/{topic}/x")] == [7, 8]


def test_work_does_not_grow_with_the_number_of_filters():
    def visits(size: int) -> int:
        tree = TopicTree()
        for number in range(size):
            pattern = ("site/{}/state", "site/{}/+/state", "site/{}/#", "+/{}/alarm")[number % 4]
            tree.subscribe(A, request(pattern.format(number)))
        before = tree.visited
        for number in range(0, 100, 7):
            tree.plan(f"site/{number}/a/state")
            tree.subscribe(B, request(f"site/{number}/new/+"))
            tree.plan(f"site/{number}/new/state")
            tree.unsubscribe(A, f"site/{number}/+/state")
            tree.unsubscribe(A, f"site/{number}/#")
            tree.plan(f"site/{number}/a/state")
        return tree.visited - before

    assert visits(100_000) == visits(100)


def test_filters_of_wildcards_only_cost_what_the_tree_has():
    tree = TopicTree()
    tree.subscribe(A, request("/".join("+" * 32)))
    tree.subscribe(A, request("/".join("a" * 31) + "/+"))
    before = tree.visited
    tree.plan("/".join("a" * 32))
    assert tree.visited - before <= 65


def test_deep_filters_and_topics():
    tree = TopicTree()
    deep = "/".join("x" * 20_000)
    tree.subscribe(A, request(f"{deep}/#"))
    assert receivers(tree, deep) == {A} == receivers(tree, f"{deep}/y")
    tree.subscribe(B, request("+/" + deep[2:]))
    assert receivers(tree, deep) == {A, B}
    assert tree.unsubscribe(A, f"{deep}/#") and tree.unsubscribe(B, "+/" + deep[2:])
    assert receivers(tree, deep) == set()


def test_the_cache_is_bounded_and_the_oldest_goes():
    tree = TopicTree(max_plans=3)
    tree.subscribe(A, request("#"))
    for number in range(10):
        tree.plan(f"t/{number}")
        assert tree.cached == min(number + 1, 3)
    before = tree.visited
    tree.plan("t/9")
    assert tree.visited == before
    tree.plan("t/0")
    assert tree.visited > before
    with pytest.raises(ValueError, match="at least 1"):
        TopicTree(max_plans=0)


def test_merged_receivers_are_bounded():
    tree = TopicTree(max_merged=100)
    for number in range(20):
        for who in range(30):
            receiver = Receiver(f"{number}-{who}")
            tree.subscribe(receiver, request(f"t/{number}/#"))
            tree.subscribe(receiver, request(f"t/{number}/+"))
    for number in range(20):
        assert len(told(tree.plan(f"t/{number}/x"))) == 30
        assert tree.merged <= 100
    assert tree.cached <= 4


def test_a_merge_larger_than_the_bound_is_used_and_not_kept():
    tree = TopicTree(max_merged=1)
    for receiver in (A, B, C):
        tree.subscribe(receiver, request("a/#", 1))
        tree.subscribe(receiver, request("a/+", 2))
    assert set(told(tree.plan("a/b"))) == {A, B, C}
    assert tree.merged == 0 == tree.cached
    tree.plan("x")
    assert set(told(tree.plan("a/b"))) == {A, B, C}


def test_an_empty_tree_keeps_nothing_of_the_filters_it_had():
    tree = TopicTree()
    filters = ["a", "a/b", "+", "#", "a/+/b/#", "a/+", "a/#", "$share/g/a/+/b", "$share/g/a", "$share/h/a"]
    for filter in filters:
        tree.subscribe(A, request(filter))
    assert len(tree) == len(filters) and tree.branches() > 1
    for filter in filters:
        assert tree.unsubscribe(A, filter)
    assert len(tree) == 0 and tree.branches() == 1 and tree.entries() == []
    assert not tree.plan("a").shared


def test_shared_groups_are_beside_the_receivers():
    tree = TopicTree()
    tree.subscribe(A, request("a/b"))
    plan = tree.plan("a/b")
    tree.subscribe(A, request("$share/g/a/b", 1))
    tree.subscribe(B, request("$share/g/a/b", 1))
    tree.subscribe(B, request("$share/g/a/+", 1))
    tree.subscribe(B, request("$share/h/a/b", 1))
    found = {(shared.name, shared.filter): set(shared) for shared in tree.plan("a/b").shared}
    assert found == {("g", "a/b"): {A, B}, ("g", "a/+"): {B}, ("h", "a/b"): {B}}
    assert told(tree.plan("a/b")) == {A: (0, False, False, ())}
    tree.unsubscribe(B, "$share/g/a/+")
    assert len(tree.plan("a/b").shared) == 2 and tree.plan("a/b") is not plan
    assert tree.subscribe(B, request("$share/g/a/b", 2), 4) is True
    assert dict(tree.subscribers("$share/g/a/b"))[B] == Options(2, False, False, 4)


def test_shared_groups_of_one_filter_go_in_any_order():
    tree = TopicTree()
    for name in "ghij":
        tree.subscribe(A, request(f"$share/{name}/a"))
    left = set("ghij")
    for name in "hgji":
        assert tree.unsubscribe(A, f"$share/{name}/a")
        left.discard(name)
        assert {shared.name for shared in tree.plan("a").shared} == left


def test_many_identifiers_do_not_make_a_filter_slow_to_change():
    tree = TopicTree()
    crowd = [Receiver(str(number)) for number in range(300)]
    for number, receiver in enumerate(crowd):
        assert not tree.subscribe(receiver, request("a"), number + 1)
    for number, receiver in enumerate(crowd):
        assert tree.subscribe(receiver, request("a", 1), 300 - number)
    assert told(tree.plan("a")) == {who: (1, False, False, (300 - number,)) for number, who in enumerate(crowd)}
    for receiver in crowd[:-1]:
        assert tree.unsubscribe(receiver, "a")
    assert not tree.unsubscribe(crowd[0], "a")
    tree.subscribe(crowd[5], request("a", 1), 295)
    assert told(tree.plan("a"))[crowd[5]] == (1, False, False, (295,))
    tree.unsubscribe(crowd[5], "a")
    assert told(tree.plan("a")) == {crowd[-1]: (1, False, False, (1,))}


def test_a_new_shared_group_gets_into_a_merged_plan():
    tree = TopicTree()
    for filter in ("a/b", "a/+"):
        tree.subscribe(A, request(filter))
    assert tree.plan("a/b").shared == []
    tree.subscribe(B, request("$share/g/a/+"))
    assert [shared.name for shared in tree.plan("a/b").shared] == ["g"]
    tree.unsubscribe(B, "$share/g/a/+")
    assert tree.plan("a/b").shared == []


def test_a_filter_that_matches_very_many_topics_makes_all_plans_anew():
    tree = TopicTree()
    tree.subscribe(A, request("t/1"))
    for receiver in (A, B):
        tree.subscribe(receiver, request("t/+/x"))
        tree.subscribe(receiver, request("t/2/x"))
    for number in range(1000):
        tree.plan(f"t/{number}")
        tree.plan(f"t/{number}/x")
    before = tree.visited
    tree.subscribe(C, request("#"))
    assert tree.visited - before < 300 and tree.cached == 0 == tree.merged
    assert receivers(tree, "t/1") == {A, C} and receivers(tree, "t/2/x") == {A, B, C}
    assert receivers(tree, "t/999") == {C}
    tree.unsubscribe(C, "#")
    assert receivers(tree, "t/1") == {A} and receivers(tree, "t/999") == set()


def test_listing():
    tree = TopicTree()
    for number, filter in enumerate(["b/+", "a", "$share/g/a", "c/#", "a/b"]):
        for receiver in (A, B, C)[: number % 3 + 1]:
            tree.subscribe(receiver, request(filter, 1), number)
    everything = [Entry("$share/g/a", 3), Entry("a", 2), Entry("a/b", 2), Entry("b/+", 1), Entry("c/#", 1)]
    assert tree.entries() == everything
    assert tree.entries("a", 2) == everything[2:4]
    assert tree.entries("c/#") == [] == tree.entries("", 0)
    assert dict(tree.subscribers("a/b")) == {A: Options(1, False, False, 4), B: Options(1, False, False, 4)}
    assert set(dict(tree.subscribers("$share/g/a"))) == {A, B, C}
    assert not dict(tree.subscribers("zzz")) and not dict(tree.subscribers("$share/x/a"))


LEVELS = ("a", "b", "$s", "")
FILTERS = all_filters(LEVELS, 3)
TOPICS = all_topics(LEVELS, 3)
filters = st.sampled_from(FILTERS) | st.sampled_from(("a/b", "a/+", "a/#", "#", "+/b", "a", "+/+", "a/b/#"))
names = st.sampled_from(("", "", "$share/g/", "$share/h/"))
people = st.sampled_from([Receiver(name) for name in "PQRST"])


class TreeAgainstList(RuleBasedStateMachine):
    """The tree does what a list of subscriptions does."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: TopicTree[Receiver] = TopicTree(max_plans=6, max_merged=8)
        self.list: dict[tuple[Receiver, str], Options] = {}

    @rule(
        who=people,
        share=names,
        filter=filters,
        options=st.builds(Options, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 12)),
    )
    def subscribe(self, who, share, filter, options):
        asked = share + filter
        answer = self.tree.subscribe(
            who,
            request(asked, options.qos, options.no_local, options.retain_as_published),
            options.identifier,
        )
        assert answer is ((who, asked) in self.list)
        self.list[who, asked] = options

    @rule(who=people, share=names, filter=filters)
    def unsubscribe(self, who, share, filter):
        assert self.tree.unsubscribe(who, share + filter) is (self.list.pop((who, share + filter), None) is not None)

    @rule(data=st.data())
    def unsubscribe_known(self, data):
        if self.list:
            who, filter = data.draw(st.sampled_from(sorted(self.list, key=repr)))
            self.unsubscribe(who, "", filter)

    @rule(topic=st.sampled_from(TOPICS) | st.sampled_from(("a/b", "a", "a/b/a", "$s/a", "b")))
    def plan(self, topic):
        expected: dict[Receiver, list[Options]] = {}
        shared: Counter[tuple[str, str, Receiver, Options]] = Counter()
        for (who, asked), options in self.list.items():
            if asked.startswith("$share/"):
                _, name, filter = asked.split("/", 2)
                if matches(filter, topic):
                    shared[name, filter, who, options] += 1
            elif matches(asked, topic):
                expected.setdefault(who, []).append(options)
        plan = self.tree.plan(topic)
        assert told(plan) == {
            who: (
                max(options.qos for options in several),
                all(options.no_local for options in several),
                any(options.retain_as_published for options in several),
                tuple(sorted({options.identifier for options in several} - {0})),
            )
            for who, several in expected.items()
        }
        assert shared == Counter(
            (group.name, group.filter, who, group.options(who)) for group in plan.shared for who in group
        )

    @invariant()
    def counts_agree(self):
        assert len(self.tree) == len(self.list)
        assert self.tree.cached <= 6 and self.tree.merged <= 8
        plans = self.tree._by_nodes.values()
        assert sum(plan.topics for plan in plans) <= self.tree.cached and all(plan.topics for plan in plans)
        assert sum(plan.merged for plan in plans) == self.tree.merged
        by_filter = Counter(filter for _, filter in self.list)
        assert self.tree.entries() == [Entry(*entry) for entry in sorted(by_filter.items())][:100]


TreeAgainstList.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestTreeAgainstList = TreeAgainstList.TestCase


class IndexedTreeAgainstList(TreeAgainstList):
    """The same where every filter with more than one group has indexes, and many topics go stale at once."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(groups, "FEW_GROUPS", 1)
        self.patch.setattr(topics, "MANY_STALE", 2)

    def teardown(self) -> None:
        self.patch.undo()


IndexedTreeAgainstList.TestCase.settings = TreeAgainstList.TestCase.settings
TestIndexedTreeAgainstList = IndexedTreeAgainstList.TestCase


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(FILTERS), max_size=40))
def test_every_topic_against_every_filter(some):
    tree = TopicTree()
    for filter in some:
        tree.subscribe(A, request(filter))
    for topic in TOPICS:
        assert {node.filter for node in tree.matching(topic)} == {filter for filter in some if matches(filter, topic)}
