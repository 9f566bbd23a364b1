"""An application table as an operator declares it: header names with the types of their values (one TOML file)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from accessgw.model.setting_types import Settings

TableId = Annotated[int, Meta(ge=2, le=(1 << 32) - 1)]
TableVersion = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class TableHeader(Settings, frozen=True, kw_only=True):
    """One header name."""

    name: str
    """In lower case; `:op` is the operation."""
    type: Literal["string", "hex", "uint", "time", "enum"] = "string"
    """How its values are coded when they fit: hex: lower-case digits, an even number; uint: decimal; time: decimal, as
    the difference to the last time; enum: one of `values`."""
    values: tuple[str, ...] = ()
    """The values of an enum. A number stands for each, so a new version only adds at the end."""
    pairs: tuple[str, ...] = ()
    """Common values, known together with the name; for fields that rarely change."""


class AppTableFile(Settings, frozen=True, kw_only=True):
    """The whole file. Devices hold a table by id and digest: a changed file is another table to them, so raise
    `version` with every change."""

    id: TableId
    """Unique in the deployment; 1 is the generic table of the specification."""
    version: TableVersion
    """Ascending with every change."""
    apps: tuple[str, ...] = ()
    """Names of the applications (as in HELLO) that get this table; `*` for all that no other table names."""
    headers: tuple[TableHeader, ...] = ()
    """The names; the first 32 cost one byte where a block names them."""
