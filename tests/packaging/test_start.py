"""What a start costs: bytecode is kept, and nothing heavy is imported that the configuration does not ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def said_by(code: str, **environment: str) -> list[str]:
    """The words that a fresh interpreter prints in the project's folder."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_tests_and_their_processes_keep_the_bytecode_of_what_they_import() -> None:
    assert not sys.dont_write_bytecode
    assert said_by("import sys; print(sys.dont_write_bytecode)") == ["False"]


def test_a_start_parses_no_declarations_in_c() -> None:
    imported = said_by("import sys, accessgw.gateway, accessgw.client.cli; print(*sys.modules)")
    assert "protocols.mmtp.hpack_backends" in imported
    assert not {"cffi", "pycparser"} & set(imported)


CONFIGURED = (
    "argon2", "jwt", "accessgw.crypto.http_authenticator", "accessgw.crypto.json_web_tokens",
    "accessgw.crypto.password_file", "accessgw.crypto.scram", "protocols.scram",
)  # fmt: skip
"""What some kinds of authenticators need, imported for those who configure them."""


def test_authenticators_that_are_not_configured_are_not_imported() -> None:
    imported = said_by("import sys, accessgw.gateway; print(*sys.modules)")
    assert "accessgw.crypto.authenticators" in imported
    assert not set(CONFIGURED) & set(imported)


HEAVY = (
    "accessgw.client", "accessgw.demo", "accessgw.ops.ctl", "aioquic", "amqtt", "cffi", "hypothesis", "pkcs11",
    "prometheus_client", "pycparser", "pytest", "rich", "http.server", "multiprocessing", "twisted.trial",
    "twisted.web", "unittest", "xml",
)  # fmt: skip
"""Nothing of these serves the configuration for development."""
START = """
import gc, sys
import twisted.application.app
from accessgw.service import Options, makeService
options, before = Options(), sum(one["collections"] for one in gc.get_stats())
options.parseOptions(["--config", "etc/accessgw.toml"])
makeService(options)
print(sum(one["collections"] for one in gc.get_stats()) - before, gc.isenabled(), *sys.modules)
"""


def test_a_start_imports_nothing_heavy_and_looks_for_no_garbage(tmp_path: Path) -> None:
    collections, enabled, *imported = said_by(START, ACCESSGW__STATE_DIR=str(tmp_path / "state"))
    assert "accessgw.rooms" in imported
    assert not set(HEAVY) & set(imported)
    assert int(collections) < 10
    assert enabled == "True"


def test_a_device_at_the_shell_that_speaks_mmtp_runs_without_twisted() -> None:
    imported = said_by("import sys, accessgw.client.cli as cli; cli.make_parser(); print(*sys.modules)")
    assert "accessgw.client.aio" in imported
    assert not {"twisted", "accessgw.client.mqtt", "protocols.mqtt"} & set(imported)


def test_a_signer_starts_without_twisted_and_without_the_package_cryptography() -> None:
    imported = said_by("import sys, accessgw.crypto.signers.main; print(*sys.modules)")
    assert "accessgw.crypto.signers.server" in imported
    assert not {"twisted", "cryptography", "msgspec"} & set(imported)


def test_accessgwctl_imports_what_single_commands_need_for_those() -> None:
    imported = said_by("import sys, accessgw.ops.ctl as ctl; ctl._parser(); print(*sys.modules)")
    assert "accessgw.ops.ctl_dictionary" in imported
    assert not {"twisted", "argon2", "rich.progress", "accessgw.config", "tomllib"} & set(imported)
