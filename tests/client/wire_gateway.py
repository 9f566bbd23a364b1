"""A FakeGateway that speaks templates and dictionaries, keeps header states, and loses what it is told to lose."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.mmtp import events as wire
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED, Hello
from protocols.mmtp.tables import GENERIC, AppTable, TableName
from tests.client.fake_gateway import FakeGateway, FakeLink
from tests.protocols.mmtp.wire_world import Store

TABLE = AppTable(7, 1, (*GENERIC.names, TableName("x-shop"), TableName("x-page")))
ORDERS = Dictionary(3, b'{"order":"2026","state":"paid","amount":".00","currency":"CNY"}' * 4, ("q*", "a*"))
NEWS = Dictionary(5, b'{"title":"The news of today","text":"Nobody knows why"}' * 4, ("p*",))


@dataclass
class WireGateway(FakeGateway):
    """What is counted is of all connections together."""

    store: Store = field(default_factory=Store)
    tables: dict[bytes, AppTable] = field(default_factory=lambda: {GENERIC.digest: GENERIC})
    offers: list[Dictionary] = field(default_factory=list)
    offered_table: AppTable | None = None
    knows_bundles: bool = True
    named: int = 0
    resumed: int = 0
    bundles_named: int = 0
    bundles_in_force: int = 0
    held: list[int] = field(default_factory=list)
    tables_held: list[int] = field(default_factory=list)

    def accept(self, now: float) -> FakeLink:
        link = WireLink(self, Connection(Role.SERVER, now=now))
        self.links.append(link)
        return link

    def forget(self) -> None:
        """States, bundles and tables are gone."""
        self.store = Store()
        self.tables = {GENERIC.digest: GENERIC}
        self.knows_bundles = False


class WireLink(FakeLink):
    """One connection."""

    gateway: WireGateway

    def welcome(self, hello: Hello) -> None:
        gateway = self.gateway
        named = hello.headers
        found = gateway.store.find(hello, gateway.tables)
        in_force = Bundle(gateway.offers)
        known = in_force if gateway.knows_bundles and hello.bundle == in_force.digest else None
        self.table = found.table or GENERIC
        templates = not gateway.welcome.capabilities or "template" in gateway.welcome.capabilities
        self.connection.send_welcome(gateway.welcome, found if templates else None, known)
        used = (gateway.welcome.capabilities or hello.capabilities) & hello.capabilities
        if named is not None and templates:
            accepted = self.accepted(found, hello)
            for number, bit in ((named.up, UP_ACCEPTED), (named.down, DOWN_ACCEPTED)):
                gateway.named += bool(number)
                gateway.resumed += bool(number and accepted & bit)
        gateway.bundles_named += bool(hello.bundle)
        gateway.bundles_in_force += known is not None
        if "dict" in used and known is None:
            for dictionary in gateway.offers:
                self.connection.offer_dictionary(dictionary)
        offered = gateway.offered_table
        if offered is not None and "template" in used and self.table.digest != offered.digest:
            self.connection.offer_table(offered)

    @staticmethod
    def accepted(found: FoundStates, hello: Hello) -> int:
        named = hello.headers
        assert named is not None
        up = found.up is not None and found.up.digest == named.up_digest
        down = found.down is not None and found.down.digest == named.down_digest
        return UP_ACCEPTED * up | DOWN_ACCEPTED * down

    def _event(self, event: wire.Event) -> None:
        gateway = self.gateway
        if isinstance(event, wire.CheckpointTaken):
            if gateway.links[-1] is self:
                gateway.store.commit(self.table, event)
        elif isinstance(event, wire.DictionaryHeld):
            gateway.held.append(event.id)
            self.connection.use_dictionary(event.id)
        elif isinstance(event, wire.TableHeld):
            gateway.tables_held.append(event.id)
            if gateway.offered_table is not None:
                gateway.tables[gateway.offered_table.digest] = gateway.offered_table
        else:
            super()._event(event)
