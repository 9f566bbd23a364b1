"""Samples of live bodies, per app and class: bounded in memory, fair among users, cheap when not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, log

from accessgw.model.dictionaries import Sample
from accessgw.model.dictionary_settings import DictionarySettings

ClassKey = tuple[str, str, str]
"""App, kind (`q`, `a` or `p`), name of the operation or biz."""

LEAST_BODY = 8
"""Shorter bodies are not worth a dictionary."""
MEMORY = 20
"""A body's chance to be taken never falls below the one that it has after so many reservoirs: samples stay young."""
CLASSES_PER_USER = 4
"""Classes that one user can have brought in without enough others having used them."""
MAX_NAME = 256
MAX_VERDICTS = 4096
"""Classes whose secrecy is remembered."""
SECRET = ("gw.*",)
"""Secret without being named: sessions and subscriptions of the gateway's own operations."""


class Reservoir:
    """The samples of one class: algorithm L (Li, 1994), with bounds on bytes and on samples of a user."""

    __slots__ = ("_bytes", "_per_user", "_random", "_settings", "_weight", "creator", "samples", "seen", "skip")

    def __init__(self, settings: DictionarySettings, random: Callable[[], float], creator: int) -> None:
        self._settings = settings
        self._random = random
        self.samples: list[Sample] = []
        self._per_user: dict[int, int] = {}
        self._bytes = 0
        self._weight = 1.0
        self.seen = 0
        """Bodies offered, those that were skipped included."""
        self.skip = 0
        """Bodies to let pass before the next is taken."""
        self.creator = creator

    @property
    def users(self) -> int:
        return len(self._per_user)

    @property
    def size(self) -> int:
        """Bytes of its samples."""
        return self._bytes

    def offer(self, user: int, body: bytes) -> bool:
        """Take the body, in the place of others where there is no room; whether it was."""
        settings = self._settings
        self.seen += 1
        if self._per_user.get(user, 0) >= settings.messages_per_user:
            return False
        full = len(self.samples) >= settings.messages
        if full:
            self._drop(int(self._random() * len(self.samples)))
        while self.samples and self._bytes + len(body) > settings.sample_bytes:
            full = True
            self._drop(int(self._random() * len(self.samples)))
        self.samples.append(Sample(user, body))
        self._per_user[user] = self._per_user.get(user, 0) + 1
        self._bytes += len(body)
        if full:
            self._draw()
        return True

    def _draw(self) -> None:
        """How many to let pass, as if every one of them had its chance."""
        count = len(self.samples)
        draw = 1.0 - self._random()  # in (0, 1]
        self._weight = max(self._weight * exp(log(draw) / count), 1 / MEMORY)
        if self._weight < 1.0:
            self.skip = int(log(1.0 - self._random()) / log(1.0 - self._weight))
        self.seen += self.skip

    def _drop(self, place: int) -> None:
        samples = self.samples
        dropped = samples[place]
        samples[place] = samples[-1]
        samples.pop()
        self._bytes -= len(dropped.body)
        left = self._per_user[dropped.user] - 1
        if left:
            self._per_user[dropped.user] = left
        else:
            del self._per_user[dropped.user]


class Sampler:
    """All classes of all apps. `random` gives numbers in [0, 1).

    A class that enough users have used is never displaced. A new one takes the place of the class with the fewest
    users below that, and one user can hold few such places: names that nobody else uses displace each other.
    """

    def __init__(self, settings: DictionarySettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._classes: dict[ClassKey, Reservoir] = {}
        self._verdicts: dict[str, bool] = {}
        self.secrets: tuple[str, ...] = (*settings.secret, *SECRET)
        """Names, and prefixes with a star."""
        self.sampled = 0
        self.displaced = 0
        self.no_room = 0
        """Bodies of classes for which there was no place."""

    @property
    def size(self) -> int:
        """Bytes of all samples."""
        return sum(reservoir.size for reservoir in self._classes.values())

    def __len__(self) -> int:
        return len(self._classes)

    def observe(self, app: str, kind: str, name: str, user: str, body: bytes) -> None:
        """Look at a body; `user` is whoever it belongs to. Without a user it is nobody's, and left out."""
        reservoir = self._classes.get((app, kind, name))
        if reservoir is not None and reservoir.skip:
            reservoir.skip -= 1
            return
        self._look(reservoir, (app, kind, name), user, body)

    def is_secret(self, name: str) -> bool:
        """Whether bodies of this operation or biz are never sampled nor compressed with a dictionary."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[name] = any(_matches(pattern, name) for pattern in self.secrets)
        return verdict

    def replace_secrets(self, secret: Iterable[str]) -> None:
        """Keep other names secret; samples of what is secret now are dropped."""
        self.secrets = (*secret, *SECRET)
        self._verdicts.clear()
        for key in [key for key in self._classes if self.is_secret(key[2])]:
            del self._classes[key]

    def classes(self) -> Iterable[tuple[ClassKey, Reservoir]]:
        return self._classes.items()

    def matching(self, app: str, pattern: str) -> list[Sample]:
        """Samples of all classes of an app whose name (kind and text) fits; a copy."""
        found: list[Sample] = []
        for (its_app, kind, name), reservoir in self._classes.items():
            if its_app == app and _matches(pattern, kind + name):
                found += reservoir.samples
        return found

    def _look(self, reservoir: Reservoir | None, key: ClassKey, user: str, body: bytes) -> None:
        if not user or not LEAST_BODY <= len(body) <= min(self._settings.max_body, self._settings.sample_bytes):
            return
        # keyed anew in every process; equal hashes of different users would count as one, which errs on the safe side
        owner = hash(user) & 0xFFFF_FFFF_FFFF_FFFF
        if reservoir is None:
            if self.is_secret(key[2]):
                return
            reservoir = self._admit(key, owner)
            if reservoir is None:
                self.no_room += 1
                return
        if reservoir.offer(owner, bytes(body)):
            self.sampled += 1

    def _admit(self, key: ClassKey, owner: int) -> Reservoir | None:
        if len(key[0]) > MAX_NAME or len(key[2]) > MAX_NAME:
            return None
        unproved = [(other, kept) for other, kept in self._classes.items() if kept.users < self._settings.users]
        own = [(other, kept) for other, kept in unproved if kept.creator == owner and kept.users <= 1]
        rivals = own if len(own) >= CLASSES_PER_USER else unproved if len(self) >= self._settings.max_classes else None
        if rivals is not None:
            if not rivals:
                return None
            displaced, _ = min(rivals, key=lambda entry: (entry[1].users, entry[1].seen))
            del self._classes[displaced]
            self.displaced += 1
        reservoir = self._classes[key] = Reservoir(self._settings, self._random, owner)
        return reservoir


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
