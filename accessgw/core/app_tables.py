"""Application tables by application, and by what devices name: those of today, and older ones that are still listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protocols.mmtp.handshake import NamedStates
from protocols.mmtp.tables import GENERIC, AppTable

ANY_APP = "*"


class AppTables:
    """Replaced as a whole by a reload."""

    def __init__(self, declared: Iterable[tuple[AppTable, Sequence[str]]] = ()) -> None:
        """Tables, each with its applications; of several versions of a table they get the newest."""
        self._by_app: dict[str, AppTable] = {}
        self._by_digest: dict[bytes, AppTable] = {GENERIC.digest: GENERIC}
        for table, apps in declared:
            self._by_digest[table.digest] = table
            for app in apps:
                other = self._by_app.get(app)
                if other is None or other.version < table.version:
                    self._by_app[app] = table

    def of(self, app: str) -> AppTable | None:
        """What devices of this application should have."""
        return self._by_app.get(app) or self._by_app.get(ANY_APP)

    def named(self, named: NamedStates) -> AppTable | None:
        """The table that a HELLO names."""
        table = self._by_digest.get(named.table_digest)
        return table if table is not None and table.id == named.table else None
