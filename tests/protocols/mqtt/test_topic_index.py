from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.mqtt.topic_index import LOOK, TopicIndex
from tests.naive_topics import all_filters, all_topics, matches

LEVELS = ("a", "b", "$s", "")
TOPICS = all_topics(LEVELS, 3)
FILTERS = all_filters(LEVELS, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(TOPICS)), max_size=80), st.data())
def test_it_holds_and_matches_what_a_set_would(changes, data):
    index, expected = TopicIndex(), set()
    for add, topic in changes:
        if add:
            assert index.add(topic) is (topic not in expected)
            expected.add(topic)
        else:
            assert index.remove(topic) is (topic in expected)
            expected.discard(topic)
        assert len(index) == len(expected)
    assert {topic for topic in TOPICS if topic in index} == expected
    for filter in data.draw(st.lists(st.sampled_from(FILTERS), min_size=20, max_size=60)):
        found = list(index.match(filter))
        assert len(found) == len(set(found))
        assert set(found) == {topic for topic in expected if matches(filter, topic)}, filter
    for topic in expected:
        assert index.remove(topic)
    assert list(index.match("#")) == [] and not index._root


def test_it_may_change_between_the_steps_of_a_match():
    for filter in ("#", "a/#", "a/+", "+/+", "a/+/#"):
        for seed in range(40):
            dice = random.Random(seed)
            pool = [topic for topic in TOPICS if matches(filter, topic)]
            index = TopicIndex()
            kept, gone = set(pool[::2]), set()
            for topic in pool[::2]:
                index.add(topic)
            found = []
            for topic in index.match(filter):
                found.append(topic)
                other = dice.choice(pool)
                if index.remove(other):
                    gone.add(other)
                else:
                    index.add(other)
            assert len(found) == len(set(found))
            assert kept - gone <= set(found) <= set(pool)


def test_a_match_is_lazy_and_goes_only_where_the_filter_leads():
    index = TopicIndex()
    for number in range(2000):
        index.add(f"d/{number}/state")
        index.add(f"e/{number}/x/y")
    steps = index.match("d/+/state")
    assert next(steps).startswith("d/")
    assert list(index.match("d/77/#")) == ["d/77/state"]
    assert len(list(steps)) == 1999


def test_deep_topics():
    index = TopicIndex()
    deep = "/".join("x" * 30_000)
    index.add(deep)
    assert list(index.match("x/#")) == [deep] == list(index.match(deep)) == list(index.match("+/+/#"))
    assert list(index.match(f"{deep}/#")) == [deep]
    assert index.remove(deep) and deep not in index


def test_what_is_no_topic_is_not_in_it():
    index = TopicIndex()
    index.add("a/b")
    assert "a" not in index and "a/b/c" not in index and "c" not in index and None not in index
    assert not index.remove("a") and not index.remove("a/b/c") and not index.remove("c")


def test_no_step_of_a_search_takes_long():
    index = TopicIndex()
    for number in range(5 * LOOK):
        index.add(f"{number}/a")
    found = list(index.look("+/b"))
    assert set(found) == {None}
    assert len(found) >= 5
    assert list(index.match("+/b")) == []
    assert sorted(topic for topic in index.look("+/a") if topic) == sorted(index.match("+/a"))
