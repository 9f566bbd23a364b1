"""The client's core with templates, dictionaries and history: resumed, stale, lost, and refused."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from accessgw.client import commands as c
from accessgw.client.model import CallFailed, Reply
from accessgw.client.wirememory import WireMemory
from protocols.errors import RemoteError
from protocols.mmtp import events as wire
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.frames import encode_reset
from protocols.mmtp.handshake import Goaway, Welcome
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC
from tests.client.driver import Driver
from tests.client.fake_gateway import MAC_KEY
from tests.client.wire_gateway import NEWS, ORDERS, TABLE, WireGateway

LONG = "mmtp://gw:7080"
HEADERS = [("x-shop", "north"), ("x-page", "cart"), ("x-trace-id", "00112233445566778899aabbccddeeff")]
BODY = b'{"order":"202601","state":"paid","amount":"17.00","currency":"CNY"}'


def driver_with(gateway: WireGateway, memory: WireMemory | None = None, **more: Any) -> Driver:
    return Driver(LONG, gateway=gateway, wire_memory=memory, **more)


def answer(driver: Driver, key: int) -> Reply:
    outcome = driver.outcomes[key]
    assert isinstance(outcome, Reply), outcome
    return outcome


def settle(driver: Driver) -> None:
    """Transfers go a chunk for each PONG; let all of them arrive."""
    for _ in range(6):
        for attempt in list(driver.links):
            driver.from_gateway(attempt)
    driver.advance(0.01)


def reconnect(driver: Driver) -> None:
    driver.lose()
    driver.advance(2.0)


def sizes(driver: Driver) -> int:
    return sum(len(write.data) for write in driver.kinds(c.Write))


def test_what_was_agreed_is_used_at_once_on_the_next_connection() -> None:
    gateway = WireGateway(offers=[ORDERS])
    driver = driver_with(gateway)
    assert gateway.hellos[0].headers is None
    assert gateway.hellos[0].capabilities == {"zstd", "template", "dict", "history"}
    for _ in range(3):
        assert answer(driver, driver.call(body=BODY, headers=HEADERS)).body == b"echo:" + BODY
    settle(driver)
    reconnect(driver)
    hello = gateway.hellos[1]
    assert hello.headers is not None
    assert hello.headers.up
    assert hello.headers.down
    assert hello.bundle == Bundle([ORDERS]).digest
    assert (gateway.named, gateway.resumed, gateway.bundles_in_force) == (2, 2, 1)
    before = sizes(driver)
    assert answer(driver, driver.call(body=BODY, headers=HEADERS)).attempts == 1
    assert sizes(driver) - before < 60, "headers by a template, body with the dictionary"
    assert not driver.notes


def test_another_start_goes_on_from_what_was_kept() -> None:
    gateway = WireGateway(offers=[ORDERS, NEWS])
    first = driver_with(gateway, persistent=True)
    for _ in range(3):
        first.call(body=BODY, headers=HEADERS)
    settle(first)
    first.core.close(first.now)
    first.run()
    memory = first.keeps[-1].memory
    assert [d.id for d in memory.dictionaries] == [3, 5]
    second = driver_with(gateway, memory)
    assert (gateway.named, gateway.resumed, gateway.bundles_in_force) == (2, 2, 1)
    assert answer(second, second.call(body=BODY, headers=HEADERS)).body == b"echo:" + BODY


def test_calls_before_welcome_of_a_gateway_that_has_forgotten_all_are_repeated_unseen() -> None:
    gateway = WireGateway(offers=[ORDERS])
    driver = driver_with(gateway)
    driver.call(body=BODY, headers=HEADERS)
    settle(driver)
    driver.lose()
    gateway.forget()
    executed = len(gateway.executed)
    keys = [driver.call(body=BODY + b"%d" % i, headers=HEADERS) for i in range(3)]
    driver.advance(2.0)
    for i, key in enumerate(keys):
        reply = answer(driver, key)
        assert (reply.body, reply.attempts) == (b"echo:" + BODY + b"%d" % i, 1)
    assert len(gateway.executed) == executed + 3
    kinds = [(note.kind, note.count) for note in driver.notes]
    assert ("state_miss", 3) in kinds
    settle(driver)
    reconnect(driver)
    driver.call(body=BODY, headers=HEADERS)
    assert gateway.resumed == 2, "both directions go on again"


def test_an_unknown_bundle_costs_a_repetition_and_is_not_named_for_ever() -> None:
    stale = Dictionary(2, b"a dictionary of last year" * 3, ("q*",))
    memory = WireMemory(frozenset(("template", "dict")), HeaderMemory(), (stale, ORDERS))
    gateway = WireGateway(offers=[ORDERS])
    driver = driver_with(gateway, memory, connect=False)
    key = driver.core.call("echo", HEADERS, BODY, timeout=30.0, idempotent=False, now=driver.now)
    driver.core.connect(driver.now)
    driver.run()
    assert answer(driver, key).attempts == 1
    assert [note.kind for note in driver.notes] == ["dictionary_miss"]
    settle(driver)
    assert gateway.held == [3], "held already, so it was not sent"
    reconnect(driver)
    assert gateway.hellos[-1].bundle == Bundle([ORDERS]).digest
    assert gateway.bundles_in_force == 1


def test_a_table_is_taken_and_named_and_forgotten_when_it_is_retired() -> None:
    gateway = WireGateway(offered_table=TABLE)
    driver = driver_with(gateway, persistent=True)
    driver.call(headers=HEADERS)
    settle(driver)
    assert gateway.tables_held == [TABLE.id]
    reconnect(driver)
    named = gateway.hellos[-1].headers
    assert named is not None
    assert (named.table, named.table_digest, named.up) == (TABLE.id, TABLE.digest, 0)
    assert answer(driver, driver.call(headers=HEADERS)).attempts == 1
    reconnect(driver)
    assert (gateway.named, gateway.resumed) == (2, 2)
    gateway.links[-1].connection.retire_table(TABLE.id)
    driver.from_gateway()
    reconnect(driver)
    named = gateway.hellos[-1].headers
    assert named is not None
    assert named.table == GENERIC.id


def test_a_table_that_the_gateway_does_not_have_any_more() -> None:
    gateway = WireGateway()
    memory = WireMemory(frozenset(("template",)), HeaderMemory(TABLE))
    driver = driver_with(gateway, memory, connect=False)
    key = driver.core.call("echo", HEADERS, BODY, timeout=30.0, idempotent=False, now=driver.now)
    driver.core.connect(driver.now)
    driver.run()
    assert answer(driver, key).attempts == 1
    assert [(note.kind, note.count) for note in driver.notes] == [("state_miss", 1)]
    reconnect(driver)
    named = gateway.hellos[-1].headers
    assert named is not None
    assert named.table == GENERIC.id


def test_a_streaming_call_waits_for_welcome_where_it_might_not_be_read() -> None:
    gateway = WireGateway()
    driver = driver_with(gateway)
    driver.call(headers=HEADERS)
    driver.lose()
    gateway.forget()
    key = driver.core.call_stream("stream.echo", [], timeout=10.0, more=True, now=driver.now)
    driver.run()
    driver.advance(2.0)
    assert key not in driver.outcomes
    driver.core.call_data(key, b"all of it", False, driver.now)
    driver.run()
    assert answer(driver, key).status == 0
    assert b"".join(chunk.data for chunk in driver.kinds(c.CallChunk)) == b"all of it"


def test_after_a_miss_before_welcome_nothing_leaves_until_then() -> None:
    """As from a gateway that cannot hold what it cannot read yet."""
    gateway = WireGateway()
    driver = driver_with(gateway, WireMemory(frozenset(("template",))), connect=False)
    driver.black_hole = True
    driver.core.connect(driver.now)
    driver.run()
    first = driver.call(headers=HEADERS)
    driver.arrive(1, encode_reset(0, Status.STATE_MISS))
    writes = len(driver.kinds(c.Write))
    second = driver.call(headers=HEADERS)
    assert len(driver.kinds(c.Write)) == writes
    driver._held_up = [(1, b"".join(data for _, data in driver._held_up))]
    driver.black_hole = False
    driver.advance(0.0)
    assert answer(driver, first).attempts == 1
    assert answer(driver, second).attempts == 1
    assert len(gateway.executed) == 2


def test_a_retired_dictionary_is_forgotten() -> None:
    gateway = WireGateway(offers=[ORDERS, NEWS])
    driver = driver_with(gateway, persistent=True)
    settle(driver)
    assert [d.id for d in driver.core.wire.memory.dictionaries] == [3, 5]
    gateway.links[-1].connection.retire_dictionary(ORDERS.id)
    driver.from_gateway()
    driver.advance(2.0)
    keep = driver.keeps[-1]
    assert [d.id for d in keep.memory.dictionaries] == [5]
    assert ORDERS.id in {id for keep in driver.keeps for id in keep.retired}
    driver.call(body=BODY)


def test_dictionaries_are_taken_only_as_far_as_there_is_room() -> None:
    gateway = WireGateway(offers=[ORDERS, NEWS])
    driver = driver_with(gateway, max_dictionary_bytes=len(ORDERS.content) + 10)
    settle(driver)
    assert gateway.held == [3]


def test_on_a_metered_network_nothing_is_fetched() -> None:
    gateway = WireGateway(offers=[ORDERS], offered_table=TABLE)
    driver = driver_with(gateway, metered=True)
    settle(driver)
    assert (gateway.held, gateway.tables_held) == ([], [])
    assert answer(driver, driver.call(body=BODY)).ok
    driver.core.metered = False
    reconnect(driver)
    settle(driver)
    assert (gateway.held, gateway.tables_held) == ([3], [7])
    driver.core.metered = True
    reconnect(driver)
    assert gateway.bundles_in_force == 1, "what is at hand is used"


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"templates": False}, "template"), ({"dictionaries": False}, "dict"), ({"history": False}, "history")],
)
def test_each_feature_can_be_switched_off(settings: dict[str, bool], missing: str) -> None:
    gateway = WireGateway(offers=[ORDERS], offered_table=TABLE)
    memory = WireMemory(frozenset(("template", "dict")), HeaderMemory(), (ORDERS,))
    driver = driver_with(gateway, memory, **settings)
    hello = gateway.hellos[0]
    assert hello.capabilities == {"zstd", "template", "dict", "history"} - {missing}
    assert (hello.headers is None) == (missing == "template")
    assert bool(hello.bundle) == (missing != "dict")
    settle(driver)
    assert answer(driver, driver.call(body=BODY, headers=HEADERS)).ok


def test_a_secret_call_leaves_its_body_raw() -> None:
    gateway = WireGateway(offers=[ORDERS])
    driver = driver_with(gateway)
    settle(driver)
    before = len(driver.kinds(c.Write))
    driver.call(body=BODY * 8, secret=True)
    assert any(BODY * 8 in write.data for write in driver.kinds(c.Write)[before:])
    before = len(driver.kinds(c.Write))
    driver.call(body=BODY * 8)
    assert not any(BODY in write.data for write in driver.kinds(c.Write)[before:])


def test_a_gateway_that_speaks_none_of_it() -> None:
    welcome = Welcome(session="s1", mac_key=MAC_KEY, time=1000.0, capabilities=frozenset(("zstd",)))
    gateway = WireGateway(welcome=welcome)
    memory = WireMemory(frozenset(("template", "dict")), HeaderMemory(), (ORDERS,))
    driver = driver_with(gateway, memory, connect=False)
    key = driver.core.call("echo", HEADERS, BODY, timeout=30.0, idempotent=False, now=driver.now)
    driver.core.connect(driver.now)
    driver.run()
    assert answer(driver, key).attempts == 1, "it agreed before, and does not any more"
    reconnect(driver)
    assert gateway.hellos[-1].headers is None
    assert not gateway.hellos[-1].bundle
    assert answer(driver, driver.call(body=BODY, headers=HEADERS)).ok


def test_misses_without_end_are_an_outcome() -> None:
    gateway = WireGateway(hold={"slow"})
    driver = driver_with(gateway)
    key = driver.call("slow")
    for number in range(20):
        if key in driver.outcomes:
            break
        gateway.links[-1].connection.reset(number, Status.STATE_MISS)
        driver.from_gateway()
    outcome = driver.outcomes[key]
    assert isinstance(outcome, CallFailed)
    assert outcome.status == Status.STATE_MISS


def test_after_an_error_of_compression_nothing_learned_is_used() -> None:
    gateway = WireGateway(offers=[ORDERS])
    driver = driver_with(gateway)
    driver.call(body=BODY, headers=HEADERS)
    settle(driver)
    for _ in range(2):
        gateway.links[-1].connection.go_away(Goaway(Status.COMPRESSION))
        driver.from_gateway()
        driver.lose()
        driver.advance(60.0)
        assert gateway.hellos[-1].headers is None
        assert "template" in gateway.hellos[-1].capabilities
        assert answer(driver, driver.call(body=BODY, headers=HEADERS)).ok
    gateway.links[-1].connection.go_away(Goaway(Status.COMPRESSION))
    driver.from_gateway()
    driver.lose()
    driver.advance(60.0)
    assert gateway.hellos[-1].capabilities == {"zstd"}, "three times in a row is enough"
    assert answer(driver, driver.call(body=BODY, headers=HEADERS)).ok


def test_keeps_are_one_at_a_time_and_spread_and_a_full_disk_is_told_once() -> None:
    gateway = WireGateway()
    driver = driver_with(gateway, persistent=True)
    driver.auto_keep = False
    driver.advance(5.0)
    assert driver.unkept <= 1
    for index in range(5):
        driver.call(f"operation{index}", headers=HEADERS)
    before = len(driver.keeps)
    driver.kept("no space left on device")
    driver.advance(30.0)
    assert len(driver.keeps) == before
    assert [note.kind for note in driver.notes] == ["cache_failed"]
    driver.advance(40.0)
    assert len(driver.keeps) == before + 1
    driver.kept("no space left on device")
    assert len(driver.notes) == 1
    driver.core.close(driver.now)
    driver.run()
    assert len(driver.keeps) == before + 2
    driver.kept("no space left on device")
    assert len(driver.keeps) == before + 2, "nobody waits for it any more"
    assert driver.core.wire.next_timer() is None


def test_states_of_a_connection_that_was_left_behind_do_not_count() -> None:
    driver = driver_with(WireGateway())
    driver.call(headers=HEADERS)
    headers = driver.core.wire.memory.headers
    assert headers.up is not None
    for event in (
        wire.CheckpointAcked(wire.UP, 9, headers.up.state),
        wire.CheckpointTaken(wire.DOWN, 9, headers.up.state),
    ):
        driver.core.wire.happened(event, current=False)
        assert driver.core.wire.memory.headers == headers
    driver.core.wire.happened(wire.CheckpointTaken(wire.DOWN, 9, headers.up.state), current=True)
    assert driver.core.wire.memory.headers.down == (9, headers.up.state)


def test_trouble_now_and_then_does_not_switch_anything_off() -> None:
    gateway = WireGateway()
    driver = driver_with(gateway)
    for _ in range(4):
        driver.call(headers=HEADERS)
        reconnect(driver)
        assert gateway.hellos[-1].headers is not None
        gateway.links[-1].connection.go_away(Goaway(Status.PROTOCOL))
        driver.from_gateway()
        driver.lose()
        driver.advance(60.0)
    assert "template" in gateway.hellos[-1].capabilities


def test_of_too_many_dictionaries_the_newest_are_named() -> None:
    memory = WireMemory(frozenset(("dict",)), HeaderMemory(), (ORDERS, NEWS))
    gateway = WireGateway()
    driver_with(gateway, memory, max_dictionary_bytes=len(NEWS.content))
    assert gateway.hellos[0].bundle == Bundle([NEWS]).digest


def test_a_client_without_a_directory_keeps_nothing_on_disk() -> None:
    driver = driver_with(WireGateway())
    driver.call(headers=HEADERS)
    driver.core.close(driver.now)
    driver.run()
    assert driver.keeps == []


class Broken:
    """A core and a gateway over pipes that break at a random byte in each direction."""

    def __init__(self, seed: int, *, forgetful: bool = False) -> None:
        self.random = Random(seed)
        self.forgetful = forgetful
        self.gateway = WireGateway(offers=[ORDERS, NEWS])
        self.asked: dict[int, bytes] = {}
        self.driver = Driver(LONG, gateway=self.gateway, seed=seed, connect=False, persistent=True)
        self.driver.deliver_up = self.up  # type: ignore[method-assign]  # bytes go by our pipes
        self.driver.arrive = self.down  # type: ignore[method-assign]  # both ways
        self.left: dict[tuple[str, int], int] = {}

    def pipe(self, way: str, attempt: int, data: bytes) -> bytes:
        left = self.left.setdefault((way, attempt), 40 + int(self.random.expovariate(1 / 2500)))
        self.left[way, attempt] = max(0, left - len(data))
        return data[:left]

    def up(self, attempt: int, data: bytes) -> None:
        driver = self.driver
        link = driver.links.get(attempt)
        part = self.pipe("up", attempt, data)
        if link is None:
            return
        try:
            reply = link.receive(part, driver.now)
        except RemoteError as error:
            raise AssertionError(f"the client broke the protocol: {error}") from error
        if reply:
            self.down(attempt, reply)
        if not self.left["up", attempt] and attempt in driver.links:
            driver.lose(attempt)

    def down(self, attempt: int, data: bytes) -> None:
        driver = self.driver
        part = self.pipe("down", attempt, data)
        if part:
            driver.core.received(attempt, part, driver.now)
            driver.run()
        if not self.left["down", attempt] and attempt in driver.links:
            driver.lose(attempt)

    def live(self) -> None:
        driver, random = self.driver, self.random
        driver.core.connect(driver.now)
        driver.run()
        for index in range(120):
            headers = [*HEADERS[:2], ("x-trace-id", f"{random.getrandbits(128):032x}")]
            body = b'{"order":"%d","state":"paid","amount":"%d.00"}' % (index, random.randrange(90))
            self.asked[driver.call(random.choice(("echo", "pay", "list")), body, headers=headers, timeout=600.0)] = body
            if random.random() < 0.3:
                driver.push(b'{"title":"The news of today","text":"%d"}' % index, ("user", "u1", "news"))
            driver.advance(random.choice((0.0, 0.1, 1.0)))
            if self.forgetful and random.random() < 0.03:
                self.gateway.forget()
        for _ in range(40):
            driver.advance(10.0)
            settle(driver)
            for push in [push for push in driver.pushes if not push.acked]:
                driver.process(push)


def check(world: Broken) -> None:
    driver = world.driver
    assert set(driver.outcomes) == set(world.asked)
    for key, outcome in driver.outcomes.items():
        assert isinstance(outcome, Reply), outcome
        assert outcome.body.endswith(b":" + world.asked[key])
    assert len(world.gateway.executed) == len(world.asked), "each once"
    pushed = world.gateway.log.get(("user", "u1", "news"), [])
    assert [push.body for push in driver.pushes] == pushed


def test_connections_cut_at_any_byte_resume_and_lose_nothing() -> None:
    named = resumed = connections = 0
    for seed in range(25):
        world = Broken(seed)
        world.live()
        check(world)
        named += world.gateway.named
        resumed += world.gateway.resumed
        connections += len(world.gateway.hellos)
    assert connections > 150
    assert named > 200
    assert resumed >= 0.95 * named, f"{resumed} of {named} states were resumed"


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_forgetful_gateway_costs_bytes_only(seed: int) -> None:
    world = Broken(seed, forgetful=True)
    world.live()
    check(world)
