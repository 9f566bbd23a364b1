"""accessgwctl as a program of its own against a gateway: what it prints, its exit codes, and how its streams end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accessgw.ops.ctl import DEFAULT_URL, main
from loadtest.free_ports import free_ports
from protocols.mmtp import Status
from protocols.mmtp.events import GoawayReceived
from tests.system.device import Device, Gone
from tests.system.gateway_process import PATIENCE, ROOT, Gateway
from tests.system.upstream import Upstream

TOKENS = {"push": "t-push", "close": "t-operate", "drain": "t-operate", "reload": "t-operate"}
COMMANDS = {
    "status", "devices", "push", "close", "drain", "reload", "config", "workers", "top", "trace", "events", "streams",
    "mqtt", "passwd", "import", "dictionary", "keys",
}  # fmt: skip


class Ctl:
    """Runs commands as processes; the console script where it is installed, else the module."""

    def __init__(self, url: str) -> None:
        script = Path(sys.executable).with_name("accessgwctl")
        self.program = [str(script)] if script.exists() else [sys.executable, "-m", "accessgw.ops.ctl"]
        self.environment = {k: v for k, v in os.environ.items() if k not in ("ACCESSGW_TOKEN", "COLUMNS")}
        self.environment |= {"PYTHONPATH": str(ROOT), "ACCESSGW_URL": url}

    def command(self, *arguments: str) -> dict[str, Any]:
        token = TOKENS.get(next((a for a in arguments if not a.startswith("-")), ""), "t-read")
        return {"args": [*self.program, *arguments], "env": {"ACCESSGW_TOKEN": token} | self.environment, "cwd": "/"}

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            **self.command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False, **more
        )

    def said(self, *arguments: str, **more: Any) -> str:
        """Standard output of a command that succeeds without a complaint."""
        done = self.run(*arguments, **more)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def parsed(self, *arguments: str) -> Any:
        return json.loads(self.said(*arguments, "--json"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on until it is interrupted."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(**self.command(*arguments), **pipes)


@pytest.fixture
def ctl(gateway: Gateway) -> Ctl:
    return Ctl(f"http://127.0.0.1:{gateway.control}")


def values(text: str) -> dict[str, str]:
    """Names and values of a printed answer."""
    return {
        name: rest[0]
        for name, *rest in (re.split(r" {2,}", line.strip(), maxsplit=1) for line in text.splitlines())
        if rest
    }


def row(text: str, first: str) -> list[str]:
    """The cells of the row that begins so."""
    found = [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.split()[:1] == [first]]
    assert len(found) == 1, text
    return found[0]


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_looking_at_a_gateway(ctl: Ctl, gateway: Gateway, upstream: Upstream) -> None:
    device = Device(gateway.plain, "phone", token="alice-token").welcomed()
    assert device.call("payments.pay", b"{}").status == Status.OK

    status = values(ctl.said("status"))
    assert (status["state"], status["devices_connected"], status["calls_finished"]) == ("ready", "1", "1")
    parsed = ctl.parsed("status")
    assert parsed["devices_connected"] == 1
    assert {row["name"] for row in parsed["listeners"]} == {"phones", "plain"}

    assert row(ctl.said("devices"), "phone")[1:3] == ["alice", "yes"]
    assert [one["device"] for one in ctl.parsed("devices", "--connected")["devices"]] == ["phone"]
    assert ctl.said("devices", "--away") == "none\n"
    assert ctl.parsed("devices", "--user", "nobody") == {"devices": [], "next": None}
    assert values(ctl.said("devices", "phone"))["connection.listener"] == "plain"
    assert ctl.parsed("devices", "phone")["connection"]["peer"] == "127.0.0.1"

    assert {str(parsed["pid"]), "ready"} <= set(ctl.said("workers").split())
    assert [worker["state"] for worker in ctl.parsed("workers")["workers"]] == ["ready"]

    assert "payments.pay" in ctl.said("top")
    assert "payments.pay" in json.dumps(ctl.parsed("top", "--limit", "1"))

    config = json.loads(ctl.said("config"))
    assert config == ctl.parsed("config")
    assert config["settings"]["control"]["port"] == gateway.control
    assert "alice-token" not in json.dumps(config)
    device.cut()


def test_pages_of_devices(ctl: Ctl, gateway: Gateway) -> None:
    held = [Device(gateway.plain, f"d{n}").welcomed() for n in range(5)]
    seen: list[str] = []
    arguments = ["devices", "--limit", "2"]
    after: list[str] = []
    for _ in range(3):
        done = ctl.run(*arguments, *after)
        assert done.returncode == 0
        seen += [line.split()[0] for line in done.stdout.splitlines()[1:]]
        after = done.stderr.removeprefix("more: ").split()
    assert (seen, after) == ([f"d{n}" for n in range(5)], [])
    assert len(held) == 5


def test_pushing_and_looking_at_streams(ctl: Ctl, gateway: Gateway, tmp_path: Path) -> None:
    device = Device(gateway.plain, "phone", token="alice-token").welcomed()
    first = values(ctl.said("push", "--device", "phone", "--biz", "orders", '{"text": "您的订单已发货", "sum": 1.10}'))
    assert (first["stream"], first["seq"], first["live"]) == ("device/phone/orders", "1", "1")
    assert device.next_push().body == '{"text": "您的订单已发货", "sum": 1.10}'.encode()

    file = tmp_path / "payload.json"
    file.write_text("[1, 2]")
    assert ctl.parsed("push", "--user", "alice", "--biz", "news", "--file", str(file))["seq"] == 1
    assert device.next_push().body == b"[1, 2]"
    assert ctl.said("push", "--broadcast", "--biz", "all", "--file", "-", input='"for everyone"')
    assert device.next_push().body == b'"for everyone"'
    again = [ctl.parsed("push", "--device", "phone", "--biz", "orders", "--text", "once", "--key", "k1") for _ in "ab"]
    assert [answer["seq"] for answer in again] == [2, 2]

    assert values(ctl.said("streams", "device", "phone", "orders"))["head"] == "2"
    assert ctl.parsed("streams", "user", "alice", "news")["head"] == 1
    assert ctl.parsed("streams", "broadcast", "-", "all")["scope"] == "broadcast"
    none = ctl.run("streams", "topic", "t", "b")
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr == "accessgwctl: 404: no push was ever sent to topic/t/b\n"


def test_closing_and_draining(ctl: Ctl, gateway: Gateway) -> None:
    device = Device(gateway.plain, "phone").welcomed()
    assert ctl.parsed("close", "phone") == {"device": "phone", "closed": True}
    assert device.expect(GoawayReceived).goaway.status == Status.DRAINING
    device.cut()
    gateway.wait_until(lambda: not ctl.parsed("devices", "phone")["connected"])
    away = ctl.run("close", "phone")
    assert away.returncode == 1
    assert away.stderr == "accessgwctl: phone was not connected\n"

    device = Device(gateway.plain, "phone", boot=2).welcomed()
    assert values(ctl.said("drain", "--seconds", "0.1"))["connections"] == "1"
    assert device.expect(GoawayReceived).goaway.status == Status.DRAINING
    device.cut()
    assert values(ctl.said("status"))["state"] == "draining"
    assert ctl.parsed("drain")["connections"] == 0


def test_keys_of_a_gateway(ctl: Ctl, gateway: Gateway) -> None:
    operator = ("--token", "t-operate")
    first = json.loads(ctl.said("keys", "rotate", "--json", *operator))
    assert (first["state"], first["new"]) == ("next", True)
    again = ctl.run("keys", "rotate", *operator)
    assert (again.returncode, values(again.stdout)["epoch"]) == (0, str(first["epoch"]))
    assert again.stderr.startswith(f"accessgwctl: no other was made: epoch {first['epoch']} waits already, until ")

    printed = "sha256 Fingerprint=" + ":".join(["AB"] * 32)
    for words in ([printed], printed.split()):
        assert values(ctl.said("keys", "revoke", *operator, "--certificate", *words))["certificate"] == "ab" * 32
    assert ctl.said("keys", "revoke", "--device", "TYPO", *operator), "who may not look gets no hint"

    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('roles = ["operate"]', 'roles = ["operate", "read"]'))
    assert ctl.said("reload", *operator)
    device = Device(gateway.plain, "phone").welcomed()
    assert values(ctl.said("keys", "revoke", "--device", "phone", *operator))["closed"] == "yes"
    with pytest.raises(Gone):
        device.call("query.balance")
    done = ctl.run("keys", "revoke", "--device", "TYPO", *operator)
    assert (done.returncode, values(done.stdout)["revoked"]) == (0, "yes")
    assert done.stderr.startswith("accessgwctl: this gateway knows no device TYPO ")


def test_reloading(ctl: Ctl, gateway: Gateway) -> None:
    gateway.write_config(extra="\n[pushes]\nmax_batch = 7\n[sessions]\nexpiry = 100\n")
    assert "pushes.max_batch" in ctl.said("reload")
    assert json.loads(ctl.said("config"))["settings"]["pushes"]["max_batch"] == 7
    gateway.write_config(extra='\n[pushes]\nmax_batch = "many"\n')
    refused = ctl.run("reload")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r"accessgwctl: 422: .*pushes\.max_batch: expected .*\n", refused.stderr)
    assert json.loads(ctl.said("config"))["settings"]["pushes"]["max_batch"] == 7


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_events_until_interrupted(ctl: Ctl, gateway: Gateway, as_json: bool) -> None:
    process = ctl.start("events", "--status", *(["--json"] if as_json else []))
    assert process.stdout is not None
    assert "ready" in process.stdout.readline(), "the status comes at once, unbuffered"
    Device(gateway.plain, "phone").welcomed().cut()
    seen = ""
    while "disconnect" not in seen:
        seen += process.stdout.readline()
    code, out, err = interrupt(process)
    assert (code, err) == (0, "")
    if as_json:
        kinds = [json.loads(line)["type"] for line in (seen + out).splitlines()]
        # the figures come every second, whatever else happens
        assert [kind for kind in kinds if kind != "status"] == ["connect", "disconnect"]
    else:
        assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} connect +device=phone", seen, re.MULTILINE)


def test_frames_and_calls_of_a_trace(ctl: Ctl, gateway: Gateway) -> None:
    process = ctl.start("trace", "phone", "--json")
    device = Device(gateway.plain, "phone").welcomed()
    gateway.wait_until(lambda: process.poll() is None and _calls_until(device, process))
    assert process.stdout is not None
    seen: list[dict[str, Any]] = []
    while not {"frame", "call"} <= {event["kind"] for event in seen}:
        seen.append(json.loads(process.stdout.readline()))
    assert interrupt(process)[0] == 0
    device.cut()


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_trace_until_interrupted(ctl: Ctl, gateway: Gateway, as_json: bool) -> None:
    process = ctl.start("trace", "phone", *(["--json"] if as_json else []))
    device = Device(gateway.plain, "phone").welcomed()
    assert process.stdout is not None
    seen = ""
    gateway.wait_until(lambda: process.poll() is None and _calls_until(device, process))
    while "payments" not in seen:
        seen += process.stdout.readline()
    code, _, err = interrupt(process)
    assert (code, err.replace("waiting for phone\n", "")) == (0, "")
    if as_json:
        assert all(isinstance(json.loads(line), dict) for line in seen.splitlines())
    device.cut()


def _calls_until(device: Device, process: subprocess.Popen[str]) -> bool:
    """A call; whether the trace has begun to say something."""
    import select

    assert process.stdout is not None
    device.call("payments.pay", b"{}")
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_streams_end_with_the_gateway(ctl: Ctl, gateway: Gateway) -> None:
    def end(stop: Callable[[], object]) -> tuple[int, str]:
        process = ctl.start("events", "--status")
        assert process.stdout is not None
        process.stdout.readline()
        stop()
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    assert end(gateway.terminate) == (0, "")
    gateway.start()
    code, err = end(gateway.kill)
    assert code == 3
    assert err.startswith(f"accessgwctl: http://127.0.0.1:{gateway.control} went away: ")
    assert err.count("\n") == 1


def test_a_reader_that_has_seen_enough(ctl: Ctl, gateway: Gateway) -> None:
    process = ctl.start("events", "--status")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    Device(gateway.plain, "phone").welcomed().cut()
    assert (process.wait(PATIENCE), process.stderr.read()) == (0, "")


def test_refusals_and_wrong_usage(ctl: Ctl) -> None:
    for arguments, code, complaint in (
        (("status", "--token", "nonsense"), 1, "accessgwctl: 401: unknown token"),
        (("reload", "--token", "t-read"), 1, "accessgwctl: 403: this needs a token with the role operate"),
        (("devices", "nobody"), 1, "accessgwctl: 404: no such device: nobody"),
        (("push", "--device", "d", "--biz", "b", "--token", "t-push", "{"), 2, "PAYLOAD: expected JSON"),
        (("drain", "--seconds", "soon"), 2, "invalid float value"),
        (("drain", "--seconds", "-1"), 1, "seconds"),
        (("devices", "--limit", "-1"), 1, "limit"),
        (("nonsense",), 2, "invalid choice"),
        ((), 2, "required: COMMAND"),
    ):
        done = ctl.run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert complaint in done.stderr, done
        assert "Traceback" not in done.stderr


def test_a_gateway_that_is_not_there() -> None:
    (port,) = free_ports(1)
    done = Ctl(f"http://127.0.0.1:{port}").run("status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"accessgwctl: cannot reach http://127.0.0.1:{port}: ")


def test_help_names_what_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command in the help, each of them with help of its own."""
    said = Ctl(DEFAULT_URL).said("--help")
    assert DEFAULT_URL in said
    named = set(re.findall(r"^    ([a-z]+) ", said, re.MULTILINE))
    assert named == COMMANDS
    for name in named:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: accessgwctl {name} ")
        assert not re.search(r"\b(upgrade|quic|cluster|redis)", text, re.IGNORECASE)
