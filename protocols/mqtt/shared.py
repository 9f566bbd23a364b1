"""Shared subscriptions: the members of one group, and which of them gets a message."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar
from zlib import crc32

R = TypeVar("R", bound=Hashable)

Strategy = Literal["round_robin", "sticky", "hash_client", "hash_topic", "random"]

MAX_PROBES = 64
"""Members that are asked whether they are usable before one choice is given up."""


class Options(NamedTuple):
    """What a subscription asks of its deliveries (section 3.8.3.1) and its identifier, 0 for none."""

    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0


class SharedGroup(Generic[R]):
    """The members of `$share/{name}/{filter}` (section 4.8.2)."""

    __slots__ = ("_favourite", "_members", "_next", "_options", "_places", "filter", "name", "place")

    def __init__(self, name: str, filter: str) -> None:
        self.name = name
        self.filter = filter
        self.place = 0
        """Among the groups of its filter."""
        self._members: list[R] = []
        self._places: dict[R, int] = {}
        self._options: dict[R, Options] = {}
        self._next = 0
        self._favourite: R | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._members))

    def __contains__(self, receiver: object) -> bool:
        return receiver in self._places

    def options(self, receiver: R) -> Options:
        """Of a member; KeyError for others."""
        return self._options[receiver]

    def add(self, receiver: R, options: Options) -> bool:
        """Add a member, or give it other options (True)."""
        known = receiver in self._places
        self._options[receiver] = options
        if not known:
            self._places[receiver] = len(self._members)
            self._members.append(receiver)
        return known

    def remove(self, receiver: R) -> bool:
        place = self._places.pop(receiver, None)
        if place is None:
            return False
        del self._options[receiver]
        last = self._members.pop()
        if place < len(self._members):
            self._members[place] = last
            self._places[last] = place
        if self._favourite == receiver:
            self._favourite = None
        return True

    def choose(
        self,
        strategy: Strategy,
        key: str,
        usable: Callable[[R], bool],
        *,
        random: Callable[[], float] | None = None,
        allow_unusable: bool = False,
        max_probes: int = MAX_PROBES,
    ) -> R | None:
        """The member that gets a message, or None.

        `key` is the publisher's client id for `hash_client`, the topic for `hash_topic`, and is not looked at
        otherwise. The member that the strategy names is passed over for the next usable one; when none of
        `max_probes` is usable, the first named gets it with `allow_unusable` (a session that is away keeps it in its
        queue). `random` gives numbers in [0, 1) and is needed for that strategy only (ValueError).
        """
        members = self._members
        size = len(members)
        if not size:
            return None
        if strategy == "sticky" and self._favourite is not None and usable(self._favourite):
            return self._favourite
        first = self._first(strategy, key, random)
        for step in range(min(size, max_probes)):
            place = (first + step) % size
            member = members[place]
            if usable(member):
                if strategy == "round_robin":
                    self._next = place + 1
                elif strategy == "sticky":
                    self._favourite = member
                return member
        if strategy == "round_robin":
            # Nobody is usable: their queues fill evenly, and the next choice probes other members.
            self._next = first + 1
        return members[first] if allow_unusable else None

    def _first(self, strategy: Strategy, key: str, random: Callable[[], float] | None) -> int:
        size = len(self._members)
        if strategy == "round_robin":
            return self._next % size
        if strategy == "sticky":
            return 0 if self._favourite is None else self._places[self._favourite]
        if strategy == "random":
            if random is None:
                raise ValueError("the strategy random needs a function that gives random numbers")
            return min(int(random() * size), size - 1)
        return jump_hash(crc32(key.encode("utf-8", "surrogatepass")), size)


def jump_hash(key: int, buckets: int) -> int:
    """The bucket of a key; with one bucket more, only one key in `buckets` + 1 moves, and to the new one.

    Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
    """
    bucket, jump = -1, 0
    while jump < buckets:
        bucket = jump
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        jump = int((bucket + 1) * (2147483648.0 / ((key >> 33) + 1)))
    return bucket
