"""What each way of signing makes of the reactor: signatures a second, and how late its timers are meanwhile.

Every case runs in a process of its own with as many signatures outstanding as the simulated card takes at once. `rows()`
is what a test checks; the table: python -m tests.crypto.signer_rates
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from twisted.internet.defer import Deferred, succeed

from accessgw.crypto.signers.backend import Job, SoftwareBackend
from accessgw.crypto.signers.card import SimulatedCard
from accessgw.crypto.signers.libcrypto import PublicKey
from accessgw.crypto.signers.process import ProcessSigner
from accessgw.crypto.signers.threads import ThreadSigner
from accessgw.model.counters import TlsCounters
from loadtest.bench.report import Report, Row
from protocols.signing import ECDSA_DIGEST, RSA_BLOCK

SECONDS = 2.0
LATENCY, DEPTH = 0.005, 64
TICK = 0.005
"""Seconds between the timers whose lateness is measured."""
IDLE, INLINE, THREADS, PROCESS, CARD = "nothing", "the reactor", "threads", "a signer process", "the simulated card"
WAYS = (IDLE, INLINE, THREADS, PROCESS, CARD)
KINDS = ("RSA-2048", "P-256")

Sign = Callable[[], Deferred[Any]]


def rows(seconds: float = SECONDS) -> list[Row]:
    """For each kind of key and each way: throughput, and the lateness of timers."""
    found: list[Row] = []
    for kind in KINDS:
        for way in WAYS:
            figures = _in_a_process(kind, way, seconds)
            if way != IDLE:
                note = f"depth / latency is {DEPTH / LATENCY:,.0f}" if way == CARD else ""
                found.append(Row(f"signatures, {kind}", way, figures["rate"], "/s", note=note))
            for quantile in ("p50", "p99"):
                found.append(Row(f"lateness {quantile}, {kind}", way, figures[quantile], "ms"))
    Report("", rows=found).relate(IDLE)
    return found


def _in_a_process(kind: str, way: str, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.crypto.signer_rates", "--measure", kind, way]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=seconds + 60)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# ---------------------------------------------------------------------- in that process


def _measure(kind: str, way: str, seconds: float) -> dict[str, float]:
    from twisted.internet.epollreactor import EPollReactor
    from twisted.internet.main import installReactor

    reactor: Any = EPollReactor()
    installReactor(reactor)
    # As in the gateway.
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory() as directory:
        private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        private = (
            rsa.generate_private_key(65537, 2048) if kind == "RSA-2048" else ec.generate_private_key(ec.SECP256R1())
        )
        path = Path(directory, "key.pem")
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        sign, stop = _way(way, str(path), private, reactor)
        return _run(reactor, sign, stop, 1 if way == INLINE else DEPTH, seconds)


def _way(way: str, path: str, private: Any, reactor: Any) -> tuple[Sign | None, Callable[[], object]]:
    """How to ask for a signature, and what ends it."""
    software = SoftwareBackend.of_files([path])
    (key,) = software.keys()
    block = b"\x00\x01" + b"\xff" * 221 + b"\x00" + bytes(32)
    job = Job(key, RSA_BLOCK, block) if isinstance(private, rsa.RSAPrivateKey) else Job(key, ECDSA_DIGEST, bytes(32))
    counters = TlsCounters()
    if way == IDLE:
        return None, lambda: None
    if way == INLINE:
        return lambda: succeed(software.sign([job])), lambda: None
    if way == THREADS:
        threads = ThreadSigner(software, counters, reactor.callFromThread)
        return lambda: threads.sign(job.key, job.algorithm, job.data), threads.stop
    if way == CARD:
        card = SimulatedCard(_Made(software.sign([job])), counters, reactor, latency=LATENCY, depth=DEPTH)
        return lambda: card.sign(job.key, job.algorithm, job.data), lambda: None
    return _process(path, private, job, counters, reactor)


def _process(
    path: str, private: Any, job: Job, counters: TlsCounters, reactor: Any
) -> tuple[Sign, Callable[[], object]]:
    listening = str(Path(path).with_name("signer.sock"))
    command = [sys.executable, "-m", "accessgw.crypto.signers.main", "--listen", listening, "--key", path]
    child = subprocess.Popen([*command, "--until-stdin-ends"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signer = ProcessSigner(listening, {job.key: PublicKey(public)}, counters, reactor, timeout=30.0)
    signer.start()

    def stop() -> None:
        signer.stop()
        child.terminate()
        child.wait()

    return lambda: signer.sign(job.key, job.algorithm, job.data), stop


class _Made:
    """A back end that has made its signature already: a card costs the processor nothing."""

    name = "made"
    batch = 1
    linger = 0.0

    def __init__(self, results: Any) -> None:
        self._results = results

    def keys(self) -> frozenset[str]:
        return frozenset()

    def sign(self, jobs: object) -> Any:
        return self._results


def _run(reactor: Any, sign: Sign | None, stop: Callable[[], object], depth: int, seconds: float) -> dict[str, float]:
    late: list[float] = []
    done = [0, 0.0]

    def again(_: object) -> None:
        done[0] += 1
        reactor.callLater(0, ask)

    def ask() -> None:
        if sign is not None and reactor.running:
            sign().addCallbacks(again, lambda failure: None)

    def tick(due: float) -> None:
        now = time.perf_counter()
        late.append(now - due)
        reactor.callLater(TICK, tick, time.perf_counter() + TICK)

    def begin(_: object = None) -> None:
        done[0], done[1] = 0, time.perf_counter()
        for _number in range(depth):
            ask()
        tick(time.perf_counter())
        reactor.callLater(seconds, end)

    def end() -> None:
        done[1] = time.perf_counter() - done[1]
        stop()
        reactor.stop()

    # The first signature starts threads and waits for processes.
    reactor.callWhenRunning(lambda: begin() if sign is None else sign().addCallback(begin))
    reactor.run(installSignalHandlers=False)
    cuts = statistics.quantiles(late[1:], n=100)
    return {"rate": done[0] / done[1], "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


def main() -> None:
    """Print the table, or the figures of one case."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crypto.signer_rates",
        description="Signatures a second of each way of signing, and how late the reactor's timers are meanwhile."
        " Takes all processors.",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each case (%(default)g)")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "WAY"), help="one case alone, its figures as JSON")
    options = parser.parse_args()
    if options.measure:
        kind, way = options.measure
        if kind not in KINDS or way not in WAYS:
            parser.error(f"--measure: expected one of {', '.join(KINDS)} and one of {', '.join(WAYS)}")
        print(json.dumps(_measure(kind, way, options.seconds)))
        return
    title = "Signatures outside of the hand-shake, and the reactor meanwhile"
    Report(title, rows=rows(options.seconds)).print()


if __name__ == "__main__":
    main()
