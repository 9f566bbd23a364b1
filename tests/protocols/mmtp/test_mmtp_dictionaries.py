"""Codings 1 and 3: minis, dictionaries, bundles, history, and bodies shared by receivers."""

from __future__ import annotations

import json
import random
import tracemalloc
from functools import cache

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Limits, Status
from protocols.mmtp.bodies import compress as compress_explicit
from protocols.mmtp.bundles import EMPTY_BUNDLE, MAX_CACHED, MAX_DICTIONARIES, Bundle, ClassesInUse
from protocols.mmtp.dictionaries import MAX_CLASSES, MAX_CONTENT, Dictionary, check_class
from protocols.mmtp.digests import digest_of
from protocols.mmtp.history import MAX_HISTORY, History, compress_after
from protocols.mmtp.mini import MAX_MINI, MiniParts
from protocols.mmtp.shared_bodies import MAX_FORMS, SharedBody

LIMITS = Limits()
PLAIN = b'{"success":true,"resultCode":"SUCCESS","order":{"id":"","state":"SHIPPED","amount":"0.00"}}'


def message(number: int) -> bytes:
    chosen = random.Random(number)
    order = {
        "id": f"{chosen.getrandbits(64):016x}",
        "state": chosen.choice(["SHIPPED", "PAID", "CLOSED"]),
        "amount": f"{chosen.random() * 100:.2f}",
    }
    return json.dumps({"success": True, "resultCode": "SUCCESS", "order": order}, separators=(",", ":")).encode()


@cache
def trained() -> bytes:
    """A dictionary with entropy tables."""
    return zstandard.train_dictionary(2048, [message(number) for number in range(2000)]).as_bytes()


@cache
def dictionary(formatted: bool = True) -> Dictionary:
    return Dictionary(7, trained()) if formatted else Dictionary(8, PLAIN)


def rle(size: int) -> bytes:
    """A block of nothing but run-length literals (RFC 8878 section 3.1.1.3.1.1), 20 bits of size; no sequences."""
    return (1 | 3 << 2 | size << 4).to_bytes(3, "little") + b"a\0"


def refused(dictionary: Dictionary, body: bytes, limits: Limits = LIMITS) -> None:
    with pytest.raises(RemoteError) as caught:
        dictionary.decompress(body, limits)
    assert caught.value.code == Status.COMPRESSION


BODIES = st.one_of(
    st.binary(max_size=600),
    st.integers(0, 1 << 30).map(message),
    st.lists(st.sampled_from([PLAIN, b"SUCCESS", b"\0" * 40, b"state"]), max_size=30).map(b"".join),
    st.tuples(st.binary(min_size=1, max_size=8), st.integers(1, 9000)).map(lambda pair: pair[0] * pair[1]),
)


@settings(deadline=None)
@given(BODIES, st.booleans())
def test_what_is_compressed_expands_again(body: bytes, formatted: bool) -> None:
    packed = dictionary(formatted).compress(body)
    if packed is not None:
        assert 0 < len(packed) < len(body)
        assert dictionary(formatted).decompress(packed, LIMITS) == body


def test_a_known_kind_of_body_becomes_small() -> None:
    bodies = [message(number) for number in range(5000, 5100)]
    packed = [dictionary().compress(body) for body in bodies]
    assert sum(len(p) for p in packed if p is not None) < 0.45 * sum(map(len, bodies))
    assert None not in packed
    # the five bytes of headers are not there
    frame = zstandard.ZstdCompressor(level=3, dict_data=zstandard.ZstdCompressionDict(trained())).compress(bodies[0])
    assert len(packed[0] or b"") <= len(frame) - 9


@pytest.mark.parametrize("body", [b"", b"a", b"ab", bytes(range(256))])
def test_what_does_not_shrink_is_left_raw(body: bytes) -> None:
    assert dictionary().compress(body) is None


def test_what_a_receiver_would_refuse_is_left_raw() -> None:
    assert dictionary().compress(b"a" * (64 * 1024)) is not None
    assert dictionary().compress(b"a" * (64 * 1024 + 1)) is None
    noise = random.Random(1).randbytes(1024)
    assert dictionary().compress(noise * 128) is not None
    assert dictionary().compress(noise * 128 + b"a") is None


