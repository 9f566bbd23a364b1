"""The dictionaries of the warm modes, as a deployment has them: made by the gateway's trainer and its rule of users.

The trainer runs as the gateway runs it, as a process of its own, spoken to by its protocol (see its first lines). What
it made is kept in a temporary directory, so that a run with the same sessions and the same trainer is quick.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard

from loadtest.corpus.sessions import Session
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import ANSWER_KIND, PUSH_KIND, REQUEST_KIND, Dictionary

DICTIONARY = 8192
"""Bytes of the dictionary of each class."""
USERS_SAMPLED = 3000
"""Users whose bodies training takes, one of each class:
as many bodies as a reservoir holds by the gateway's setting."""
USERS = 50
"""The gateway's setting: from so many users everything in a dictionary was seen."""
SECONDS = 600
"""For one dictionary. A training gives way to everybody, so that a busy machine makes it long."""
TRAINER = "accessgw.core.dictionaries.training_process"
TRAINS = (
    *(f"accessgw/core/dictionaries/{name}" for name in ("common", "proposals", "training", "zstd_format")),
    *(f"protocols/mmtp/{name}" for name in ("dictionaries", "mini")),
)
"""Files that decide what a training comes to."""
ROOT = Path(__file__).resolve().parents[2]

Samples = dict[str, list[tuple[int, bytes]]]


def collect(sessions: Iterable[Session]) -> Samples:
    """Bodies by class, with the number of the user."""
    samples: Samples = defaultdict(list)
    for user, session in enumerate(sessions, 1):
        for call in session.exchanges:
            samples[REQUEST_KIND + call.operation].append((user, call.request))
            samples[ANSWER_KIND + call.operation].append((user, call.response))
        for push in session.pushes:
            samples[PUSH_KIND + push.biz].append((user, push.body))
    return dict(sorted(samples.items()))


def train(samples: Samples) -> Bundle:
    """By the gateway's trainer; a class that it refuses has no dictionary. Progress goes to the error output."""
    cache = Path(tempfile.gettempdir()) / f"accessgw-bench-dictionaries-{_version()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    done = 0

    def one(item: tuple[str, list[tuple[int, bytes]]]) -> tuple[str, bytes]:
        nonlocal done
        content = _cached(cache, item[1])
        done += 1
        if sys.stderr.isatty():
            print(
                f"\rdictionaries: {done} of {len(samples)}", end="\n" if done == len(samples) else "", file=sys.stderr
            )
        return item[0], content

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(one, samples.items()))
    return Bundle(Dictionary(number, content, (name,)) for number, (name, content) in enumerate(made, 1) if content)


def train_without_rule(samples: Samples) -> Bundle:
    """By zstd's own trainer, which knows nothing of users:
    for comparison only, it learns names and numbers by heart."""
    dictionaries = []
    for number, (name, bodies) in enumerate(samples.items(), 1):
        # The stubs of zstandard want a list of this very type.
        taken: list[bytes | bytearray | memoryview] = [body for _, body in bodies]
        content = zstandard.train_dictionary(DICTIONARY, taken, level=3).as_bytes()
        dictionaries.append(Dictionary(number, content, (name,)))
    return Bundle(dictionaries)


def _version() -> str:
    """Of everything that the result depends on beside the samples."""
    digest = hashlib.sha256(zstandard.__version__.encode())
    for name in TRAINS:
        digest.update((ROOT / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _cached(cache: Path, bodies: Sequence[tuple[int, bytes]]) -> bytes:
    order = {"id": 1, "users": USERS, "size": DICTIONARY, "samples": len(bodies), "seconds": SECONDS}
    job = json.dumps(order).encode() + b"\n"
    job += b"".join(struct.pack("!QI", user, len(body)) + body for user, body in bodies)
    path = cache / hashlib.sha256(job).hexdigest()[:32]
    if path.exists():
        return path.read_bytes()
    ended = subprocess.run([sys.executable, "-m", TRAINER], input=job, capture_output=True, cwd=ROOT, check=True)
    last = json.loads(ended.stdout.splitlines()[-1])
    content = base64.b64decode(last["result"]["content"]) if last["result"] else b""
    whole = path.with_suffix(f".{id(job):x}")
    whole.write_bytes(content)
    whole.replace(path)
    return content
