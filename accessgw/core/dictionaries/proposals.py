"""Which strings a dictionary should hold: proposals that cost little to make, and the order of their use.

Masks of users say who has all windows of a string, which is who has the string but for chance. Nothing relies on that:
`Corpus` counts exactly what is taken of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from accessgw.core.dictionaries.common import Corpus, windows

WINDOW = 6
"""Bytes of the shortest string that is chosen first. With 5 and 4 those of a large class came out 3 to 6 % larger: many
short strings take the room."""
SHORT_WINDOW = 4
"""Bytes of the shortest string that is chosen where room is left: what stands between the values of protobuf."""
COUNTED_BYTES = 2 * 1024 * 1024
"""Bytes of bodies whose windows are counted: time and memory of a training grow with them."""
OVERHEAD = 4
"""What a string costs beside its bytes: the separator, and a match that ends there."""

CONTEXT = 8
"""Bytes that a string keeps of what an earlier one has, at either end: a match that goes on is better than two."""


class Windows:
    """The windows of `length` bytes that enough users have in bodies: who has them (bits of users), and how many bodies."""

    def __init__(self, corpus: Corpus, length: int) -> None:
        self._least = corpus.users
        self._length = length
        by_user: defaultdict[int, list[bytes]] = defaultdict(list)
        for body, owners in _spread(list(corpus.owned())):
            for user in owners:
                by_user[user].append(body)
        users: Counter[bytes] = Counter()
        for bodies in by_user.values():
            users.update(_held(bodies, length))
        self._masks = {window: 0 for window, count in users.items() if count >= self._least}
        del users
        masks = self._masks
        self.weights: Counter[bytes] = Counter()
        for number, bodies in enumerate(by_user.values()):
            for body in bodies:
                self.weights.update({window for window in windows(body, length) if window in masks})
            for window in _held(bodies, length):
                if window in masks:
                    masks[window] |= 1 << number

    def strings(self, body: bytes) -> Iterator[bytes]:
        """The longest strings of a body whose windows enough users have all of."""
        marks = [self._masks.get(window, 0) for window in windows(body, self._length)]
        least, count = self._least, len(marks)
        start = reached = 0
        while start < count:
            mask = marks[start]
            if not mask:
                start += 1
                continue
            end = start + 1
            while end < count and (mask & marks[end]).bit_count() >= least:
                mask &= marks[end]
                end += 1
            if end > reached:
                yield body[start : end - 1 + self._length]
                reached = end
            start = end
            if end < count and marks[end]:
                # back to the first start from which a common string goes beyond this end
                mask = marks[end]
                while (mask & marks[start - 1]).bit_count() >= least:
                    start -= 1
                    mask &= marks[start]


def _held(bodies: Iterable[bytes], length: int) -> set[bytes]:
    return set().union(*(windows(body, length) for body in bodies))


def _spread(owned: list[tuple[bytes, set[int]]]) -> list[tuple[bytes, set[int]]]:
    """All of them, or so many of all parts that they have COUNTED_BYTES together. A body counts for each user."""
    size = sum(len(body) * len(owners) for body, owners in owned)
    return owned[:: -(-size // COUNTED_BYTES)] if size else []


def cover(strings: Iterable[bytes], weights: Mapping[bytes, int], length: int, held: bytes = b"") -> Iterator[bytes]:
    """Strings, best first: by the bodies in which their windows of `length` bytes stand, windows that `held` or an earlier
    one has left out, per byte. What earlier ones have at its ends is cut off a string; one that brings nothing new is left
    out."""
    left = dict(weights)
    for window in windows(held, length):
        left.pop(window, None)

    def worth(string: bytes) -> float:
        return sum(left.get(window, 0) for window in set(windows(string, length))) / (len(string) + OVERHEAD)

    heap = [(-worth(string), string) for string in strings]
    heapify(heap)
    while heap:
        _, string = heappop(heap)
        new = [at for at, window in enumerate(windows(string, length)) if left.get(window)]
        if not new:
            continue
        string = string[max(0, new[0] - CONTEXT) : new[-1] + length + CONTEXT]
        now = -worth(string)
        if heap and now > heap[0][0]:  # others have taken windows of it since
            heappush(heap, (now, string))
            continue
        for window in windows(string, length):
            left[window] = 0
        yield string
