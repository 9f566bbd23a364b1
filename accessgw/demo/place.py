"""Where the tour goes, and how a step says that it did not happen."""

from __future__ import annotations

from dataclasses import dataclass

from accessgw.demo.children import Child, Http


class Failed(Exception):
    """A step did not happen as it should; the text says what was expected and what came."""


def expect(true: bool, otherwise: str) -> None:
    """Raise Failed with that text when it is not so."""
    if not true:
        raise Failed(otherwise)


@dataclass
class Place:
    """A gateway, its control API, the upstream behind it."""

    url: str
    mqtt: str
    """host:port of its plain MQTT listener; empty: the tour goes without."""
    token: str
    ca: str | None
    control: Http
    upstream: Http
    user: str
    children: tuple[Child, ...] = ()
