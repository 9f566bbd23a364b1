"""Dictionaries of bodies: what the data path, the stores and the control API see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from accessgw.model.dictionaries import DictionaryRecord
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary


class DictionaryService(Protocol):
    """The data path's side. Every method returns at once; kinds are `q`, `a` and `p` as in class names."""

    observe: Callable[[str, str, str, str, bytes], None]
    """`observe(app, kind, name, user, body)`: offer a body, expanded and whole, as a sample. `name` is the operation or
    biz, `user` whose body it is (Identity.owner): of an answer the asking one's, of a push the receiver's; empty:
    nobody's in particular. Offer requests and answers only of calls that a route took."""

    def is_secret(self, name: str) -> bool:
        """Bodies of this operation or biz travel raw, whatever class of a bundle would match."""

    def bundle_for(self, app: str, device: str) -> Bundle | None:
        """What is in force for this device now; None: nothing. The same object until something changes."""

    def known(self, digest: bytes) -> Bundle | None:
        """The set of dictionaries with this digest, also one of earlier, as long as all of it can be expanded."""

    def dictionary(self, id: int) -> Dictionary | None:
        """One that can be expanded: canary, active, or no longer used and not yet forgotten."""

    def readable(self) -> Iterable[Dictionary]:
        """All that can be expanded.
        What codecs have counted on them (Dictionary.count and fail) is taken from there."""

    def on_change(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """`changed(app)` is called when bundles of an app have changed, for connections that are open; the
        result ends it."""


class PublicDictionaries(DictionaryService, Protocol):
    """The side of clients that are no devices: there are no shares of them, so canaries are not for them."""

    def active(self, app: str) -> Bundle | None:
        """What is in force for every device of the app."""

    def used(self, app: str) -> Iterable[Dictionary]:
        """The app's active and retired dictionaries."""


class DictionaryStore(Protocol):
    """Keeps dictionaries. Deferreds fire when it is durable and fail with StoreUnavailable."""

    def load(self) -> tuple[list[DictionaryRecord], list[tuple[int, ...]]]:
        """All dictionaries in the order of their ids, and the ids of each set that was in force, oldest first; as
        they were when the store started."""

    def add(self, record: DictionaryRecord) -> Deferred[DictionaryRecord]:
        """Keep a new one; the result has its id, which no other had or will have."""

    def put(self, records: Sequence[DictionaryRecord], *, lazy: bool = False) -> Deferred[None]:
        """Keep these as they are now, all or none. A lazy write may wait for company."""

    def add_bundle(self, ids: Sequence[int]) -> Deferred[None]:
        """Keep which dictionaries were in force together."""

    def remove(self, ids: Sequence[int], bundles: Sequence[Sequence[int]]) -> Deferred[None]:
        """Forget dictionaries and sets."""


class DictionaryControl(Protocol):
    """The control API's side. Errors are ControlError, of Deferreds too."""

    def overview(self) -> dict[str, Any]:
        """`dictionaries`: a row each; `classes`: what is sampled."""

    def show(self, id: int) -> dict[str, Any]: ...

    def content(self, id: int) -> bytes: ...

    def train(self, app: str | None, classes: Sequence[str]) -> Deferred[list[dict[str, Any]]]:
        """Begin a training for each class that can be trained (of an app), or one for `classes` together."""

    def activate(self, id: int, share: float) -> Deferred[dict[str, Any]]:
        """Give it to everyone, or below 1.0 to a share of the devices as a canary."""

    def roll_back(self, id: int) -> Deferred[dict[str, Any]]: ...