def test_a_frame_as_any_zstd_makes_it_is_taken() -> None:
    """Another implementation: level 19, other tables, the headers cut off."""
    params = zstandard.ZstdCompressionParameters.from_level(
        19, format=zstandard.FORMAT_ZSTD1_MAGICLESS, window_log=17, write_content_size=0, write_dict_id=0
    )
    compressor = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(trained()), compression_params=params)
    for number in range(20):
        frame = compressor.compress(message(number))
        assert dictionary().decompress(frame[5:], LIMITS) == message(number)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_expand_or_are_refused(body: bytes, formatted: bool) -> None:
    try:
        assert 0 < len(dictionary(formatted).decompress(body, LIMITS)) <= 64 * 1024
    except RemoteError as error:
        assert error.code == Status.COMPRESSION


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_a_changed_body_expands_within_bounds_or_is_refused(number: int, at: int, change: int, formatted: bool) -> None:
    packed = bytearray(dictionary(formatted).compress(message(number) * 3) or b"")
    packed[at % len(packed)] ^= change
    try:
        assert len(dictionary(formatted).decompress(bytes(packed), LIMITS)) <= 64 * 1024
    except RemoteError as error:
        assert error.code == Status.COMPRESSION


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0", rle(0), rle(5) + b"\0", rle(5)[:-1], b"a" * MAX_MINI, b"a" * 200_000]
)
def test_no_block_or_nothing_in_it_is_refused(body: bytes) -> None:
    refused(dictionary(), body)


def test_runs_expand_to_64_kib_and_no_further() -> None:
    assert dictionary().decompress(rle(64 * 1024), LIMITS) == b"a" * 64 * 1024
    for size in (64 * 1024 + 1, 128 * 1024, 128 * 1024 + 1, (1 << 20) - 1):
        refused(dictionary(), rle(size))


def test_the_bounds_are_those_of_the_limits() -> None:
    refused(dictionary(), rle(101), Limits(max_body=100))
    assert len(dictionary().decompress(rle(100), Limits(max_body=100))) == 100
    refused(dictionary(), rle(1), Limits(max_body=0))
    assert len(dictionary().decompress(rle(128 * 1024), Limits(max_ratio=30_000))) == 128 * 1024
    refused(dictionary(), rle(128 * 1024), Limits(max_ratio=20_000))


def test_a_bomb_costs_no_more_memory_than_the_bound() -> None:
    target = dictionary()
    refused(target, rle(1 << 17))
    tracemalloc.start()
    try:
        for _ in range(20):
            refused(target, rle(1 << 17))
        assert tracemalloc.get_traced_memory()[1] < 100 * 1024
    finally:
        tracemalloc.stop()


def test_another_dictionary_gives_other_bytes_or_is_refused() -> None:
    other = Dictionary(9, bytes(reversed(PLAIN)) * 30)
    for number in range(50):
        packed = dictionary(False).compress(message(number))
        assert packed is not None
        try:
            assert other.decompress(packed, LIMITS) != message(number)
        except RemoteError as error:
            assert error.code == Status.COMPRESSION


@settings(deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 200), max_size=5))
def test_a_body_in_parts(number: int, cuts: list[int]) -> None:
    body = message(number) * 2
    packed = dictionary().compress(body) or b""
    parts = MiniParts(lambda whole: dictionary().decompress(whole, LIMITS))
    places = sorted({min(cut, len(packed)) for cut in cuts})
    out = b""
    for start, stop in zip([0, *places], [*places, len(packed)], strict=True):
        out += parts.feed(packed[start:stop], stop == len(packed) and (start, stop) == ([0, *places][-1], len(packed)))
    assert out == body


def test_parts_are_bounded_before_the_last_one() -> None:
    parts = MiniParts(lambda whole: whole)
    parts.feed(b"a" * (MAX_MINI - 1), False)
    with pytest.raises(RemoteError) as caught:
        parts.feed(b"a", False)
    assert caught.value.code == Status.COMPRESSION


def test_dictionaries_have_limits() -> None:
    assert dictionary().digest == digest_of(trained())
    assert len(dictionary().digest) == 8
    for arguments in ((0, PLAIN, ()), (1 << 64, PLAIN, ()), (1, b"1234567", ()), (1, b"a" * (MAX_CONTENT + 1), ())):
        with pytest.raises(LocalError):
            Dictionary(*arguments)
    with pytest.raises(LocalError):
        Dictionary(1, PLAIN, [f"q{number}" for number in range(MAX_CLASSES + 1)])
    for name in ("", "q", "x*", "Pay", "q\0", "q" + "a" * 258, "é"):
        with pytest.raises(LocalError):
            check_class(name)
    Dictionary(1, b"a" * MAX_CONTENT, ["q*", "p" + "a" * 256, "aé*"]).check()


