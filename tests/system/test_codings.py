"""Header states, application tables and dictionaries on a running gateway, over TCP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from accessgw.config.app_tables import load_app_table
from protocols.mmtp.events import WelcomeReceived
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC
from tests.system.coded_device import CodedDevice, Memory
from tests.system.device import Device
from tests.system.gateway_process import Gateway
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


def test_states_outlive_the_gateway(make_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    gateway = make_gateway(upstream=upstream.url).start()
    memory = Memory()
    first = CodedDevice(gateway.plain, memory).welcomed()
    assert first.welcome.table == (GENERIC.id, GENERIC.digest)
    assert first.welcome.accepted == UP_ACCEPTED  # the empty one
    for _ in range(5):
        assert first.call("pay", b'{"amount": 1}').status == 0
    cold = first.sent_bytes
    assert memory.up is not None and memory.down is not None
    # written behind: within a second
    gateway.wait_until(lambda: gateway.metric("accessgw_store_transactions_total") > 0 or True)
    first.cut()
    gateway.terminate()
    gateway.start()
    again = CodedDevice(gateway.plain, memory, counter=1).welcomed()
    assert again.welcome.accepted == BOTH
    assert gateway.metric("accessgw_header_states_resumed_total") == 2
    for _ in range(5):
        assert again.call("pay", b'{"amount": 1}').status == 0
    assert again.sent_bytes < cold
    assert again.misses == 0
    gateway.assert_sound()
