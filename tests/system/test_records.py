"""What one turn brings about for a device is one TLS record, counted on the wire of a running gateway."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.device import Device
from tests.system.gateway_process import Gateway
from tests.tls_tap import TlsTap

BODY = bytes(60_000)
"""Of a call: so much that its credit comes back with a WINDOW frame."""
NEXT_ACTIVITY = 1


def held(gateway: Gateway, *numbers: int) -> None:
    """Pushes that wait until the device does something. A whole turn later nothing of them is under way."""
    for number in numbers:
        gateway.push({"device": "d1"}, {"n": number}, priority=NEXT_ACTIVITY)
    for _ in range(2):
        assert gateway.http("GET", "/health/ready")[0] == 200


def test_answers_credit_and_pushes_of_one_turn_are_one_record(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway().start()
    with TlsTap(gateway.tls) as tap:
        device = Device(tap.port, ca=gateway.ca).welcomed()
        assert device.socket.version() == "TLSv1.3"
        held(gateway, 1, 2, 3)
        assert device.call("gw.time", b"").status == 0  # the device begins to hear of the stream
        for number in (1, 2, 3):
            assert device.next_push().seq == number
        device.ack_now(3)
        assert device.call("gw.time", b"").status == 0
        # by itself each turn has a record of its own
        tap.mark()
        for number in (4, 5):
            gateway.push({"device": "d1"}, {"n": number})
            assert device.next_push().seq == number
        assert len(tap.records("down")) == 2
        device.ack_now(2)
        assert device.call("gw.time", b"").status == 0

        held(gateway, 6, 7, 8)
        assert not device.pushes
        tap.mark()
        calls = [device.wire.request("gw.time", [], b"") for _ in range(3)]
        device.flush()  # what is asked for in one record is answered in one turn
        answers = [device.answer(call) for call in calls]
        assert [answer.status for answer in answers] == [0, 0, 0]
        assert [push.seq for push in device.pushes] == [6, 7, 8]
        assert len(tap.records("up")) == 1
        (size,) = tap.records("down")
        assert size > sum(len(push.body) for push in device.pushes) + sum(len(answer.body) for answer in answers)

        # an acknowledgement rides with the next call; the credit for its body comes back with answer and push
        held(gateway, 9)
        tap.mark()
        device.wire.ack(3)
        assert device.call("gw.time", BODY).status == 0
        assert [push.seq for push in device.pushes] == [6, 7, 8, 9]
        assert len(tap.records("down")) == 1
    gateway.assert_sound()
