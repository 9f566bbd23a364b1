"""Compares two configurations: which settings changed, and which of them only a restart brings into force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from accessgw.model.settings import GatewaySettings

TAKES_EFFECT = (
    "public_address",
    "alternate_addresses",
    "routes_file",
    "app_tables",
    "limits",
    "mmtp",
    "dictionaries.http",
    "dictionaries.secret",
    "dictionaries.train_interval",
    "dictionaries.canary_share",
    "dictionaries.canary_messages",
    "dictionaries.canary_users",
    "dictionaries.ratio_margin",
    "dictionaries.error_margin",
    "dictionaries.promote",
    "dictionaries.promote_after",
    "dictionaries.retention",
    "mqtt.acl",
    "mqtt.acl_default",
    "mqtt.acl_log",
    "mqtt.bridges",
    "authenticators",
    "routes",
    "clusters",
    "filters",
    "calls.default_timeout",
    "calls.max_kept_answer",
    "pushes.max_batch",
    "pushes.max_payload",
    "control.tokens",
    "control.max_body",
    "control.idempotency_ttl",
    "log.calls",
    "log.connections",
    "drain",
)
"""What a reload brings into force, with everything below. All else is bound to what exists since the start
(sockets, files, rooms that were given their settings once) and waits for a restart."""

_INDEX = re.compile(r"\[[^\]]*\]")


@dataclass(slots=True, frozen=True)
class Difference:
    """Paths of changed settings; elements of lists that have names are named: `listeners[tls].port`."""

    applied: list[str]
    """They take effect on a reload."""
    needs_restart: list[str]


def needs_restart(path: str) -> bool:
    """Whether a change of the setting at `path` waits for a restart."""
    general = _INDEX.sub("", path)
    return not any(general == live or general.startswith(live + ".") for live in TAKES_EFFECT)


def diff(old: GatewaySettings, new: GatewaySettings) -> Difference:
    """What differs between two configurations."""
    paths = list(_changes(old, new, ""))
    return Difference(
        [path for path in paths if not needs_restart(path)], [path for path in paths if needs_restart(path)]
    )


def applicable(old: GatewaySettings, new: GatewaySettings) -> GatewaySettings:
    """`new`, with what needs a restart left as it is in `old`: the configuration to use after a reload."""
    result = _kept(old, new, "")
    assert isinstance(result, GatewaySettings)
    return result


def _kept(old: msgspec.Struct, new: msgspec.Struct, path: str) -> msgspec.Struct:
    kept: dict[str, Any] = {}
    for name in old.__struct_fields__:
        here = f"{path}.{name}" if path else name
        before, after = getattr(old, name), getattr(new, name)
        if not needs_restart(here):
            kept[name] = after
        elif isinstance(before, msgspec.Struct):
            kept[name] = _kept(before, after, here)
        else:
            kept[name] = before
    return msgspec.structs.replace(old, **kept)


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name in old.__struct_fields__:
            yield from _changes(getattr(old, name), getattr(new, name), f"{path}.{name}" if path else name)
    elif isinstance(old, tuple) and _named(old) and _named(new):
        before, after = {item.name: item for item in old}, {item.name: item for item in new}
        if list(before) != list(after) and before.keys() == after.keys():
            yield path
        for name in {**before, **after}:
            if name in before and name in after:
                yield from _changes(before[name], after[name], f"{path}[{name}]")
            else:
                yield f"{path}[{name}]"
    elif isinstance(old, tuple) and len(old) == len(new) and all(isinstance(item, msgspec.Struct) for item in old):
        for index, (before_item, after_item) in enumerate(zip(old, new, strict=True)):
            yield from _changes(before_item, after_item, f"{path}[{index}]")
    else:
        yield path


def _named(items: tuple[Any, ...]) -> bool:
    """Whether every element has a name of its own (an empty tuple counts: anything may be added to it)."""
    names = [getattr(item, "name", "") for item in items]
    return all(names) and len(set(names)) == len(names)
