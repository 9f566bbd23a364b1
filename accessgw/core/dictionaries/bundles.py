"""Which dictionaries are in force together: for each app, its canaries by share of devices, and earlier sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from accessgw.model.dictionaries import READABLE, DictionaryRecord, DictionaryState
from accessgw.policy.dictionary_life import share_of
from protocols.mmtp.bundles import MAX_DICTIONARIES, Bundle
from protocols.mmtp.dictionaries import Dictionary

MAX_KNOWN = 1024
"""Sets that are remembered; past that the oldest that are not in force go."""

Variants = list[tuple[float, Bundle]]
"""(share of devices below which it holds, bundle), ascending; the last one is everybody's."""


class Bundles:
    """`made(ids)` is called with each set that comes into force for the first time, `gone(ids)` with one forgotten."""

    def __init__(self, made: Callable[[tuple[int, ...]], None], gone: Callable[[tuple[int, ...]], None]) -> None:
        self._made = made
        self._gone = gone
        self._dictionaries: dict[int, Dictionary] = {}
        self._in_force: dict[str, Variants] = {}
        self._active: dict[str, Bundle] = {}
        self._known: dict[tuple[int, ...], Bundle] = {}
        self._by_digest: dict[bytes, Bundle] = {}

    def load(self, records: Iterable[DictionaryRecord], sets: Iterable[Sequence[int]]) -> None:
        """What the store has."""
        records = list(records)
        self._update_dictionaries(records)
        for ids in map(tuple, sets):
            if len(self._remember(ids, told=False).dictionaries) < len(ids):
                self._gone(ids)  # the process ended while it was being forgotten
        self.update(records)

    def update(self, records: Sequence[DictionaryRecord]) -> list[str]:
        """Bring the records into force; the apps whose bundles have changed."""
        self._update_dictionaries(records)
        for ids in [ids for ids in self._known if not all(id in self._dictionaries for id in ids)]:
            self._forget(ids)
        before = self._digests()
        self._in_force, self._active = {}, {}
        for app in {record.app for record in records}:
            own = [record for record in records if record.app == app]
            variants = self._variants(own)
            if variants:
                self._in_force[app] = variants
                active = sorted(record.id for record in own if record.state == DictionaryState.ACTIVE)
                self._active[app] = self._remember(tuple(active)[-MAX_DICTIONARIES:], told=False)
        self._bound()
        after = self._digests()
        return sorted(app for app in {*before, *after} if before.get(app) != after.get(app))

    def bundle_for(self, app: str, device: str) -> Bundle | None:
        variants = self._in_force.get(app)
        if variants is None:
            return None
        bundle = variants[-1][1]
        if len(variants) > 1:
            place = share_of(app, device)
            bundle = next(bundle for share, bundle in variants if place < share)
        return bundle if bundle.dictionaries else None

    def active(self, app: str) -> Bundle | None:
        return self._active.get(app)

    def known(self, digest: bytes) -> Bundle | None:
        return self._by_digest.get(digest)

    def dictionary(self, id: int) -> Dictionary | None:
        return self._dictionaries.get(id)

    def readable(self) -> list[Dictionary]:
        return list(self._dictionaries.values())

    def _update_dictionaries(self, records: Iterable[DictionaryRecord]) -> None:
        readable = {record.id: record for record in records if record.state in READABLE}
        # objects are kept: their compiled tables are dear
        self._dictionaries = {
            id: self._dictionaries.get(id) or Dictionary(id, record.content, record.classes)
            for id, record in readable.items()
        }

    def _digests(self) -> dict[str, list[tuple[float, bytes]]]:
        """What is in force of each app, to compare."""
        return {
            app: [(0.0, self._active[app].digest), *((share, bundle.digest) for share, bundle in variants)]
            for app, variants in self._in_force.items()
        }

    def _variants(self, records: Sequence[DictionaryRecord]) -> Variants:
        active = {record.slot: record for record in records if record.state == DictionaryState.ACTIVE}
        canaries = [record for record in records if record.state == DictionaryState.CANARY]
        if not active and not canaries:
            return []
        shares = sorted({record.share for record in canaries if 0 < record.share < 1})
        variants = []
        for share in [*shares, 1.0]:
            chosen = {**active, **{record.slot: record for record in canaries if record.share >= share}}
            ids = tuple(sorted(record.id for record in chosen.values()))[-MAX_DICTIONARIES:]
            variants.append((share, self._remember(ids, told=True)))
        return variants

    def _remember(self, ids: tuple[int, ...], *, told: bool) -> Bundle:
        bundle = self._known.get(ids)
        if bundle is None:
            bundle = Bundle(self._dictionaries[id] for id in ids if id in self._dictionaries)
            if len(bundle.dictionaries) < len(ids):
                return bundle
            self._known[ids] = bundle
            self._by_digest[bundle.digest] = bundle
            if told:
                self._made(ids)
        return bundle

    def _bound(self) -> None:
        if len(self._known) <= MAX_KNOWN:
            return
        used = {bundle.digest for variants in self._in_force.values() for _, bundle in variants}
        old = [ids for ids, bundle in self._known.items() if bundle.digest not in used]
        for ids in old[: len(self._known) - MAX_KNOWN]:
            self._forget(ids)

    def _forget(self, ids: tuple[int, ...]) -> None:
        bundle = self._known.pop(ids)
        self._by_digest.pop(bundle.digest, None)
        self._gone(ids)
