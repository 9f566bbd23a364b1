"""Decoder of header blocks of profile D (specification, 7.2)."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.header_rules import OPERATION, is_credential
from protocols.mmtp.tables import AppTable
from protocols.mmtp.template_state import (
    MAX_STATE,
    MAX_TEMPLATE_FIELDS,
    MAX_TEMPLATES,
    Field,
    Template,
    TemplateState,
    check_name,
)
from protocols.mmtp.values import (
    ENUM,
    HEX,
    STRING,
    TIME,
    decode_number,
    decode_string,
    decode_value,
    malformed,
    time_after,
    width,
)

OVERRIDES = 1
SIZES = 2
FULL = 0x80
ONCE = 0xC0
DROP = 0xE0

_Headers = list[tuple[str, str]]


class TemplateDecoder:
    """One direction of one connection, receiving side."""

    __slots__ = ("_slots", "_table", "_time")

    def __init__(self, table: AppTable) -> None:
        self._table = table
        self._slots: dict[int, Template] = {}
        self._time = 0

    @classmethod
    def resumed(cls, table: AppTable, state: TemplateState) -> TemplateDecoder:
        """A decoder that goes on from `state`. Raises LocalError when that is of another table."""
        if state.table.digest != table.digest:
            raise LocalError("template state: of another table")
        decoder = cls(table)
        decoder._slots = {template.slot: template for template in state.templates}
        decoder._time = state.time
        return decoder

    def checkpoint(self) -> TemplateState:
        """The state after the last block."""
        return TemplateState(self._table, self._slots.values(), self._time)

    def decode(self, block: bytes, max_headers: int, max_fields: int) -> _Headers:
        """The list of a block; `:op` can only be its first name. `max_headers` bounds both the block and the
        expanded size (7.), in bytes.

        Raises RemoteError(COMPRESSION) with the state as it was, for anything malformed or above the bounds.
        """
        if not block:
            return []
        if len(block) > max_headers:
            raise malformed(f"expected at most {max_headers} bytes, got {len(block)}")
        head = block[0]
        try:
            if head >= FULL:
                return self._full(block, max_headers, max_fields)
            template = self._slots.get(head >> 2)
            if template is None:
                raise malformed(f"no template {head >> 2}")
            if len(template.fields) > max_fields or template.base > max_headers:
                raise _too_large(max_headers, max_fields)
            if head & 3 or not template.pinned:
                return self._changed(template, block, max_headers)
            return self._plain(template, block, max_headers)
        except IndexError:
            raise malformed("cut off") from None

    def _plain(self, template: Template, block: bytes, max_headers: int) -> _Headers:
        fields: _Headers = list(template.fields)  # type: ignore[arg-type]  # every hole is filled below
        pos, time, size = _fill(template, block, 1, self._time, fields)
        if pos != len(block):
            raise malformed(f"expected {pos} bytes, got {len(block)}")
        if template.base + size > max_headers:
            raise _too_large(max_headers)
        self._time = time
        return fields

    def _changed(self, template: Template, block: bytes, max_headers: int) -> _Headers:
        """A block with overrides, or with the sizes of its hex values."""
        head = block[0]
        kind_of = self._table.kind
        headers: _Headers = list(template.fields)  # type: ignore[arg-type]  # so is every hole here, below
        values: dict[int, str] = {}
        holes: dict[int, int] = {}
        overridden: set[int] = set()
        time = self._time
        size = template.base
        pos = 1
        index = -1
        more = head & OVERRIDES
        while more:
            code, pos = decode_number(block, pos)
            index += (code >> 2) + 1
            if index >= len(headers):
                raise malformed(f"override: expected one of {len(headers)} fields, got number {index}")
            more = code & 2
            name, old = template.fields[index]
            secret = is_credential(name)
            first = block[pos]
            value, pos, time = decode_value(kind_of(name), block, pos, time, secret)
            size += width(value) - (width(old) if old is not None else 0)
            headers[index] = (name, value)
            if old is None:
                overridden.add(index)
            if code & 1:
                holes[index] = pinned_size(self._table, name, value, first)
            elif secret:
                raise malformed(f"{name[:64]}: a credential made part of a template")
            else:
                values[index] = value
        if not overridden and not head & SIZES and template.pinned:
            pos, time, more = _fill(template, block, pos, time, headers)
            size += more
        else:
            for hole in template.holes:
                if hole.place in overridden:
                    continue
                if hole.type == HEX and not head & SIZES:
                    end = pos + hole.size
                    if not hole.size:
                        raise malformed(f"{hole.name[:64]}: the size of its values is not known")
                    value = block[pos:end].hex()
                    pos = end
                else:
                    value, pos, time = decode_value(hole.kind, block, pos, time, hole.secret)
                size += width(value)
                headers[hole.place] = (hole.name, value)
        if pos != len(block):
            raise malformed(f"expected {pos} bytes, got {len(block)}")
        if size > max_headers:
            raise _too_large(max_headers)
        if head & OVERRIDES:
            changed = template.changed(self._table, values, holes)
            if self._weight() - template.weight + changed.weight > MAX_STATE:
                raise malformed(f"state: expected a weight of at most {MAX_STATE}")
            self._slots[template.slot] = changed
        self._time = time
        return headers

    def _full(self, block: bytes, max_headers: int, max_fields: int) -> _Headers:
        pos = 0
        dropped: list[int] = []
        while block[pos] >= DROP:
            slot = block[pos] & 31
            if slot in dropped or slot not in self._slots:
                raise malformed(f"no template {slot} to drop")
            dropped.append(slot)
            pos += 1
        head = block[pos]
        if head < FULL or FULL + MAX_TEMPLATES <= head != ONCE or (head == ONCE and dropped):
            raise malformed(f"expected a full block, got first byte {head}")
        reader = _FullReader(self._table, self._slots, self._time, max_headers, max_fields)
        reader.read(block, pos + 1)
        if head != ONCE:
            slot = head & 31
            if len(reader.fields) > MAX_TEMPLATE_FIELDS:
                raise malformed(f"expected a template of at most {MAX_TEMPLATE_FIELDS} fields")
            template = Template.of(self._table, slot, reader.fields, reader.sizes)
            gone = {slot, *dropped}
            kept = [other for other in self._slots.values() if other.slot not in gone]
            if sum(other.weight for other in kept) + template.weight > MAX_STATE:
                raise malformed(f"state: expected a weight of at most {MAX_STATE}")
            self._slots = {other.slot: other for other in kept}
            self._slots[slot] = template
        self._time = reader.time
        return reader.headers

    def _weight(self) -> int:
        return sum([template.weight for template in self._slots.values()])


class _FullReader:
    """Reads a full block: the list, and the template that it makes."""

    __slots__ = ("_max_fields", "_max_headers", "_size", "_slots", "_table", "fields", "headers", "sizes", "time")

    def __init__(
        self, table: AppTable, slots: dict[int, Template], time: int, max_headers: int, max_fields: int
    ) -> None:
        self._table = table
        self._slots = slots
        self._max_headers = max_headers
        self._max_fields = max_fields
        self._size = 0
        self.time = time
        self.headers: _Headers = []
        self.fields: list[Field] = []
        self.sizes: list[int] = []

    def read(self, block: bytes, pos: int) -> None:
        """All fields from `pos` to the end."""
        table = self._table
        while pos < len(block):
            code, pos = decode_number(block, pos)
            form, number = code & 3, code >> 2
            if form == 1:
                if number >= len(table.pairs):
                    raise malformed(f"expected one of {len(table.pairs)} pairs, got number {number}")
                name, value = table.pairs[number]
                self._add(name, value)
            elif form == 3 and number >= 2:
                pos = self._copy(block, pos, number - 2)
            else:
                if form == 3:
                    name, pos = decode_string(block, pos)
                    hole = number == 1
                elif number >= len(table.names):
                    raise malformed(f"expected one of {len(table.names)} names, got number {number}")
                else:
                    name, hole = table.names[number].name, form == 2
                check_name(name, len(self.fields))
                pos = self._value(block, pos, name, hole)
        if not self.fields:
            raise malformed("a full block without fields")

    def _copy(self, block: bytes, pos: int, source: int) -> int:
        slot, start = source & 31, source >> 5
        count, pos = decode_number(block, pos)
        template = self._slots.get(slot)
        if template is None:
            raise malformed(f"no template {slot}")
        if not count or start + count > len(template.fields):
            raise malformed(f"copy: expected at most {len(template.fields)} fields, got {start} + {count}")
        for name, value in template.fields[start : start + count]:
            if value is None:
                pos = self._value(block, pos, name, True)
            else:
                self._add(name, value)
        return pos

    def _value(self, block: bytes, pos: int, name: str, hole: bool) -> int:
        secret = is_credential(name)
        if secret and not hole:
            raise malformed(f"{name[:64]}: a credential made part of a template")
        start = pos
        value, pos, self.time = decode_value(self._table.kind(name), block, pos, self.time, secret)
        self._add(name, value, hole, pinned_size(self._table, name, value, block[start]) if hole else 0)
        return pos

    def _add(self, name: str, value: str, hole: bool = False, size: int = 0) -> None:
        if name == OPERATION:
            check_name(name, len(self.fields))
        self._size += len(name) + width(value) + 32
        if self._size > self._max_headers or len(self.fields) >= self._max_fields:
            raise _too_large(self._max_headers, self._max_fields)
        field = (name, value)
        self.headers.append(field)
        self.fields.append((name, None) if hole else field)
        self.sizes.append(size)


def _fill(template: Template, block: bytes, pos: int, time: int, fields: list[tuple[str, str]]) -> tuple[int, int, int]:
    """Read the values of the holes into `fields`: the position after them, the last time, their expanded bytes.
    Raises RemoteError, and IndexError at the end; the position may be past the end, too."""
    size = 0
    for index, name, type_, length, kind, secret in template.plan:
        if type_ == HEX:
            end = pos + length
            value = block[pos:end].hex()
            pos = end
        elif type_ == STRING:
            value, pos = decode_string(block, pos, secret)
            if not value.isascii():
                size += width(value) - len(value)
        else:
            code = block[pos]
            pos += 1
            if code > 127:
                code, pos = decode_number(block, pos - 1)
            if not code:
                value, pos = decode_string(block, pos, secret)
                if not value.isascii():
                    size += width(value) - len(value)
            elif type_ == TIME:
                time = time_after(code, time)
                value = str(time)
            elif type_ == ENUM or code < 128:
                value = kind.values[code - 1]
                if not value.isascii():
                    size += width(value) - len(value)
            else:
                value = str(code - 1)
        size += len(value)
        fields[index] = (name, value)
    return pos, time, size


def pinned_size(table: AppTable, name: str, value: str, first: int) -> int:
    """The size that a hole of type hex is left with by a value in full whose first byte is `first` (0: escaped)."""
    return len(value) >> 1 if first and table.kind(name).type == HEX else 0


def _too_large(max_headers: int, max_fields: int | None = None) -> RemoteError:
    fields = "" if max_fields is None else f" in {max_fields} fields"
    return malformed(f"expected at most {max_headers} expanded bytes{fields}")
