"""Servers and clients of bench_tls as processes: started, told to go on, ended."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from loadtest.bench.tls_clients import Order
from loadtest.bench.tls_servers import Certificates, TlsServer

LONGEST = 120.0
"""Seconds for one order of the clients."""
Kind = TypeVar("Kind", bound=TlsServer)


@contextmanager
def server_of(kind: type[Kind], directory: Path, certificates: Certificates) -> Iterator[Kind]:
    """It runs, in a directory of its own."""
    server = kind(Path(tempfile.mkdtemp(dir=directory)), certificates)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def client(order: Order) -> subprocess.Popen[str]:
    """A process that is ready to carry it out."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.bench.tls_clients", json.dumps(asdict(order))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise RuntimeError("the clients did not start")
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate(timeout=LONGEST)
    tally: dict[str, Any] = json.loads(said)
    return tally


def again(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Let it carry out its order once more; the Tally."""
    go(process)
    assert process.stdout is not None
    tally: dict[str, Any] = json.loads(process.stdout.readline())
    return tally


@contextmanager
def holding(order: Order) -> Iterator[None]:
    process = client(order)
    try:
        yield
    finally:
        process.communicate()


def settled(server: TlsServer) -> None:
    """Wait until it has nothing left to do."""
    before = -1.0
    while (now := server.cpu_of_all()) - before > 0.02:
        before = now
        time.sleep(0.5)  # between two readings of its CPU time, which is counted in hundredths of a second
