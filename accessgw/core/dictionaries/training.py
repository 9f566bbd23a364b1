"""Trains one dictionary: main() reads a job and writes what came of it.

It runs in a process of its own (training_process): counting strings by users holds the interpreter for seconds.

In: a line of JSON (`Order`), then per sample 8 bytes user, 4 bytes length, body. Out: lines of JSON (`Report`).
"""

from __future__ import annotations

import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import BinaryIO

import msgspec
import zstandard

from accessgw.core.dictionaries.common import GRAM, Corpus, windows
from accessgw.core.dictionaries.proposals import SHORT_WINDOW, WINDOW, Windows, cover
from accessgw.core.dictionaries.zstd_format import finalized, head_size
from accessgw.model.dictionaries import LEAST_BYTES, Sample, TrainingJob, TrainingResult
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.mini import SMALL

LEVEL = 3
"""Of bodies without a dictionary, to compare with."""
SMALL_LEVEL, LARGE_LEVEL = 4, 6
"""Tables are made for the matches of these levels:
as minis of small bodies are searched, and as those of large ones."""
SMALL_WEIGHT = 5
"""A small body counts so often in the tables:
large ones have more symbols each, and small ones nothing but their tables."""
STUDIED_BYTES = 128 * 1024
"""Bytes of bodies in which common strings are looked for; they are counted in all."""
SEPARATORS = 16
"""Byte values that are tried between two strings where none is free."""
HEAD = 256
"""Bytes that the tables may take of a dictionary's size."""
LEAST_CONTENT = 32
SPACIOUS = 0.75
"""Content below that share of a dictionary's size gets short strings too."""
DICTIONARY_ID = 1
HELD_OUT = 5
"""One body in so many is kept out of the training, to measure by."""
WORTH = 0.97
"""A dictionary must make bodies smaller than that share of what they are without one."""
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
    size = sum(len(sample.body) for sample in samples)
    if size < LEAST_BYTES:
        raise TrainingRefused(f"expected at least {LEAST_BYTES} bytes of bodies, got {size}")
    progress(2)
    held_out = [sample.body for number, sample in enumerate(samples) if not number % HELD_OUT]
    taught = [sample.body for number, sample in enumerate(samples) if number % HELD_OUT]
    _, free = corpus.separator()
    shortest = 1 if free else GRAM
    content = _extended(b"", corpus, taught, job.size - HEAD, shortest, window=WINDOW)
    progress(40)
    if len(content) < SPACIOUS * job.size:
        content = _extended(content, corpus, taught, job.size - HEAD, shortest, window=SHORT_WINDOW)
    if len(content) < LEAST_CONTENT:
        raise TrainingRefused(f"too little is common to so many users: {len(content)} bytes")
    progress(70)
    made = _with_tables(content, taught, corpus, job.size)
    progress(80)
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


def _with_tables(content: bytes, bodies: list[bytes], corpus: Corpus, size: int) -> bytes:
    """The content behind tables for bodies. Byte values that too few users have are left out of those before.

    Tables that zstd makes for this very content are best. Without them: those of a dictionary that it trains itself and
    whose content is thrown away.
    """
    rare = bytes(set(range(256)) - corpus.common_bytes())
    left = [kept for body in bodies if (kept := body.translate(None, rare))]
    small = [body for body in left if len(body) <= SMALL]
    level = SMALL_LEVEL if 2 * len(small) > len(left) else LARGE_LEVEL
    left += small * (SMALL_WEIGHT - 1)
    made = finalized(content, left, level, DICTIONARY_ID)
    if made is not None and len(made) <= size:
        return made
    try:
        # a fixed id: by itself zstd would make one of the content that is thrown away
        # (the stubs of zstandard want a list of this very type)
        taught: list[bytes | bytearray | memoryview[int]] = [*left]
        trained = zstandard.train_dictionary(size, taught, level=level, dict_id=DICTIONARY_ID).as_bytes()
        head = trained[: head_size(trained)]
    except (zstandard.ZstdError, ValueError) as error:
        raise TrainingRefused(f"zstd cannot train with these bodies: {error}") from None
    return head + content[: size - len(head)]


def _extended(content: bytes, corpus: Corpus, bodies: list[bytes], room: int, shortest: int, *, window: int) -> bytes:
    """The content with strings of `window` bytes or more before it that it does not hold yet."""
    strings, weights = _proposed(bodies, corpus, window)
    chosen = list(islice(cover(strings, weights, window, content), room // window))
    corpus.index(b"".join(chosen))
    return _assembled(content, corpus, chosen, room, shortest, window=window)


def _proposed(bodies: list[bytes], corpus: Corpus, window: int) -> tuple[set[bytes], Counter[bytes]]:
    """Common strings of some of the bodies, spread over all, and in how many bodies their windows stand."""
    common = Windows(corpus, window)
    wanted = min(len(bodies), max(1, STUDIED_BYTES * len(bodies) // sum(map(len, bodies))))
    strings = {string for body in bodies[:: -(-len(bodies) // wanted)] for string in common.strings(body)}
    return strings, common.weights


def _assembled(
    content: bytes, corpus: Corpus, strings: Iterable[bytes], room: int, shortest: int, *, window: int
) -> bytes:
    """As many strings as there is room for before the content, with the separator between, the best one last: zstd
    reaches the end most cheaply. Of a string that too few users have, when it is counted exactly, what is common is taken.
    Left out is a string whose joint could spell what too few have, and bytes at its ends that no joint can have."""

    def exact(string: bytes) -> Iterable[bytes]:
        return (string,) if corpus.is_common(string) else corpus.common_strings(string, window)

    separators = [
        (bytes((byte,)), corpus.around(byte)) for byte in corpus.separators(1 if shortest == 1 else SEPARATORS)
    ]
    for whole in chain.from_iterable(map(exact, strings)):
        string = _joinable(whole, separators)
        if len(string) < window or string in content or len(content) + len(string) + 1 > room:
            continue
        for separator, around in separators:
            # what stands in no body breaks no rule; every string across the joint holds one of these
            if around.isdisjoint(windows(string[1 - GRAM :] + separator + content[: GRAM - 1], GRAM)):
                content = string + separator + content
                break
    return content


def _joinable(string: bytes, separators: list[tuple[bytes, set[bytes]]]) -> bytes:
    """The string without bytes at its ends beside which every separator stands in some body: before such a beginning no
    other string could ever be put. A field after random bytes begins like that."""
    beside = GRAM - 1
    while len(string) > beside and all(byte + string[:beside] in around for byte, around in separators):
        string = string[1:]
    while len(string) > beside and all(string[-beside:] + byte in around for byte, around in separators):
        string = string[:-1]
    return string


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
