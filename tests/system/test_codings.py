"""Header states, application tables and dictionaries on a running gateway, over TCP."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from accessgw.config.app_tables import load_app_table
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dict_frames import DictKind, encode_have, encode_want
from protocols.mmtp.events import WelcomeReceived
from protocols.mmtp.exchange import dict_frame
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC
from tests.system.coded_device import CodedDevice, Memory
from tests.system.device import Device, Gone
from tests.system.gateway_process import PATIENCE, TRAINING_PATIENCE, Gateway
from tests.system.upstream import Upstream

TABLE = """
id = 7
version = {version}
apps = ["shop"]
[[headers]]
name = ":op"
type = "enum"
values = ["pay", "query.balance"{more}]
[[headers]]
name = "x-request"
type = "hex"
"""
BOTH = UP_ACCEPTED | DOWN_ACCEPTED
DICTIONARIES = """
[dictionaries]
enabled = true
users = 5
train_timeout = 600.0
least_messages = 50
canary_share = 0
"""
BODY = b'{"order": "%d", "currency": "CNY", "merchant": "Corner Shop", "status": "paid", "channel": "mobile app"}'


def states(gateway: Gateway) -> int:
    """Checkpoints on disk."""
    store = sqlite3.connect(gateway.directory / "state" / "store.sqlite")
    try:
        return int(store.execute("SELECT COUNT(*) FROM header_state").fetchone()[0])
    finally:
        store.close()


def test_states_outlive_kill_9(make_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    gateway = make_gateway(upstream=upstream.url).start()
    memory = Memory()
    first = CodedDevice(gateway.plain, memory).welcomed()
    assert first.welcome.table == (GENERIC.id, GENERIC.digest)
    assert first.welcome.accepted == UP_ACCEPTED  # the empty one
    hello = first.sent_bytes
    for _ in range(5):
        assert first.call("pay", b'{"amount": 1}').status == 0
    cold = first.sent_bytes - hello
    first.settle()
    assert memory.up is not None
    assert memory.down is not None
    made = gateway.metric("accessgw_header_states_committed_total")
    gateway.wait_until(lambda: states(gateway) == made)
    gateway.kill()
    gateway.start()
    again = CodedDevice(gateway.plain, memory, boot=2).welcomed()
    assert again.welcome.accepted == BOTH
    assert gateway.metric("accessgw_header_states_resumed_total") == 2
    hello = again.sent_bytes
    for _ in range(5):
        assert again.call("pay", b'{"amount": 1}').status == 0
    assert again.sent_bytes - hello < cold
    assert again.misses == 0
    gateway.assert_sound()


def test_a_kill_before_anything_was_written_costs_a_round_trip(gateway: Gateway) -> None:
    memory = Memory()
    first = CodedDevice(gateway.plain, memory).welcomed()
    assert first.call("pay").status == 0
    first.settle()
    store = gateway.directory / "state" / "store.sqlite"
    gateway.kill()
    for file in store.parent.glob("store.sqlite*"):
        file.unlink()
    gateway.start()
    again = CodedDevice(gateway.plain, memory, boot=2)
    for _ in range(3):
        assert again.call("pay").status == 0
    assert again.misses <= 1
    gateway.assert_sound()


def test_a_newer_connection_takes_over_while_the_older_one_commits(gateway: Gateway) -> None:
    memory = Memory()
    first = CodedDevice(gateway.plain, memory, counter=1).welcomed()
    stop = threading.Event()
    answered: list[int] = []

    def keep_calling() -> None:
        try:
            while not stop.is_set():
                answered.append(first.call("pay").status)
        except (Gone, OSError):
            pass

    caller = threading.Thread(target=keep_calling)
    caller.start()
    gateway.wait_until(lambda: len(answered) > 20)
    newer_memory = Memory()
    newer = CodedDevice(gateway.plain, newer_memory, counter=2).welcomed()
    for _ in range(5):
        assert newer.call("pay").status == 0
    newer.settle()
    stop.set()
    caller.join(PATIENCE)
    assert not any(answered)
    newer.cut()
    # what the older one had is not what is kept: the device goes on with the newer one's states
    third = CodedDevice(gateway.plain, newer_memory, counter=3).welcomed()
    assert third.welcome.accepted == BOTH
    assert third.call("pay").status == 0
    stale = Device(gateway.plain, counter=1)
    assert stale.expect(WelcomeReceived).welcome.result == Status.REPLACED
    gateway.assert_sound()


def test_a_device_with_a_stale_table_gets_the_new_one(make_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    gateway = make_gateway(upstream=upstream.url, top='app_tables = ["one.toml"]\n')
    one, two = gateway.directory / "one.toml", gateway.directory / "two.toml"
    one.write_text(TABLE.format(version=1, more=""))
    two.write_text(TABLE.format(version=2, more=', "query.history"'))
    gateway.start()
    memory = Memory(load_app_table(one).table)
    device = CodedDevice(gateway.plain, memory, app="shop").welcomed()
    assert device.welcome.accepted == UP_ACCEPTED
    assert device.call("pay").status == 0

    gateway.top = 'app_tables = ["one.toml", "two.toml"]\n'
    gateway.write_config()
    assert gateway.http("POST", "/v1/reload", token="t-operate")[0] == 200
    gateway.wait_until(lambda: device.call("pay").status == 0 and memory.table.version == 2)
    assert memory.table == load_app_table(two).table
    device.cut()
    again = CodedDevice(gateway.plain, memory, app="shop", counter=1).welcomed()
    assert again.welcome.table == (7, memory.table.digest)
    assert again.welcome.accepted == UP_ACCEPTED
    assert again.call("pay").status == 0
    assert gateway.metric("accessgw_tables_held_total") == 1

    two.write_text(TABLE.format(version=2, more=', "pay"'))
    status, answer = gateway.http("POST", "/v1/reload", token="t-operate")
    assert status == 422
    assert "headers[0].values[2]" in answer["error"]["message"] + answer["error"].get("path", "")
    assert again.call("pay").status == 0
    gateway.assert_sound()


def in_force(gateway: Gateway, id: int, act: str = "activate") -> None:
    status, answer = gateway.http("POST", f"/v1/dictionaries/{id}/{act}", {}, "t-operate")
    assert status == 200, answer


def train(gateway: Gateway) -> int:
    """Train requests of `pay`; the id when it is ready."""
    status, answer = gateway.http("POST", "/v1/dictionaries/train", {"classes": ["qpay"], "app": "shop"}, "t-operate")
    assert status == 200, answer
    id = int(answer["dictionaries"][0]["id"])

    gateway.wait_until(lambda: row_of(gateway, id)["state"] != "training", TRAINING_PATIENCE)
    assert row_of(gateway, id)["state"] == "candidate", row_of(gateway, id)
    return id


def row_of(gateway: Gateway, id: int) -> Any:
    return gateway.http("GET", f"/v1/dictionaries/{id}", token="t-read")[1]


def test_dictionaries_come_and_go_under_load_without_a_failed_call(
    make_gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    gateway = make_gateway(upstream=upstream.url, extra=DICTIONARIES).start()
    devices = [CodedDevice(gateway.plain, Memory(), f"d{n}", f"token-of-{n}", app="shop").welcomed() for n in range(8)]
    for number in range(160):
        assert devices[number % 8].call("pay", BODY % number).status == 0
    first, second = train(gateway), train(gateway)

    stop = threading.Event()
    failed: list[Any] = []
    calls = [0] * len(devices)

    def keep_calling(place: int) -> None:
        device, memory = devices[place], devices[place].memory
        try:
            while not stop.is_set():
                calls[place] += 1
                status = device.call("pay", BODY % calls[place]).status
                if status:
                    failed.append(status)
                if place >= 6 and calls[place] % 40 == 0:  # some come anew again and again, in the middle of transfers
                    device.cut()
                    device = CodedDevice(
                        gateway.plain, memory, f"d{place}", f"token-of-{place}", app="shop", counter=calls[place]
                    )
        except Exception as error:
            failed.append(error)
        finally:
            device.cut()

    threads = [threading.Thread(target=keep_calling, args=(place,)) for place in range(len(devices))]
    for thread in threads:
        thread.start()

    def reached(*ids: int) -> bool:
        return all(sorted(device.memory.dictionaries) == list(ids) for device in devices)

    in_force(gateway, first)
    gateway.wait_until(lambda: reached(first) or failed)
    in_force(gateway, second)
    gateway.wait_until(lambda: reached(second) or failed)
    gateway.wait_until(lambda: row_of(gateway, second)["bodies"] > 200 or failed)
    in_force(gateway, second, "rollback")
    gateway.wait_until(lambda: reached(first) or failed)
    gateway.wait_until(lambda: row_of(gateway, first)["bodies"] > 200 or failed)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failed
    for id in (first, second):
        assert row_of(gateway, id)["bodies"] > 0
        assert row_of(gateway, id)["ratio"] < 0.7
        assert row_of(gateway, id)["errors"] == 0

    memory = devices[0].memory
    again = CodedDevice(gateway.plain, memory, "d0", "token-of-0", app="shop", boot=2).welcomed()
    assert again.welcome.bundle == Bundle(memory.dictionaries.values()).digest
    assert again.call("pay", BODY % 1).status == 0
    gateway.assert_sound()


def test_devices_that_do_not_play_along(make_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    """One that can nothing, one that answers no offer and no PING, one that floods; all others go on."""
    gateway = make_gateway(upstream=upstream.url, extra=DICTIONARIES).start()
    feeders = [CodedDevice(gateway.plain, Memory(), f"d{n}", f"token-of-{n}", app="shop").welcomed() for n in range(6)]
    for number in range(120):
        assert feeders[number % 6].call("pay", BODY % number).status == 0
    id = train(gateway)
    plain = Device(gateway.plain, "plain", app="shop").welcomed()
    silent = CodedDevice(gateway.plain, Memory(), "silent", app="shop").welcomed()
    silent.wire.take_offers(dictionary_bytes=0, tables=False)
    flood = CodedDevice(gateway.plain, Memory(), "flood", app="shop").welcomed()
    flood.wire.take_offers(dictionary_bytes=0, tables=False)
    in_force(gateway, id)
    gateway.wait_until(lambda: feeders[0].call("pay").status == 0 and bool(feeders[0].memory.dictionaries))
    assert not plain.welcome.capabilities
    assert plain.call("pay", BODY % 1).status == 0
    for _ in range(3):
        assert silent.call("pay", BODY % 1).status == 0
    assert not silent.memory.dictionaries
    flood.socket.sendall(
        (dict_frame(DictKind.WANT, encode_want(id, 0)) + dict_frame(DictKind.HAVE, encode_have(id, bytes(8)))) * 3000
    )
    assert flood.goodbye() == Status.OVERLOAD
    assert plain.call("pay", BODY % 2).status == 0
    assert silent.call("pay", BODY % 2).status == 0
    gateway.assert_sound()


def test_pushes_after_a_history_and_a_dictionary(make_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    gateway = make_gateway(
        upstream=upstream.url, extra='\n[mmtp]\nhistory_biz = ["orders"]\nrest_after = 0.3\n'
    ).start()
    device = CodedDevice(gateway.plain, Memory(), token="alice-token").welcomed()
    plain = Device(gateway.plain, "d2", token="alice-token").welcomed()
    assert device.call("pay").status == 0
    for number in range(1, 30):
        payload = {"order": number, "merchant": "Corner Shop", "status": "paid", "channel": "mobile app"}
        gateway.push({"user": "alice"}, payload)
        one, other = device.next_push(), plain.next_push()
        assert (one.seq, one.body) == (other.seq, other.body)
        device.ack()
        plain.ack()
    # more than once where it has been idle between two pushes
    gateway.wait_until(lambda: gateway.metric("accessgw_header_codecs_rested_total") >= 1)
    assert device.call("pay").status == 0
    # the same stream on a new connection begins with an empty history
    again = CodedDevice(gateway.plain, device.memory, token="alice-token", counter=1).welcomed()
    gateway.push({"user": "alice"}, payload)
    assert again.next_push().body == one.body
    gateway.assert_sound()
