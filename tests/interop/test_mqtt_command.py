"""accessgw-client mqtt against mosquitto."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.free_ports import free_ports
from tests.client import tls_files

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(plain URL, TLS URL, authority)."""
    directory = tmp_path_factory.mktemp("mosquitto")
    ca, chain, key = tls_files.write(directory)
    plain, tls = free_ports(2)
    (directory / "m.conf").write_text(
        f"user {getpass.getuser()}\nallow_anonymous true\nlistener {plain} 127.0.0.1\nlistener {tls} 127.0.0.1\ncertfile {chain}\nkeyfile {key}\n"
    )
    process = subprocess.Popen(
        [str(MOSQUITTO), "-c", str(directory / "m.conf"), "-v"], stderr=subprocess.PIPE, text=True, cwd=directory
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "running" in line:
            break
    assert process.poll() is None and said, "".join(said)
    # the pipe is read no more: it must not fill up
    process.stderr.close()
    yield f"mqtt://127.0.0.1:{plain}", f"mqtts://127.0.0.1:{tls}", ca
    process.terminate()
    process.wait(10)


def client(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accessgw.client.cli", "mqtt", *arguments, "--token", ""],
        capture_output=True,
        text=True,
        timeout=90,
        input=input,
        check=False,
    )


@pytest.mark.parametrize("version", ["4", "5"])
def test_what_is_published_is_seen(broker: tuple[str, str, Path], version: str) -> None:
    plain, secure, ca = broker
    sent = client(
        "publish", "-t", f"a/{version}", "-m", "-", "-q", "2", "-r", "-V", version, "--url", plain, input="您"
    )
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "")
    seen = client(
        "subscribe", f"a/{version}", "-q", "1", "-C", "1", "-V", version, "--url", secure, "--ca", str(ca), "-v"
    )
    assert (seen.returncode, json.loads(seen.stdout)) == (
        0, {"topic": f"a/{version}", "qos": 1, "retain": True, "text": "您"},
    )  # fmt: skip
    assert "-> SUBSCRIBE" in seen.stderr
    assert "<- PUBLISH" in seen.stderr


def test_exit_codes(broker: tuple[str, str, Path]) -> None:
    plain, secure, _ = broker
    assert client("publish", "-t", "a/#", "-n", "--url", plain).returncode == 1
    assert client("publish", "-t", "a", "-n", "--url", "http://127.0.0.1").returncode == 2
    assert client("publish", "-t", "a", "-n", "--url", f"mqtt://127.0.0.1:{free_ports(1)[0]}").returncode == 3
    untrusted = client("publish", "-t", "a", "-n", "--url", secure)
    assert untrusted.returncode == 3
    assert "cannot connect" in untrusted.stderr
    assert client("call", "x", "{", "--url", plain).returncode == 2
    unanswered = client("call", "x", "{}", "--timeout", "3", "--url", plain)
    assert (unanswered.returncode, unanswered.stderr) == (1, "no answer within 3 s\n")
