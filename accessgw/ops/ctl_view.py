"""What accessgwctl prints: tables for people."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec import Raw
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accessgw.model import words
from accessgw.ops.ctl_json import text_of

_PYTHON_OF_OPENSSL = re.compile(r"^\[[A-Z0-9_: ]+\] | \(_ssl\.c:\d+\)$")

FIRST = ("device", "filter", "client", "topic", "name", "operation", "user", "connected", "app", "app_version")
"""Columns that come first, in this order, when rows have them."""


def show(console: Console, value: Any, title: str = "") -> None:
    """Print plain data: rows as a table, a table of its own for each list inside, the rest as names and values."""
    if isinstance(value, list):
        _rows(console, value, title)
        return
    if not isinstance(value, dict):
        console.print(cell(value))
        return
    inner = {key: item for key, item in value.items() if _is_rows(item)}
    plain = list(_flat({key: item for key, item in value.items() if key not in inner}))
    if plain:
        table = Table(box=None, show_header=False, pad_edge=False, title=title or None, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, item in plain:
            table.add_row(cell(name), cell(item))
        console.print(table)
    for key, rows in inner.items():
        _rows(console, rows, key)


def event_line(event: dict[str, Any]) -> Text:
    """One event on one line: time, kind, then names and values."""
    rest = {key: value for key, value in event.items() if key not in ("at", "type", "kind")}
    at = event.get("at")
    clock = time.strftime("%H:%M:%S", time.localtime(at)) + f"{at % 1:.3f}"[1:] if isinstance(at, int | float) else ""
    kind = str(event.get("kind") or event.get("type") or "event")
    line = Text(f"{clock} " if clock else "", style="dim")
    line.append_text(Text(f"{printable(kind):<12} ", style="bold"))
    line.append_text(Text(" ".join(f"{printable(key)}={cell(value).plain}" for key, value in _flat(rest))))
    return line


def cell(value: Any) -> Text:
    """A value for a person; never interpreted, whatever a peer put into it."""
    if isinstance(value, Raw):
        return Text(printable(text_of(value)))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if value is None or value in ("", [], {}):
        return Text("-", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}")
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return Text(printable(", ".join(map(str, value))))
    if isinstance(value, dict | list):
        return Text(printable(json.dumps(value, ensure_ascii=False)))
    return Text(printable(str(value)))


def dated(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """The row with these times, Unix seconds where they are known, as a person reads them: ISO 8601, UTC."""
    known = {name: row[name] for name in names if isinstance(row.get(name), int | float)}
    return row | {name: _moment(second) for name, second in known.items()}


def _moment(second: float) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        # no moment of this calendar: what was said is better than nothing
        return f"{second:.6g}"


def trouble(error: Exception) -> str:
    """What went wrong, for a person: the words of the system and of OpenSSL, without Python's numbers around them."""
    return _PYTHON_OF_OPENSSL.sub("", words.trouble(error))


def printable(text: str) -> str:
    """Text whose control characters are spelled out, so that no peer can drive the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _rows(console: Console, rows: list[Any], title: str) -> None:
    if not rows:
        console.print(Text(f"{title}: none" if title else "none", style="dim"))
        return
    if not _is_rows(rows):
        console.print(Text(f"{title}: " if title else "").append_text(cell(rows)))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left", header_style="bold")
    for name in names:
        values = [row.get(name) for row in rows]
        number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        table.add_column(Text(printable(name)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in names))
    console.print(table)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of everything in nested tables."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
