"""Who may import whom: the import rules of the house, checked on the syntax tree, told as file:line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STDLIB = set(sys.stdlib_module_names) - {"asyncio", "logging", "select", "selectors", "socket", "threading", "time"}
EVERYTHING = {"*"}

CORE_INTERFACES = "accessgw.core.interfaces"
ADAPTER = {CORE_INTERFACES, "accessgw.model", "accessgw.policy", "protocols", "twisted", "zope", "msgspec"}

# room -> prefixes of modules that it may import beside the standard library and itself
RULES: dict[str, set[str]] = {
    "protocols._native": {"protocols._native", "cffi", "_cffi_backend"},
    "protocols.mmtp": {"protocols.errors", "protocols.mmtp", "hpack", "zstandard"},
    # what zstd makes is kept for each thread
    "protocols.mmtp.bodies": {"protocols.errors", "protocols.mmtp", "zstandard", "threading"},
    # the only one that binds the library
    "protocols.mmtp._nghttp2": {"protocols.errors", "protocols.mmtp", "protocols._native", "hpack"},
    "protocols.http": {
        "protocols.errors",
        "protocols.backends",
        "protocols.http",
        "h11",
        "httptools",
        "h2",
        "hpack",
        "wsproto",
        "zstandard",
    },
    "protocols.mqtt": {"protocols.errors", "protocols.mqtt"},
    "protocols.tls": {"protocols.errors", "protocols.tls", "OpenSSL", "cryptography"},
    # the only one that picks the twin in C
    "protocols.tls.record_backends": {"protocols.tls", "protocols._native"},
    # the engine in C: the two that drive it
    "protocols.tls.native_context": {"protocols.errors", "protocols.tls", "protocols._native", "cryptography"},
    "protocols.tls.native_engine": {"protocols.errors", "protocols.signing", "protocols.tls", "protocols._native"},
    "protocols": {"protocols"},
    "accessgw.model": {"accessgw.model", "msgspec"},
    "accessgw.config": {"accessgw.config", "accessgw.model", "msgspec"},
    # compiles declarations for the wire
    "accessgw.config.app_tables": {"accessgw.config", "accessgw.model", "protocols", "msgspec"},
    "accessgw.policy": {"accessgw.policy", "accessgw.model", "protocols"},
    "accessgw.core": {"accessgw.core", "accessgw.policy", "accessgw.model", "protocols", "twisted", "zope", "msgspec"},
    # a training makes tables with zstd itself
    "accessgw.core.dictionaries": {
        "accessgw.core",
        "accessgw.policy",
        "accessgw.model",
        "protocols",
        "twisted",
        "msgspec",
        "zstandard",
    },
    "accessgw.transports": ADAPTER | {"accessgw.transports"},
    "accessgw.crypto": ADAPTER | {"accessgw.crypto", "OpenSSL", "cryptography", "jwt", "service_identity", "argon2"},
    # the only one that speaks to tokens
    "accessgw.crypto.signers.pkcs11": ADAPTER | {"accessgw.crypto", "cryptography", "pkcs11"},
    "accessgw.upstreams": ADAPTER | {"accessgw.upstreams"},
    # makes contexts, and verifies names
    "accessgw.upstreams.tls": ADAPTER | {"accessgw.upstreams", "OpenSSL", "cryptography", "service_identity"},
    "accessgw.stores": ADAPTER | {"accessgw.stores", "accessgw.redis"},
    "accessgw.bus": ADAPTER | {"accessgw.bus", "accessgw.redis"},
    "accessgw.redis": ADAPTER | {"accessgw.redis"},
    "accessgw.supervise": {
        CORE_INTERFACES,
        "accessgw.supervise",
        "accessgw.config",
        "accessgw.model",
        "twisted",
        "zope",
    },
    "accessgw.ops": {
        CORE_INTERFACES,
        "accessgw.ops",
        "accessgw.config",
        "accessgw.model",
        "protocols",
        "twisted",
        "zope",
        "msgspec",
        "rich",
        "argon2",
    },
    "accessgw.plugins": {
        CORE_INTERFACES,
        "accessgw.plugins",
        "accessgw.model",
        "accessgw.policy",
        "protocols",
        "twisted.internet.defer",
    },
    "accessgw.client": {
        "accessgw.client",
        "protocols",
        "twisted",
        "zope",
        "asyncio",
        "OpenSSL",
        "service_identity",
        "rich",
    },
    "accessgw.demo": {"asyncio", "accessgw.demo", "accessgw.client", "protocols", "twisted", "zope", "rich", "amqtt"},
    "accessgw.service": EVERYTHING,
    "accessgw.gateway": EVERYTHING,
    "accessgw.rooms": EVERYTHING,
    "accessgw.prepared": EVERYTHING,
    "accessgw.file_check": EVERYTHING,
    "accessgw.description": EVERYTHING,
    "accessgw.control_rooms": EVERYTHING,
    "accessgw.http_rooms": EVERYTHING,
    "accessgw.store_rooms": EVERYTHING,
    "accessgw.webhook_rooms": EVERYTHING,
    "accessgw.mmtp_rooms": EVERYTHING,
    "accessgw.mqtt_rooms": EVERYTHING,
    "accessgw.tls_rooms": EVERYTHING,
    "accessgw": set(),
    "loadtest": {"loadtest", "accessgw.client", "protocols", "twisted", "zope", "rich", "locust", "asyncio", "amqtt"},
    # what ordinary codecs make of the bodies and headers
    "loadtest.corpus": {"loadtest.corpus", "zstandard", "hpack"},
    # the libraries that the peers' protocols are spoken by
    "loadtest.wire": {"loadtest.corpus", "loadtest.wire", "protocols", "zstandard", "hpack", "h2", "wsproto", "paho"},
    "loadtest.bench.bench_hpack": {"loadtest", "protocols", "hpack"},
    # certificates, and a context as the library makes it
    "loadtest.bench.tls_handshakes": {"loadtest", "protocols", "OpenSSL", "cryptography"},
    "loadtest.bench.tls_servers": {"loadtest", "cryptography"},
}
# rooms that may use the parts of the standard library that wait, tell the time or touch the world
MAY_TOUCH_THE_WORLD = tuple(
    room for room in RULES if room not in ("accessgw.model", "accessgw.policy") and not room.startswith("protocols")
)
HTTP_PARSERS = {"h11", "httptools", "h2", "wsproto"}
# (loadtest.wire speaks as peers do, by their libraries: what these send is what is measured)


def room_of(module: str) -> str:
    """The most specific room that the module lies in."""
    candidates = [room for room in RULES if module == room or module.startswith(room + ".")]
    return max(candidates, key=len, default="")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; `from a import b` counts as a.b as well, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def allowed(room: str, module: str) -> bool:
    rules = RULES[room]
    if rules is EVERYTHING:
        return True
    if any(module == prefix or module.startswith(prefix + ".") for prefix in rules):
        return True
    top = module.partition(".")[0]
    return top in STDLIB or (top in sys.stdlib_module_names and room in MAY_TOUCH_THE_WORLD and top != "asyncio")


def violations(path: Path, source: str, module: str) -> list[str]:
    room = room_of(module)
    shown = path.as_posix()
    if not room:
        return [f"{shown}:1: {module} lies in no room of the house"]
    found = []
    for line, name in imports(ast.parse(source)):
        if name.startswith("__future__"):
            continue
        if not allowed(room, name):
            found.append(f"{shown}:{line}: {room} may not import {name}")
        elif name.partition(".")[0] in HTTP_PARSERS and room not in ("protocols.http", "loadtest.wire"):
            found.append(f"{shown}:{line}: HTTP is parsed in protocols.http only, not by {name} here")
        elif name == "twisted.internet.reactor" and room not in (
            "accessgw.service",
            "accessgw.client",
            "accessgw.demo",
            "loadtest",
        ):
            found.append(f"{shown}:{line}: only service imports the reactor; take it as an argument")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted(path for top in ("protocols", "accessgw", "loadtest") for path in (ROOT / top).rglob("*.py"))


def test_every_import_keeps_the_rules() -> None:
    assert len(sources()) > 50
    found = [v for path in sources() for v in violations(path.relative_to(ROOT), path.read_text(), module_name(path))]
    assert not found, "\n" + "\n".join(found)


def test_client_and_demo_take_the_reactor_at_run_time_only() -> None:
    """Importing them must not install a reactor: the import may only stand inside a function."""
    for path in sources():
        if module_name(path).startswith(("accessgw.client", "accessgw.demo", "loadtest")):
            top_level = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
            names = [name for node in top_level for _, name in imports(node)]
            assert "twisted.internet.reactor" not in names, path


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("accessgw.core.calls", "from twisted.internet import reactor", "only service imports the reactor"),
        ("accessgw.core.calls", "from accessgw.stores import memory", "may not import accessgw.stores"),
        ("accessgw.stores.memory", "import accessgw.core.calls", "may not import accessgw.core.calls"),
        ("accessgw.transports.http", "import httptools", "may not import httptools"),
        ("protocols.mmtp.frames", "import time", "may not import time"),
        ("protocols.mmtp.frames", "import socket", "may not import socket"),
        ("protocols.mmtp.frames", "from twisted.python import log", "may not import twisted"),
        ("protocols.proxyproto", "import h11", "may not import h11"),
        ("accessgw.policy.routing", "from twisted.internet import defer", "may not import twisted"),
        ("accessgw.policy.routing", "import time", "may not import time"),
        ("accessgw.client.core", "from accessgw.model import calls", "may not import accessgw.model"),
        ("accessgw.ops.ctl", "from accessgw.core import calls", "may not import accessgw.core.calls"),
        ("accessgw.plugins.x", "from accessgw.core.sessions import S", "may not import accessgw.core.sessions"),
        ("accessgw.core.x", "import asyncio", "may not import asyncio"),
        ("loadtest.bench.x", "from accessgw.service import S", "may not import accessgw.service"),
        ("elsewhere.x", "import os", "lies in no room"),
    ],
)
def test_a_broken_rule_is_told_with_file_and_line(module: str, line: str, complaint: str) -> None:
    path = Path(module.replace(".", "/") + ".py")
    (found,) = violations(path, f'"""x"""\n\n{line}\n', module)
    assert complaint in found
    assert found.startswith(f"{path.as_posix()}:{1 if 'no room' in complaint else 3}: ")


def test_no_package_marker_under_twisted() -> None:
    """An __init__.py there would hide Twisted itself."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))
    assert (ROOT / "twisted/plugins/accessgw_plugin.py").exists()


def test_the_top_package_pulls_nothing() -> None:
    assert (ROOT / "accessgw/__init__.py").read_text() == ""
