"""What a TLS record costs after the hand-shake on each twin, and what an idle connection's TLS state weighs.

`rows()` is for bench_tls; alone: python -m loadtest.bench.tls_records
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from loadtest.bench.report import Report, Row
from protocols.tls.key_schedule import SUITES, Suite
from protocols.tls.record_backends import Backend, get_backend
from protocols.tls.record_protection import APPLICATION_DATA
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer

SIZES = (100, 16_384)
CONNECTIONS = 10_000
ROUNDS = 7


def backends() -> list[Backend]:
    """The twins that this machine has."""
    found = []
    for name in ("cryptography", "libcrypto"):
        try:
            found.append(get_backend(name))
        except ImportError as missing:
            print(f"{name} is left out: {missing}")
    return found


def rows(suites: tuple[int, ...] = tuple(SUITES)) -> list[Row]:
    """All rows: time per record, time through a connection, bytes of an idle one."""
    return [*record_rows(suites), *weight_rows()]


def record_rows(suites: tuple[int, ...] = tuple(SUITES)) -> list[Row]:
    """Microseconds per record: sealed and opened alone, and through a RecordLayer (encrypt and to_send, feed and
    events). The least of rounds in which the twins take turns."""
    found = []
    for suite in (SUITES[number] for number in suites):
        for size in SIZES:
            best: dict[tuple[str, str], float] = {}
            for _ in range(ROUNDS):
                for backend in backends():
                    for what, value in _costs(backend, suite, size):
                        key = (what, backend.name)
                        best[key] = min(best.get(key, value), value)
            found += [Row(f"{what}, {size:,} B, {suite.name}", who, best[what, who], "us") for what, who in best]
    return found


def _costs(backend: Backend, suite: Suite, size: int) -> Iterator[tuple[str, float]]:
    data = os.urandom(size)
    count = 2_000 if size < 1_000 else 200
    mine, theirs = os.urandom(suite.secret_size), os.urandom(suite.secret_size)
    sealer, opener = backend.make_sealer(suite, mine, 0), backend.make_opener(suite, mine, 0)
    sealed = [sealer.seal(APPLICATION_DATA, data) for _ in range(count)]
    # Records that are kept would be the cost of fresh memory.
    yield "seal", _each(lambda _: sealer.seal(APPLICATION_DATA, data), range(count))
    yield "open", _each(lambda record: opener.open(record, 0, False), sealed)

    def seal_afresh(_: int) -> None:
        sealer.rest()
        sealer.seal(APPLICATION_DATA, data)

    yield "seal, its cipher made again", _each(seal_afresh, range(count))
    server = RecordLayer(DetachedState(suite.id, True, theirs, mine), backend=backend)
    client = RecordLayer(DetachedState(suite.id, False, mine, theirs), backend=backend)

    def say(_: int) -> bytes:
        server.encrypt(data)
        return server.to_send()

    def hear(record: bytes) -> None:
        client.feed(record)
        client.events()

    sent = [say(number) for number in range(count)]
    yield "encrypt", _each(say, range(count))
    yield "feed", _each(hear, sent)


def _each(step: Callable[[Any], object], items: Sequence[Any]) -> float:
    begun = time.perf_counter()
    for item in items:
        step(item)
    return (time.perf_counter() - begun) / len(items) * 1e6


def weight_rows(connections: int = CONNECTIONS) -> list[Row]:
    """Resident bytes per connection that has said and heard one record and is idle; each twin in a process of its own."""
    found = []
    for backend in backends():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            weight = pool.submit(_weight, backend.name, connections).result()
        found.append(
            Row("TLS state of an idle connection", backend.name, weight, "bytes", note=f"{connections:,} of them")
        )
    return found


def _weight(name: str, connections: int) -> float:
    backend, layers = get_backend(name), []
    for turn in (64, connections):
        gc.collect()
        before = _resident()
        for _ in range(turn):
            mine, theirs = os.urandom(32), os.urandom(32)
            server = RecordLayer(DetachedState(0x1301, True, theirs, mine), backend=backend)
            client = RecordLayer(DetachedState(0x1301, False, mine, theirs), backend=backend)
            client.encrypt(b"hello")
            server.feed(client.to_send())
            server.events()
            server.encrypt(b"answer")
            server.to_send()
            layers.append(server)
    del client
    gc.collect()
    return (_resident() - before) / connections


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Print the table."""
    report = Report("TLS records after the hand-shake", rows=rows())
    report.relate("cryptography")
    report.print()


if __name__ == "__main__":
    main()
