"""Trains one dictionary: `python -m accessgw.core.dictionaries.training` reads a job and writes what came of it.

It runs in a process of its own: counting strings by users holds the interpreter for a second or two.

In: a line of JSON (`Order`), then per sample 8 bytes user, 4 bytes length, body. Out: lines of JSON (`Report`).
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import BinaryIO

import msgspec
import zstandard

from accessgw.core.dictionaries.common import GRAM, Corpus, windows
from accessgw.core.dictionaries.zstd_format import head_size
from accessgw.model.dictionaries import Sample, TrainingJob, TrainingResult
from protocols.mmtp.dictionaries import Dictionary

LEVEL = 3
PIECE = 6
"""Bytes of the shortest string in a dictionary; zstd finds little use in shorter ones."""
STUDIED = 250
"""Bodies in which common strings are looked for."""
STUDIED_BYTES = 64 * 1024
"""Their bytes: what a training takes grows with them, and with the samples' bytes."""
JOINT = 32
"""Bytes on either side of a separator that are looked at when a string is put in; the check at the end sees all."""
LEAST_BYTES = 8 * 1024
LEAST_CONTENT = 32
DICTIONARY_ID = 1
HELD_OUT = 5
"""One body in so many is kept out of the training, to measure by."""
WORTH = 0.97
"""A dictionary must make bodies smaller than that share of what they are without one."""
MEMORY = 1 << 30
"""Address space that the process may use, in bytes."""
SAMPLE = struct.Struct("!QI")


class TrainingRefused(Exception):
    """No dictionary can be made of these samples; the message says why."""


class Order(msgspec.Struct):
    """The first line of the input."""

    id: int
    users: int
    size: int
    samples: int
    seconds: int


class Report(msgspec.Struct):
    """A line of the output."""

    percent: int = 0
    refused: str = ""
    result: TrainingResult | None = None


def train(job: TrainingJob, progress: Callable[[int], None]) -> TrainingResult:
    """Make a dictionary of at most `job.size` bytes that keeps the rule of users. Raises TrainingRefused."""
    samples = [sample for sample in job.samples if sample.body]
    corpus = Corpus(samples, job.users)
    if len(corpus.all_users) < job.users:
        raise TrainingRefused(f"expected bodies of at least {job.users} users, got {len(corpus.all_users)}")
    progress(2)
    held_out = [sample.body for number, sample in enumerate(samples) if not number % HELD_OUT]
    taught = [sample.body for number, sample in enumerate(samples) if number % HELD_OUT]
    if sum(map(len, taught)) < LEAST_BYTES:
        raise TrainingRefused(f"expected at least {LEAST_BYTES} bytes of bodies, got {sum(map(len, taught))}")
    head = _head(taught, corpus, job)
    progress(10)
    separator, free = corpus.separator()
    shortest = 1 if free else GRAM
    strings = _strings(corpus, taught, lambda share: progress(10 + int(50 * share)))
    content = _assembled(corpus, cover(strings, taught), bytes((separator,)), job.size - len(head), shortest)
    progress(80)
    made = head + content
    size = sum(map(len, held_out))
    expected, plain = _packed(Dictionary(job.id, made), held_out) / size, _packed(None, held_out) / size
    if expected > WORTH * plain:
        raise TrainingRefused(f"bodies would be {expected:.3f} of raw, and are {plain:.3f} without a dictionary")
    progress(85)
    check(made, samples, job.users, shortest)
    progress(100)
    return TrainingResult(made, len(samples), len(corpus.all_users), shortest, expected, plain)


def check(dictionary: bytes, samples: Iterable[Sample], users: int, shortest: int) -> None:
    """Hold a finished dictionary against the rule of users. Raises TrainingRefused.

    It takes nothing from how the dictionary was made, but the bodies.
    """
    try:
        content = dictionary[head_size(dictionary) :]
    except ValueError as error:
        raise TrainingRefused(str(error)) from None
    corpus = Corpus(samples, users)
    corpus.index(content)
    found = corpus.violation(content, shortest)
    if found is not None:
        raise TrainingRefused(f"bytes {found[0]} to {found[1]} of its content were seen from fewer than {users} users")


