"""Connections in several threads of one process: what modules keep for all of them does not mix their bodies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Thread

from protocols.mmtp.bodies import compress, decompress
from protocols.mmtp.settings import DEFAULT_LIMITS

THREADS = 2
TURNS = 200
ROOT = Path(__file__).resolve().parents[3]


def body_of(thread: int) -> bytes:
    return b" ".join(b"%d of %d" % (number * number % 997, thread) for number in range(4000))


def turns(thread: int, found: list[str]) -> None:
    body = body_of(thread)
    try:
        for turn in range(TURNS):
            packed = compress(body)
            if packed is None or decompress(packed, DEFAULT_LIMITS) != body:
                found.append(f"thread {thread}, turn {turn}: another body")
    except Exception as error:
        found.append(f"thread {thread}: {error!r}")


def main() -> None:
    found: list[str] = []
    threads = [Thread(target=turns, args=(number, found)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit("\n".join(found) or None)


def test_two_threads_compress_and_expand_bodies_at_once():
    """In a process of its own: zstd ends it when two threads use one of its objects."""
    environment = {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


if __name__ == "__main__":
    main()