@pytest.mark.parametrize("change", [b"\xff" * 40, b"\0" * 40])
def test_a_dictionary_with_broken_tables_is_refused_and_harmless(change: bytes) -> None:
    broken = Dictionary(3, trained()[:8] + change + trained()[48:])
    with pytest.raises(RemoteError) as caught:
        broken.check()
    assert caught.value.code == Status.COMPRESSION
    refused(broken, rle(5))
    assert broken.compress(message(1)) is None
    history = History(100)
    history.append(PLAIN)
    assert compress_after(message(1), broken, history.tail) is None
    with pytest.raises(RemoteError):
        history.decompress(rle(5), broken, LIMITS)


@settings(deadline=None)
@given(st.integers(8, 2047), st.integers(1, 255))
def test_a_changed_dictionary_never_raises_anything_else(at: int, change: int) -> None:
    content = bytearray(trained())
    content[at % len(content)] ^= change
    changed = Dictionary(3, bytes(content))
    try:
        changed.check()
        changed.decompress(dictionary().compress(message(1)) or b"", LIMITS)
    except RemoteError as error:
        assert error.code == Status.COMPRESSION
    changed.compress(message(1))


def test_the_longest_class_wins_and_a_whole_name_before_a_prefix() -> None:
    wide = Dictionary(1, PLAIN + b"1", ["q*", "a*"])
    pays = Dictionary(2, PLAIN + b"2", ["qpay*", "aé*"])
    pay = Dictionary(3, PLAIN + b"3", ["qpay", "ppay"])
    bundle = Bundle([pay, wide, pays])
    for _ in range(2):
        assert bundle.for_class("q", "pay") is pay
        assert bundle.for_class("q", "payment") is pays
        assert bundle.for_class("q", "pa") is wide
        assert bundle.for_class("a", "pay") is wide
        assert bundle.for_class("a", "été") is pays
        assert bundle.for_class("p", "pay") is pay
        assert bundle.for_class("p", "payment") is None
    assert [d.id for d in bundle.dictionaries] == [1, 2, 3]
    assert bundle.by_id[2] is pays


NAMES = st.text("ab*", min_size=1, max_size=4)


@settings(deadline=None)
@given(
    st.lists(st.builds("".join, st.tuples(st.sampled_from("qap"), NAMES)), max_size=12), st.sampled_from("qap"), NAMES
)
def test_the_match_is_that_of_the_definition(classes: list[str], kind: str, name: str) -> None:
    bundle = Bundle([Dictionary(number + 1, PLAIN, [each]) for number, each in enumerate(classes)])
    best: tuple[int, bool, int] | None = None
    for number, each in enumerate(classes):
        prefix = each.endswith("*")
        if (kind + name).startswith(each[:-1]) if prefix else kind + name == each:
            best = max(best or (0, False, 0), (len(each) - prefix, not prefix, number + 1))
    found = bundle.for_class(kind, name)
    assert (found.id if found else None) == (best[2] if best else None)


def test_the_digest_of_a_bundle_names_ids_and_contents() -> None:
    one, two = Dictionary(1, PLAIN), Dictionary(300, trained())
    assert (
        Bundle([one, two]).digest
        == Bundle([two, one]).digest
        == digest_of(b"\x01" + one.digest + b"\xac\x02" + two.digest)
    )
    digests = {
        bundle.digest for bundle in (EMPTY_BUNDLE, Bundle([one]), Bundle([one, two]), Bundle([Dictionary(2, PLAIN)]))
    }
    assert len(digests) == 4
    assert Bundle([Dictionary(1, PLAIN, ["q*"])]).digest == Bundle([one]).digest


def test_bundles_have_limits_and_bounded_lookups() -> None:
    with pytest.raises(LocalError):
        Bundle([Dictionary(1, PLAIN), Dictionary(1, PLAIN + b"2")])
    with pytest.raises(LocalError):
        Bundle([Dictionary(number + 1, PLAIN) for number in range(MAX_DICTIONARIES + 1)])
    bundle = Bundle([Dictionary(1, PLAIN, ["qpay*"])])
    for number in range(3 * MAX_CACHED):
        assert bundle.for_class("q", f"pay{number}") is bundle.by_id[1]
        assert bundle.for_class("q", f"no{number}") is None
    assert len(bundle.map._cache) <= MAX_CACHED


