"""Random draws whose sums hardly depend on luck: values are dealt from shuffled decks, as cards are.

A value dealt this way has the same distribution as an independent draw, but each deck is used up before a value comes
again, so that means over a corpus of some hundred messages are much the same for every seed.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import TypeVar, cast

T = TypeVar("T")


class Dice:
    """One source of randomness with decks, named by where they are used."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._decks: dict[str, list[object]] = {}

    def deal(self, name: str, values: Sequence[T]) -> T:
        """One of `values` from the deck `name`; repeat a value in it to make it likelier."""
        deck = self._decks.get(name)
        if not deck:
            deck = self._decks[name] = list(values)
            self.random.shuffle(deck)
        # decks of one name hold values of one type, which a dict of decks cannot say
        return cast(T, deck.pop())

    def between(self, name: str, low: int, high: int) -> int:
        """A whole number of low..high, both included."""
        return self.deal(name, range(low, high + 1))

    def share(self, name: str, percent: int) -> bool:
        """True in `percent` of all cases (a multiple of 5)."""
        return self.deal(name, [True] * (percent // 5) + [False] * (20 - percent // 5))

    def hex(self, digits: int) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def base64(self, size: int) -> str:
        """`size` random bytes, URL-safe."""
        return base64.urlsafe_b64encode(self.random.randbytes(size)).decode().rstrip("=")

    def digits(self, count: int) -> str:
        return f"{self.random.randrange(10**count):0{count}d}"

    def cents(self, name: str, median: int) -> int:
        """An amount: most near `median`, some far above; prices like to end in 0 and 9."""
        step = self.between(name, -8, 8)
        amount = int(median * 1.45 ** (step / 2) * self.random.uniform(0.8, 1.25)) + 1
        if self.share(name + "/round", 40):
            return max(10, amount // 100 * 100 - (10 if self.share(name + "/nine", 50) else 0))
        return amount
