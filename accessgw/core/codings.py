"""What a worker's MMTP connections share to save bytes: application tables, header states, dictionaries, histories."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.app_tables import AppTables
from accessgw.core.header_states import HeaderStates, Named
from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.dictionaries import DictionaryService
from accessgw.core.rollout import Packs, Rollout
from accessgw.model.counters import CodingCounters
from accessgw.model.header_states import Direction, StateKey
from accessgw.model.identity import Identity
from accessgw.model.mmtp_settings import MmtpSettings
from accessgw.model.pushes import Scope, StreamKey
from protocols.errors import RemoteError
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import Hello
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.tables import AppTable
from protocols.mmtp.templates import TemplateState, decode_state
from protocols.mmtp.uses import DICT_CAPABILITY, HISTORY_CAPABILITY

log = Logger()

FIND_TIMEOUT = 1.0
"""Seconds that a WELCOME waits for the store; then the device begins with empty states."""
_PRIVATE = (Scope.DEVICE, Scope.USER)


class Codings:
    """What bindings ask at the hand-shake and after it."""

    def __init__(
        self,
        settings: MmtpSettings,
        *,
        tables: AppTables,
        states: HeaderStates,
        dictionaries: DictionaryService,
        dictionaries_enabled: bool,
        rollout: Rollout,
        packs: Packs,
        timers: Timers,
        counters: CodingCounters,
    ) -> None:
        self.tables = tables
        self.states = states
        self.dictionaries = dictionaries
        self.rollout = rollout
        self.packs = packs
        self.timers = timers
        self.counters = counters
        self._dictionaries_enabled = dictionaries_enabled
        self.reconfigure(settings)
        self._end: Callable[[], None] = dictionaries.on_change(rollout.changed)

    def reconfigure(self, settings: MmtpSettings) -> None:
        """These settings hold for connections that begin from now on."""
        self._history = settings.history
        self._biz = tuple(name for name in settings.history_biz if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in settings.history_biz if name.endswith("*"))
        self.rest_after = settings.rest_after
        capabilities = {ZSTD_CAPABILITY}
        if settings.templates:
            capabilities.add(TEMPLATE_CAPABILITY)
        if self._dictionaries_enabled:
            capabilities.add(DICT_CAPABILITY)
        if settings.history and settings.history_biz:
            capabilities.add(HISTORY_CAPABILITY)
        self.capabilities = frozenset(capabilities)
        """What WELCOME may name; never empty, since send_welcome takes that for all."""

    def replace_tables(self, tables: AppTables) -> None:
        """Other tables hold; connected devices are offered theirs."""
        self.tables = tables
        self.rollout.all_changed()

    # ---------------------------------------------------------------- at the hand-shake

    def find(self, hello: Hello, identity: Identity) -> FoundStates | Deferred[FoundStates]:
        """What there is of the header states that HELLO names; the store is only read when it names some."""
        named = hello.headers
        if named is None or TEMPLATE_CAPABILITY not in hello.capabilities & self.capabilities:
            return FoundStates()
        asked = []
        if named.up:
            asked.append(Named("up", named.up, named.up_digest))
        if named.down:
            asked.append(Named("down", named.down, named.down_digest))
        table = self.tables.named(named)
        if table is None:
            self.counters.unknown_tables += 1
            return FoundStates()
        if not asked:
            return FoundStates(table)
        finding = self.states.find(StateKey(identity.device, identity.user, table.digest), asked)
        if not finding.called:
            timer = self.timers.schedule(FIND_TIMEOUT, finding.cancel)

            def found(states: dict[Direction, bytes]) -> dict[Direction, bytes]:
                timer.cancel()
                return states

            finding.addCallback(found)
        return finding.addCallback(
            lambda states: FoundStates(table, _state(states.get("up"), table), _state(states.get("down"), table))
        )

    def bundle_named(self, hello: Hello) -> Bundle | None:
        """The bundle that HELLO names, if it is one of ours."""
        if not hello.bundle or DICT_CAPABILITY not in hello.capabilities & self.capabilities:
            return None
        bundle = self.dictionaries.known(hello.bundle)
        counts = self.counters.bundles
        outcome = "unknown" if bundle is None else "known"
        counts[outcome] = counts.get(outcome, 0) + 1
        return bundle

    # ---------------------------------------------------------------- pushes

    def history_of(self, stream: StreamKey) -> int:
        """Bytes of earlier bodies that pushes of this stream may refer to; 0: they must not.

        Only what is one device's or one user's own, and what the operator has named: a length tells whoever can
        choose a part of a body something of the bodies before it.
        """
        biz = stream.biz
        if stream.scope not in _PRIVATE or not (biz in self._biz or biz.startswith(self._prefixes)):
            return 0
        return 0 if self.dictionaries.is_secret(biz) else self._history


def _state(encoded: bytes | None, table: AppTable) -> TemplateState | None:
    if encoded is None:
        return None
    try:
        return decode_state(encoded, table)
    except RemoteError as error:
        log.error("a stored state of header codecs cannot be read: {error}", error=error)
        return None