def test_use_drop_and_retire_change_one_connection_only() -> None:
    old, new = Dictionary(1, PLAIN + b"1", ["q*", "pnews"]), Dictionary(2, PLAIN + b"2", ["qpay"])
    bundle = Bundle([old])
    classes, others = ClassesInUse(bundle), ClassesInUse(bundle)
    assert classes.for_class("q", "pay") is old
    classes.use(new)
    assert (classes.for_class("q", "pay"), classes.for_class("q", "x")) == (new, old)
    classes.drop("qpay")
    assert classes.for_class("q", "pay") is old
    classes.drop("never heard of")
    classes.drop("q*")
    assert classes.for_class("q", "pay") is None
    assert classes.for_class("p", "news") is old
    classes.retire(old)
    classes.retire(new)
    assert classes.for_class("p", "news") is None
    assert others.for_class("q", "pay") is old
    assert ClassesInUse().for_class("q", "pay") is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(BODIES, st.booleans()), max_size=12),
    st.sampled_from([None, False, True]),
    st.integers(1, MAX_HISTORY),
)
def test_both_sides_of_a_stream_stay_together(
    bodies: list[tuple[bytes, bool]], formatted: bool | None, size: int
) -> None:
    used = None if formatted is None else dictionary(formatted)
    sender, receiver = History(size), History(size)
    whole = b""
    for body, with_history in bodies:
        packed = compress_after(body, used, sender.tail) if with_history else None
        if packed is not None:
            assert len(packed) < len(body)
            assert receiver.decompress(packed, used, LIMITS) == body
        sender.append(body)
        receiver.append(body)
        whole += body
        assert sender.tail == receiver.tail == whole[-size:]


def test_the_first_body_of_a_stream_is_like_coding_1() -> None:
    history = History(MAX_HISTORY)
    packed = compress_after(message(1), dictionary(), history.tail)
    assert packed == dictionary().compress(message(1))
    assert history.decompress(packed or b"", dictionary(), LIMITS) == message(1)
    alone = b"abcd" * 100
    packed = compress_after(alone, None, history.tail)
    assert packed is not None
    assert history.decompress(packed, None, LIMITS) == alone


def test_history_helps() -> None:
    history = History(MAX_HISTORY)
    sizes = {True: 0, False: 0}
    for number in range(30):
        body = message(number) + b'"token":"%s"' % random.Random(7).randbytes(30).hex().encode()
        sizes[True] += len(compress_after(body, dictionary(), history.tail) or body)
        sizes[False] += len(dictionary().compress(body) or body)
        history.append(body)
    assert sizes[True] < 0.75 * sizes[False]


def test_history_that_looks_like_a_dictionary_is_content() -> None:
    """Bodies may begin as a dictionary with tables does; they must not be taken for one."""
    history = History(MAX_HISTORY)
    history.append(trained()[:8] + b"\xff" * 100)
    body = (trained()[:8] + b"\xff" * 100) * 2
    packed = compress_after(body, None, history.tail)
    assert packed is not None
    assert history.decompress(packed, None, LIMITS) == body


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from([None, False, True]))
def test_any_bytes_after_any_history(history: bytes, body: bytes, formatted: bool | None) -> None:
    receiver = History(100)
    receiver.append(history)
    try:
        receiver.decompress(body, None if formatted is None else dictionary(formatted), LIMITS)
    except RemoteError as error:
        assert error.code == Status.COMPRESSION


@pytest.mark.parametrize("size", [0, -1, MAX_HISTORY + 1])
def test_the_size_of_a_history_is_limited(size: int) -> None:
    with pytest.raises(LocalError):
        History(size)


def test_a_shared_body_is_compressed_once_for_all_that_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(self: Dictionary, body: bytes) -> bytes | None:
        nonlocal count
        count += 1
        return original(self, body)

    original = Dictionary.compress
    monkeypatch.setattr(Dictionary, "compress", counted)
    body = message(1) * 5
    shared = SharedBody(body)
    minis = {shared.after(dictionary(), b"") for _ in range(5)}
    assert count == 1
    assert minis == {original(dictionary(), body)}
    assert count == 1
    assert shared.explicit() == compress_explicit(body)
    assert shared.explicit() is shared.explicit()
    here, there = History(100), History(100)
    here.append(PLAIN)
    there.append(PLAIN)
    assert shared.after(dictionary(), here.tail) is shared.after(dictionary(), there.tail)
    assert there.decompress(shared.after(dictionary(), here.tail) or b"", dictionary(), LIMITS) == body
    assert there.decompress(shared.after(None, here.tail) or b"", None, LIMITS) == body


def test_a_shared_body_keeps_a_bounded_number_of_forms_and_remembers_raw() -> None:
    shared = SharedBody(bytes(range(256)))
    for number in range(2 * MAX_FORMS):
        shared.after(None, b"history %d" % number)
    assert len(shared._forms) == MAX_FORMS
    assert shared.after(dictionary(), b"") is None
    assert shared.explicit() is None
