"""The register of first flights as a gateway finds it that starts again: so old that early data is taken at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from accessgw.config.load import load
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.tls_rooms import REPLAYS
from tests.system.gateway_process import Gateway

AGE = 600.0


def make_old_register(gateway: Gateway) -> None:
    """Before the start, with the configuration as it will be then. What a new one does, tests/system/test_tls_door.py
    waits for."""
    settings = load(gateway.config)
    state = Path(settings.state_dir)
    state.mkdir(mode=0o700, exist_ok=True)
    ReplayRegister(
        state / settings.tls.key_store / REPLAYS,
        time.time() - AGE,
        window=settings.tls.replay_window,
        delay=settings.limits.handshake_timeout,
        entries=settings.tls.replay_entries,
        random_bytes=os.urandom,
    ).close()
