"""What a block of profile H costs on each codec, and what a connection's pair of codecs weighs.

    python -m loadtest.bench.bench_hpack

Costs include every check of a connection: names, values, bounds. The least of seven rounds that take turns.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.hpack_backends import Backend, get_backend
from protocols.mmtp.settings import Limits

BLOCKS = 2000
ROUNDS = 7
PAIRS = 5000
LIMITS = Limits()
OPERATION = "orders.list"
LASTING = [
    ("accept", "application/json"),
    ("accept-language", "en-GB,en;q=0.9"),
    ("accept-encoding", "gzip, br"),
    ("user-agent", "shop/7.12.3 (Android 14; Pixel 8)"),
    ("content-type", "application/json"),
    ("x-app-version", "7.12.3"),
    ("x-device-id", "8f14e45fceea167a5a36dedd4bea2543"),
    ("x-os", "android"),
    ("x-os-version", "14"),
    ("x-network", "wifi"),
    ("x-locale", "en_GB"),
    ("x-timezone", "Europe/London"),
    ("x-screen", "1080x2400"),
    ("x-carrier", "23415"),
    ("x-session", "c9f0f895fb98ab9159f51fd0297e236d"),
    ("x-experiment", "a12,b7,c0"),
    ("x-city", "310100"),
]
BEARER = ("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyLTEyMyJ9.abcdefghijklmnopqrstuvwxyz0123456789")


@dataclass
class Cost:
    """The least so far: microseconds per block, and bytes."""

    encode: float = float("inf")
    decode: float = float("inf")
    size: float = 0.0


def _calls(changing: bool) -> list[list[tuple[str, str]]]:
    """Headers of calls: with a credential and two values that are new in every one, or the same throughout."""
    if not changing:
        return [[*LASTING, ("x-build", "99"), ("x-channel", "store"), ("x-theme", "dark")]] * BLOCKS
    return [
        [
            *LASTING,
            BEARER,
            ("x-request-id", f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128):032x}"),
            ("x-timestamp", str(1_700_000_000_000 + n * 977)),
        ]
        for n in range(BLOCKS)
    ]


def _measure(backend: Backend, calls: list[list[tuple[str, str]]], cost: Cost) -> None:
    sender, receiver = HeaderCodec(backend), HeaderCodec(backend)
    begun = time.perf_counter()
    blocks = [sender.encode(OPERATION, headers, LIMITS, LIMITS) for headers in calls]
    half = time.perf_counter()
    heard = [receiver.decode_request(block, LIMITS) for block in blocks]
    done = time.perf_counter()
    if heard[-1] != (OPERATION, calls[-1]):
        raise RuntimeError(f"{backend.name}: headers came out different")
    cost.encode = min(cost.encode, (half - begun) / len(calls) * 1e6)
    cost.decode = min(cost.decode, (done - half) / len(calls) * 1e6)
    cost.size = sum(map(len, blocks)) / len(blocks)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _weight(name: str) -> tuple[float, float]:
    """Bytes of a pair of codecs that is empty, and of one that knows the headers of a call;
    for a process of its own."""
    backend, headers = get_backend(name), _calls(changing=False)[0]
    backend.make_encoder().encode(headers, 4096)
    before = _resident()
    pairs = [(backend.make_encoder(), backend.make_decoder()) for _ in range(PAIRS)]
    empty = _resident()
    for encoder, decoder in pairs:
        decoder.decode(encoder.encode(headers, 4096), LIMITS.max_headers, LIMITS.max_header_fields, 4096)
    return (empty - before) / PAIRS, (_resident() - before) / PAIRS


def main() -> None:
    """Print both tables."""
    backends = [get_backend(name) for name in ("hpack", "nghttp2")]
    for label, changing in (("new values and a credential", True), ("all indexed", False)):
        calls = _calls(changing)
        costs = {backend.name: Cost() for backend in backends}
        for _ in range(ROUNDS):
            for backend in backends:
                _measure(backend, calls, costs[backend.name])
        for name, cost in costs.items():
            print(
                f"{label}, {len(calls[0]) + 1} fields, {name}: encode {cost.encode:.1f} us, decode {cost.decode:.1f} us, "
                f"{cost.size:.1f} bytes"
            )
    for backend in backends:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            empty, filled = pool.submit(_weight, backend.name).result()
        print(f"pair, {backend.name}: {empty:.0f} bytes empty, {filled:.0f} with {len(LASTING) + 3} fields")


if __name__ == "__main__":
    main()
