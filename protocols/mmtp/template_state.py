"""Templates and the state that they make up, with its encoding for checkpoints (specification, 7.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from protocols.mmtp.tables import OPERATION, AppTable, is_credential, is_header_name, is_header_value
from protocols.mmtp.values import HEX, MAX_TIME, decode_number, malformed, width
from protocols.mmtp.varint import encode_varint

MAX_TEMPLATES = 32
MAX_STATE = 4096
"""Weight of all templates of one direction."""
MAX_TEMPLATE_FIELDS = 128
FIELD_WEIGHT = 4
"""What a field weighs beside its value and a name that the table does not have."""
MAX_ENCODED_STATE = 8192
"""No state within MAX_STATE is longer."""

Field = tuple[str, str | None]
"""A name and its value; None for a hole."""


class Hole:
    """Where a block carries a value."""

    __slots__ = ("index", "kind", "name", "secret", "size")

    def __init__(self, index: int, name: str, size: int, table: AppTable) -> None:
        self.index = index
        self.name = name
        self.size = size
        self.kind = table.kind(name)
        self.secret = is_credential(name)


class Template:
    """A list of fields, some of which are holes. Immutable, so states share it; a change makes another."""

    __slots__ = ("base", "fields", "holes", "pattern", "plan", "pinned", "sizes", "slot", "weight")

    def __init__(self, table: AppTable, slot: int, fields: Sequence[Field], sizes: Sequence[int]) -> None:
        self.slot = slot
        self.fields = tuple(fields)
        self.sizes = tuple(sizes)
        """Bytes of the holes of type hex; 0 for all else, and where it is not known."""
        self.holes = tuple(
            Hole(index, name, sizes[index], table) for index, (name, value) in enumerate(fields) if value is None
        )
        self.plan = tuple(
            (hole.index, hole.name, hole.kind.type, hole.size, hole.kind, hole.secret) for hole in self.holes
        )
        """The holes again, as the loops over them want it."""
        self.pattern = [value is not None for _, value in fields]
        self.pinned = all(hole.size for hole in self.holes if hole.kind.type == HEX)
        """Whether blocks may leave out the sizes of hex values."""
        self.base = sum([len(name) + 32 + (width(value) if value is not None else 0) for name, value in fields])
        """Expanded bytes without the values of the holes."""
        self.weight = weight_of(table, fields)


def weight_of(table: AppTable, fields: Iterable[Field]) -> int:
    """What a template of these fields weighs."""
    weight = 0
    for name, value in fields:
        weight += FIELD_WEIGHT
        if name not in table.index:
            weight += len(name)
        if value is not None:
            weight += width(value)
    return weight


class TemplateState:
    """The state of one direction at one place of its stream; immutable, with lazy encoding and digest."""

    __slots__ = ("_digest", "_encoded", "table", "templates", "time")

    def __init__(self, table: AppTable, templates: Iterable[Template] = (), time: int = 0) -> None:
        self.table = table
        self.templates = tuple(sorted(templates, key=_slot))
        self.time = time
        self._encoded: bytes | None = None
        self._digest: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The bytes that are stored; equal states have equal ones."""
        if self._encoded is None:
            self._encoded = _encode(self.table, self.templates, self.time)
        return self._encoded

    @property
    def digest(self) -> bytes:
        """First 8 bytes of the SHA-256 of `encoded`."""
        if self._digest is None:
            self._digest = sha256(self.encoded).digest()[:8]
        return self._digest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TemplateState):
            return NotImplemented
        return self.table.digest == other.table.digest and self.encoded == other.encoded

    def __hash__(self) -> int:
        return hash(self.digest)


def _slot(template: Template) -> int:
    return template.slot


def _encode(table: AppTable, templates: tuple[Template, ...], time: int) -> bytes:
    out = [encode_varint(time), encode_varint(len(templates))]
    for template in templates:
        out += encode_varint(template.slot), encode_varint(len(template.fields))
        for (name, value), size in zip(template.fields, template.sizes, strict=True):
            index = table.index.get(name)
            code = 0 if index is None else index + 1
            out.append(encode_varint(code << 1 | (value is None)))
            if index is None:
                out += encode_varint(len(name)), name.encode()
            if value is not None:
                raw = value.encode()
                out += encode_varint(len(raw)), raw
            elif table.kind(name).type == HEX:
                out.append(encode_varint(size))
    return b"".join(out)


def decode_state(data: bytes, table: AppTable) -> TemplateState:
    """The state that `data` is the encoding of, with `table`. Raises RemoteError(COMPRESSION)."""
    if len(data) > MAX_ENCODED_STATE:
        raise malformed(f"state: expected at most {MAX_ENCODED_STATE} bytes, got {len(data)}")
    try:
        return _decode(bytes(data), table)
    except IndexError:
        raise malformed("state: cut off") from None


def _decode(data: bytes, table: AppTable) -> TemplateState:
    time, pos = decode_number(data, 0)
    count, pos = decode_number(data, pos)
    if time > MAX_TIME or count > MAX_TEMPLATES:
        raise malformed(f"state: expected a time below 2^53 and at most {MAX_TEMPLATES} templates")
    templates: list[Template] = []
    weight = 0
    last = -1
    for _ in range(count):
        slot, pos = decode_number(data, pos)
        size, pos = decode_number(data, pos)
        if not last < slot < MAX_TEMPLATES or not 1 <= size <= MAX_TEMPLATE_FIELDS:
            raise malformed(f"state: expected ascending slots of 1..{MAX_TEMPLATE_FIELDS} fields")
        last = slot
        fields: list[Field] = []
        sizes = []
        for index in range(size):
            name, value, hex_size, pos = _decode_field(data, pos, table, index)
            fields.append((name, value))
            sizes.append(hex_size)
        template = Template(table, slot, fields, sizes)
        weight += template.weight
        if weight > MAX_STATE:
            raise malformed(f"state: expected a weight of at most {MAX_STATE}")
        templates.append(template)
    if pos != len(data):
        raise malformed(f"state: {len(data) - pos} bytes left over")
    state = TemplateState(table, templates, time)
    state._encoded = data
    return state


def _decode_field(data: bytes, pos: int, table: AppTable, index: int) -> tuple[str, str | None, int, int]:
    code, pos = decode_number(data, pos)
    hole = code & 1
    place = code >> 1
    if place > len(table.names):
        raise malformed(f"state: expected one of {len(table.names)} names, got number {place - 1}")
    if place:
        name = table.names[place - 1].name
    else:
        name, pos = _decode_text(data, pos)
        if name in table.index:
            raise malformed("state: a name of the table spelled out")
    check_name(name, index)
    if not hole:
        value, pos = _decode_text(data, pos)
        if is_credential(name) or not is_header_value(value):
            raise malformed(f"state: {name[:64]}: a value that no template may have")
        return name, value, 0, pos
    size = 0
    if table.kind(name).type == HEX:
        size, pos = decode_number(data, pos)
    return name, None, size, pos


def _decode_text(data: bytes, pos: int) -> tuple[str, int]:
    size, pos = decode_number(data, pos)
    if pos + size > len(data):
        raise malformed(f"state: expected at most {len(data) - pos} bytes, got length {size}")
    try:
        return data[pos : pos + size].decode(), pos + size
    except UnicodeDecodeError as error:
        raise malformed(f"state: expected UTF-8, {error.reason}") from None


def check_name(name: str, index: int) -> None:
    """Raises RemoteError for a name that is not allowed at this place of a list."""
    if not is_header_name(name) and (name != OPERATION or index):
        raise malformed(f"expected a lower-case name, and {OPERATION} only first, got {name[:64]!r}")
