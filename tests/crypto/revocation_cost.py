"""What a change of revocations costs where many connections are open: CPU time of the round over all, and what each keeps.

python -m tests.crypto.revocation_cost [CONNECTIONS]
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from accessgw.core.revoked_connections import RevokedConnections
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.serials import issuer_of, number_of
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo, Serial
from accessgw.transports.services import OpenConnections

CONNECTIONS = 100_000
LISTED = 100_000
"""Certificates on the list, of which no connection has one."""
ROUNDS = 5


class Turns:
    """A clock whose turns come one after the other, with nothing between them."""

    seconds = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.due: Callable[..., object] | None = None

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> None:
        self.due = callable


class Connection:
    __slots__ = ("info",)

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info

    def close(self, reason: object, detail: str = "") -> None:
        raise AssertionError("nobody is revoked here")


def number(seed: int) -> bytes:
    """A serial number as CAs give them: 20 bytes."""
    return number_of(int.from_bytes(hashlib.sha256(b"%d" % seed).digest()[:19], "big") | 1 << 150)


def issuer(name: str) -> str:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a maker of phones")]
    return issuer_of(x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)]))


def serials(seed: int, above: Serial) -> tuple[Serial, ...]:
    """Of a device's certificate and the CA between it and a trusted one."""
    return (issuer("factory"), number(seed)), above


def connections(count: int) -> list[Any]:
    above, now, made = (issuer("root"), number(0)), time.time(), []
    for seed in range(1, count + 1):
        device, fingerprint = f"device-{seed}", hashlib.sha256(b"%d" % seed).digest()
        info = ConnectionInfo(seed, "tls", "tls", "192.0.2.1", fingerprint=fingerprint, device=device, accepted_at=now)
        info.serials = serials(seed, above)
        made.append(Connection(info))
    return made


def kept(count: int = 10_000) -> float:
    """Bytes of `serials` for each connection."""
    above = (issuer("root"), number(0))
    room: list[Any] = [None] * count
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for seed in range(count):
        room[seed] = serials(seed, above)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / count


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS
    with tempfile.TemporaryDirectory() as place:
        store, table, clock = RevocationStore(Path(place) / "keys"), OpenConnections(), Turns()
        for one in connections(count):
            table.add(one)
        RevokedConnections(clock, table, store, TlsCounters())
        now = time.time()
        took, turns = [], []
        for turn in range(ROUNDS):
            store.revoke_device(f"somebody-{turn}", now - 1)
            store.revoke_certificate(hashlib.sha256(b"somebody-%d" % turn).digest(), now)
            listed = {(issuer("factory"), number(-1 - seed)) for seed in range(LISTED + turn)}
            store.use_list("crl.pem", listed, now)
            took.append(0.0)
            clock.due = partial(store.poll, now)
            while clock.due is not None:
                due, clock.due = clock.due, None
                began = time.process_time()
                due()
                turns.append(time.process_time() - began)
                took[-1] += turns[-1]
    each, turns = min(took) / count * 1e6, sorted(turns)
    print(f"{count:,} connections, {LISTED:,} certificates on a list")
    print(f"a look at a connection      {each:6.2f} us; a million: {each:.1f} s")
    print(
        f"a turn of it                {turns[len(turns) // 2] * 1e3:6.2f} ms p50, {turns[-1] * 1e3:.2f} ms the longest"
    )
    print(
        f"kept for each connection    {kept():6.0f} B for a certificate below a CA in between, beside 8 B in every one"
    )


if __name__ == "__main__":
    main()
