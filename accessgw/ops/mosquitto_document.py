"""Writes what came of a mosquitto.conf as TOML, with what is different or lost as comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from accessgw.config.render import toml_value
from accessgw.ops.ctl_view import printable
from accessgw.ops.mosquitto_conf import Loss
from accessgw.ops.mosquitto_listener import Listener


def tables(listeners: Sequence[Listener], data: dict[str, Any], mqtt: dict[str, Any]) -> Iterator[str]:
    """The lines of the settings: `mqtt` is that table, `data` all others but the listeners."""
    for index, listener in enumerate(listeners):
        yield from ("", "[[listeners]]") if index else ("[[listeners]]",)
        yield from (f"# {printable(note)}" for note in listener.notes)
        yield from _assignments(listener.settings)
    if not data.get("authenticators"):
        yield from ("", "# No [[authenticators]]: nobody is accepted.")
    for authenticator in data.get("authenticators", []):
        yield from ("", "[[authenticators]]")
        yield from _assignments(authenticator)
    plain = {key: value for key, value in mqtt.items() if key not in ("acl", "bridges")}
    for name, table in ({"mqtt": plain} | data).items():
        if table and name != "authenticators":
            yield from ("", f"[{name}]")
            yield from _assignments(table)
    for key in ("acl", "bridges"):
        for item in mqtt.get(key, []):
            yield from ("", f"[[mqtt.{key}]]")
            yield from _assignments(item)


def _assignments(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield f"{key} = {toml_value(value)}"


def document(name: str, settings: Iterable[str], losses: Sequence[Loss], notes: Sequence[str]) -> str:
    """The whole file; `name` is what it was made from."""
    lines = [f"# Made from {printable(name)} by `accessgwctl import`."]
    if losses:
        lines.append("# What could not be carried over stands at the end.")
    lines += ["", *settings, ""]
    lines += [
        "# The control API answers nobody until it has tokens:",
        "# [[control.tokens]]",
        '# token = "..."',
        '# roles = ["read", "push", "operate"]',
    ]
    if notes:
        lines += ["", "# Different from mosquitto:", *(f"# - {printable(note)}" for note in notes)]
    if losses:
        lines += ["", "# Not carried over:", *(f"# {printable(str(loss))}" for loss in losses)]
    return "\n".join(lines) + "\n"
