"""Topic names and filters: what is well-formed, what matches; the tables of known topics stay bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import RemoteError
from protocols.mqtt import names
from protocols.mqtt.names import (
    TopicNames,
    check_topic_filter,
    check_topic_name,
    is_string,
    is_topic_filter,
    is_topic_name,
    matches,
    split_shared,
    topic_names,
)
from tests.protocols.mqtt.mqtt_strategies import filters, plain_filters, topics


@given(topics)
def test_topic_names(topic):
    assert is_topic_name(topic)
    check_topic_name(topic)
    assert is_topic_filter(topic) or topic.startswith("$share")
    assert matches(topic, topic)


@given(filters)
def test_filters(topic_filter):
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2]"""
    assert is_topic_filter(topic_filter)
    check_topic_filter(topic_filter)
    assert is_topic_name(topic_filter) is not ("+" in topic_filter or "#" in topic_filter)


@pytest.mark.parametrize("topic", ["/", "//", " ", "a b", "$SYS/x", "é/日本", "x" * 65535])
def test_unusual_names_are_names(topic):
    """[MQTT-4.7.3-1] [MQTT-4.7.3-3] [MQTT-4.7.3-4]"""
    assert is_topic_name(topic)
    assert is_topic_filter(topic)


@pytest.mark.parametrize("text", ["a\0", "\ud800", "x" * 65536, "é" * 32768])
def test_what_is_no_string(text):
    """[MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT-4.7.3-3]"""
    assert not is_string(text)
    assert not is_topic_name(text)
    assert not is_topic_filter(text)
    for check in (check_topic_name, check_topic_filter):
        with pytest.raises(RemoteError):
            check(text)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True), ("#", "a/b", True), ("#", "/", True), ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False), ("sport/+", "sport", False), ("sport/+", "sport/", True),
        ("+/+", "/finance", True), ("/+", "/finance", True), ("+", "/finance", False), ("#", "$SYS/x", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False), ("$SYS/#", "$SYS/", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True), ("ACCOUNTS", "Accounts", False), ("a", "/a", False),
        ("a/b", "a/b", True), ("a/b", "a/b/", False), ("a/+/c/#", "a/x/c", True), ("a/+/c/#", "a/x", False),
        ("a/+/c", "a//c", True), ("a/#", "ab", False), ("$SYS", "$SYS", True),
    ],
)  # fmt: skip
def test_matching(topic_filter, topic, expected):
    """[MQTT-4.7.1-2] [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT3-4.7.2-1]"""
    assert matches(topic_filter, topic) is expected


def _by_recursion(wanted: list[str], levels: list[str]) -> bool:
    if not wanted:
        return not levels
    if wanted[0] == "#":
        return True
    if not levels:
        return False
    return wanted[0] in ("+", levels[0]) and _by_recursion(wanted[1:], levels[1:])


_small_topics = st.lists(st.sampled_from("ab") | st.just(""), min_size=1, max_size=4).map("/".join).filter(bool)
_small_filters = (
    st.tuples(st.lists(st.sampled_from("ab+") | st.just(""), max_size=3), st.sampled_from("ab+#"))
    .map(lambda parts: "/".join((*parts[0], parts[1])))
)  # fmt: skip


@given(_small_filters, _small_topics)
@settings(max_examples=300, deadline=None)
def test_matching_level_by_level(topic_filter, topic):
    assert matches(topic_filter, topic) == _by_recursion(topic_filter.split("/"), topic.split("/"))


@given(plain_filters)
def test_shared_filters_are_split(topic_filter):
    """[MQTT-4.8.2-1]"""
    assert split_shared(f"$share/group/{topic_filter}") == ("group", topic_filter)
    assert split_shared(topic_filter) == ("", topic_filter)


def test_limits_of_bytes_and_levels():
    check_topic_name("é/é", 5, 2)
    for topic in ("é/éa", "a/b/c"):
        for check in (check_topic_name, check_topic_filter):
            with pytest.raises(RemoteError):
                check(topic, 5, 2)


def test_known_topics_are_bounded(monkeypatch):
    monkeypatch.setattr(names, "CACHED_TOPICS", 3)
    table = TopicNames(1000, 10)
    for number in range(10):
        assert table[b"t/%d" % number] == f"t/{number}"
        assert len(table) <= 3
    long = b"x" * 300
    assert table[long] == long.decode()
    assert long not in table
    for raw in (b"a/#", b"", b"\xff", b"a\0"):
        with pytest.raises(RemoteError):
            table[raw]
        assert raw not in table
    assert topic_names(5, 2) is topic_names(5, 2)
    assert topic_names(5, 2) is not topic_names(5, 3)
