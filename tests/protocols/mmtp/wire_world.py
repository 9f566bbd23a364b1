"""A device and a gateway, connected again and again by a pipe that breaks at any byte, and what each has stored."""

from __future__ import annotations

from random import Random
from typing import Any

from protocols.mmtp import Connection, Hello, Limits, Role, Status, StreamCursor, Welcome
from protocols.mmtp import events as ev
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.events import DOWN, UP
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.tables import GENERIC, AppTable, TableName
from protocols.mmtp.templates import decode_state

CAPABILITIES = frozenset(("zstd", "template", "dict", "history"))
TABLE = AppTable(7, 1, (*GENERIC.names, TableName("x-os"), TableName("x-page")))
DICTIONARIES = [
    Dictionary(number, b'{"order":"20260101","state":"paid","amount":"%d.00"}' % number * 3, classes)
    for number, classes in enumerate((("q*", "a*"), ("p*",), ("qpay", "apay", "pnews"), ("qpay",)), 1)
]
OPERATIONS = ("pay", "list", "orders.get", "profile")


class Store:
    """The gateway's header states of one device: encoded, the last three of each direction."""

    def __init__(self) -> None:
        self.states: dict[tuple[bytes, str], dict[int, bytes]] = {}

    def commit(self, table: AppTable, event: ev.CheckpointTaken) -> None:
        kept = self.states.setdefault((table.digest, event.direction), {})
        for number in [n for n in kept if n >= event.number or n < event.number - 2]:
            del kept[number]
        kept[event.number] = event.state.encoded

    def find(self, hello: Hello, tables: dict[bytes, AppTable]) -> FoundStates:
        named = hello.headers
        table = tables.get(named.table_digest) if named is not None else None
        if named is None or table is None:
            return FoundStates()
        up = self.states.get((table.digest, UP), {}).get(named.up)
        down = self.states.get((table.digest, DOWN), {}).get(named.down)
        return FoundStates(
            table,
            decode_state(up, table) if up is not None else None,
            decode_state(down, table) if down is not None else None,
        )


class World:
    """One device and its gateway over several connections."""

    def __init__(self, seed: int, *, forgetful: bool = False) -> None:
        self.random = Random(seed)
        self.forgetful = forgetful
        """The gateway now and then loses states and bundles."""
        self.memory: HeaderMemory | None = HeaderMemory()
        self.held: dict[int, Dictionary] = {}
        self.tables = {GENERIC.digest: GENERIC}
        self.store = Store()
        self.named = self.resumed = self.decoded = 0
        self.steady: list[int] = []
        self.seq = 0
        self.call_base = 0

    def headers(self) -> list[tuple[str, str]]:
        random = self.random
        fields = [
            ("content-type", "application/json"),
            ("x-os", "ios 17.5"),
            ("x-page", random.choice(("home", "cart"))),
            ("x-trace-id", f"{random.getrandbits(64):016x}"),
            ("timestamp", str(1_700_000_000_000 + random.randrange(10_000))),
        ]
        if random.random() < 0.2:
            fields.append(("authorization", f"Bearer {random.getrandbits(32):x}"))
        return fields[: random.randrange(2, 7)]

    def body(self) -> bytes:
        random = self.random
        if random.random() < 0.05:
            return random.randbytes(random.randrange(3000))
        return b'{"order":"%d","state":"paid","amount":"%d.00"}' % (
            random.randrange(20260000, 20270000),
            random.randrange(99),
        )

    def live(self) -> None:
        """One connection, up to the byte where it breaks."""
        Link(self).run()


