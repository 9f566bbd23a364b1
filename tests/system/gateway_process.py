"""A gateway in a process of its own, as an operator starts it, for tests that kill, signal and talk to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from loadtest.free_ports import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT = PATIENCE = 90.0
"""Seconds after which a state is taken never to come, on the busiest machine: nothing is told from the time it takes."""
TRAINING_PATIENCE = 600.0
"""As well, of a training: it runs at idle priority, and a busy machine leaves it next to nothing."""
DEFECT = re.compile("Unhandled|Traceback|#critical|Exception in thread|never retrieved|ResourceWarning")
"""What no peer may bring into the log."""

LISTENERS = """
[[listeners]]
name = "phones"
transport = "tls"
port = {tls}
protocols = ["mmtp/1", "http/1.1"]

[[listeners]]
name = "plain"
transport = "tcp"
port = {plain}
protocols = ["mmtp/1", "http/1.1"]
"""

USERS = 10
"""Users with a token of their own: `token-of-0` for `user0`, ..."""
ACCESS = """
[[authenticators]]
kind = "static"
tokens = [
  {{ token = "device-token", loopback_only = true }},
  {{ token = "alice-token", user = "alice" }},
  {users}
]

[control]
port = {control}
tokens = [
  {{ token = "t-push", roles = ["push"] }},
  {{ token = "t-read", roles = ["read"] }},
  {{ token = "t-operate", roles = ["operate"] }},
]
"""

ROUTES = """
[[clusters]]
name = "business"
endpoints = ["{upstream}"]

[[routes]]
operation = "*"
cluster = "business"

[[routes]]
operation = "query.*"
cluster = "business"
idempotent = true

[[routes]]
path = "/api/"
cluster = "business"
require = "none"
"""


class Gateway:
    """One gateway with its own state directory; `start` again after `kill` keeps the state and the ports."""

    def __init__(self, directory: Path, upstream: str = "http://127.0.0.1:9", extra: str = "", top: str = "") -> None:
        self.directory = directory
        self.tls, self.plain, self.control = free_ports(3)
        self.config = directory / "accessgw.toml"
        self.log = directory / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.upstream = upstream
        self.extra = extra
        self.top = top
        self.import_path = [str(ROOT)]
        """Where it finds modules and installed distributions beside those of the environment."""
        self.environment: dict[str, str] = {}
        self.write_config()

    def write_config(self, extra: str | None = None) -> None:
        text = f'state_dir = "{self.directory / "state"}"\n' + self.top + LISTENERS + ACCESS + ROUTES
        users = ", ".join(f'{{ token = "token-of-{number}", user = "user{number}" }}' for number in range(USERS))
        values = {"tls": self.tls, "plain": self.plain, "control": self.control, "upstream": self.upstream}
        values["users"] = users
        self.config.write_text(text.format(**values) + (self.extra if extra is None else extra))

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"

    def accesses(self, begin: int = 0) -> list[dict[str, Any]]:
        """The access log behind so many bytes; what is being written only as far as its lines are whole."""
        lines = self.access_log.read_bytes()[begin:].splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def log_accesses(self) -> None:
        """Write an access log; before the start."""
        self.extra += f'\n[log]\naccess = "{self.access_log}"\n'
        self.write_config()

    def start(self) -> Gateway:
        """Start it and wait until it says that it is ready."""
        twistd = Path(sys.executable).with_name("twistd")
        command = [twistd, "--nodaemon", "--pidfile=", "accessgw", "--config", self.config]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(self.import_path)} | self.environment,
            )
        self.wait_until(lambda: self.http("GET", "/health/ready")[0] == 200, START_TIMEOUT)
        return self

    def wait_until(self, true: Any, timeout: float = PATIENCE) -> None:
        """Poll a state of the process; fails with its log. It looks once more when the time is over: the whole machine may
        have been stopped."""
        deadline = time.monotonic() + timeout
        over = False
        while not over:
            assert self.process is not None
            over = time.monotonic() >= deadline
            if self.process.poll() is not None:
                break
            try:
                if true():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(
            f"it did not come to be; exit code {self.process and self.process.poll()}\n{self.said()[-4000:]}"
        )

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it did not stop within {timeout} s\n{self.said()[-4000:]}") from None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def http(
        self, method: str, path: str, body: Any = None, token: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """A request to the control API: (status, parsed JSON or text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=PATIENCE)
        try:
            fields = {"Authorization": f"Bearer {token}"} if token else {}
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, fields | (headers or {}))
            answer = connection.getresponse()
            text = answer.read().decode()
            kind = answer.getheader("Content-Type") or ""
            return answer.status, json.loads(text) if "json" in kind and text else text
        finally:
            connection.close()

    def push(self, to: dict[str, Any], payload: Any, biz: str = "orders", **more: Any) -> dict[str, Any]:
        """One push; its place."""
        status, answer = self.http("POST", "/v1/push", {"to": to, "biz": biz, "payload": payload} | more, "t-push")
        assert status == 200, (status, answer)
        return answer

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series, 0.0 when there is none."""
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
        for line in str(self.http("GET", "/metrics", None, "t-read")[1]).splitlines():
            series, _, value = line.rpartition(" ")
            if series == wanted:
                return float(value)
        return 0.0

    def assert_sound(self) -> None:
        """It runs, and its log tells of no defect."""
        assert self.process is not None
        assert self.process.poll() is None
        trouble = [line for line in self.said().splitlines() if DEFECT.search(line)]
        assert not trouble, self.said()[-6000:]

    @property
    def ca(self) -> Path:
        return self.directory / "state" / "ca.pem"
