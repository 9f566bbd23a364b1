"""Dictionaries end to end on a running gateway: trained, tried, in force, and still there after kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.gateway_process import ROOT, START_TIMEOUT, TRAINING_PATIENCE, Gateway

SETTINGS = """
[dictionaries]
enabled = true
least_messages = 500
train_timeout = 600.0
canary_share = 0.25
secret = ["auth.*"]
"""


class FedGateway(Gateway):
    """Its process offers some bodies at the start."""

    bodies = 800

    def start(self) -> Gateway:
        command = [sys.executable, str(Path(__file__).with_name("fed_gateway.py")), str(self.config), str(self.bodies)]
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
        self.wait_until(lambda: self.http("GET", "/health/ready")[0] == 200, START_TIMEOUT)
        return self

    def get(self, path: str) -> Any:
        status, answer = self.http("GET", path, token="t-read")
        assert status == 200, answer
        return answer

    def ctl(self, *arguments: str, token: str = "t-operate", code: int = 0) -> str:
        command = [sys.executable, "-m", "accessgw.ops.ctl", "--url", f"http://127.0.0.1:{self.control}"]
        done = subprocess.run(
            [*command, "--token", token, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "200"},
            timeout=TRAINING_PATIENCE,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    def states(self) -> dict[int, str]:
        return {row["id"]: row["state"] for row in self.get("/v1/dictionaries")["dictionaries"]}


@pytest.fixture
def fed(tmp_path: Path) -> Any:
    gateway = FedGateway(tmp_path, extra=SETTINGS)
    config = gateway.config.read_text()
    both = config.replace('roles = ["operate"]', 'roles = ["operate", "read"]')
    gateway.config.write_text(both)
    yield gateway
    gateway.close()


def test_a_dictionary_from_its_bodies_to_its_rollback(fed: FedGateway) -> None:
    fed.start()
    (row,) = fed.get("/v1/dictionaries")["classes"]
    assert (row["app"], row["class"], row["samples"], row["users"], row["ready"]) == (
        "wallet",
        "qorders.create",
        800,
        100,
        True,
    )
    (first,) = json.loads(fed.ctl("--json", "dictionary", "train"))["dictionaries"]
    assert (first["id"], first["state"], first["share"]) == (1, "canary", 0.25), first
    assert 0 < first["expected"] < 0.5
    fed.ctl("dictionary", "activate", "1")
    (second,) = json.loads(fed.ctl("--json", "dictionary", "train", "--app", "wallet", "qorders.create"))[
        "dictionaries"
    ]
    assert (second["id"], second["state"]) == (2, "canary")
    fed.ctl("dictionary", "activate", "2", "--share", "0.5")
    fed.ctl("dictionary", "activate", "2")
    assert fed.states() == {1: "retired", 2: "active"}
    assert fed.metric("accessgw_dictionaries", state="active") == 1
    assert fed.metric("accessgw_dictionary_trainings_total", outcome="trained") == 2
    content = fed.directory / "dictionary"
    fed.ctl("dictionary", "save", "2", str(content))
    assert content.read_bytes()[:4] == b"\x37\xa4\x30\xec"
    details = json.loads(fed.ctl("--json", "dictionary", "show", "2"))

    fed.kill()
    fed.bodies = 0
    fed.start()
    assert fed.states() == {1: "retired", 2: "active"}
    assert json.loads(fed.ctl("--json", "dictionary", "show", "2")) == details
    listed = fed.ctl("dictionary", "list")
    assert "qorders.create" in listed and "retired" in listed and "active" in listed
    fed.ctl("dictionary", "rollback", "2")
    assert fed.states() == {1: "active", 2: "rolled_back"}
    fed.ctl("dictionary", "rollback", "2", code=1)
    fed.ctl("dictionary", "show", "3", code=1)
    fed.ctl("dictionary", "train", code=1)
    assert fed.terminate() == 0
    fed.start()
    assert fed.states() == {1: "active", 2: "rolled_back"}


def test_a_training_that_kill_9_broke_off_is_told_and_its_id_is_not_used_again(fed: FedGateway) -> None:
    fed.start()
    status, answer = fed.http("POST", "/v1/dictionaries/train", {}, "t-operate")
    assert (status, answer["dictionaries"][0]["state"]) == (200, "training")
    fed.kill()
    fed.start()
    fed.wait_until(lambda: fed.states() == {1: "refused"})
    (row,) = fed.get("/v1/dictionaries")["dictionaries"]
    assert "ended during the training" in row["reason"]
    (again,) = json.loads(fed.ctl("--json", "dictionary", "train"))["dictionaries"]
    assert (again["id"], again["state"]) == (2, "canary")


def test_disabled_it_says_so(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway().start()
    status, answer = gateway.http("GET", "/v1/dictionaries", token="t-read")
    assert (status, answer) == (200, {"enabled": False, "dictionaries": [], "classes": []})
    status, answer = gateway.http("POST", "/v1/dictionaries/train", {}, "t-operate")
    assert (status, answer["error"]["code"]) == (409, "not_enabled")