class Link:
    """One connection of a World."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random = world.random
        self.device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
        self.gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
        self.left = {"up": int(random.expovariate(1 / 6000)), "down": int(random.expovariate(1 / 6000))}
        """Bytes until the pipe breaks."""
        self.pipe = {"up": b"", "down": b""}
        self.now = 0.0
        self.sent: dict[int, tuple[str, Any, bytes]] = {}
        """Requests by call id."""
        self.answers: dict[int, tuple[Any, bytes]] = {}
        self.pushes: dict[tuple[int, int], bytes] = {}
        self.open: list[int] = []
        """Calls that the gateway owes an answer."""
        self.calls: dict[int, int] = {}
        """Call number at the device -> call id."""
        self.welcomed = False
        self.aliases: list[int] = []
        self.table = GENERIC
        self.hello: Hello | None = None

    def run(self) -> None:
        world, random = self.world, self.random
        world.call_base += 1 << 20
        self.base = world.call_base
        bundle = Bundle(world.held.values())
        memory = world.memory if random.random() < 0.95 else None
        self.device.send_hello(
            Hello("d1", capabilities=CAPABILITIES, call_base=self.base),
            memory,
            bundle if random.random() < 0.9 else None,
        )
        self.named = memory
        for _ in range(random.randrange(5, 120)):
            self.now += 0.05
            random.choice((self.request, self.request, self.answer, self.answer, self.push, self.manage, self.move))()
            if not self.move():
                return

    # --- what happens

    def request(self) -> None:
        if self.device.open_calls() < 40 and not self.device.closed:
            self.ask(self.random.choice(OPERATIONS), self.world.headers(), self.world.body())

    def ask(self, operation: str, headers: Any, body: bytes, call_id: int | None = None, secret: bool = False) -> None:
        number = self.device.request(operation, headers, body, call_id=call_id, secret=secret)
        used = self.base + number if call_id is None else call_id
        self.calls[number] = used
        self.sent[used] = (operation, headers, body)

    def answer(self) -> None:
        if self.welcomed and self.open:
            number = self.open.pop(self.random.randrange(len(self.open)))
            headers, body = self.world.headers()[: self.random.randrange(4)], self.world.body()
            self.answers[number] = (headers, body)
            self.gateway.respond(number, 0, headers, body, secret=self.random.random() < 0.1)

    def push(self) -> None:
        if not self.welcomed:
            return
        random, gateway = self.random, self.gateway
        if len(self.aliases) < 3 or random.random() < 0.05:
            alias = random.randrange(3)
            self.world.seq += 1
            cursor = StreamCursor("user", "u1", random.choice(("news", "orders")), 1, self.world.seq)
            gateway.introduce_stream(alias, cursor, history=random.choice((0, 64, 4096)))
            self.aliases.append(alias)
        alias = random.choice(self.aliases)
        self.world.seq += 100
        body = self.world.body()
        if not gateway.stream_has_history(alias):
            return
        following = self.world.seq
        if gateway.offer_body(alias, following, SharedBody(body), following, gap=0):
            self.pushes[alias, len(self.pushes)] = body

    def manage(self) -> None:
        """Dictionaries and tables come and go."""
        if not self.welcomed or self.random.random() < 0.5:
            return
        gateway, dictionary = self.gateway, self.random.choice(DICTIONARIES)
        what = self.random.random()
        if gateway.holds_dictionary(dictionary.id):
            if what < 0.6:
                gateway.use_dictionary(dictionary.id)
            elif what < 0.8:
                gateway.drop_class(self.random.choice(dictionary.classes))
            else:
                gateway.retire_dictionary(dictionary.id)
                self.retiring.add(dictionary.id)
        elif dictionary.id not in self.retiring:
            gateway.offer_dictionary(dictionary, self.random.choice([None, *DICTIONARIES]))
        if what < 0.1:
            gateway.offer_table(TABLE)

    def move(self) -> bool:
        """Some bytes arrive; False when the pipe has broken."""
        for way, source, target in (("up", self.device, self.gateway), ("down", self.gateway, self.device)):
            self.pipe[way] += source.to_send(self.now)
            size = min(self.random.randrange(1, 600), len(self.pipe[way]), self.left[way])
            part, self.pipe[way] = self.pipe[way][:size], self.pipe[way][size:]
            self.left[way] -= size
            if part:
                target.receive(part, self.now)
            self.at_gateway() if target is self.gateway else self.at_device()
            if not self.left[way]:
                return False
        if not self.welcomed and self.hello is not None and self.random.random() < 0.3:
            self.welcome(self.hello)
        return True

    retiring: set[int]

    def welcome(self, hello: Hello) -> None:
        world, random = self.world, self.random
        self.retiring = set()
        found = world.store.find(hello, world.tables)
        known = Bundle(d for d in DICTIONARIES if d.id in world.held)
        lost = world.forgetful and random.random() < 0.3
        self.gateway.send_welcome(Welcome(), FoundStates() if lost else found, None if lost else known)
        assert not self.gateway.closed
        self.welcomed = True
        named = hello.headers
        if named is not None and named.table_digest in world.tables:
            self.table = world.tables[named.table_digest]
        if lost:
            self.table = GENERIC
        self.at_gateway()

    # --- what is made of it

    def at_gateway(self) -> None:
        world = self.world
        for event in self.gateway.events():
            if isinstance(event, ev.HelloReceived):
                self.hello = event.hello
            elif isinstance(event, ev.RequestReceived):
                assert self.sent[event.call_id] == (event.operation, event.headers, event.body)
                world.decoded += 1
                self.open.append(event.call)
                self.gateway.consumed(event.call, event.wire_size)
            elif isinstance(event, ev.CheckpointTaken):
                world.store.commit(self.table, event)
            elif isinstance(event, ev.DictionaryRetired):
                self.retiring.discard(event.id)
            elif isinstance(event, ev.TableHeld):
                world.tables[TABLE.digest] = TABLE
            else:
                assert not isinstance(event, ev.GoawayReceived), event

    def at_device(self) -> None:
        world = self.world
        for event in self.device.events():
            if isinstance(event, ev.WelcomeReceived):
                self.welcome_came(event.welcome)
            elif isinstance(event, ev.ResponseReceived):
                assert self.answers[event.call] == (event.headers, event.body)
                world.decoded += 1
                self.device.consumed(event.call, event.wire_size)
            elif isinstance(event, ev.CallReset):
                assert event.status in (Status.STATE_MISS, Status.DICTIONARY_MISS)
                call_id = self.calls[event.call]
                self.ask(*self.sent[call_id], call_id=call_id, secret=event.status == Status.DICTIONARY_MISS)
            elif isinstance(event, ev.PushReceived):
                assert self.pushes[event.alias, event.index] == event.body
                world.decoded += 1
                self.device.ack()
            elif isinstance(event, ev.CheckpointAcked):
                self.remember(up=Checkpoint(event.number, event.state))
            elif isinstance(event, ev.CheckpointTaken) and event.direction == DOWN:
                self.remember(down=Checkpoint(event.number, event.state))
            elif isinstance(event, ev.DictionaryReceived):
                world.held[event.dictionary.id] = event.dictionary
            elif isinstance(event, ev.DictionaryRetired):
                world.held.pop(event.id, None)
            elif isinstance(event, ev.TableReceived):
                assert event.table == TABLE
                world.memory = self.remembered = HeaderMemory(event.table)
                world.tables[TABLE.digest] = TABLE
                self.replaced = True

    replaced = False
    remembered = HeaderMemory()

    def welcome_came(self, welcome: Welcome) -> None:
        world, named = self.world, self.named
        self.remembered = HeaderMemory()
        if named is not None:
            for checkpoint, bit in ((named.up, UP_ACCEPTED), (named.down, DOWN_ACCEPTED)):
                if checkpoint is not None:
                    world.named += 1
                    world.resumed += bool(welcome.accepted & bit)
            if welcome.table == (named.table.id, named.table.digest):
                self.remembered = HeaderMemory(
                    named.table,
                    named.up if welcome.accepted & UP_ACCEPTED else None,
                    named.down if welcome.accepted & DOWN_ACCEPTED else None,
                )
        world.memory = self.remembered

    def remember(self, **changed: Checkpoint) -> None:
        if self.replaced:
            return
        kept = self.remembered
        self.remembered = self.world.memory = HeaderMemory(
            kept.table, changed.get("up", kept.up), changed.get("down", kept.down)
        )
