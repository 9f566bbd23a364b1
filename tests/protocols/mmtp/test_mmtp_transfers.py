"""Transfers of dictionaries, and the payloads of DICT frames."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from functools import cache

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Status
from protocols.mmtp.dict_frames import (
    DictOffer,
    decode_chunk,
    decode_have,
    decode_offer,
    decode_retire,
    decode_use,
    decode_want,
    encode_chunk,
    encode_drop,
    encode_have,
    encode_offer,
    encode_retire,
    encode_use,
    encode_want,
    offer_of,
)
from protocols.mmtp.dictionaries import MAX_CLASSES, MAX_CONTENT, Dictionary
from protocols.mmtp.digests import digest_of
from protocols.mmtp.fields import field, varint_field
from protocols.mmtp.transfers import CHUNK, MAX_CHUNK, MAX_PACKED, MIN_CHUNK, Incoming, pack
from protocols.mmtp.varint import encode_varint


def chunks(packed: bytes, size: int = CHUNK) -> list[tuple[int, bytes]]:
    return [(start, packed[start : start + size]) for start in range(0, len(packed), size)]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@cache
def content() -> bytes:
    return noise(20_000) + b"some text " * 500


def receive(packed: bytes, of: bytes, base: bytes | None = None, size: int | None = None) -> bytes:
    incoming = Incoming(1, len(packed), len(of) if size is None else size, digest_of(of), base)
    for offset, data in chunks(packed):
        assert incoming.chunk(offset, data) == (incoming.missing == 0)
    return incoming.complete()


@settings(deadline=None)
@given(
    st.binary(min_size=1, max_size=5000) | st.just(noise(MAX_CONTENT)) | st.just(b"a" * MAX_CONTENT),
    st.none() | st.binary(min_size=1, max_size=5000),
    st.integers(MIN_CHUNK, MAX_CHUNK),
)
def test_what_is_sent_arrives(of: bytes, base: bytes | None, size: int) -> None:
    packed = pack(of, base)
    assert len(packed) <= MAX_PACKED
    incoming = Incoming(5, len(packed), len(of), digest_of(of), base)
    ends = [incoming.chunk(offset, data) for offset, data in chunks(packed, size)]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert incoming.complete() == of


def test_a_delta_is_as_large_as_what_changed() -> None:
    base = content()
    changed = base[:5000] + noise(100, 2) + base[5000:]
    packed = pack(changed, base)
    assert len(packed) < 300
    assert receive(packed, changed, base) == changed
    for wrong in (None, base[:-1], noise(len(base), 3)):
        with pytest.raises(RemoteError) as caught:
            receive(packed, changed, wrong)
        assert caught.value.code == Status.COMPRESSION


def test_base_and_content_may_both_be_as_large_as_they_get() -> None:
    base = noise(MAX_CONTENT)
    changed = noise(100, 2) + base[:-100]
    packed = pack(changed, base)
    assert len(packed) < 300
    assert receive(packed, changed, base) == changed


@pytest.mark.parametrize("of", [b"", b"a" * (MAX_CONTENT + 1)])
def test_sizes_of_what_is_packed_are_limited(of: bytes) -> None:
    with pytest.raises(LocalError):
        pack(of)
    with pytest.raises(LocalError):
        pack(b"content", of)


@pytest.mark.parametrize(
    ("packed_size", "size", "digest"),
    [
        (0, 10, bytes(8)),
        (MAX_PACKED + 1, 10, bytes(8)),
        (1 << 63, 10, bytes(8)),
        (10, 0, bytes(8)),
        (10, MAX_CONTENT + 1, bytes(8)),
        (10, 10, bytes(7)),
        (10, 10, bytes(32)),
    ],
)
def test_offers_outside_the_limits_are_refused(packed_size: int, size: int, digest: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        Incoming(1, packed_size, size, digest)
    assert caught.value.code == Status.PROTOCOL


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 0),
        (0, MIN_CHUNK - 1),
        (0, MAX_CHUNK + 1),
        (1, MIN_CHUNK),
        (MIN_CHUNK, MIN_CHUNK),
        (1 << 63, MIN_CHUNK),
        (0, 40_000),
    ],
)
def test_chunks_out_of_order_or_of_bad_size_are_refused(offset: int, size: int) -> None:
    incoming = Incoming(1, 30_000, 60_000, bytes(8))
    with pytest.raises(RemoteError) as caught:
        incoming.chunk(offset, bytes(size))
    assert caught.value.code == Status.PROTOCOL
    assert incoming.missing == 30_000


def test_repeated_chunks_and_those_after_the_last_are_refused() -> None:
    incoming = Incoming(1, 2500, 2500, bytes(8))
    assert not incoming.chunk(0, bytes(2000))
    for offset, size in ((0, 2000), (2000, 499), (2000, 501), (1999, 500)):
        with pytest.raises(RemoteError) as caught:
            incoming.chunk(offset, bytes(size))
        assert caught.value.code == Status.PROTOCOL
    assert incoming.chunk(2000, bytes(500))
    for size in (0, 1, MIN_CHUNK):
        with pytest.raises(RemoteError):
            incoming.chunk(2500, bytes(size))


def test_what_is_not_complete_is_not_given() -> None:
    incoming = Incoming(1, 2500, 2500, bytes(8))
    incoming.chunk(0, bytes(2000))
    with pytest.raises(RemoteError) as caught:
        incoming.complete()
    assert caught.value.code == Status.PROTOCOL


def test_a_plain_content_is_not_packed() -> None:
    table = noise(3000)
    incoming = Incoming(1, 3000, 3000, digest_of(table), plain=True)
    for offset, data in chunks(table, MIN_CHUNK):
        incoming.chunk(offset, data)
    assert incoming.complete() == table
    with pytest.raises(RemoteError):
        Incoming(1, 3000, 3001, bytes(8), plain=True)
    incoming = Incoming(1, 3000, 3000, digest_of(table), plain=True)
    for offset, data in chunks(table[:-1] + b"?", MIN_CHUNK):
        incoming.chunk(offset, data)
    with pytest.raises(RemoteError) as caught:
        incoming.complete()
    assert caught.value.code == Status.COMPRESSION


MAGIC = bytes.fromhex("28b52ffd")
RAW_ABC = bytes.fromhex("190000") + b"abc"


@pytest.mark.parametrize(
    "packed",
    [
        b"\0",
        MAGIC,
        MAGIC + b"\0",
        MAGIC + b"\0\0",
        b"\x28\xb5\x2f\xfe\0\0" + RAW_ABC,
        bytes.fromhex("5e2a4d1803000000616263"),  # skippable frame
        MAGIC + b"\x20\x03" + RAW_ABC,  # content size
        MAGIC + b"\xe0" + (1 << 40).to_bytes(8, "little") + RAW_ABC,  # content size of 1 TiB
        MAGIC + b"\x04\0" + RAW_ABC + bytes(4),  # checksum
        MAGIC + b"\x01\0\x05" + RAW_ABC,  # dictionary
        MAGIC + b"\0\x41" + RAW_ABC,  # window above 256 KiB
        MAGIC + b"\0\xf8" + RAW_ABC,  # window of 2 TiB
        MAGIC + b"\0\0" + RAW_ABC[:-1],
        MAGIC + b"\0\0" + RAW_ABC + b"\0",
        MAGIC + b"\0\0" + RAW_ABC + MAGIC + b"\0\0" + RAW_ABC,  # two frames
        MAGIC + b"\0\0" + b"\x18\0\0abc",  # no last block
        MAGIC + b"\0\0" + b"\x1f\0\0abc",  # reserved type
        MAGIC + b"\0\0" + b"\x1b\0\0a",  # a run: "aaa"
        MAGIC + b"\0\x38" + b"\x03\0\x10a",  # a run of 128 KiB
        MAGIC + b"\0\x38" + b"\x02\0\x10a" * 200 + b"\x03\0\x10a",  # 25 MiB
        MAGIC + b"\0\0" + b"\x21\0\0abcd",  # larger than said
        MAGIC + b"\0\0" + b"\x11\0\0ab",  # smaller than said
        MAGIC + b"\0\0" + b"\x19\0\0abd",  # another digest
        MAGIC + b"\0\0" + b"\x01\0\0",  # empty
    ],
)
def test_hostile_frames_are_refused(packed: bytes) -> None:
    assert receive(MAGIC + b"\0\0" + RAW_ABC, b"abc") == b"abc"
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError) as caught:
            receive(packed, b"abc")
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert caught.value.code == Status.COMPRESSION


@pytest.mark.parametrize("size", [1, len(b"content") - 1, len(b"content") + 1, MAX_CONTENT])
def test_a_lie_about_the_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteError) as caught:
        receive(pack(b"content"), b"content", size=size)
    assert caught.value.code == Status.COMPRESSION


@settings(deadline=None)
@given(st.integers(0, 30_000), st.integers(1, 255), st.booleans())
def test_a_changed_transfer_is_refused(at: int, change: int, delta: bool) -> None:
    base = noise(1000, 5) if delta else None
    of = noise(500, 5) + b"text " * 100
    packed = bytearray(pack(of, base))
    packed[at % len(packed)] ^= change
    try:
        assert receive(bytes(packed), of, base) == of
    except RemoteError as error:
        assert error.code == Status.COMPRESSION


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_any_bytes_in_a_transfer_are_refused(data: bytes, framed: bool) -> None:
    with pytest.raises(RemoteError) as caught:
        receive(MAGIC + b"\0\x38" + data if framed else data, noise(100))
    assert caught.value.code == Status.COMPRESSION


def test_a_frame_of_another_compressor_is_taken() -> None:
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=False)
    assert receive(compressor.compress(content()), content()) == content()


CLASS_NAMES = st.tuples(st.sampled_from("qap"), st.text("abcé.*", min_size=1, max_size=20)).map("".join)
IDS = st.integers(1, (1 << 64) - 1)
DIGESTS = st.binary(min_size=8, max_size=8)
OFFERS = st.builds(
    DictOffer,
    IDS,
    DIGESTS,
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.lists(CLASS_NAMES, max_size=5).map(tuple),
) | st.builds(
    DictOffer,
    st.integers(2, 100),
    DIGESTS,
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.just(("q*",)),
    st.just(1),
    st.integers(1, 1 << 40),
)


@settings(deadline=None)
@given(OFFERS, IDS, IDS, DIGESTS, st.binary(max_size=50), st.integers(0, 1 << 50), CLASS_NAMES, st.binary(max_size=5))
def test_payloads_are_read_as_they_were_written(
    offer: DictOffer, id: int, base: int, digest: bytes, data: bytes, offset: int, name: str, before: bytes
) -> None:
    def read(decode: Callable[[bytes, int, int], object], payload: bytes) -> object:
        return decode(before + payload + b"after", len(before), len(before) + len(payload))

    assert read(decode_offer, encode_offer(offer)) == offer
    assert read(decode_want, encode_want(id)) == (id, 0)
    assert read(decode_want, encode_want(id, base)) == (id, base)
    assert read(decode_chunk, encode_chunk(id, offset, data)) == (id, offset, data)
    assert read(decode_have, encode_have(id, digest)) == (id, digest)
    assert read(decode_retire, encode_retire(id)) == id
    assert read(decode_use, encode_use(id)) == (id, "")
    assert read(decode_use, encode_drop(name)) == (0, name)


def test_an_offer_is_that_of_the_dictionary() -> None:
    dictionary = Dictionary(3, content(), ["qpay", "p*"])
    assert offer_of(dictionary, 123, 2, 45) == DictOffer(
        3, dictionary.digest, len(content()), 123, ("qpay", "p*"), 2, 45
    )


DIGEST_FIELD = field(1, bytes(8))
SIZES = varint_field(3, 10) + varint_field(7, 10)


@pytest.mark.parametrize(
    ("decode", "payload"),
    [
        (decode_offer, b""),
        (decode_offer, b"\x01"),
        (decode_offer, b"\0" + DIGEST_FIELD + SIZES),
        (decode_offer, b"\x01" + SIZES),
        (decode_offer, b"\x01" + DIGEST_FIELD + varint_field(3, 10)),
        (decode_offer, b"\x01" + DIGEST_FIELD + varint_field(7, 10)),
        (decode_offer, b"\x01" + field(1, bytes(9)) + SIZES),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(9, b"")),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + varint_field(2, 5)),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + varint_field(4, 5)),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + varint_field(2, 1) + varint_field(4, 5)),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"")),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"q")),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"xpay")),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"q\xff")),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"q" + b"a" * 258)),
        (decode_offer, b"\x01" + DIGEST_FIELD + SIZES + field(5, b"qa") * (MAX_CLASSES + 1)),
        (decode_want, b""),
        (decode_want, b"\0"),
        (decode_want, b"\x01\0"),
        (decode_want, b"\x01\x02\x03"),
        (decode_chunk, b"\x01"),
        (decode_chunk, b"\0\0abc"),
        (decode_have, b"\x01" + bytes(7)),
        (decode_have, b"\x01" + bytes(9)),
        (decode_retire, b"\0"),
        (decode_retire, b"\x01\x02"),
        (decode_use, b""),
        (decode_use, b"\x01\x02"),
        (decode_use, b"\0"),
        (decode_use, b"\0x"),
        (decode_use, b"\0q\xff"),
    ],
)
def test_malformed_payloads_are_refused(decode: Callable[[bytes, int, int], object], payload: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        decode(payload, 0, len(payload))
    assert caught.value.code == Status.PROTOCOL


@settings(deadline=None)
@given(
    st.sampled_from([decode_offer, decode_want, decode_chunk, decode_have, decode_retire, decode_use]),
    st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: encode_varint(5) + DIGEST_FIELD + SIZES + data),
)
def test_any_bytes_are_read_or_refused(decode: Callable[[bytes, int, int], object], payload: bytes) -> None:
    try:
        decode(payload, 0, len(payload))
    except RemoteError as error:
        assert error.code == Status.PROTOCOL
