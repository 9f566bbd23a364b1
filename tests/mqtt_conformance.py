"""The conformance table of MQTT: statements of both standards, and the tests that name them; `python -m` prints it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "spec" / "mqtt-conformance.md"
INVENTORIES = {
    "MQTT 5.0": TESTS / "protocols" / "mqtt" / "statements_5.txt",
    "MQTT 3.1.1": TESTS / "protocols" / "mqtt" / "statements_311.txt",
}
WHO = ("server", "client", "both", "none")
SERVER = ("server", "both")
"""Whom a statement binds that binds a gateway."""
NAMED = re.compile(r"\[(MQTT3?-\d+(?:\.\d+)+-\d+)\]")
"""An id in the docstring of a test."""

TITLES = {
    "1.5": "data representation",
    "2.1": "fixed header",
    "2.2": "variable header",
    "2.3": "packet identifier",
    "3.1": "CONNECT",
    "3.2": "CONNACK",
    "3.3": "PUBLISH",
    "3.4": "PUBACK",
    "3.5": "PUBREC",
    "3.6": "PUBREL",
    "3.7": "PUBCOMP",
    "3.8": "SUBSCRIBE",
    "3.9": "SUBACK",
    "3.10": "UNSUBSCRIBE",
    "3.11": "UNSUBACK",
    "3.12": "PINGREQ",
    "3.14": "DISCONNECT",
    "3.15": "AUTH",
    "4.1": "session state",
    "4.2": "network connections",
    "4.3": "quality of service",
    "4.4": "delivery retry",
    "4.5": "message receipt",
    "4.6": "message ordering",
    "4.7": "topics",
    "4.8": "subscriptions",
    "4.9": "flow control",
    "4.12": "enhanced authentication",
    "4.13": "errors",
    "6.0": "WebSocket",
    "7.0": "conformance",
    "7.1": "conformance",
}
OTHER_TITLES = {("MQTT 3.1.1", "2.2"): "fixed header", ("MQTT 3.1.1", "4.8"): "errors"}

HEAD = """\
# Conformance to MQTT

Every normative statement of the two standards (their appendices B), whom it binds, what it asks in a few words of
ours, and the tests that show it or the reason why there is none. Ids are the standards'; those of 3.1.1 are written
with `MQTT3-`. `make docs` makes this page from the inventories in `tests/protocols/mqtt/` and from the docstrings of the
tests, and `tests/test_mqtt_conformance.py` fails when a statement that binds a server has neither test nor reason.
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """One row of an inventory."""

    id: str
    who: str
    words: str
    reason: str

    @property
    def section(self) -> str:
        """Such as 3.1."""
        return ".".join(self.id.split("-")[1].split(".")[:2])


def statements(standard: str) -> list[Statement]:
    """The inventory of a standard, in its order."""
    found = []
    for line in INVENTORIES[standard].read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        id, who, words, reason = (part.strip() for part in line.split("|"))
        found.append(Statement(id, who, words, reason))
    return found


@cache
def named_tests() -> dict[str, list[str]]:
    """Id -> tests that name it in their docstring, as `path::function` below the tests' directory."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "[MQTT" not in text:
            continue
        place = path.relative_to(TESTS)
        for name, docstring in _tests(ast.parse(text)):
            for id in dict.fromkeys(NAMED.findall(docstring)):
                found.setdefault(id, []).append(f"{place}::{name}")
    return found


def _tests(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield node.name, ast.get_docstring(node) or ""


def page() -> str:
    """The whole document."""
    return "\n".join((HEAD, *map(_summary, INVENTORIES), *map(_table, INVENTORIES)))


def _summary(standard: str) -> str:
    rows = [
        f"## {standard}: summary\n",
        "| section | statements | bind a server | of these tested | not tested, with a reason | the client's alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    all_of_it = statements(standard)
    for section in dict.fromkeys(one.section for one in all_of_it):
        title = OTHER_TITLES.get((standard, section)) or TITLES[section]
        rows.append(_counts(f"{section} {title}", [one for one in all_of_it if one.section == section]))
    return "\n".join((*rows, _counts("**all**", all_of_it), ""))


def _counts(title: str, some: list[Statement]) -> str:
    named = named_tests()
    ours = [one for one in some if one.who in SERVER]
    tested = sum(one.id in named for one in ours)
    reasons = sum(one.id not in named and bool(one.reason) for one in (one for one in some if one.who != "client"))
    theirs = sum(one.who == "client" for one in some)
    return f"| {title} | {len(some)} | {len(ours)} | {tested} | {reasons} | {theirs} |"


def _table(standard: str) -> str:
    rows = [f"## {standard}: statements\n", "| id | binds | asks | shown by |", "| --- | --- | --- | --- |"]
    named = named_tests()
    for one in statements(standard):
        shown = "<br>".join(f"`{test}`" for test in named.get(one.id, ()))
        if not shown:
            shown = one.reason or ("the client's matter" if one.who == "client" else "")
        rows.append(f"| {one.id} | {one.who} | {one.words} | {shown} |")
    return "\n".join((*rows, ""))


if __name__ == "__main__":
    print(page(), end="")
