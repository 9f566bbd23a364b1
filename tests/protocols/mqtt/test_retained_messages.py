from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocols.mqtt.retained import RetainedStore
from tests.naive_topics import all_filters, all_topics, matches


@dataclass(eq=False)
class Retained:
    topic: str
    payload: bytes = b"x"
    expires_at: float | None = None


def topics(found) -> list[str]:
    return sorted(message.topic for message in found)


def test_a_new_message_takes_the_place_of_the_former_one():
    """[MQTT-3.3.1-5] [MQTT3-3.3.1-5]"""
    store = RetainedStore()
    first, second = Retained("a/b"), Retained("a/b", b"longer")
    assert store.set(first) and store.set(second)
    assert store.get("a/b") is second and list(store.match("a/+")) == [second]
    assert len(store) == 1 and store.bytes == 9


def test_a_message_without_payload_removes_and_is_not_kept():
    """[MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11]"""
    store = RetainedStore(max_messages=1)
    store.set(Retained("a", b"x", 5.0))
    assert store.set(Retained("b", b""))
    assert store.set(Retained("a", b""))
    assert store.get("a") is None and len(store) == 0 == store.bytes
    assert store.page() == [] == list(store.match("#"))
    assert store.sweep(10.0) == 0


def test_leading_wildcards_leave_out_the_servers_topics():
    """[MQTT-4.7.2-1] [MQTT3-4.7.2-1]"""
    store = RetainedStore()
    for topic in ("$SYS/a", "a/a", "a"):
        store.set(Retained(topic))
    assert topics(store.match("#")) == ["a", "a/a"] == topics(store.page("#"))
    assert topics(store.match("+/a")) == ["a/a"] == topics(store.page("+/a"))
    assert topics(store.match("$SYS/#")) == ["$SYS/a"] == topics(store.page("$SYS/#"))
    assert topics(store.page()) == ["$SYS/a", "a", "a/a"]


def test_a_full_store_refuses_new_topics_and_replaces_known_ones():
    store = RetainedStore(max_messages=2, max_bytes=10)
    assert store.set(Retained("a", b"12")) and store.set(Retained("ä", b"12"))
    assert store.bytes == 7
    assert not store.set(Retained("c"))
    assert store.set(Retained("a", b"12345"))
    assert not store.set(Retained("a", b"123456"))
    assert store.get("a").payload == b"12345" and store.get("c") is None and store.bytes == 10
    assert store.remove("ä").topic == "ä" and store.remove("ä") is None
    assert not store.set(Retained("c", b"12345"))
    assert store.set(Retained("c", b"123"))


def test_levels_that_topics_do_not_share_count():
    store = RetainedStore(max_bytes=1000, branch_bytes=100)
    assert store.set(Retained("a/b/c", b"1")) and store.set(Retained("a/b/d", b"1"))
    assert store.bytes == 12 + 200
    deep = "/".join("x" * 9)
    assert not store.set(Retained(deep, b"1")) and store.bytes == 212
    assert store.get(deep) is None and topics(store.match("#")) == topics(store.page()) == ["a/b/c", "a/b/d"]
    assert store.set(Retained("a/b/c" + "/x" * 5, b"1"))
    assert store.bytes == 12 + 16 + 700
    store.remove("a/b/c" + "/x" * 5)
    assert store.bytes == 212


def test_expired_messages_are_not_seen_and_swept_in_batches():
    store = RetainedStore(max_messages=100)
    for number in range(100):
        store.set(Retained(f"t/{number}", b"x", 10.0 + number % 2 * 0.5 if number else None))
    assert len(list(store.match("#", 10.0))) == 51 and store.get("t/2", 10.0) is None and store.get("t/1", 10.0)
    assert len(store.page("t/+", "", 1000, 10.4)) == 51
    assert len(list(store.match("#", 10.5))) == 1 and len(store) == 100
    assert store.sweep(9.9) == 0
    assert [store.sweep(11.0, 40) for _ in range(4)] == [40, 40, 19, 0]
    assert topics(store.match("#")) == ["t/0"] and store.bytes == 4


def test_seconds_of_replaced_messages_do_not_pile_up():
    store = RetainedStore()
    for number in range(10_000):
        store.set(Retained("a", b"x", float(number)))
    assert len(store._seconds) < 100 and len(store._due) == 1
    assert store.sweep(9_998.0) == 0 and store.sweep(9_999.0) == 1


