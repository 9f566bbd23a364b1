"""The life of a dictionary: who gets a canary, when it is judged and how, what follows what. Pure decisions.

`now` is the wall clock, for a life lasts longer than a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from accessgw.model.dictionaries import (
    LEAST_BYTES,
    SETTLED,
    WITNESSES,
    DictionaryRecord,
    DictionaryState,
    UserFigures,
)
from accessgw.model.dictionary_settings import DictionarySettings

State = DictionaryState


class LifeError(Exception):
    """What was asked for cannot follow a dictionary's state; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a canary."""

    good: bool
    reason: str


def share_of(app: str, device: str) -> float:
    """The place of a device in [0, 1); canaries go to those below their share. The same devices in every app would
    bear every trial, so the app counts too."""
    digest = hashlib.blake2b(f"{app}\0{device}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def witness_of(owner: str) -> int:
    """The number that stands for a user in a trial; 0 for all who are nobody in particular (Identity.owner)."""
    if not owner:
        return 0
    digest = hashlib.blake2b(owner.encode(errors="surrogatepass"), digest_size=8, person=b"trial").digest()
    return int.from_bytes(digest, "big") & WITNESSES or 1


def judge(
    canary: DictionaryRecord, active: DictionaryRecord | None, now: float, settings: DictionarySettings
) -> Verdict | None:
    """What the figures say of a canary; None: not enough yet, or nothing to do.

    Both are measured since the canary began. Without an active dictionary it is held against raw bodies. Every user has
    one voice: neither many failures of one nor very good or bad ratios of a few decide.
    """
    own, other = _users(canary), _users(active)
    failed, failed_other = _failed(own), _failed(other)
    if (
        failed >= settings.canary_users
        and failed / len(own) > failed_other / max(1, len(other)) + settings.error_margin
    ):
        return Verdict(False, f"errors for {failed} of {len(own)} users against {failed_other} of {len(other)}")
    measured = active is None or counted(other, settings) >= settings.canary_messages
    if not measured or counted(own, settings) < settings.canary_messages:
        return None
    ratio, ratio_other = middle_ratio(own), 1.0 if active is None else middle_ratio(other)
    if ratio > ratio_other * (1 + settings.ratio_margin):
        return Verdict(False, f"ratio {ratio:.3f} against {ratio_other:.3f}")
    if settings.promote and now - canary.changed_at >= settings.promote_after:
        return Verdict(True, f"ratio {ratio:.3f} against {ratio_other:.3f} for {len(own)} users")
    return None


def counted(users: Collection[UserFigures], settings: DictionarySettings) -> int:
    """Bodies that count for a judgement: none as long as there are too few users, and of each no more than what makes
    enough of them together."""
    if sum(user.messages > 0 for user in users) < settings.canary_users:
        return 0
    each = -(-settings.canary_messages // settings.canary_users)
    return sum(min(user.messages, each) for user in users)


def middle_ratio(users: Iterable[UserFigures]) -> float:
    """The mean of what bodies of the users became, compressed to raw, without the quarters of the best and the worst.
    1.0 where there are none."""
    ratios = sorted(user.packed / user.raw for user in users if user.raw)
    cut = len(ratios) // 4
    return fmean(ratios[cut : len(ratios) - cut]) if ratios else 1.0


def _users(record: DictionaryRecord | None) -> Collection[UserFigures]:
    return record.trial.users.values() if record is not None and record.trial is not None else ()


def _failed(users: Iterable[UserFigures]) -> int:
    return sum(user.failed for user in users)


def shortfall(bodies: int, users: int, size: int, settings: DictionarySettings) -> str:
    """What samples (so many, of so many users, of so many bytes) lack for a training; empty: nothing."""
    if bodies >= settings.least_messages and users >= settings.users and size >= LEAST_BYTES:
        return ""
    return (
        f"expected {settings.least_messages} bodies of {settings.users} users, {LEAST_BYTES} bytes together,"
        f" got {bodies} of {users}, {size} bytes"
    )


def slot_of(records: Iterable[DictionaryRecord], record: DictionaryRecord, state: State) -> DictionaryRecord | None:
    """The other dictionary of its app and classes that is in `state`; there is one at most of active and canary."""
    return next(
        (other for other in records if other.slot == record.slot and other.state == state and other.id != record.id),
        None,
    )


def trained(record: DictionaryRecord, now: float) -> DictionaryRecord:
    """It is finished and checked."""
    return record.but(state=State.CANDIDATE, changed_at=now)


def refused(record: DictionaryRecord, now: float, reason: str) -> DictionaryRecord:
    """It came to nothing."""
    return record.but(state=State.REFUSED, changed_at=now, reason=reason, content=b"")


def canary(
    record: DictionaryRecord, records: Sequence[DictionaryRecord], now: float, share: float
) -> list[DictionaryRecord]:
    """Give it to a share of the devices; the records that change. Raises LifeError."""
    _must_be_usable(record)
    if record.state == State.ACTIVE:
        raise LifeError(f"dictionary {record.id} is active already")
    before = slot_of(records, record, State.CANARY)
    began = record.changed_at if record.state == State.CANARY else now
    changed = [record.but(state=State.CANARY, changed_at=began, share=share, reason="")]
    if before is not None:
        changed.append(retired(before, now, f"dictionary {record.id} took its place as a canary"))
    return changed


def activate(
    record: DictionaryRecord, records: Sequence[DictionaryRecord], now: float, reason: str
) -> list[DictionaryRecord]:
    """Give it to everyone; the records that change. Raises LifeError."""
    _must_be_usable(record)
    if record.state == State.ACTIVE:
        return []
    active = slot_of(records, record, State.ACTIVE)
    changed = [
        record.but(
            state=State.ACTIVE,
            changed_at=now,
            reason=reason,
            share=0.0,
            trial=None,
            replaced=active.id if active is not None else 0,
        )
    ]
    if active is not None:
        changed.append(retired(active, now, f"dictionary {record.id} took its place"))
    return changed


def roll_back(
    record: DictionaryRecord, records: Sequence[DictionaryRecord], now: float, reason: str
) -> list[DictionaryRecord]:
    """Take it away from everyone; the one that it replaced comes back, if it is still there. Raises LifeError."""
    if record.state not in (State.CANARY, State.ACTIVE, State.CANDIDATE):
        raise LifeError(
            f"dictionary {record.id} is {record.state.value}: only a candidate, canary or active one goes back"
        )
    changed = [record.but(state=State.ROLLED_BACK, changed_at=now, reason=reason, share=0.0, trial=None)]
    if record.state == State.ACTIVE and record.replaced:
        earlier = next((other for other in records if other.id == record.replaced), None)
        if earlier is not None and earlier.state == State.RETIRED:
            changed.append(
                earlier.but(state=State.ACTIVE, changed_at=now, reason=f"dictionary {record.id} was rolled back")
            )
    return changed


def retired(record: DictionaryRecord, now: float, reason: str) -> DictionaryRecord:
    """Nobody is given it any more."""
    return record.but(state=State.RETIRED, changed_at=now, reason=reason, share=0.0, trial=None)


def forgotten(record: DictionaryRecord, now: float, settings: DictionarySettings) -> bool:
    """Whether its time to be expanded is over."""
    return record.state in SETTLED and now - record.changed_at >= settings.retention


def _must_be_usable(record: DictionaryRecord) -> None:
    if record.state in (State.TRAINING, State.REFUSED):
        raise LifeError(
            f"dictionary {record.id} is {record.state.value}" + (f": {record.reason}" if record.reason else "")
        )
