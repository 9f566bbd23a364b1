"""Bundles: the dictionaries of one side, and which of them a body is compressed with (specification, section 8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from weakref import WeakValueDictionary

from protocols.errors import LocalError
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.digests import digest_of
from protocols.mmtp.varint import encode_varint

MAX_DICTIONARIES = 256
"""Dictionaries of one bundle."""
MAX_CACHED = 1024
"""Names whose dictionary is remembered; the names come from peers."""


class ClassMap:
    """Finds the dictionary of a body: the longest class name that matches, a whole name before a prefix."""

    __slots__ = ("__weakref__", "_cache", "_exact", "_lengths", "_prefixes", "classes")

    def __init__(self, classes: Mapping[str, Dictionary]) -> None:
        self.classes = classes
        self._exact: dict[str, Dictionary] = {}
        self._prefixes: dict[str, Dictionary] = {}
        for name, dictionary in classes.items():
            if name.endswith("*"):
                self._prefixes[name[:-1]] = dictionary
            else:
                self._exact[name] = dictionary
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._cache: dict[str, Dictionary | None] = {}

    def for_class(self, kind: str, name: str) -> Dictionary | None:
        """The dictionary for bodies of `kind` (q, a, p) of this operation or biz, None: there is none."""
        key = kind + name
        cache = self._cache
        if key in cache:
            return cache[key]
        found = self._exact.get(key)
        if found is None:
            for length in self._lengths:
                found = self._prefixes.get(key[:length])
                if found is not None:
                    break
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = found
        return found


_maps: WeakValueDictionary[frozenset[tuple[str, Dictionary]], ClassMap] = WeakValueDictionary()


def map_of(classes: Mapping[str, Dictionary]) -> ClassMap:
    """The map of these classes, one for all connections on which they mean the same: after a rollout those are most."""
    key = frozenset(classes.items())
    found = _maps.get(key)
    if found is None:
        found = _maps[key] = ClassMap(dict(classes))
    return found


class Bundle:
    """The dictionaries that a side holds and would use; immutable, and shared by connections."""

    __slots__ = ("by_id", "dictionaries", "digest", "map")

    def __init__(self, dictionaries: Iterable[Dictionary] = ()) -> None:
        """Of two dictionaries with the same class the one with the higher id has it.

        Raises LocalError for more than MAX_DICTIONARIES, and for two with one id.
        """
        self.dictionaries = tuple(sorted(dictionaries, key=lambda dictionary: dictionary.id))
        self.by_id = {dictionary.id: dictionary for dictionary in self.dictionaries}
        if len(self.dictionaries) > MAX_DICTIONARIES:
            raise LocalError(f"bundle: expected at most {MAX_DICTIONARIES} dictionaries, got {len(self.dictionaries)}")
        if len(self.by_id) != len(self.dictionaries):
            raise LocalError("bundle: two dictionaries have one id")
        named = b"".join(encode_varint(dictionary.id) + dictionary.digest for dictionary in self.dictionaries)
        self.digest = digest_of(named)
        self.map = map_of({name: dictionary for dictionary in self.dictionaries for name in dictionary.classes})

    def for_class(self, kind: str, name: str) -> Dictionary | None:
        """The dictionary for bodies of `kind` (q, a, p) of this operation or biz, None: there is none."""
        return self.map.for_class(kind, name)

    @property
    def classes(self) -> Mapping[str, Dictionary]:
        """What each class name means."""
        return self.map.classes


EMPTY_BUNDLE = Bundle()


class ClassesInUse:
    """What the classes mean in one direction of a connection: those of a bundle, until DICT use changes some."""

    __slots__ = ("_map",)

    def __init__(self, bundle: Bundle = EMPTY_BUNDLE) -> None:
        self._map = bundle.map

    def for_class(self, kind: str, name: str) -> Dictionary | None:
        """The dictionary for bodies of `kind` (q, a, p) of this operation or biz, None: there is none."""
        return self._map.for_class(kind, name)

    @property
    def classes(self) -> Mapping[str, Dictionary]:
        """What each class name means now."""
        return self._map.classes

    def use(self, dictionary: Dictionary) -> None:
        """From here on the classes of `dictionary` mean it."""
        current = self._map.classes
        if any(current.get(name) is not dictionary for name in dictionary.classes):
            self._map = map_of({**current, **dict.fromkeys(dictionary.classes, dictionary)})

    def drop(self, name: str) -> None:
        """From here on the class `name` (as in its dictionary, with its star) is nobody's; it may be unknown."""
        current = self._map.classes
        if name in current:
            self._map = map_of({other: dictionary for other, dictionary in current.items() if other != name})

    def retire(self, dictionary: Dictionary) -> None:
        """From here on no class means `dictionary`."""
        current = self._map.classes
        if any(other is dictionary for other in current.values()):
            self._map = map_of({name: other for name, other in current.items() if other is not dictionary})
