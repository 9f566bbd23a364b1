"""Settings from the environment: `ACCESSGW__LISTENERS__0__PORT=7444` sets `listeners[0].port`.

The name is the path of the setting in capitals with `__` between its parts. A string setting takes
the value as it is; any other is read as TOML (`true`, `2.5`, `["mmtp/1"]`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec import inspect

from accessgw.config.errors import ConfigError
from accessgw.config.structure import bare

PREFIX = "ACCESSGW__"


def apply(data: dict[str, Any], kind: inspect.Type, environ: Mapping[str, str]) -> dict[str, str]:
    """Put the overrides into `data` (changed in place); setting's path -> variable that it came from.

    Raises ConfigError for a list index that does not exist, or a path through a plain value. An
    unknown key is put in as it is: the check of the structure tells it as it tells all others.
    """
    origins: dict[str, str] = {}
    for variable in sorted(environ):
        if variable.startswith(PREFIX):
            origins[_set(data, kind, variable, environ[variable])] = variable
    return origins


def _set(data: Any, kind: inspect.Type, variable: str, text: str) -> str:
    parts = variable.removeprefix(PREFIX).lower().split("__")
    path = ""
    for depth, part in enumerate(parts):
        kind = bare(kind)
        key: Any = part
        if isinstance(kind, inspect.VarTupleType):
            if not part.isdecimal() or int(part) > len(data):
                raise ConfigError(variable, f'expected an index of {path} in 0..{len(data)}, got "{part}"')
            key, kind, path = int(part), kind.item_type, f"{path}[{part}]"
            if key == len(data):
                data.append(None)
        elif isinstance(kind, inspect.StructType):
            path = f"{path}.{part}" if path else part
            known = {field.name: field.type for field in kind.fields}
            if part not in known:
                data[part] = text
                return path
            kind = known[part]
        elif isinstance(kind, inspect.DictType):
            kind, path = kind.value_type, f"{path}.{part}"
        else:
            raise ConfigError(variable, f"{path} has no parts of its own")
        if depth == len(parts) - 1:
            data[key] = _value(kind, text)
        else:
            data = _descend(data, key, kind, variable, path)
    return path


def _descend(data: Any, key: Any, kind: inspect.Type, variable: str, path: str) -> Any:
    wanted: type = list if isinstance(bare(kind), inspect.VarTupleType) else dict
    present = data[key] if isinstance(data, list) else data.get(key)
    if present is None:
        present = data[key] = wanted()
    if not isinstance(present, wanted):
        raise ConfigError(variable, f"{path} has no parts of its own")
    return present


def _value(kind: inspect.Type, text: str) -> Any:
    declared = bare(kind)
    words = isinstance(declared, inspect.LiteralType) and all(isinstance(one, str) for one in declared.values)
    if words or isinstance(declared, inspect.StrType):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
