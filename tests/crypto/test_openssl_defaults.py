"""One ticket of TLS after a full hand-shake of the pure engine; and whose settings its OpenSSL reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKETS = """
import os
from accessgw.crypto.openssl_defaults import load_openssl
{before}
print(load_openssl(), os.environ.get("OPENSSL_CONF"))
from tests.protocols.tls.test_detach import Observed
print(Observed(moving=("gateway",)).link.run().gateway.state.write_sequence)
"""


def tickets(before: str = "", **environment: str) -> tuple[str, int]:
    """What load_openssl() gives with the variable that there is afterwards, and the tickets of a full hand-shake."""
    clean = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    command = [sys.executable, "-c", TICKETS.format(before=before)]
    done = subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, count = done.stdout.splitlines()
    return said, int(count)


def test_a_full_handshake_gives_one_ticket() -> None:
    assert tickets() == ("True None", 1)


def test_the_operator_s_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "openssl.cnf"
    file.write_text("")
    assert tickets(OPENSSL_CONF=str(file)) == (f"False {file}", 2)


def test_what_is_loaded_already_keeps_its_settings() -> None:
    assert tickets(before="import cryptography.x509") == ("False None", 2)
