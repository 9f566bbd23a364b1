"""The rule of users: which strings were seen from enough different users, and whether a dictionary keeps to them.

Everything here is exact: strings are counted by the users in whose bodies they stand, not by an estimate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from accessgw.model.dictionaries import Sample

GRAM = 4
"""Bytes of the index's entries, and the shortest string that is checked where no separator is free."""
MAX_ANSWERS = 100_000
"""Strings whose answer is remembered."""


class Corpus:
    """The bodies of a training, and the users of each.

    `users`: from so many different ones a string must have been seen to be common.
    """

    def __init__(self, samples: Iterable[Sample], users: int) -> None:
        by_body: defaultdict[bytes, set[int]] = defaultdict(set)
        for sample in samples:
            by_body[sample.body].add(sample.user)
        self.bodies = list(by_body)
        self._owners = list(by_body.values())
        self.users = users
        self.all_users = set().union(*self._owners)
        counts: Counter[int] = Counter()
        for body in self.bodies:
            counts.update(body)
        self.byte_counts = counts
        self._index: dict[bytes, list[int]] = {}
        self._answers: dict[bytes, bool] = {}

    def owned(self) -> Iterator[tuple[bytes, set[int]]]:
        """Every different body, and who has it."""
        return zip(self.bodies, self._owners, strict=True)

    def separator(self) -> tuple[int, bool]:
        """The byte to put between pieces, and whether it stands in no body at all; else it is the rarest."""
        best = min(range(256), key=lambda byte: (self.byte_counts[byte], byte))
        return best, not self.byte_counts[best]

    def separators(self, count: int) -> list[int]:
        """The rarest byte values, the rarest first."""
        return sorted(range(256), key=lambda byte: (self.byte_counts[byte], byte))[:count]

    def around(self, byte: int) -> set[bytes]:
        """All strings of GRAM bytes in the bodies that hold it."""
        text = bytes((byte,))
        found: set[bytes] = set()
        for body in self.bodies:
            at = body.find(text)
            while at >= 0:
                found.update(windows(body[max(0, at - GRAM + 1) : at + GRAM], GRAM))
                at = body.find(text, at + 1)
        return found

    def common_bytes(self) -> set[int]:
        """Byte values that stand in bodies of enough users."""
        return {byte for byte in self.byte_counts if self.is_common(bytes((byte,)))}

    # ------------------------------------------------------------------ questions about one string

    def index(self, text: bytes) -> None:
        """Make questions about strings in `text` cheap; others are answered all the same."""
        wanted = set(windows(text, GRAM))
        index: dict[bytes, list[int]] = {gram: [] for gram in wanted}
        for number, body in enumerate(self.bodies):
            for gram in wanted.intersection(windows(body, GRAM)):
                index[gram].append(number)
        self._index = index

    def is_common(self, text: bytes) -> bool:
        """Whether it was seen from enough users."""
        answer = self._answers.get(text)
        if answer is None:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            answer = self._answers[text] = self._count(text)
        return answer

    def _count(self, text: bytes) -> bool:
        seen: set[int] = set()
        bodies, owners, users = self.bodies, self._owners, self.users
        for number in self._candidates(text):
            if text in bodies[number]:
                seen |= owners[number]
                if len(seen) >= users:
                    return True
        return False

    def occurs(self, text: bytes) -> bool:
        """Whether it stands in any body."""
        return any(text in self.bodies[number] for number in self._candidates(text))

    def _candidates(self, text: bytes) -> Iterable[int]:
        """Bodies that may hold it: those of its rarest gram."""
        found: Iterable[int] = range(len(self.bodies))
        fewest = len(self.bodies)
        for start in range(len(text) - GRAM + 1):
            entries = self._index.get(text[start : start + GRAM])
            if entries is None:
                continue
            if not entries:
                return ()
            if len(entries) < fewest:
                found, fewest = entries, len(entries)
        return found

    # ------------------------------------------------------------------ what bodies have in common

    def common_strings(self, body: bytes, least: int) -> Iterator[bytes]:
        """The longest common strings of `least` bytes or more in `body`: none is part of another, all that is common
        lies in one of them."""
        start = 0
        while start + least <= len(body):
            if not self.is_common(body[start : start + least]):
                start += 1
                continue
            end = self._end(body, start, least)
            yield body[start:end]
            if end == len(body):
                return
            start = self._next_start(body, start, end)

    def _end(self, body: bytes, start: int, least: int) -> int:
        """Where the longest common string that begins at `start` ends, at least `least` bytes on."""
        good, bad = start + least, len(body) + 1
        step = least
        # part of a common string is common: first gallop, then halve
        while bad - good > 1:
            tried = min(good + step, len(body)) if bad > len(body) else (good + bad) // 2
            if self.is_common(body[start:tried]):
                good, step = tried, 2 * step
            else:
                bad = tried
        return good

    def _next_start(self, body: bytes, start: int, end: int) -> int:
        """The first place after `start` from which a common string goes beyond `end`."""
        low, high = start + 1, end
        while low < high:
            middle = (low + high) // 2
            if self.is_common(body[middle : end + 1]):
                high = middle
            else:
                low = middle + 1
        return low

    # ------------------------------------------------------------------ checking a dictionary

    def violation(self, content: bytes, shortest: int) -> tuple[int, int] | None:
        """The first string of `shortest` bytes or more in `content` that bodies of too few users have, as its place
        (start, end); None when there is none.

        For each start the longest common string is found; the one a byte longer must stand in no body, and
        then no longer one does.
        """
        end = 0
        for start in range(len(content)):
            end = max(end, start)
            while end < len(content) and self.is_common(content[start : end + 1]):
                end += 1
            stop = max(end + 1, start + shortest)
            if stop <= len(content) and self.occurs(content[start:stop]):
                return start, stop
        return None


def windows(text: bytes, length: int) -> list[bytes]:
    """Every string of `length` bytes in `text`; a list, which is half the time of an iterator."""
    return [text[start : start + length] for start in range(len(text) - length + 1)]
