"""`twistd accessgw` exists from a wheel, from an editable install and in a checkout through make."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


def environment() -> dict[str, str]:
    """Nothing of this process's Python settings, and no index: what is needed is there already."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    return kept | {"PIP_NO_INDEX": "1"}


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of this project alone, without what a build or an install leaves behind."""
    copy = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "var", "build", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis", "dropin.cache"
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


def fresh_venv(where: Path) -> Path:
    """A virtual environment that sees the dependencies of this one, but not the project in it.

    A path named in a .pth file does not have its own .pth files read, so an editable install of the
    project does not shine through.
    """
    venv.create(where, with_pip=True)
    run(where / "bin/python", *PIP, "uninstall", "--yes", "setuptools", cwd=where)  # old ones bring an old one along
    scheme = sysconfig.get_path("purelib", vars={"base": str(where), "platbase": str(where)})
    parents = {sysconfig.get_path("purelib"), *site.getsitepackages()}
    Path(scheme, "dependencies.pth").write_text("\n".join(sorted(parents)) + "\n")
    python = where / "bin/python"
    (where / "bin/twistd").write_text(f"#!{python}\nfrom twisted.scripts.twistd import run\nrun()\n")
    (where / "bin/twistd").chmod(0o755)
    return python


def offers_accessgw(python: Path, cwd: Path) -> bool:
    return "Access gateway for phones and devices" in run(python.parent / "twistd", "--help", cwd=cwd)


def test_not_there_without_an_install(tmp_path: Path) -> None:
    assert not offers_accessgw(fresh_venv(tmp_path / "v"), tmp_path)


def test_from_a_wheel(checkout: Path, tmp_path: Path) -> None:
    python = fresh_venv(tmp_path / "v")
    run(
        sys.executable,
        *PIP,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path / "dist",
        checkout,
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "dist").glob("accessgw-*.whl")
    run(python, *PIP, "install", "--no-deps", wheel, cwd=tmp_path)
    assert offers_accessgw(python, tmp_path)
    run(python, "-c", "import accessgw.service, accessgw.gateway, protocols.mmtp, twisted.web.http", cwd=tmp_path)
    run(python, "-c", "from accessgw.crypto.openssl_defaults import FILE; assert FILE.is_file()", cwd=tmp_path)


def test_from_an_editable_install(checkout: Path, tmp_path: Path) -> None:
    python = fresh_venv(tmp_path / "v")
    run(
        python,
        *PIP,
        "install",
        "--no-deps",
        "--no-build-isolation",
        "-e",
        checkout,
        "--config-settings",
        "editable_mode=compat",
        cwd=tmp_path,
    )
    assert offers_accessgw(python, tmp_path)


def test_in_a_checkout_through_make(checkout: Path, tmp_path: Path) -> None:
    fresh_venv(checkout / ".venv")
    run("make", "install", cwd=checkout)
    bad = tmp_path / "bad.toml"
    bad.write_text('[[listeners]]\nname = "a"\nport = "x"\n')
    said = run("make", "run", f"CONFIG={bad}", cwd=checkout, code=2)  # make's own code for a failed command
    assert 'listeners[0].port: expected an integer in 1..65535, got "x"' in said
    assert "Error 1" in said
