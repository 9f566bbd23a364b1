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
    def ratio(self) -> float:
        """Compressed to raw; 1.0 when there was nothing."""
        return self.packed / self.raw if self.raw else 1.0


class UserFigures(Struct, frozen=True, gc=False, array_like=True):
    """What a dictionary did to the bodies of one user."""

    messages: int
    raw: int
    packed: int
    failed: bool
    """Some body could not be expanded; how many does not count."""


WITNESSES = (1 << 63) - 1
"""The highest number that stands for a user."""


class Trial(Struct, frozen=True):
    """What a canary, or the active dictionary beside it, did since the canary began, for each user."""

    canary: int
    """The canary's id."""
    began: float
    """When it came into that state."""
    limit: int = WITNESSES
    """Users with a higher number are left out: where there are many, those below are a fair sample of all."""
    users: dict[int, UserFigures] = {}
    """By their numbers."""


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
    trial: Trial | None = None
    """Of a canary, and of the active dictionary beside it."""

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
