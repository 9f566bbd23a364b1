"""Loads declarations of application tables and compiles them for the wire, or says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import inspect

from accessgw.config.errors import ConfigError, Problem
from accessgw.config.load import read_toml
from accessgw.config.structure import check, shown
from accessgw.model.app_tables import AppTableFile, TableHeader
from protocols.errors import LocalError
from protocols.mmtp.header_rules import OPERATION, is_credential, is_header_name, is_header_value
from protocols.mmtp.tables import (
    MAX_ENUM,
    MAX_NAME,
    MAX_TABLE_NAMES,
    MAX_TABLE_PAIRS,
    MAX_VALUE,
    AppTable,
    TableName,
    ValueType,
)

ANY_APP = "*"


class DeclaredTable(NamedTuple):
    """A compiled table and the applications that get it."""

    table: AppTable
    apps: tuple[str, ...]


def load_app_table(path: str | Path) -> DeclaredTable:
    """The table that the file at `path` declares. Raises ConfigError with every problem that was found."""
    data = read_toml(Path(path))
    problems = list(check(data, inspect.type_info(AppTableFile)))
    if not problems:
        declared = msgspec.convert(data, AppTableFile)
        problems = list(validate_app_table(declared))
        if not problems:
            try:
                return DeclaredTable(compile_app_table(declared), declared.apps)
            except LocalError as error:
                problems = [Problem("headers", str(error))]
    raise ConfigError.of([Problem(problem.path, f"{problem.message} (in {path})") for problem in problems])


def load_app_tables(paths: Iterable[str | Path]) -> tuple[DeclaredTable, ...]:
    """The tables of several files; several versions of one may be among them. A version must not be there twice, nor an
    application in tables of different ids. Raises ConfigError."""
    tables = []
    versions: dict[tuple[int, int], object] = {}
    apps: dict[str, tuple[int, object]] = {}
    for path in paths:
        declared = load_app_table(path)
        id, version = declared.table.id, declared.table.version
        if (id, version) in versions:
            raise ConfigError("id", f"{id} in version {version} is that of {versions[id, version]}, too (in {path})")
        versions[id, version] = path
        for index, app in enumerate(declared.apps):
            other, where = apps.setdefault(app, (id, path))
            if other != id:
                raise ConfigError(f"apps[{index}]", f"{shown(app)} has the table of {where} (in {path})")
        tables.append(declared)
    return tuple(tables)


def compile_app_table(declared: AppTableFile) -> AppTable:
    """The table of a declaration that validate_app_table() lets pass. Raises LocalError when it is too large."""
    return AppTable(
        declared.id,
        declared.version,
        tuple([TableName(one.name, ValueType[one.type.upper()], one.values) for one in declared.headers]),
        tuple([(one.name, value) for one in declared.headers for value in one.pairs]),
    )


def validate_app_table(declared: AppTableFile) -> Iterator[Problem]:
    """What the types cannot say."""
    for index, app in enumerate(declared.apps):
        if not app or app in declared.apps[:index]:
            yield Problem(f"apps[{index}]", f"expected names of applications, each once, got {shown(app)}")
    if len(declared.headers) > MAX_TABLE_NAMES:
        yield Problem("headers", f"expected at most {MAX_TABLE_NAMES}, got {len(declared.headers)}")
    pairs = sum(len(one.pairs) for one in declared.headers)
    if pairs > MAX_TABLE_PAIRS:
        yield Problem("headers", f"expected at most {MAX_TABLE_PAIRS} pairs in all, got {pairs}")
    seen: dict[str, int] = {}
    for index, one in enumerate(declared.headers):
        path = f"headers[{index}]"
        first = seen.setdefault(one.name, index)
        if first != index:
            yield Problem(f"{path}.name", f"{shown(one.name)} is the name of headers[{first}], too")
        yield from _validate_header(one, path)


def _validate_header(one: TableHeader, path: str) -> Iterator[Problem]:
    if (one.name != OPERATION and not is_header_name(one.name)) or len(one.name) > MAX_NAME:
        message = f'expected a header name in lower case or "{OPERATION}", at most {MAX_NAME} bytes'
        yield Problem(f"{path}.name", f"{message}, got {shown(one.name)}")
    if one.type == "enum" and not one.values:
        yield Problem(f"{path}.values", "required for type enum, expected a list, got nothing")
    if one.type != "enum" and one.values:
        yield Problem(f"{path}.values", f'only an enum has values, type is "{one.type}"')
    if len(one.values) > MAX_ENUM:
        yield Problem(f"{path}.values", f"expected at most {MAX_ENUM}, got {len(one.values)}")
    for key, values in (("values", one.values), ("pairs", one.pairs)):
        if values and is_credential(one.name):
            yield Problem(f"{path}.{key}", f"{shown(one.name)} is a credential: its values are never known beforehand")
        for place, value in enumerate(values):
            if len(value.encode()) > MAX_VALUE or not is_header_value(value):
                message = f"expected at most {MAX_VALUE} bytes without NUL, CR and LF"
                yield Problem(f"{path}.{key}[{place}]", f"{message}, got {shown(value)}")
            elif value in values[:place]:
                yield Problem(f"{path}.{key}[{place}]", f"{shown(value)} came before")