def _head(bodies: list[bytes], corpus: Corpus, job: TrainingJob) -> bytes:
    """The tables of a dictionary that zstd trains from whole bodies, whose content is thrown away. Byte values that
    too few users have are left out before."""
    rare = bytes(set(range(256)) - corpus.common_bytes())
    left: list[bytes | bytearray | memoryview[int]] = [kept for body in bodies if (kept := body.translate(None, rare))]
    try:
        # a fixed id: by itself zstd would make one of the content that is thrown away
        trained = zstandard.train_dictionary(job.size, left, level=LEVEL, dict_id=DICTIONARY_ID).as_bytes()
        return trained[: head_size(trained)]
    except (zstandard.ZstdError, ValueError) as error:
        raise TrainingRefused(f"zstd cannot train with these bodies: {error}") from None


def _strings(corpus: Corpus, bodies: list[bytes], progress: Callable[[float], None]) -> set[bytes]:
    """The common strings of some of the bodies, spread over all."""
    wanted = min(STUDIED, max(1, STUDIED_BYTES * len(bodies) // sum(map(len, bodies))))
    some = bodies[:: -(-len(bodies) // wanted)]
    corpus.index(b"".join(some))
    found: set[bytes] = set()
    for number, body in enumerate(some):
        found.update(corpus.common_strings(body, PIECE))
        if not number % 32:
            progress(number / len(some))
    return found


def cover(strings: Iterable[bytes], bodies: list[bytes]) -> Iterator[bytes]:
    """Strings, best first: by the bodies in which their windows stand, windows that an earlier one has left out,
    per byte. Strings that bring nothing new are left out."""
    weights: Counter[bytes] = Counter()
    wanted = {window for string in strings for window in windows(string, PIECE)}
    for body in bodies:
        weights.update(wanted.intersection(windows(body, PIECE)))

    def worth(string: bytes) -> float:
        return sum(weights[window] for window in set(windows(string, PIECE))) / (len(string) + 1)

    heap = [(-worth(string), string) for string in strings]
    heapify(heap)
    while heap:
        _, string = heappop(heap)
        now = -worth(string)
        if not now:
            continue
        if heap and now > heap[0][0]:  # others have taken windows of it since
            heappush(heap, (now, string))
            continue
        for window in windows(string, PIECE):
            weights[window] = 0
        yield string


def _assembled(corpus: Corpus, strings: Iterable[bytes], separator: bytes, room: int, shortest: int) -> bytes:
    """As many strings as there is room for with the separator between, the best one last: zstd reaches the end most
    cheaply. A string whose joint spells what too few users have is left out."""
    content = b""
    for string in strings:
        if len(content) + len(string) + 1 > room:
            break
        if shortest == 1 or _good_joint(corpus, string, separator, content, shortest):
            content = string + separator + content
    if len(content) < LEAST_CONTENT:
        raise TrainingRefused(f"too little is common to so many users: {len(content)} bytes")
    return content


def _good_joint(corpus: Corpus, string: bytes, separator: bytes, content: bytes, shortest: int) -> bool:
    near = string[-JOINT:] + separator + content[:JOINT]
    return corpus.violation(near, shortest) is None


def _packed(dictionary: Dictionary | None, bodies: list[bytes]) -> int:
    """Bytes on the wire; without a dictionary, as whole zstd frames."""
    if dictionary is not None:
        return sum(len(dictionary.compress(body) or body) for body in bodies)
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    return sum(min(len(compressor.compress(body)), len(body)) for body in bodies)


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Serve one job."""

    def tell(report: Report) -> None:
        sink.write(msgspec.json.encode(report) + b"\n")
        sink.flush()

    order = msgspec.json.decode(source.readline(), type=Order)
    signal.alarm(order.seconds + 5)  # nobody may be left to end it
    samples = []
    for _ in range(order.samples):
        user, length = SAMPLE.unpack(source.read(SAMPLE.size))
        samples.append(Sample(user, source.read(length)))
    try:
        result = train(
            TrainingJob(order.id, samples, order.users, order.size), lambda percent: tell(Report(percent=percent))
        )
    except TrainingRefused as error:
        tell(Report(refused=str(error)))
    else:
        tell(Report(percent=100, result=result))


if __name__ == "__main__":
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(sys.stdin.buffer, sys.stdout.buffer)
