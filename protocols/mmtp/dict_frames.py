"""Payloads of DICT frames, after their kind (specification, section 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.dictionaries import MAX_CLASSES, Dictionary, check_class
from protocols.mmtp.digests import whole_digest
from protocols.mmtp.fields import expect_end, field, read_fields, read_string, read_varint, varint_field
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint, encode_varint

DIGEST = 1
BASE = 2
SIZE = 3
DELTA_SIZE = 4
CLASS = 5
PACKED_SIZE = 7
_KEYS = (DIGEST, BASE, SIZE, DELTA_SIZE, CLASS, PACKED_SIZE)


class DictKind(IntEnum):
    """Flags of a DICT frame."""

    OFFER = 0
    WANT = 1
    CHUNK = 2
    HAVE = 3
    RETIRE = 4
    USE = 5


@dataclass(slots=True, frozen=True)
class DictOffer:
    """What a dictionary is, and how many bytes it takes to get it."""

    id: int
    digest: bytes
    size: int
    packed_size: int
    """Bytes of its chunks."""
    classes: tuple[str, ...] = ()
    base: int = 0
    """A dictionary that makes the transfer shorter, 0: none."""
    delta_size: int = 0
    """Bytes of the chunks for a receiver that has the base."""


def offer_of(dictionary: Dictionary, packed_size: int, base: int = 0, delta_size: int = 0) -> DictOffer:
    """The offer of `dictionary`, whose pack (and pack with the base) has these sizes."""
    size = len(dictionary.content)
    return DictOffer(dictionary.id, dictionary.digest, size, packed_size, dictionary.classes, base, delta_size)


def encode_offer(offer: DictOffer) -> bytes:
    """The payload of kind 0."""
    return b"".join((
        encode_varint(offer.id),
        field(DIGEST, offer.digest),
        varint_field(SIZE, offer.size),
        *(field(CLASS, name.encode()) for name in offer.classes),
        varint_field(PACKED_SIZE, offer.packed_size),
        varint_field(BASE, offer.base) + varint_field(DELTA_SIZE, offer.delta_size) if offer.base else b"",
    ))  # fmt: skip


def _read_id(data: bytes, pos: int, end: int) -> tuple[int, int]:
    id, pos = decode_varint(data, pos, end)
    if id == 0:
        raise RemoteError(Status.PROTOCOL, "DICT: expected a dictionary id, got 0")
    return id, pos


def _read_class(data: bytes, pos: int, end: int) -> str:
    name = read_string(data, pos, end)
    try:
        check_class(name)
    except LocalError as error:
        raise RemoteError(Status.PROTOCOL, f"DICT: {error}") from None
    return name


def decode_offer(data: bytes, pos: int, end: int) -> DictOffer:
    """Reads data[pos:end]; the sizes are judged by transfers.Incoming. Raises RemoteError(PROTOCOL)."""
    id, pos = _read_id(data, pos, end)
    digest = b""
    numbers: dict[int, int] = {}
    classes: list[str] = []
    for key, start, stop in read_fields(data, pos, end, _KEYS, (CLASS,)):
        if key == DIGEST:
            digest = whole_digest(data, start, stop)
        elif key == CLASS:
            if len(classes) == MAX_CLASSES:
                raise RemoteError(Status.PROTOCOL, f"DICT: expected at most {MAX_CLASSES} classes")
            classes.append(_read_class(data, start, stop))
        else:
            numbers[key] = read_varint(data, start, stop)
    if not digest or SIZE not in numbers or PACKED_SIZE not in numbers:
        raise RemoteError(Status.PROTOCOL, "DICT: expected digest, size and packed size in an offer")
    base = numbers.get(BASE, 0)
    if bool(base) != bool(numbers.get(DELTA_SIZE, 0)) or base == id:
        raise RemoteError(Status.PROTOCOL, "DICT: expected another dictionary as base and the size with it, or neither")
    size, packed_size, delta_size = numbers[SIZE], numbers[PACKED_SIZE], numbers.get(DELTA_SIZE, 0)
    return DictOffer(id, digest, size, packed_size, tuple(classes), base, delta_size)


def encode_want(id: int, base: int = 0) -> bytes:
    """The payload of kind 1; `base` is that of the offer, when the delta is wanted."""
    return encode_varint(id) + (encode_varint(base) if base else b"")


def decode_want(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(id, base or 0). Raises RemoteError(PROTOCOL)."""
    id, pos = _read_id(data, pos, end)
    base = 0
    if pos < end:
        base, pos = _read_id(data, pos, end)
    expect_end(pos, end)
    return id, base


def encode_chunk(id: int, offset: int, data: bytes) -> bytes:
    """The payload of kind 2."""
    return encode_varint(id) + encode_varint(offset) + data


def decode_chunk(data: bytes, pos: int, end: int) -> tuple[int, int, bytes]:
    """(id, offset, bytes). Raises RemoteError(PROTOCOL)."""
    id, pos = _read_id(data, pos, end)
    offset, pos = decode_varint(data, pos, end)
    return id, offset, data[pos:end]


def encode_have(id: int, digest: bytes) -> bytes:
    """The payload of kind 3."""
    return encode_varint(id) + digest


def decode_have(data: bytes, pos: int, end: int) -> tuple[int, bytes]:
    """(id, digest). Raises RemoteError(PROTOCOL)."""
    id, pos = _read_id(data, pos, end)
    return id, whole_digest(data, pos, end)


def encode_retire(id: int) -> bytes:
    """The payload of kind 4."""
    return encode_varint(id)


def decode_retire(data: bytes, pos: int, end: int) -> int:
    """The id. Raises RemoteError(PROTOCOL)."""
    id, pos = _read_id(data, pos, end)
    expect_end(pos, end)
    return id


def encode_use(id: int) -> bytes:
    """The payload of kind 5 for a dictionary."""
    return encode_varint(id)


def encode_drop(name: str) -> bytes:
    """The payload of kind 5 that ends the use of any dictionary for the class `name`. Raises LocalError."""
    check_class(name)
    return b"\0" + name.encode()


def decode_use(data: bytes, pos: int, end: int) -> tuple[int, str]:
    """(id, "") or (0, class name). Raises RemoteError(PROTOCOL)."""
    id, pos = decode_varint(data, pos, end)
    if id:
        expect_end(pos, end)
        return id, ""
    return 0, _read_class(data, pos, end)
