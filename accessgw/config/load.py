"""Reads the configuration file, the routes file and the environment into GatewaySettings, or says what is wrong."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from accessgw.config import environment
from accessgw.config.errors import ConfigError, Problem
from accessgw.config.structure import check, shown
from accessgw.config.validate import validate
from accessgw.model.settings import GatewaySettings

_AT = re.compile(r"\(at line (\d+), column \d+\)$")
_FROM_ROUTES_FILE = ("routes", "clusters")


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> GatewaySettings:
    """The settings of the file at `path`, its routes file and the overrides of `environ` (os.environ).

    Raises ConfigError with every problem that was found.
    """
    environ = os.environ if environ is None else environ
    data = read_toml(Path(path))
    routes_file = environ.get(environment.PREFIX + "ROUTES_FILE", data.get("routes_file", ""))
    own = {key: len(data[key]) for key in _FROM_ROUTES_FILE if isinstance(data.get(key), list)}
    origin = Path()
    if routes_file and isinstance(routes_file, str):
        origin = Path(path).parent / routes_file
        _merge(data, read_toml(origin), origin)
    kind = inspect.type_info(GatewaySettings)
    variables = environment.apply(data, kind, environ)
    problems = list(check(data, kind))
    if not problems:
        settings = msgspec.convert(data, GatewaySettings)
        problems = validate(settings)
        if not problems:
            tables = tuple(str(Path(path).parent / name) for name in settings.app_tables)
            return msgspec.structs.replace(settings, app_tables=tables)
    raise ConfigError.of([_located(problem, own, origin, variables) for problem in problems])


def loads(text: str) -> GatewaySettings:
    """The settings of a TOML text alone: no environment, no routes file. Raises ConfigError."""
    data = _parse(text, "configuration")
    problems = list(check(data, inspect.type_info(GatewaySettings)))
    if not problems:
        settings = msgspec.convert(data, GatewaySettings)
        problems = validate(settings)
        if not problems:
            return settings
    raise ConfigError.of(problems)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError with the file, and the line when there is one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), (error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"expected UTF-8, got byte 0x{error.object[error.start]:02x}") from None
    return _parse(text, str(path))


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _AT.search(str(error))
        line = place[1] if place else len(text.splitlines()) or 1
        raise ConfigError(f"{name}:{line}", str(error)) from None
    except RecursionError:
        raise ConfigError(name, "expected TOML, got arrays or tables nested too deeply") from None


def _merge(data: dict[str, Any], routes: dict[str, Any], origin: Path) -> None:
    for key, value in routes.items():
        if key not in _FROM_ROUTES_FILE:
            raise ConfigError(key, f"unknown key, a routes file has only routes and clusters (in {origin})")
        if not isinstance(value, list):
            raise ConfigError(key, f"expected a list, got {shown(value)} (in {origin})")
        if isinstance(data.setdefault(key, []), list):
            data[key] = data[key] + value


def _located(problem: Problem, own: dict[str, int], origin: Path, variables: dict[str, str]) -> Problem:
    """The problem with the place that it comes from, when that is not the main file."""
    path, message = problem
    for setting, variable in variables.items():
        if path == setting or path.startswith((setting + ".", setting + "[")):
            return Problem(path, f"{message} (from {variable})")
    match = re.match(r"(routes|clusters)\[(\d+)\](.*)", path)
    if match is not None and origin != Path():
        key, index, rest = match[1], int(match[2]) - own.get(match[1], 0), match[3]
        if index >= 0:
            return Problem(f"{key}[{index}]{rest}", f"{message} (in {origin})")
    return problem
