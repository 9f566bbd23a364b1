"""Compares two configurations: which settings changed, and which of them only a restart brings into force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from accessgw.model.settings import GatewaySettings, ListenerSettings

NEEDS_RESTART = (
    "state_dir",
    "node",
    "zone",
    "store",
    "demo_upstream",
    "control.address",
    "control.port",
    "log.access",
    "log.queue",
    "listeners[*]",
    "listeners[*].name",
    "listeners[*].transport",
    "listeners[*].address",
    "listeners[*].port",
    "listeners[*].path",
    "listeners[*].mode",
    "listeners[*].backlog",
    "listeners[*].protocols",
)
"""Settings bound to what exists since the start: sockets, files, names told to devices. A listener
that appears or disappears is `listeners[*]` as a whole."""

_INDEX = re.compile(r"\[[^\]]*\]")


@dataclass(slots=True, frozen=True)
class Difference:
    """Paths of changed settings; elements of lists that have names are named: `listeners[tls].port`."""

    applied: list[str]
    """They take effect on a reload."""
    needs_restart: list[str]


def needs_restart(path: str) -> bool:
    """Whether a change of the setting at `path` waits for a restart."""
    general = _INDEX.sub("[*]", path)
    whole = general.startswith("listeners") and "." not in general
    return whole or any(
        general == fixed or general.startswith((fixed + ".", fixed + "["))
        for fixed in NEEDS_RESTART
        if fixed != "listeners[*]"
    )


def diff(old: GatewaySettings, new: GatewaySettings) -> Difference:
    """What differs between two configurations."""
    paths = list(_changes(old, new, ""))
    return Difference(
        [path for path in paths if not needs_restart(path)], [path for path in paths if needs_restart(path)]
    )


def applicable(old: GatewaySettings, new: GatewaySettings) -> GatewaySettings:
    """`new`, with what needs a restart left as it is in `old`: the configuration to use after a reload."""
    after = {listener.name: listener for listener in new.listeners}
    return msgspec.structs.replace(
        new,
        listeners=tuple(_kept(listener, after.get(listener.name, listener)) for listener in old.listeners),
        state_dir=old.state_dir,
        node=old.node,
        zone=old.zone,
        store=old.store,
        demo_upstream=old.demo_upstream,
        control=msgspec.structs.replace(new.control, address=old.control.address, port=old.control.port),
        log=msgspec.structs.replace(new.log, access=old.log.access, queue=old.log.queue),
    )


def _kept(old: ListenerSettings, new: ListenerSettings) -> ListenerSettings:
    fixed = {name: getattr(old, name) for name in old.__struct_fields__ if needs_restart(f"listeners[*].{name}")}
    return msgspec.structs.replace(new, **fixed)


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
