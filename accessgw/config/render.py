"""Writes the effective configuration, as a dict for the control API and as TOML for `--print-config`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from accessgw.config.structure import bare, is_secret
from accessgw.model.settings import GatewaySettings

MASK = "********"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SECRET_WORDS = ("token", "secret", "password", "credential")


def to_dict(settings: GatewaySettings, mask_secrets: bool = True) -> dict[str, Any]:
    """The settings as plain data; settings that are not set (None) are left out."""
    data = _plain(settings, inspect.type_info(GatewaySettings), mask_secrets)
    assert isinstance(data, dict)
    return data


def render(settings: GatewaySettings, mask_secrets: bool = True) -> str:
    """The settings as TOML. Unmasked, it loads back to equal settings."""
    return "\n".join(_table(to_dict(settings, mask_secrets), ())).strip("\n") + "\n"


def _plain(value: Any, kind: inspect.Type, mask: bool) -> Any:
    declared = bare(kind)
    if isinstance(declared, inspect.StructType):
        members = ((field.name, getattr(value, field.name), field.type) for field in declared.fields)
        return {name: _plain(item, type_, mask) for name, item, type_ in members if item is not None}
    if isinstance(declared, inspect.VarTupleType):
        return [_plain(item, declared.item_type, mask) for item in value]
    if isinstance(declared, inspect.DictType):
        if isinstance(declared.value_type, inspect.AnyType):
            return _masked(value) if mask else value
        return {key: _plain(item, declared.value_type, mask) for key, item in value.items()}
    return MASK if mask and value and is_secret(kind) else value


def _masked(value: Any) -> Any:
    """A filter's own settings have no declared secrets: mask what is named like one."""
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(item, str) and any(word in key.lower() for word in _SECRET_WORDS) else _masked(item)
            for key, item in value.items()
        }
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _table(data: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of one table: its plain values first, then its tables and lists of tables."""
    for key, value in data.items():
        if not isinstance(value, dict) and not _is_tables(value):
            yield f"{_key(key)} = {toml_value(value)}"
    for key, value in data.items():
        here = (*path, key)
        name = ".".join(map(_key, here))
        if isinstance(value, dict):
            yield from ("", f"[{name}]", *_table(value, here))
        elif _is_tables(value):
            for item in value:
                yield from ("", f"[[{name}]]", *_table(item, here))


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_value(value: Any) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are a subset of TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    # what remains is a number, or a date in a filter's own settings
    return repr(value) if isinstance(value, int | float) else str(value)
