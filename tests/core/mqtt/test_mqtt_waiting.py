"""How many messages wait for a session, as listings tell."""

from __future__ import annotations

from accessgw.core.mqtt.control import BrokerControl
from tests.core.mqtt.mqtt_world import World


def test_listings_count_what_waits_in_the_store_for_a_client_that_is_away() -> None:
    world = World()
    client = world.client("c")
    session = client.connect(expiry=60).session
    client.subscribe("t", qos=1)
    world.keeper.close(session, client, with_will=False)
    for payload in (b"1", b"2", b"3"):
        world.publish(payload, qos=1)
    world.clock.advance(1)
    control = BrokerControl(world.broker, world.keeper, None, None, list)  # type: ignore[arg-type]  # neither asks nor counts
    assert control.client("c")["queued"] == 3
    assert [row["queued"] for row in control.clients("", 10, None)] == [3]


def test_what_is_in_flight_is_not_taken_off_what_waits() -> None:
    world = World(max_inflight=2)
    client = world.client("c")
    client.connect(expiry=60)
    client.subscribe("t", qos=1)
    for number in range(5):
        world.publish(b"%d" % number, qos=1)
    world.clock.advance(1)
    row = BrokerControl(world.broker, world.keeper, None, None, list).client("c")  # type: ignore[arg-type]  # as above
    assert row is not None
    assert (row["inflight"], row["queued"]) == (2, 3)
