"""Independent programs of the interop tests; a missing one skips its tests and says so."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Marks a test that runs `program` of the Debian package `package`."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program} here (Debian package {package})")


def run(*command: object, data: bytes = b"", timeout: float = 120.0) -> subprocess.CompletedProcess[bytes]:
    """Run to its end, with `data` on standard input."""
    return subprocess.run(list(map(str, command)), input=data, capture_output=True, timeout=timeout, check=False)
