"""One MMTP connection's tables and dictionaries after WELCOME: it comes to what is in force, and keeps checkpoints."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from accessgw.core.codings import Codings
from accessgw.core.interfaces.clock import Timer
from accessgw.model.header_states import Direction, HeaderState, StateKey
from accessgw.model.identity import Identity
from protocols.errors import LocalError
from protocols.mmtp import events
from protocols.mmtp.bundles import EMPTY_BUNDLE, MAX_DICTIONARIES, Bundle
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.greeting import CAPABILITIES
from protocols.mmtp.handshake import Hello
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.tables import GENERIC, AppTable
from protocols.mmtp.uses import DICT_CAPABILITY

if TYPE_CHECKING:
    from accessgw.core.mmtp_binding import MmtpBinding

MAX_OFFERS = 4
"""Dictionaries offered to a connection at once; the next ones when it has these."""

OF_CODINGS = (
    events.CheckpointTaken,
    events.CheckpointAcked,
    events.TableHeld,
    events.DictionaryHeld,
    events.DictionaryRetired,
)


class LinkCodings:
    """A Follower; only where `template` or `dict` was agreed."""

    __slots__ = ("_app", "_binding", "_device", "_dictionaries", "_offered", "_shared", "_table", "_timer")

    def __init__(
        self, binding: MmtpBinding, shared: Codings, used: frozenset[str], identity: Identity, found: FoundStates
    ) -> None:
        """`used` is what was agreed."""
        self._binding = binding
        self._shared = shared
        self._app = identity.app
        self._device = identity.device
        self._dictionaries = DICT_CAPABILITY in used
        self._table: AppTable | None = (found.table or GENERIC) if TEMPLATE_CAPABILITY in used else None
        """The table that it has, or was offered last; None: it takes none."""
        self._offered: tuple[int, ...] = ()
        self._timer: Timer | None = None

    def begin(self, hello: Hello, bundle: Bundle | None) -> None:
        """WELCOME has left; `bundle` is in force."""
        self._shared.rollout.enter(self._app, self)
        if self._dictionaries and hello.bundle and bundle is None:
            self._clear()
        self.follow()

    def end(self) -> None:
        """The connection is gone."""
        self._shared.rollout.leave(self._app, self)
        # a walk that is under way, or a dictionary that is being packed, may still lead here
        self._dictionaries = False
        self._table = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---------------------------------------------------------------- what comes

    def handle(self, event: events.Event) -> None:
        """One of OF_CODINGS."""
        shared = self._shared
        if isinstance(event, events.CheckpointTaken):
            self._commit(event)
        elif isinstance(event, events.TableHeld):
            shared.counters.tables_held += 1
        elif isinstance(event, events.DictionaryHeld):
            shared.counters.dictionaries_held += 1
            self._offered = tuple([id for id in self._offered if id != event.id])
            self.follow()
        elif isinstance(event, events.DictionaryRetired):
            self.follow()

    def _commit(self, event: events.CheckpointTaken) -> None:
        """Only the connection in force writes: one that was taken over may still have something to read."""
        binding = self._binding
        session = binding.session
        if session is None or session.link is not binding:
            return
        state = event.state
        direction: Direction = "up" if event.direction == events.UP else "down"
        identity = session.identity
        self._shared.states.commit(
            StateKey(identity.device, identity.user, state.table.digest),
            HeaderState(direction, event.number, state.encoded),
            session.generation,
        )

    def failed_there(self) -> None:
        """The device could not expand something that we sent: whatever was in use is under suspicion."""
        wire = self._binding.wire
        for dictionary in set(wire.classes_in_use().values()):
            dictionary.fail(wire.witness)

    # ---------------------------------------------------------------- what is in force

    def follow(self) -> None:
        """See Follower: offer the table of the application, offer, use and retire dictionaries."""
        if self._binding.wire.closed:
            return
        if self._table is not None:
            self._follow_table(self._table)
        if self._dictionaries:
            self._follow_bundle(self._shared.dictionaries.bundle_for(self._app, self._device) or EMPTY_BUNDLE)

    def _follow_table(self, has: AppTable) -> None:
        wanted = self._shared.tables.of(self._app)
        if wanted is None or wanted.digest == has.digest:
            return
        # while another version stands offered it cannot be; the next connection gets it
        with suppress(LocalError):
            self._binding.wire.offer_table(wanted)
            self._table = wanted
            self._shared.counters.tables_offered += 1
            self._binding.touch()

    def _follow_bundle(self, wanted: Bundle) -> None:
        wire = self._binding.wire
        if wire.classes_in_use() is wanted.classes:
            return
        held = set(wire.held_dictionaries())
        for dictionary in wanted.dictionaries:
            if dictionary.id not in held:
                self._offer(dictionary, held)
            # in the order of their ids: of two that share a class the higher one has it
            elif any(
                wanted.classes[name] is dictionary and _other(wire.classes_in_use().get(name), dictionary)
                for name in dictionary.classes
            ):
                wire.use_dictionary(dictionary.id)
                self._binding.touch()
        for id in held.difference(wanted.by_id):
            dictionary_there = self._shared.dictionaries.dictionary(id)
            if dictionary_there is None or not _stands_in(dictionary_there, wanted, held):
                wire.retire_dictionary(id)
                self._binding.touch()

    def _offer(self, dictionary: Dictionary, held: set[int]) -> None:
        if dictionary.id in self._offered or len(self._offered) >= MAX_OFFERS:
            return
        wire = self._binding.wire
        in_use = wire.classes_in_use()
        base = next((in_use[name] for name in dictionary.classes if name in in_use and in_use[name].id in held), None)
        packed = self._shared.packs.get(dictionary, base, self)
        if packed is None:
            return
        # one that the device is about to forget cannot be offered: DictionaryRetired says when
        with suppress(LocalError):
            wire.offer_dictionary(packed)
            self._offered += (dictionary.id,)
            self._shared.counters.dictionaries_offered += 1
            self._binding.touch()

    def _clear(self) -> None:
        """The device holds a set that we do not know, so its bundle would never be one of ours: let it forget
        whatever it may have beside what is in force. Of very many the newest: each costs two frames, and what a device
        has kept for longer it may leave out by itself (specification, 8.4)."""
        dictionaries = self._shared.dictionaries
        wanted = dictionaries.bundle_for(self._app, self._device) or EMPTY_BUNDLE
        others = sorted(one.id for one in dictionaries.readable() if one.id not in wanted.by_id)
        for id in others[-MAX_DICTIONARIES:]:
            self._binding.wire.retire_dictionary(id)

    # ---------------------------------------------------------------- idle connections

    def used(self) -> None:
        """Something came: header codecs may be awake, and are put away when nothing comes for a while."""
        if self._timer is None and self._shared.rest_after and not self._binding.wire.rests:
            self._timer = self._shared.timers.schedule(self._shared.rest_after, self._rest)

    def _rest(self) -> None:
        self._timer = None
        wire = self._binding.wire
        if wire.closed:
            return
        if wire.rest():
            self._shared.counters.rested += 1
        else:
            self._timer = self._shared.timers.schedule(self._shared.rest_after, self._rest)


def agreed(hello: Hello, shared: Codings) -> frozenset[str]:
    """The capabilities that WELCOME will name."""
    return hello.capabilities & shared.capabilities & CAPABILITIES


def _other(in_use: Dictionary | None, dictionary: Dictionary) -> bool:
    return in_use is None or in_use.id != dictionary.id


def _stands_in(old: Dictionary, wanted: Bundle, held: set[int]) -> bool:
    """Bodies of a class of `old` would travel without a dictionary until its successor is there. A higher id than that
    of its successor was rolled back: it is not used any more in any case."""
    for name in old.classes:
        successor = wanted.classes.get(name)
        if successor is not None and successor.id > old.id and successor.id not in held:
            return True
    return False
