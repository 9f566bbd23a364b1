"""The time that a device has for its HELLO, as the MMTP binding keeps it."""

from __future__ import annotations

from accessgw.model.reasons import CloseReason
from protocols.mmtp import Hello, events
from protocols.mmtp.statuses import Status
from tests.core.gateway_fakes import Device, Gateway


def test_a_late_hello_is_told_so_before_the_end() -> None:
    device = Device(Gateway())
    device.wire.send_hello(Hello(device="d1"))
    device.binding.data_received(device.wire.to_send(0.0)[:-1])
    device.binding.late()
    (goaway,) = device.take(events.GoawayReceived)
    assert goaway.goaway.status == Status.DEADLINE
    assert device.connection.closed is CloseReason.HELLO_TIMEOUT


def test_the_time_ends_with_the_hello_and_not_with_its_admission() -> None:
    gateway = Gateway()
    gateway.authenticator.hold = True
    device = Device(gateway).hello()
    assert device.connection.is_established
    device.binding.late()
    assert device.connection.closed is None
    gateway.authenticator.let_go()
    (welcomed,) = device.take(events.WelcomeReceived)
    assert welcomed.welcome.result == Status.OK
