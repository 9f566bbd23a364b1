"""Dictionaries of bodies as the gateway keeps them: where in its life each one is, and how it does."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct, structs


class DictionaryState(StrEnum):
    """Where in its life a dictionary is."""

    TRAINING = "training"
    CANDIDATE = "candidate"
    """Finished and checked; nobody uses it yet."""
    CANARY = "canary"
    """A share of the devices uses it."""
    ACTIVE = "active"
    RETIRED = "retired"
    """Another took its place; what was compressed with it can still be expanded."""
    ROLLED_BACK = "rolled_back"
    """It did worse, or an operator said so; it can still be expanded, too."""
    REFUSED = "refused"
    """It came to nothing; `reason` says why."""


READABLE = frozenset(
    {DictionaryState.CANARY, DictionaryState.ACTIVE, DictionaryState.RETIRED, DictionaryState.ROLLED_BACK}
)
"""States in which bodies compressed with a dictionary are expanded."""
USED = frozenset({DictionaryState.ACTIVE, DictionaryState.RETIRED})
"""States of what everybody was given and nobody took back."""
SETTLED = frozenset({DictionaryState.RETIRED, DictionaryState.ROLLED_BACK, DictionaryState.REFUSED})
"""States in which a dictionary is forgotten after a while."""


LEAST_BYTES = 10 * 1024
"""Bytes of all bodies of a training; of less zstd makes no tables that are worth their place."""


class Figures(Struct, frozen=True, gc=False):
    """What a dictionary did to bodies."""

    messages: int = 0
    raw: int = 0
    """Bytes of bodies before."""
    packed: int = 0
    """Bytes on the wire."""
    errors: int = 0
    """Bodies that could not be expanded, on either side."""

    @property
    def attempts(self) -> int:
        return self.messages + self.errors

    @property
    def ratio(self) -> float:
        """Compressed to raw; 1.0 when there was nothing."""
        return self.packed / self.raw if self.raw else 1.0

    @property
    def error_rate(self) -> float:
        return self.errors / self.attempts if self.attempts else 0.0

    def since(self, earlier: Figures) -> Figures:
        """What was added after `earlier`."""
        return Figures(
            self.messages - earlier.messages,
            self.raw - earlier.raw,
            self.packed - earlier.packed,
            self.errors - earlier.errors,
        )


class DictionaryRecord(Struct, frozen=True, kw_only=True):
    """One dictionary. Times are wall-clock seconds."""

    id: int
    app: str
    classes: tuple[str, ...]
    """Class names: `q` and operation, `a` and operation, or `p` and biz, `*` at the end for a prefix."""
    state: DictionaryState
    created_at: float
    changed_at: float
    """When it came into its state."""
    reason: str = ""
    """Why it is in its state, when there is something to say."""
    content: bytes = b""
    """The dictionary in zstd's format; empty before it is trained."""
    share: float = 0.0
    """Share of devices, of a canary."""
    replaced: int = 0
    """The active dictionary whose place it took, for a rollback; 0 for none."""
    samples: int = 0
    users: int = 0
    """Bodies and different users it was trained from."""
    shortest: int = 0
    """Strings of this many bytes or more were held against the rule of users."""
    expected: float = 0.0
    """Ratio on bodies that the training did not see."""
    figures: Figures = Figures()
    baseline: Figures = Figures()
    """Of a canary: the figures of the active dictionary when the canary began."""
    own_baseline: Figures = Figures()
    """Of a canary: its own figures then (it may have been in use before)."""

    def but(self, **changes: Any) -> DictionaryRecord:
        """The same with some fields changed."""
        return structs.replace(self, **changes)

    @property
    def slot(self) -> tuple[str, tuple[str, ...]]:
        """What only one active dictionary and one canary may have."""
        return self.app, self.classes


class Sample(Struct, frozen=True, gc=False):
    """One body for a training, and whose it was (only whether two are equal means anything)."""

    user: int
    body: bytes


class TrainingJob(Struct, frozen=True):
    """What a training needs."""

    id: int
    samples: list[Sample]
    users: int
    size: int


class TrainingResult(Struct, frozen=True):
    """What came of it."""

    content: bytes
    samples: int
    users: int
    shortest: int
    expected: float
    plain: float
    """Ratio of the same bodies without a dictionary."""
