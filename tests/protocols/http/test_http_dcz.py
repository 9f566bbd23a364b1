"""Dictionary-compressed zstd for ordinary HTTP clients (RFC 9842)."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import sha256

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.http.dcz import (
    HEADER_SIZE,
    MAGIC,
    MAX_DICTIONARY,
    MAX_ID,
    DczDictionary,
    accepts_dcz,
    available_dictionary,
    dictionary_id,
    use_as_dictionary,
)

CONTENT = b'<html><head><title></title></head><body><p class="price"></p></body></html>'
DICTIONARY = DczDictionary(CONTENT)
HEADER = MAGIC + sha256(CONTENT).digest()
ZSTD = bytes.fromhex("28b52ffd")


def framed(frame: bytes) -> bytes:
    return HEADER + frame


def code_of(body: bytes, max_body: int = 1 << 20, max_window: int = 8 << 20) -> int:
    with pytest.raises(RemoteError) as caught:
        DICTIONARY.decode(body, max_body, max_window=max_window)
    return caught.value.code


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_what_is_encoded_is_decoded(body: bytes, times: int) -> None:
    whole = (CONTENT + body) * times
    packed = DICTIONARY.encode(whole)
    if packed is not None:
        assert len(packed) < len(whole)
        assert packed.startswith(HEADER)
        assert DICTIONARY.decode(packed, len(whole), max_ratio=1 << 20) == whole


def test_the_header_is_a_frame_that_every_zstd_skips() -> None:
    body = CONTENT * 5
    packed = DICTIONARY.encode(body)
    assert packed is not None
    raw = zstandard.ZstdCompressionDict(CONTENT, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    reader = zstandard.ZstdDecompressor(dict_data=raw).stream_reader(packed, read_across_frames=True)
    assert reader.read() == body
    # the window is one that every receiver has to take
    assert zstandard.get_frame_parameters(packed[HEADER_SIZE:]).window_size <= 8 << 20


def test_the_dictionary_is_content_even_if_it_looks_otherwise() -> None:
    content = bytes.fromhex("37a430ec") + b"not tables at all, but content" * 4
    dictionary = DczDictionary(content)
    packed = dictionary.encode(content * 2)
    assert packed is not None
    assert len(packed) < 80
    assert dictionary.decode(packed, 1000) == content * 2


def test_a_frame_without_size_and_one_with_a_checksum_are_taken() -> None:
    raw = zstandard.ZstdCompressionDict(CONTENT, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    for sized, sums in ((False, False), (True, True)):
        compressor = zstandard.ZstdCompressor(dict_data=raw, write_content_size=sized, write_checksum=sums)
        assert DICTIONARY.decode(framed(compressor.compress(CONTENT * 2)), 1000) == CONTENT * 2


@pytest.mark.parametrize("body", [b"", b"a", CONTENT[:40]])
def test_what_does_not_shrink_is_left_alone(body: bytes) -> None:
    assert DICTIONARY.encode(body) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (MAGIC, 400),
        (HEADER[:-1], 400),
        (HEADER, 400),
        (b"\x5f" + HEADER[1:], 400),
        (MAGIC + bytes(32) + b"x", 415),
        (HEADER + b"garbage", 400),
        (framed(ZSTD + bytes.fromhex("0000190000") + b"ab"), 400),
        (framed(ZSTD + bytes.fromhex("0000190000") + b"abc?"), 400),
        (framed(ZSTD + bytes.fromhex("0000190000") + b"abc" + bytes(100)), 400),
        (framed(ZSTD + bytes.fromhex("2004190000") + b"abc"), 400),  # says 4 bytes, has 3
        (framed(ZSTD + bytes.fromhex("0070190000") + b"abc"), 400),  # window of 16 MiB
        (framed(ZSTD + b"\xe0" + (1 << 40).to_bytes(8, "little") + bytes.fromhex("190000") + b"abc"), 400),
        (framed(ZSTD + bytes.fromhex("0038") + b"\x02\0\x10a" * 7 + b"\x03\0\x10a"), 413),
        (framed(ZSTD + bytes.fromhex("0038") + b"\x02\0\x10a" * 1000 + b"\x03\0\x10a"), 413),
    ],
)
def test_hostile_bodies_are_refused(body: bytes, code: int) -> None:
    tracemalloc.start()
    try:
        assert code_of(body) == code
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_bytes_after_the_frame_are_told_as_such(size: int) -> None:
    with pytest.raises(RemoteError, match="bytes after the zstd frame"):
        DICTIONARY.decode(framed(ZSTD + bytes.fromhex("0000190000") + b"abc" + bytes(size)), 1000)


def test_the_bounds_are_arguments() -> None:
    packed = DICTIONARY.encode(CONTENT * 3)
    assert packed is not None
    assert code_of(packed, max_body=len(CONTENT) * 3 - 1) == 413
    assert DICTIONARY.decode(packed, len(CONTENT) * 3) == CONTENT * 3
    large = random.Random(1).randbytes(100_000)
    packed = DICTIONARY.encode(large * 2)
    assert packed is not None
    assert code_of(packed, max_window=1 << 16) == 400


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_body_is_refused_or_another(at: int, change: int) -> None:
    packed = bytearray(DICTIONARY.encode(CONTENT * 20) or b"")
    packed[at % len(packed)] ^= change
    try:
        assert len(DICTIONARY.decode(bytes(packed), 64 * 1024)) <= 64 * 1024
    except RemoteError as error:
        assert error.code in (400, 413, 415)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_after_the_header_are_refused_or_decoded(data: bytes) -> None:
    for body in (framed(data), framed(ZSTD + b"\0\x38" + data)):
        try:
            assert len(DICTIONARY.decode(body, 5000)) <= 5000
        except RemoteError as error:
            assert error.code in (400, 413)


@pytest.mark.parametrize("content", [b"", b"a" * (MAX_DICTIONARY + 1)])
def test_the_size_of_a_dictionary_is_limited(content: bytes) -> None:
    with pytest.raises(LocalError):
        DczDictionary(content)


def test_available_dictionary_is_the_digest_as_a_byte_sequence() -> None:
    assert available_dictionary(DICTIONARY.available) == DICTIONARY.digest == sha256(CONTENT).digest()
    value = ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=:"
    expected = bytes.fromhex("a591a6d40bf420404a011733cfb7b190d62c65bf0bcda32b57b277d9ad9f146e")
    for form in (value, f"  {value} ", value.replace("=", ""), f"{value};a=1;b", f"{value}; a=?0"):
        assert available_dictionary(form) == expected, form


@pytest.mark.parametrize(
    "value",
    [
        "",
        "::",
        ":YWJj:",
        "pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4==:",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=: x",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=:,:pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=:",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fF\u0130=:",
        ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fF-_=:",
        '"pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4="',
    ],
)
def test_other_values_are_not_usable(value: str) -> None:
    assert available_dictionary(value) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"/v1/main.js 33a6"', "/v1/main.js 33a6"),
        (r'"a\"b\\c"', r"a\"b\\c".replace(r"\"", '"').replace(r"\\", "\\")),
        ('""', ""),
        (' "x" ', "x"),
        ('"x";p=1', "x"),
        ('"' + "a" * MAX_ID + '"', "a" * MAX_ID),
        ('"' + "a" * (MAX_ID + 1) + '"', None),
        ('"' + "a" * 10_000 + '"', None),
        ("x", None),
        ('"x', None),
        (r'"\x"', None),
        ('"é"', None),
        ('"a"b"', None),
        ("", None),
    ],
)
def test_dictionary_id_is_a_string(value: str, expected: str | None) -> None:
    assert dictionary_id(value) == expected


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_field_is_read_or_not(value: str) -> None:
    for form in (value, f":{value}:", f'"{value}"'):
        digest = available_dictionary(form)
        assert digest is None or len(digest) == 32
        dictionary_id(form)
        accepts_dcz(form)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=50))
def test_an_id_comes_back_as_it_was_given(id: str) -> None:
    value = use_as_dictionary("/x", id=id)
    assert value == 'match="/x"' if not id else dictionary_id(value.removeprefix('match="/x", id=')) == id


def test_use_as_dictionary() -> None:
    assert use_as_dictionary("/app/*/main.js") == 'match="/app/*/main.js"'
    assert (
        use_as_dictionary("/p/*", ["document", "frame"], 'v"1')
        == 'match="/p/*", match-dest=("document" "frame"), id="v\\"1"'
    )
    for match, destinations, id in (
        ("", (), ""),
        ("/é", (), ""),
        ("/a\r\nb", (), ""),
        ("/", ("\n",), ""),
        ("/", (), "a" * 1025),
    ):
        with pytest.raises(LocalError):
            use_as_dictionary(match, destinations, id)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("gzip, br, zstd, dcb, dcz", True),
        ("DCZ", True),
        ("dcz;q=0.5", True),
        ("dcz ; q=1", True),
        ("dcz;q=0", False),
        ("dcz;q=0.000", False),
        ("gzip;q=1.0, dcz; q=0.0", False),
        ("*", False),
        ("xdcz, dczx", False),
        ("", False),
    ],
)
def test_accept_encoding(value: str, expected: bool) -> None:
    assert accepts_dcz(value) is expected
