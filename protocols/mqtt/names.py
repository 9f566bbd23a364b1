"""UTF-8 strings, topic names and topic filters: what is well-formed, and which topic a filter matches."""

from __future__ import annotations

from functools import lru_cache
from typing import NoReturn

from protocols.errors import RemoteError
from protocols.mqtt.reasons import Reason

MAX_STRING = 65535
"""Bytes of a string on the wire (section 1.5.4)."""

SHARE_PREFIX = "$share/"

CACHED_TOPICS = 16384
CACHED_TOPIC_LENGTH = 256
"""Entries of a table of known topic names, and bytes of the longest that gets into it."""


def decode_string(raw: bytes) -> str:
    """A UTF-8 string (section 1.5.4). Raises RemoteError(MALFORMED_PACKET) for ill-formed bytes (which surrogates
    are) and U+0000; U+FEFF stays where it is."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RemoteError(
            Reason.MALFORMED_PACKET, f"expected a UTF-8 string, got a bad byte at {error.start}"
        ) from None
    if "\0" in text:
        raise RemoteError(Reason.MALFORMED_PACKET, "expected a UTF-8 string without U+0000, got one")
    return text


def is_string(text: str) -> bool:
    """Whether `text` can be sent: at most 65,535 bytes of UTF-8, no surrogates, no U+0000."""
    if len(text) > MAX_STRING or "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        return len(text.encode()) <= MAX_STRING
    except UnicodeEncodeError:
        return False


def is_topic_name(topic: str) -> bool:
    """Whether `topic` may be published to (section 4.7): a string, not empty, without wildcards."""
    return bool(topic) and "#" not in topic and "+" not in topic and is_string(topic)


def is_topic_filter(topic_filter: str) -> bool:
    """Whether `topic_filter` may be subscribed to (sections 4.7 and 4.8.2): a string, not empty, `+` only as a whole
    level, `#` only as the whole last level; of a shared subscription, a share name without wildcards and a filter
    behind it."""
    if not topic_filter or not is_string(topic_filter):
        return False
    # `$share` as the whole first level marks a shared subscription, which must have a name: alone it lacks one, and is no
    # filter of a topic `$share`. Whoever wrote it wants no message that nobody may publish.
    if topic_filter.startswith("$share") and (len(topic_filter) == 6 or topic_filter[6] == "/"):
        group, topic_filter = split_shared(topic_filter)
        if not group or not topic_filter or "+" in group or "#" in group:
            return False
    return _wildcards_in_place(topic_filter)


def _wildcards_in_place(topic_filter: str) -> bool:
    hash_at = topic_filter.find("#")
    if hash_at >= 0 and (hash_at != len(topic_filter) - 1 or (hash_at and topic_filter[hash_at - 1] != "/")):
        return False
    return "+" not in topic_filter or all(level == "+" or "+" not in level for level in topic_filter.split("/"))


def has_wildcards(topic_filter: str) -> bool:
    """Whether `topic_filter` has `+` or `#`."""
    return "+" in topic_filter or "#" in topic_filter


def is_shared(topic_filter: str) -> bool:
    """Whether `topic_filter` is that of a shared subscription."""
    return topic_filter.startswith(SHARE_PREFIX)


def split_shared(topic_filter: str) -> tuple[str, str]:
    """(share name, filter) of a shared subscription, ("", topic_filter) of any other (section 4.8.2)."""
    if not topic_filter.startswith(SHARE_PREFIX):
        return "", topic_filter
    group, _, rest = topic_filter[7:].partition("/")
    return group, rest


def check_topic_name(topic: str, max_length: int = MAX_STRING, max_levels: int = MAX_STRING + 1) -> None:
    """Raises RemoteError(TOPIC_NAME_INVALID) unless `topic` may be published to and is within the limits
    (bytes, levels)."""
    if not is_topic_name(topic):
        _refuse(Reason.TOPIC_NAME_INVALID, "a topic name without wildcards", topic)
    _check_size(Reason.TOPIC_NAME_INVALID, topic, max_length, max_levels)


def check_topic_filter(topic_filter: str, max_length: int = MAX_STRING, max_levels: int = MAX_STRING + 1) -> None:
    """Raises RemoteError(TOPIC_FILTER_INVALID) unless `topic_filter` may be subscribed to and is within the limits
    (bytes, levels)."""
    if not is_topic_filter(topic_filter):
        _refuse(Reason.TOPIC_FILTER_INVALID, "a topic filter", topic_filter)
    _check_size(Reason.TOPIC_FILTER_INVALID, topic_filter, max_length, max_levels)


def _check_size(code: Reason, topic: str, max_length: int, max_levels: int) -> None:
    # A character is at least one byte, and at most four: most topics need not be encoded to be measured.
    if len(topic) * 4 > max_length and len(topic.encode()) > max_length:
        _refuse(code, f"at most {max_length} bytes", topic)
    if topic.count("/") >= max_levels:
        _refuse(code, f"at most {max_levels} levels", topic)


def _refuse(code: Reason, expected: str, topic: str) -> NoReturn:
    raise RemoteError(code, f"expected {expected}, got {topic[:80]!r}")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a message to `topic` is for `topic_filter` (section 4.7; of a shared subscription, give the filter
    behind the share name). A leading wildcard does not match a leading `$`."""
    if topic_filter == topic:
        return "+" not in topic_filter and "#" not in topic_filter
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if topic[:1] == "$" and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        # `a/#` matches `a` as well: the parent level is part of it.
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))


class TopicNames(dict[bytes, str]):
    """Bytes of topic names that were found well-formed and within limits -> the names; looking up others checks them.

    Bounded: it starts anew when it is full. Raises RemoteError (MALFORMED_PACKET, TOPIC_NAME_INVALID).
    """

    __slots__ = ("_max_length", "_max_levels")

    def __init__(self, max_length: int, max_levels: int) -> None:
        super().__init__()
        self._max_length = max_length
        self._max_levels = max_levels

    def __missing__(self, raw: bytes) -> str:
        topic = decode_string(raw)
        check_topic_name(topic, self._max_length, self._max_levels)
        if len(raw) <= CACHED_TOPIC_LENGTH:
            if len(self) >= CACHED_TOPICS:
                self.clear()
            self[raw] = topic
        return topic


@lru_cache(maxsize=8)
def topic_names(max_length: int, max_levels: int) -> TopicNames:
    """The process's table of topic names within these limits."""
    return TopicNames(max_length, max_levels)
