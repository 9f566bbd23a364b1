"""The key store of a whole gateway: over kill -9, by the operator, damaged, and open to others."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.gateway_process import Gateway

MakeGateway = Callable[..., Gateway]


def ctl(gateway: Gateway, *arguments: str) -> Any:
    command = [sys.executable, "-m", "accessgw.ops.ctl", "--json", "--url", f"http://127.0.0.1:{gateway.control}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def keys(gateway: Gateway) -> Path:
    return gateway.directory / "state" / "keys"


def epochs(gateway: Gateway) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = ctl(gateway, "keys", "list", "--token", "t-read")["epochs"]
    return listed


def test_secrets_outlive_a_kill_and_are_rotated_and_revoked_by_hand(make_gateway: MakeGateway) -> None:
    gateway = make_gateway().start()
    (first,) = epochs(gateway)
    assert first["state"] == "current"
    assert stat.S_IMODE(keys(gateway).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys(gateway).iterdir()} == {0o600}
    new = ctl(gateway, "keys", "rotate", "--token", "t-operate")
    assert (new["epoch"], new["state"]) == ((first["epoch"] + 1) % 256, "next")
    gateway.kill()
    gateway.start()
    assert [row["epoch"] for row in epochs(gateway)] == [first["epoch"], new["epoch"]]
    ctl(gateway, "keys", "revoke", "--token", "t-operate", "--epoch", str(first["epoch"]))
    assert first["epoch"] not in [row["epoch"] for row in epochs(gateway)]
    ctl(gateway, "keys", "revoke", "--token", "t-operate", "--device", "d1")
    ctl(gateway, "keys", "revoke", "--token", "t-operate", "--certificate", "ab" * 32)
    gateway.kill()
    gateway.start()
    revoked = ctl(gateway, "keys", "list", "--token", "t-read")["revoked"]
    assert (revoked["devices"], revoked["certificates"]) == (1, 1)
    gateway.assert_sound()


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("epochs", lambda path: path.chmod(0o640), "holds secrets; expected mode 0600, got 0640"),
        ("", lambda path: path.chmod(0o755), "holds secrets; expected mode 0700, got 0755"),
        ("epochs", lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        ("revoked.json", lambda path: path.write_bytes(b"{"), "is damaged"),
    ],
)
def test_a_store_that_cannot_be_trusted_stops_the_start_by_name(
    make_gateway: MakeGateway, name: str, spoil: Callable[[Path], object], said: str
) -> None:
    gateway = make_gateway().start()
    ctl(gateway, "keys", "revoke", "--token", "t-operate", "--device", "d1")
    gateway.terminate()
    path = keys(gateway) / name if name else keys(gateway)
    spoil(path)
    with pytest.raises(AssertionError, match="it did not come to be"):
        gateway.start()
    assert f"{path}: {said}" in gateway.said()
    assert "Traceback" not in gateway.said()


def test_a_lost_store_is_made_anew_under_a_running_gateway(make_gateway: MakeGateway) -> None:
    gateway = make_gateway().start()
    made = epochs(gateway)[0]["made"]
    (keys(gateway) / "epochs").unlink()
    gateway.wait_until((keys(gateway) / "epochs").exists)
    gateway.wait_until(lambda: bool(epochs(gateway)))
    assert made < epochs(gateway)[0]["made"] <= time.time()
    gateway.assert_sound()
