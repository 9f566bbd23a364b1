"""Application tables: canonical bytes, bounds, and what hostile ones come to."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC, MAX_TABLE, AppTable, TableName, ValueType, decode_table

TEXTS = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=("Cs",)), max_size=12)
PLAIN_TYPES = st.sampled_from([ValueType.STRING, ValueType.HEX, ValueType.UINT, ValueType.TIME])


@st.composite
def tables(draw: st.DrawFn) -> AppTable:
    names = draw(st.lists(st.from_regex(r"\A[a-z0-9!#$.^_|~-]{1,12}\Z"), unique=True, max_size=8))
    entries = []
    for name in names:
        if name.endswith("-token") or name == "cookie" or draw(st.booleans()):
            entries.append(TableName(name, draw(PLAIN_TYPES)))
        else:
            values = draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
            entries.append(TableName(name, ValueType.ENUM, tuple(values)))
    free = [name for name in names if not name.endswith("-token") and name != "cookie"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(free), TEXTS), unique=True, max_size=5)) if free else []
    number = st.integers(1, (1 << 32) - 1)
    return AppTable(draw(number), draw(number), tuple(entries), tuple(pairs))


@settings(deadline=None)
@given(tables())
def test_a_table_is_its_bytes(table: AppTable) -> None:
    again = decode_table(table.encoded)
    assert again == table
    assert again.encoded == table.encoded
    assert table.digest == hashlib.sha256(table.encoded).digest()[:8]


@settings(max_examples=300, deadline=None)
@given(st.one_of(tables(), st.just(GENERIC)), st.data())
def test_hostile_tables_raise_only_remote_errors(table: AppTable, data: st.DataObject) -> None:
    encoded = bytearray(table.encoded)
    for _ in range(data.draw(st.integers(0, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(0, 2 * len(encoded))) :]
    try:
        decoded = decode_table(bytes(encoded))
    except RemoteError as error:
        assert error.code == Status.COMPRESSION
    else:
        assert decoded.encoded == encoded


@pytest.mark.parametrize(
    ("names", "pairs", "why"),
    [
        ((TableName("Upper"),), (), "lower-case"),
        ((TableName(":path"),), (), "lower-case"),
        ((TableName("a" * 129),), (), "lower-case"),
        ((TableName("a"), TableName("a")), (), "came twice"),
        ((TableName("a", ValueType.ENUM),), (), "an enum has values"),
        ((TableName("a", ValueType.HEX, ("1",)),), (), "an enum has values"),
        ((TableName("a", ValueType.ENUM, ("1", "1")),), (), "each once"),
        ((TableName("a", ValueType.ENUM, ("1\n",)),), (), "on one line"),
        ((TableName("a", ValueType.ENUM, ("x" * 257,)),), (), "at most 256 bytes"),
        ((TableName("cookie", ValueType.ENUM, ("1",)),), (), "credential"),
        ((TableName("x-token"),), (("x-token", "1"),), "no credential"),
        ((TableName("a"),), (("b", "1"),), "one of the names"),
        ((TableName("a"),), (("a", "1"), ("a", "1")), "came twice"),
        ((TableName("a"),), (("a", "\ud800"),), "Unicode"),
        (tuple(TableName(f"a{n}") for n in range(1025)), (), "at most 1024 names"),
        (tuple(TableName(f"{n}" + "a" * 120) for n in range(1000)), (), f"at most {MAX_TABLE} bytes"),
    ],
)
def test_what_no_table_may_say(names: tuple[TableName, ...], pairs: tuple[tuple[str, str], ...], why: str) -> None:
    with pytest.raises(LocalError, match=why):
        AppTable(9, 1, names, pairs)


@pytest.mark.parametrize("table_id", [0, 1 << 32])
def test_ids_are_bounded(table_id: int) -> None:
    with pytest.raises(LocalError):
        AppTable(table_id, 1, ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x09\x01",
        b"\x00\x01\x00\x00",
        b"\x09\x01\x00\x00\x00",
        b"\x09\x01\x81\x10\x00",
        b"\x09\x01\x01\x0da\x00",
        b"\x09\x01\x01\x88\x20a",
        b"\x09\x01\x00\x01\x00\x01x",
        b"\x89\x00\x01\x00\x00",
        b"\x09\x01\x00\x00" + bytes(MAX_TABLE),
    ],
)
def test_malformed_tables(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        decode_table(data)
    assert caught.value.code == Status.COMPRESSION


def test_the_generic_table_is_table_1_and_small() -> None:
    assert GENERIC.id == 1
    assert len(GENERIC.encoded) < 1024
    assert GENERIC.names[0] == TableName(":op")
