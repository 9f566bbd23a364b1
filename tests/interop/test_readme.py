"""The tutorial of the README, line by line, against the gateway that `make run` starts."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.programs import needs
from tests.system.gateway_process import PATIENCE, START_TIMEOUT

ROOT = Path(__file__).resolve().parent.parent.parent
PORTS = (7443, 8883, 1883, 7080, 7900, 7800)

pytestmark = needs("curl", "curl")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)


def in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory as the reader's: etc/, .venv/bin, and the gateway running in it with its defaults."""
    taken = [port for port in PORTS if in_use(port)]
    if taken:
        pytest.skip(f"ports of the default configuration are in use: {taken}")
    here = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "etc", here / "etc")
    (here / ".venv").mkdir()
    (here / ".venv/bin").symlink_to(Path(sys.executable).parent)
    command = [Path(sys.executable).with_name("twistd"), "--nodaemon", "--pidfile=", "accessgw"]
    with (here / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=here, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "try, in another shell" not in (here / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (here / "log").read_text()
            time.sleep(0.05)
        yield here
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pattern(expected: str) -> re.Pattern[str]:
    """Lines as they stand; `...` is any text, alone on a line any number of lines; space is any space."""
    lines = []
    for line in expected.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            pieces = [r"\s+".join(map(re.escape, piece.split(" "))) for piece in line.split("...")]
            lines.append(".*".join(pieces) + r"\s*\n")
    return re.compile("".join(lines))


def run_as_written(place: Path, commands: list[str]) -> None:
    for part in commands:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        printed = done.stdout if done.stdout.endswith("\n") else done.stdout + "\n"
        assert pattern(expected).match(printed), f"{command}\n{printed}"


def console() -> list[str]:
    return [part for block in blocks("console") for part in re.split(r"^\$ ", block, flags=re.M)[1:]]


def test_the_tutorial(place: Path) -> None:
    commands = [part for part in console() if not part.startswith("mosquitto_")]
    assert len(commands) >= 14
    run_as_written(place, commands)


@needs("mosquitto_sub", "mosquitto-clients")
def test_the_lines_with_mosquitto(place: Path) -> None:
    commands = [part for part in console() if part.startswith("mosquitto_")]
    assert len(commands) == 2
    run_as_written(place, commands)


@needs("mosquitto_sub", "mosquitto-clients")
def test_the_mqtt_lines_that_make_run_prints(place: Path) -> None:
    publish, listen = (
        line.strip() for line in (place / "log").read_text().split("and with any MQTT client:\n")[1].splitlines()[:2]
    )
    subprocess.run(["bash", "-c", publish], cwd=place, capture_output=True, timeout=60, check=True)
    heard = subprocess.run(
        ["bash", "-c", f"{listen} -C 1 -W 20"], cwd=place, capture_output=True, text=True, timeout=60, check=True
    )
    assert heard.stdout.startswith("sensors/meter")


def test_the_program(place: Path) -> None:
    (program,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "paid\n", done.stderr


def test_the_three_lines_that_make_run_prints(place: Path) -> None:
    lines = (place / "log").read_text().split("try, in another shell:\n")[1].splitlines()[:3]
    call, listen, push = (line.strip() for line in lines)
    assert (
        '"state": "paid"'
        in subprocess.run(
            ["bash", "-c", call], cwd=place, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    )
    subprocess.run(["bash", "-c", push], cwd=place, capture_output=True, timeout=60, check=True)
    heard = subprocess.run(
        ["bash", "-c", f"{listen} --count 1"], cwd=place, capture_output=True, text=True, timeout=60, check=True
    )
    assert "已发货" in heard.stdout


def test_every_file_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(
        re.findall(r"`((?:tests|accessgw|protocols|etc|docs)/[\w./]*)`", text)
    )
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
