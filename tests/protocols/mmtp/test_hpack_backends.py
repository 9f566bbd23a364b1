"""Profile H on both codecs: the same bounds, each decodes the other's blocks, and the same verdict on hostile bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.hpack_backends import get_backend
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status

native = pytest.importorskip("protocols._native.nghttp2", reason="libnghttp2 is not installed", exc_type=ImportError)
BOTH = ("hpack", "nghttp2")
LIMITS = Limits()
few = settings(max_examples=300, deadline=None)

NAMES = st.sampled_from(
    (":path", "accept", "authorization", "content-length", "cookie", "etag", "x-request-id", "x-session-token", "x")
) | st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)
VALUES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r\n"), max_size=60
) | st.from_regex(r"[a-zA-Z0-9 /;=-]{0,300}", fullmatch=True)
FIELDS = st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=12)
TABLES = st.integers(0, 300) | st.sampled_from((4096, 65536))
PIECES = st.sampled_from(
    (
        b"\x20",
        b"\x3f\xe1\x1f",
        b"\x3f\xff\xff\xff\xff\x0f",
        b"\xbe",
        b"\xbf",
        b"\xff\x00",
        b"\x82",
        b"\x80",
        b"\x40\x01a\x01b",
    )
) | st.binary(max_size=12)
STRINGS = st.binary(max_size=20).flatmap(
    lambda raw: st.sampled_from((bytes((len(raw),)) + raw, bytes((0x80 | len(raw),)) + raw))
)
LITERALS = st.tuples(st.sampled_from((b"\x40", b"\x00", b"\x10")), STRINGS, STRINGS).map(b"".join) | st.tuples(
    st.sampled_from((b"\x41", b"\x7e", b"\x7f\x00", b"\x0f\x2f", b"\x1f\x30")), STRINGS
).map(b"".join)
HOSTILE = st.lists(PIECES | LITERALS, min_size=1, max_size=8).map(b"".join).filter(bool)


def verdict(decoder, block, max_size, table):
    try:
        return decoder.decode(block, max_size, 64, table)
    except RemoteError as error:
        assert error.code == Status.COMPRESSION
        return None


@few
@given(st.lists(st.tuples(FIELDS, TABLES), min_size=1, max_size=6))
def test_each_decodes_the_blocks_of_both(blocks) -> None:
    for made_by in BOTH:
        encoder = get_backend(made_by).make_encoder()
        decoders = [get_backend(name).make_decoder() for name in BOTH]
        for fields, table in blocks:
            block = encoder.encode(fields, table)
            for decoder in decoders:
                # An encoder whose table is smaller than allowed is always right.
                assert decoder.decode(block, 1 << 20, 64, 65536) == fields


@few
@given(st.lists(HOSTILE, min_size=1, max_size=6), st.sampled_from((100, 65536)), st.sampled_from((0, 60, 4096, 65536)))
def test_the_same_verdict_on_hostile_blocks(blocks, max_size, table) -> None:
    one, two = (get_backend(name).make_decoder() for name in BOTH)
    for block in blocks:
        expected = verdict(one, block, max_size, table)
        assert verdict(two, block, max_size, table) == expected
        if expected is None:
            return


@few
@given(st.lists(FIELDS, min_size=1, max_size=4), st.data())
def test_the_same_verdict_on_damaged_blocks(lists, data) -> None:
    encoder = get_backend("nghttp2").make_encoder()
    one, two = (get_backend(name).make_decoder() for name in BOTH)
    for fields in lists:
        block = bytearray(encoder.encode(fields, 4096))
        place = data.draw(st.integers(0, len(block) - 1))
        if data.draw(st.booleans()):
            block[place] ^= 1 << data.draw(st.integers(0, 7))
        cut = bytes(block[: data.draw(st.integers(place, len(block)))])
        if not cut:
            continue
        expected = verdict(one, cut, 65536, 4096)
        assert verdict(two, cut, 65536, 4096) == expected
        if expected is None:
            return


@pytest.mark.parametrize("name", BOTH)
class TestBounds:
    def test_a_block_that_expands_too_far(self, name: str) -> None:
        decoder = get_backend(name).make_decoder()
        decoder.decode(b"\x40\x01b\x7f\x80\x1e" + b"v" * 3967, 65536, 64, 4096)
        assert verdict(decoder, b"\xbe" * 17, 65536, 4096) is None

    def test_a_huffman_string_longer_than_the_library_takes(self, name: str) -> None:
        fields = [("x", "0" * 200_000)]
        block = get_backend("nghttp2").make_encoder().encode(fields, 4096)
        assert len(block) < 130_000
        assert get_backend(name).make_decoder().decode(block, 1 << 20, 64, 4096) == fields
        assert verdict(get_backend(name).make_decoder(), block, 65536, 4096) is None

    def test_three_table_updates(self, name: str) -> None:
        assert get_backend(name).make_decoder().decode(b"\x20\x21\x82", 65536, 64, 4096) == [(":method", "GET")]
        assert verdict(get_backend(name).make_decoder(), b"\x20\x21\x22\x82", 65536, 4096) is None

    def test_a_table_update_past_its_bound_or_its_place(self, name: str) -> None:
        assert verdict(get_backend(name).make_decoder(), b"\x3f\xe2\x1f", 65536, 4096) is None
        assert verdict(get_backend(name).make_decoder(), b"\x82\x20", 65536, 4096) is None

    def test_a_table_that_settings_made_smaller(self, name: str) -> None:
        decoder = get_backend(name).make_decoder()
        decoder.decode(b"\x40\x01a\x01b", 65536, 64, 4096)
        assert verdict(decoder, b"\xbe", 65536, 100) is None, "expected a reduction first"

    def test_too_many_fields(self, name: str) -> None:
        with pytest.raises(RemoteError) as caught:
            HeaderCodec(get_backend(name)).decode_response(b"\x82" * 65, LIMITS)
        assert caught.value.code == Status.PROTOCOL

    def test_credentials_never_enter_the_table(self, name: str) -> None:
        codec = HeaderCodec(get_backend(name))
        for _ in range(2):
            for header in ("authorization", "cookie", "set-cookie", "proxy-authorization", "x-session-token"):
                block = codec.encode(None, [(header, "secret " * 6)], LIMITS, LIMITS)
                assert block[0] & 0xF0 == 0x10

    def test_the_encoder_follows_a_smaller_table(self, name: str) -> None:
        codec, peer = HeaderCodec(get_backend(name)), replace(LIMITS, header_table=0)
        codec.encode(None, [("a", "b")], LIMITS, LIMITS)
        assert codec.encode(None, [("a", "b")], LIMITS, peer)[0] == 0x20
        with pytest.raises(LocalError):
            codec.encode(None, [("a", "b" * 70_000)], LIMITS, peer)

    def test_a_refusal_leaves_the_table_alone(self, name: str) -> None:
        codec, peer = HeaderCodec(get_backend(name)), HeaderCodec(get_backend(name))
        for headers in ([("a", "b")], [("a\n", "b")], [("a", "b"), ("c", "d")]):
            try:
                block = codec.encode(None, headers, LIMITS, LIMITS)
            except LocalError:
                continue
            assert peer.decode_response(block, LIMITS) == headers


def test_many_fields_and_large_ones_need_no_other_buffers() -> None:
    encoder, decoder = get_backend("nghttp2").make_encoder(), get_backend("hpack").make_decoder()
    for fields in ([(f"x-{n}", "v") for n in range(1000)], [("x", "订" * 20_000)], [("a", "b")]):
        assert decoder.decode(encoder.encode(fields, 4096), 1 << 20, 1024, 4096) == fields


def test_strings_that_the_library_refuses_cost_it_nothing() -> None:
    good = b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"  # RFC 7541 C.4.1
    for bad in (b"\x81\x00", b"\x84\xff\xff\xff\xff", b"\x85a", b"", b"\x7f"):
        assert native.decode_string(bad) is None
        assert native.decode_string(good) == b"www.example.com"


def test_memory_of_codecs_is_given_back() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def use(times: int) -> None:
        for n in range(times):
            encoder, decoder = get_backend("nghttp2").make_encoder(), get_backend("nghttp2").make_decoder()
            decoder.decode(encoder.encode([("x-name", f"value {n}")], 4096), 65536, 64, 4096)
            native.decode_string(b"\x81\x00")

    use(500)
    before = resident()
    use(5000)
    # A pair weighs 5 KB or so, and so does the decoder of a bad string: kept, they would be 40 MB.
    assert resident() - before < 8 << 20


def test_coders_outlive_their_module_at_the_end_of_the_interpreter() -> None:
    """The interpreter takes modules apart one after the other; what is freed last calls the library still."""
    command = (
        "import sys; from protocols._native import nghttp2\n"
        "nghttp2.decode_string(b'\\x81\\x1f')\n"
        "sys.held = nghttp2"  # as one that something in C holds: it is emptied, not freed
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_compiled_is_what_is_declared(tmp_path: Path) -> None:
    declarations = pytest.importorskip("protocols._native.nghttp2_declarations", exc_type=ImportError)
    declarations.compile_into(tmp_path / "types.py")
    assert (tmp_path / "types.py").read_text() == declarations.COMPILED.read_text()


@pytest.mark.parametrize(("wanted", "got"), [("pure", "hpack"), ("native", "nghttp2"), ("auto", "nghttp2")])
def test_the_codec_is_chosen_at_import(wanted: str, got: str) -> None:
    command = "from protocols.mmtp import hpack_backends; print(hpack_backends.backend)"
    environment = {**os.environ, "ACCESSGW_ACCEL": wanted}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == got


def test_without_the_library_auto_means_hpack() -> None:
    command = (
        "import sys; sys.modules['protocols._native.nghttp2'] = None\n"
        "from protocols.mmtp import hpack_backends; print(hpack_backends.backend)"
    )
    for wanted, got in (("auto", "hpack\n"), ("native", "")):
        environment = {**os.environ, "ACCESSGW_ACCEL": wanted}
        done = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == got
        assert (done.returncode != 0) == (wanted == "native")
