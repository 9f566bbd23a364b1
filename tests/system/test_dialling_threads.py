"""A whole gateway dials services, its webhook and another broker: no hand-shake signs or verifies on the reactor's thread,
files are loaded elsewhere, and operators see all of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred

from accessgw.config.load import load
from accessgw.gateway import Gateway
from accessgw.ops.counters_view import families
from accessgw.prepared import Prepared
from protocols.tls.client_context import ClientContext
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.upstreams.handshakes_by_hand import WhoFeeds
from tests.upstreams.tls_servers import certificate, serving

CONFIG = """
state_dir = "{folder}/state"
[store]
kind = "memory"
[control]
address = "127.0.0.1"
port = 0
[[listeners]]
name = "plain"
transport = "tcp"
address = "127.0.0.1"
port = 0
protocols = ["mqtt"]
[[authenticators]]
kind = "static"
tokens = [{{ token = "operator-token", user = "operator" }}]
[webhook]
url = "{endpoint}/hook"
[webhook.tls]
{hook}
[[clusters]]
name = "services"
endpoints = ["{endpoint}"]
health = {{ path = "/health", interval = 0.2, timeout = 5.0 }}
[clusters.tls]
{service}
[[mqtt.bridges]]
name = "other"
address = "{address}"
tls = true
{bridge}
topics = [{{ filter = "x/#", direction = "out" }}]
"""


async def dialling(reactor: Any, folder: str) -> dict[str, Any]:
    authority = Authority(Path(folder), "ca")
    server = serving(certificate(authority, "s", "127.0.0.1"), authority.file)
    names = ("hook", "service", "bridge")

    def shown(name: str) -> str:
        issued = authority.issue(name)
        return f'ca = "{authority.file}"\ncertificate = "{issued.chain}"\nkey = "{issued.key}"\n'

    path = Path(folder, "accessgw.toml")
    path.write_text(
        CONFIG.format(
            folder=folder,
            endpoint=server.endpoint,
            address=server.endpoint.removeprefix("https://"),
            **{name: shown(name) for name in names},
        )
    )
    settings = load(path)
    gateway = Gateway(settings, Prepared.of(settings), str(path), reactor)
    loaders: list[str] = []
    build = ClientContext.__init__

    def built(context: ClientContext, options: Any) -> None:
        loaders.append(threading.current_thread().name)
        build(context, options)

    with WhoFeeds() as who, patch.object(ClientContext, "__init__", built):
        gateway.startService()
        session: Any = SimpleNamespace(identity=SimpleNamespace(device="d", user="u"))
        gateway.rooms.webhook.presence.connected(session)
        while not {common for _, _, common in server.seen}.issuperset(names):
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.02, turn.callback, None)
            await turn
        rows = gateway.rooms.control.status()["upstreams"]
        ends = {
            sample[1]["used_by"]: sample[2] - time.time()
            for family in families(gateway.rooms.counters)
            if family.name == "accessgw_client_certificate_expires_seconds"
            for sample in family.samples
        }
        await gateway.stopService()
    return {
        "threads": set(who.threads),
        "loaders": set(loaders),
        "reactor": threading.current_thread().name,
        "clusters": [(row["cluster"], row["error"]) for row in rows],
        "ends": ends,
    }


def test_what_a_gateway_dials_is_not_the_reactors_to_sign(tmp_path: Path) -> None:
    seen = run(dialling, str(tmp_path))
    assert seen["threads"] and all(name.startswith("accessgw-handshakes-") for name in seen["threads"]), seen
    assert seen["loaders"] and all(name.startswith("accessgw-handshakes-") for name in seen["loaders"]), seen
    assert seen["reactor"] not in seen["threads"] | seen["loaders"]
    assert seen["clusters"] == [("services", ""), ("webhook", "")]
    assert set(seen["ends"]) == {"cluster services", "webhook", "bridge other"}
    assert all(left > 0 for left in seen["ends"].values()), seen
