"""Tests that what a log or an error may print of credentials does not have the secret."""

from __future__ import annotations

import pytest

from protocols.mmtp import Hello
from protocols.mmtp.handshake import Welcome
from protocols.mqtt.packets import Connect
from protocols.scram import Verifier

SECRET = "the-secret"


@pytest.mark.parametrize(
    "holder",
    [
        Hello(device="d1", token=SECRET),
        Welcome(session="s1", mac_key=SECRET.encode()),
        Connect(client_id="c1", password=SECRET.encode()),
        Verifier(salt=b"salt", iterations=4096, stored_key=SECRET.encode(), server_key=SECRET.encode()),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_no_representation_has_a_secret(holder):
    assert SECRET not in repr(holder)
    assert repr(holder).startswith(type(holder).__name__)
