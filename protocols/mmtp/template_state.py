"""Templates and the state that they make up, with its encoding for checkpoints (specification, 7.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocols.mmtp.digests import digest_of
from protocols.mmtp.header_rules import OPERATION, is_credential, is_header_name, is_header_value
from protocols.mmtp.tables import AppTable, Kind
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


class Hole(NamedTuple):
    """Where a block carries a value."""

    place: int
    name: str
    type: int
    size: int
    """Bytes of the values of type hex; 0 for all else, and where it is not known."""
    kind: Kind
    secret: bool


class Template:
    """A list of fields, some of which are holes. Immutable, so states share it; a change makes another."""

    __slots__ = ("base", "fields", "pattern", "pinned", "plan", "slot", "weight")

    def __init__(self, slot: int, fields: list[Field], holes: list[Hole], base: int, weight: int) -> None:
        self.slot = slot
        self.fields = tuple(fields)
        self.plan = tuple([(*hole,) for hole in holes])
        """The holes as plain tuples, which unpack faster than named ones."""
        self.pattern = [value is not None for _, value in fields]
        self.pinned = True
        """Whether blocks may leave out the sizes of hex values."""
        for hole in holes:
            if hole.type == HEX and not hole.size:
                self.pinned = False
        self.base = base
        """Expanded bytes without the values of the holes."""
        self.weight = weight

    @property
    def holes(self) -> list[Hole]:
        """The holes in order."""
        return [Hole(*hole) for hole in self.plan]

    @classmethod
    def of(cls, table: AppTable, slot: int, fields: list[Field], sizes: list[int]) -> Template:
        """The template of these fields; `sizes` are those of the holes of type hex, 0 for all else."""
        holes = [_hole(table, index, name, sizes[index]) for index, (name, value) in enumerate(fields) if value is None]
        base = sum([len(name) + 32 + width(value or "") for name, value in fields])
        return cls(slot, fields, holes, base, weight_of(table, fields))

    def changed(self, table: AppTable, values: dict[int, str], holes: dict[int, int]) -> Template:
        """The template after overrides: fields with other fixed values, and fields that are holes now, with the sizes
        of their hex values."""
        fields = list(self.fields)
        growth = 0
        same_holes = not holes
        for index, value in values.items():
            name, old = fields[index]
            if old is None:
                same_holes = False
                growth += width(value)
            else:
                growth += width(value) - width(old)
            fields[index] = (name, value)
        if not same_holes:
            made = {hole.place: hole for hole in self.holes if hole.place not in values}
            for index, size in holes.items():
                name, old = fields[index]
                growth -= width(old or "")
                fields[index] = (name, None)
                made[index] = _hole(table, index, name, size)
            in_order = [made[index] for index in sorted(made)]
            return Template(self.slot, fields, in_order, self.base + growth, self.weight + growth)
        other = Template.__new__(Template)
        other.slot = self.slot
        other.fields = tuple(fields)
        other.plan = self.plan
        other.pattern = self.pattern
        other.pinned = self.pinned
        other.base = self.base + growth
        other.weight = self.weight + growth
        return other


def _hole(table: AppTable, index: int, name: str, size: int) -> Hole:
    kind = table.kind(name)
    return Hole(index, name, kind.type, size, kind, is_credential(name))


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
            self._digest = digest_of(self.encoded)
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
        sizes = {hole.place: hole.size for hole in template.holes if hole.type == HEX}
        for place, (name, value) in enumerate(template.fields):
            index = table.index.get(name)
            code = 0 if index is None else index + 1
            out.append(encode_varint(code << 1 | (value is None)))
            if index is None:
                out += encode_varint(len(name)), name.encode()
            if value is not None:
                raw = value.encode()
                out += encode_varint(len(raw)), raw
            elif place in sizes:
                out.append(encode_varint(sizes[place]))
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
        template = Template.of(table, slot, fields, sizes)
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
