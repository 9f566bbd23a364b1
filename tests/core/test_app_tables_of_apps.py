"""Which application has which table, and which tables are known."""

from __future__ import annotations

from accessgw.core.app_tables import AppTables
from protocols.mmtp.handshake import NamedStates
from protocols.mmtp.tables import GENERIC
from tests.core.coding_world import table


def test_the_newest_version_is_for_its_applications_and_older_ones_are_known() -> None:
    one, two = table(1), table(2)
    for order in ((one, two), (two, one)):
        tables = AppTables([(each, ("shop", "wallet")) for each in order])
        assert tables.of("shop") == tables.of("wallet") == two
        assert tables.of("other") is None
        assert tables.named(NamedStates(7, one.digest)) == one
    assert tables.named(NamedStates(8, one.digest)) is None
    assert tables.named(NamedStates(7, bytes(8))) is None


def test_a_star_is_every_other_application_and_the_generic_table_is_always_known() -> None:
    tables = AppTables([(table(1), ("*",))])
    assert tables.of("any") == tables.of("") == table(1)
    assert AppTables().of("any") is None
    assert AppTables().named(NamedStates(GENERIC.id, GENERIC.digest)) is GENERIC
