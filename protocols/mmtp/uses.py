"""Which dictionaries the bodies of one connection are coded with, and coding them so (specification, section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from protocols.mmtp.bodies import EXPLICIT, HISTORY, MINI, RAW, Declined, begin, compress
from protocols.mmtp.bundles import EMPTY_BUNDLE, MAX_DICTIONARIES, Bundle, ClassesInUse
from protocols.mmtp.dictionaries import PUSH_KIND, Dictionary
from protocols.mmtp.history import History
from protocols.mmtp.mini import MiniParts
from protocols.mmtp.settings import Limits

DICT_CAPABILITY = "dict"
HISTORY_CAPABILITY = "history"


class Parts(Protocol):
    """Expands a body that comes in parts."""

    def feed(self, data: bytes, last: bool) -> bytes:
        """What the next part expands to. Raises RemoteError(COMPRESSION)."""


class Uses:
    """The dictionaries that both sides hold, and what the classes mean in each direction; only where it was agreed."""

    __slots__ = ("_own", "dictionaries", "down", "held", "history", "up")

    def __init__(
        self, bundle: Bundle = EMPTY_BUNDLE, *, dictionaries: bool = True, history: bool = False, in_force: bool = True
    ) -> None:
        """`dictionaries`, `history`: the capabilities that hold; `in_force`: both directions use the bundle."""
        self.dictionaries = dictionaries
        self.history = history
        self.up = ClassesInUse(bundle if in_force else EMPTY_BUNDLE)
        self.down = ClassesInUse(bundle if in_force else EMPTY_BUNDLE)
        self.held: Mapping[int, Dictionary] = bundle.by_id
        """By id; shared with the bundle until it changes."""
        self._own: dict[int, Dictionary] | None = None

    def hold(self, dictionary: Dictionary) -> bool:
        """Both sides have it now; False, and nothing happens, above MAX_DICTIONARIES."""
        if dictionary.id not in self.held and len(self.held) >= MAX_DICTIONARIES:
            return False
        self._owned()[dictionary.id] = dictionary
        return True

    def forget(self, id: int) -> Dictionary | None:
        """One side has let go of it."""
        if id not in self.held:
            return None
        dictionary = self._owned().pop(id)
        self.up.retire(dictionary)
        self.down.retire(dictionary)
        return dictionary

    def _owned(self) -> dict[int, Dictionary]:
        if self._own is None:
            self._own = dict(self.held)
            self.held = self._own
        return self._own


def pack(
    body: bytes, classes: ClassesInUse | None, kind: str, name: str, zstd: bool, *, witness: int = 0
) -> tuple[int, bytes]:
    """A whole body as it leaves, and its coding: a mini where its class has a dictionary, else zstd, else raw.

    `witness`: see Watcher."""
    if classes is not None and body:
        dictionary = classes.for_class(kind, name)
        if dictionary is not None:
            packed = dictionary.compress(body)
            if packed is not None:
                dictionary.count(len(body), len(packed), witness)
                return MINI, packed
            dictionary.count(len(body), len(body), witness)
    if zstd:
        packed = compress(body)
        if packed is not None:
            return EXPLICIT, packed
    return RAW, body


def unpack(
    coding: int,
    body: bytes,
    more: bool,
    *,
    zstd: bool,
    limits: Limits,
    classes: ClassesInUse | None,
    kind: str,
    name: str,
    witness: int = 0,
) -> tuple[bytes, Parts | None]:
    """The first part of a body, expanded, and what expands the rest (None: raw or complete).

    `classes` are those of the peer's direction, None: minis were not agreed; `witness`: see Watcher. Raises Declined or
    RemoteError(COMPRESSION).
    """
    if coding != MINI or classes is None:
        return begin(coding, body, more, zstd, limits)
    dictionary = classes.for_class(kind, name)
    if dictionary is None:
        raise Declined(f"coding {MINI}: no dictionary for class {kind}{name[:64]}")
    if not more:
        return dictionary.expand(body, limits, witness), None
    parts = MiniParts(lambda whole: dictionary.expand(whole, limits, witness))
    return parts.feed(body, False), parts


def unpack_push(
    coding: int, body: bytes, *, zstd: bool, limits: Limits, uses: Uses | None, biz: str, history: History | None
) -> bytes:
    """The body of a push, expanded. Raises Declined or RemoteError(COMPRESSION)."""
    if uses is not None:
        dictionary = uses.down.for_class(PUSH_KIND, biz)
        if coding == MINI and dictionary is not None:
            return dictionary.decompress(body, limits)
        if coding == HISTORY and history is not None:
            return history.decompress(body, dictionary, limits)
    return begin(coding, body, False, zstd, limits)[0]