def test_a_match_goes_on_while_the_store_changes():
    store = RetainedStore()
    for number in range(1000):
        store.set(Retained(f"t/{number}"))
    found = []
    for message in store.match("t/#"):
        found.append(message.topic)
        store.remove(f"t/{(len(found) * 7) % 1000}")
        store.set(Retained(f"t/new{len(found)}"))
        if len(found) == 1:
            replaced = Retained("t/999", b"second")
            store.set(replaced)
        assert store.get(message.topic) in (message, None)
    assert len(found) == len(set(found)) and 200 < len(found) < 1000


def test_pages_follow_each_other():
    store = RetainedStore()
    names = ["a", "a ", "a!/b", "a/", "a/b", "a/b/c", "a0", "ab", "b", "b/a"]
    for name in reversed(names):
        store.set(Retained(name))
    assert [message.topic for message in store.page("#")] == names
    found, after = [], ""
    while page := store.page("", after, 3):
        found += [message.topic for message in page]
        after = found[-1]
    assert found == names
    assert [message.topic for message in store.page("a/#")] == ["a", "a/", "a/b", "a/b/c"]
    assert [message.topic for message in store.page("a/#", "a", 2)] == ["a/", "a/b"]
    assert store.page("a", "a") == [] == store.page("#", "", 0)


LEVELS = ("a", "b", "$s", "", "a!")
TOPICS = all_topics(LEVELS, 3)
FILTERS = all_filters(LEVELS, 3)
some_topics = st.sampled_from(TOPICS[:20]) | st.sampled_from(TOPICS)
some_filters = st.sampled_from(FILTERS) | st.sampled_from(("#", "+", "a/#", "a/+", "+/+", "a/+/#"))


class StoreAgainstDict(RuleBasedStateMachine):
    """The store does what a dict does."""

    def __init__(self) -> None:
        super().__init__()
        self.store: RetainedStore[Retained] = RetainedStore(max_messages=12, max_bytes=100, branch_bytes=4)
        self.dict: dict[str, Retained] = {}
        self.now = 0.0

    def alive(self) -> dict[str, Retained]:
        return {
            topic: message
            for topic, message in self.dict.items()
            if message.expires_at is None or message.expires_at > self.now
        }

    @staticmethod
    def size(messages) -> int:
        levels = [message.topic.split("/") for message in messages]
        branches = {tuple(one[:end]) for one in levels for end in range(1, len(one))}
        return sum(len(message.topic) + len(message.payload) for message in messages) + 4 * len(branches)

    @rule(topic=some_topics, length=st.integers(0, 9), ttl=st.none() | st.floats(0, 5))
    def set(self, topic, length, ttl):
        message = Retained(topic, b"x" * length, None if ttl is None else self.now + ttl)
        after = {**self.dict, topic: message}
        fits = len(after) <= 12 and self.size(after.values()) <= 100
        assert self.store.set(message) is (fits or not length)
        if not length:
            self.dict.pop(topic, None)
        elif fits:
            self.dict = after

    @rule(topic=some_topics)
    def remove(self, topic):
        assert self.store.remove(topic) is self.dict.pop(topic, None)

    @rule(topic=some_topics)
    def get(self, topic):
        assert self.store.get(topic, self.now) is self.alive().get(topic)
        assert self.store.get(topic) is self.dict.get(topic)

    @rule(filter=some_filters, after=st.just("") | some_topics, limit=st.integers(0, 5))
    def find(self, filter, after, limit):
        expected = sorted(topic for topic in self.alive() if matches(filter, topic))
        assert topics(self.store.match(filter, self.now)) == expected
        page = [message.topic for message in self.store.page(filter, after, limit, self.now)]
        assert page == [topic for topic in expected if topic > after][:limit]

    @rule(step=st.floats(0, 4), limit=st.integers(1, 4))
    def sweep(self, step, limit):
        self.now += step
        count = self.store.sweep(self.now, limit)
        left = {topic for topic in self.dict if self.store.get(topic) is not None}
        gone = set(self.dict) - left
        assert len(gone) == count <= limit and not gone & set(self.alive())
        for topic in gone:
            del self.dict[topic]
        # All that expired before this second began are gone, unless the batch was full.
        if count < limit:
            assert all(
                message.expires_at is None or message.expires_at > int(self.now) for message in self.dict.values()
            )

    @invariant()
    def counts_agree(self):
        assert len(self.store) == len(self.dict)
        assert self.store.bytes == self.size(self.dict.values())


StoreAgainstDict.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestStoreAgainstDict = StoreAgainstDict.TestCase
