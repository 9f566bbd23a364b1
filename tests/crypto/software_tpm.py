"""A TPM 2.0 in software, as a process of a test, with keys that only OpenSSL's provider tpm2 can use."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import NameOID

from loadtest.free_ports import free_ports
from tests.crypto.authority import Authority

_MODULES = [
    Path(libraries) / "ossl-modules" / "tpm2.so"
    for libraries in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
]
MISSING = ", ".join(
    [tool for tool in ("openssl", "swtpm", "tpm2_flushcontext") if shutil.which(tool) is None]
    + ([] if any(module.exists() for module in _MODULES) else ["tpm2-openssl"])
)
"""What is not installed (Debian: swtpm, tpm2-openssl, tpm2-tools), empty where all is."""
_START = 20.0


class SoftwareTpm:
    """Without a resource manager: has room for three keys, also of processes that are gone."""

    def __init__(self, directory: Path) -> None:
        """Returns once it answers."""
        self._state = directory / "tpm"
        self._state.mkdir()
        self._port, _ = free_ports(2, adjacent=True)
        assert self._started(), f"swtpm does not start: {(self._state / 'log').read_text()}"

    def start_again(self) -> None:
        """As at a reset: what keys were loaded is forgotten."""
        self.end()
        assert self._started(), (self._state / "log").read_text()

    def _started(self) -> bool:
        port = self._port  # the library expects the second one to be the next
        self.where = f"swtpm:host=127.0.0.1,port={port}"
        self.environment = {"TPM2OPENSSL_TCTI": self.where, "TPM2TOOLS_TCTI": self.where, "TSS2_LOG": "all+NONE"}
        with (self._state / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "swtpm",
                    "socket",
                    "--tpm2",
                    *("--tpmstate", f"dir={self._state}"),
                    *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
                    *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + _START
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                for each in (port, port + 1):
                    socket.create_connection(("127.0.0.1", each), timeout=_START).close()
            except ConnectionRefusedError:
                time.sleep(0.01)  # another program's start, which it tells nobody of
                continue
            return True
        self.end()
        return False

    def run(self, *command: str) -> None:
        """With this TPM. AssertionError with what it said when it fails."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)

    def forget(self) -> None:
        """Keys that processes have left in it."""
        self.run("tpm2_flushcontext", "--transient-object")

    def make_key(self, path: Path, algorithm: str = "EC", option: str = "group:P-256") -> str:
        self.run(
            "openssl", "genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", algorithm,
            "-pkeyopt", option, "-out", str(path),
        )  # fmt: skip
        return str(path)

    def keep_key(self, directory: Path, handle: str) -> None:
        """A P-256 key that stays in the TPM under that handle."""
        parent, public, private, loaded = (str(directory / name) for name in ("parent", "public", "private", "loaded"))
        for command in (
            ["tpm2_createprimary", "-C", "o", "-c", parent],
            ["tpm2_create", "-C", parent, "-G", "ecc256", "-u", public, "-r", private],
            ["tpm2_load", "-C", parent, "-u", public, "-r", private, "-c", loaded],
            ["tpm2_evictcontrol", "-C", "o", "-c", loaded, handle],
        ):
            self.run(*command)
            self.forget()

    def make_certificate(self, key: str, authority: Authority, path: Path) -> str:
        """Of localhost, for the key in the TPM."""
        public = path.with_suffix(".pub")
        self.run(
            "openssl", "pkey", "-provider", "tpm2", "-provider", "default", "-in", key, "-pubout", "-out", str(public)
        )
        holder = load_pem_public_key(public.read_bytes())
        assert isinstance(holder, ec.EllipticCurvePublicKey)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .issuer_name(authority.subject)
            .public_key(holder)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(authority.key, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return str(path)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def software_tpm(directory: Path) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(directory)
    try:
        yield tpm
    finally:
        tpm.end()
