"""What early data costs beside TLS: microseconds of a ticket minted, opened and compared, and of a strike.

python -m tests.crypto.strike_cost
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from accessgw.core.interfaces.tls import TicketBinding
from accessgw.crypto.key_store import KeyStore
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.crypto.ticket_keys import EpochTickets

TURNS = 100_000


def cost(name: str, work: Callable[[int], object], turns: int = TURNS) -> None:
    best = float("inf")
    for part in range(5):
        began = time.process_time()
        for turn in range(part * turns // 5, (part + 1) * turns // 5):
            work(turn)
        best = min(best, (time.process_time() - began) / (turns // 5))
    print(f"{name:<28}{best * 1e6:6.1f} us")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        directory, now = Path(place) / "keys", 1_800_000_000.0
        store = KeyStore(directory, now, rotation=28_800.0, random_bytes=os.urandom)
        tickets = EpochTickets(
            store,
            zone="z",
            listener="tls",
            transport="tls",
            lifetime=86_400.0,
            full_authentication_days=7,
            random_bytes=os.urandom,
        )
        binding = TicketBinding("phone1", "certificate", bytes(32), 1_900_000_000)
        ticket = tickets.mint(now, binding, 0)
        opened = tickets.open(ticket.identity, now)
        assert opened is not None
        cost("mint", lambda turn: tickets.mint(now, binding, 0))
        cost("open", lambda turn: tickets.open(ticket.identity, now))
        cost("match", lambda turn: tickets.matches(opened, binding))
        register = ReplayRegister(
            directory / "seen", now, window=10.0, delay=10.0, entries=1 << 20, random_bytes=os.urandom
        )
        later = now + 21
        cost("strike", lambda turn: register.strike(ticket.identity, turn.to_bytes(32, "big"), later))
        cost("strike, a replay", lambda turn: register.strike(ticket.identity, turn.to_bytes(32, "big"), later))
        cost("ready", lambda turn: register.ready(later))
        register.close()


if __name__ == "__main__":
    main()
