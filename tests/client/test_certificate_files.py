"""Files of certificates and keys that no connection could be made with: told at once, and which one it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.internet.testing import MemoryReactorClock

from accessgw.client import CallFailed, Client, Note
from accessgw.client.addresses import parse
from accessgw.client.aio import Client as AioClient
from accessgw.client.certificate_files import authorities_in, own_certificate
from accessgw.client.tickets import Flight
from accessgw.client.tls import ClientTls
from accessgw.client.twisted_transports import ALPN_SHORT, Endpoints
from tests.client import tls_files
from tests.client.strict_server import StrictServer
from tests.reactor_loop import run

Own = dict[str, str]


@pytest.fixture
def good(tmp_path: Path) -> Own:
    ca, cert, key = tls_files.write(tmp_path)
    return {"ca": str(ca), "cert": str(cert), "key": str(key)}


def missing(good: Own, folder: Path) -> str:
    good["cert"] = str(folder / "nowhere.pem")
    return f"{good['cert']}: No such file or directory"


def missing_key(good: Own, folder: Path) -> str:
    good["key"] = str(folder / "nowhere.pem")
    return f"{good['key']}: No such file or directory"


def no_pem(good: Own, folder: Path) -> str:
    Path(good["cert"]).write_bytes(bytes(range(256)))
    return f"{good['cert']}: expected PEM certificates, found none"


def no_pem_key(good: Own, folder: Path) -> str:
    Path(good["key"]).write_text("junk")
    return f"{good['key']}: expected an unencrypted PEM private key"


def encrypted_key(good: Own, folder: Path) -> str:
    key = load_pem_private_key(Path(good["key"]).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    Path(good["key"]).write_bytes(locked)
    return f"{good['key']}: expected an unencrypted PEM private key"


def other_key(good: Own, folder: Path) -> str:
    (folder / "other").mkdir()
    good["key"] = str(tls_files.write(folder / "other")[2])
    return f"{good['key']}: is not the key of {good['cert']}"


def no_key_in_the_certificate(good: Own, folder: Path) -> str:
    del good["key"]
    here = "beside the certificate, as no other file is named for it"
    return f"{good['cert']}: expected an unencrypted PEM private key {here}"


def damaged_chain(good: Own, folder: Path) -> str:
    with open(good["cert"], "a") as file:
        file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return f"{good['cert']}: expected PEM certificates, one is damaged"


def a_folder(good: Own, folder: Path) -> str:
    good["cert"] = str(folder)
    return f"{folder}: Is a directory"


def no_authority(good: Own, folder: Path) -> str:
    Path(good["ca"]).write_text("nothing")
    return f"{good['ca']}: expected PEM certificates, found none"


def damaged_authority(good: Own, folder: Path) -> str:
    with open(good["ca"], "a") as file:
        file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return f"{good['ca']}: expected PEM certificates, one is damaged"


SPOILT = [
    missing, missing_key, no_pem, no_pem_key, encrypted_key, other_key, no_key_in_the_certificate, damaged_chain, a_folder,
    no_authority, damaged_authority,
]  # fmt: skip
Spoil = Callable[[Own, Path], str]


def faults(own: Own) -> Iterator[str]:
    """What each of the ways to a connection says."""
    options: dict[str, Any] = {"key": own["cert"], **own}
    long = ClientTls(**options, insecure=False)
    short = Endpoints(MemoryReactorClock(), **options, insecure=False)
    for attempt in (
        long.check,
        lambda: long.connection(parse("mmtps://gw.test"), Flight()),
        lambda: short.endpoint(parse("https://gw.test"), ALPN_SHORT),
        AioClient("https://gw.test", "d1", **own)._context,
        AioClient("mmtps://gw.test", "d1", **own).check_files,
    ):
        try:
            attempt()
        except ValueError as error:
            yield str(error)
        else:
            yield ""


@pytest.mark.parametrize("spoil", SPOILT)
def test_the_file_at_fault_is_named_whatever_the_connection(good: Own, tmp_path: Path, spoil: Spoil) -> None:
    wanted = spoil(good, tmp_path)
    told = list(faults(good))
    assert [one.startswith(wanted) for one in told] == [True] * len(told), told


def test_good_ones_are_taken(good: Own) -> None:
    assert set(faults(good)) == {""}
    own = own_certificate(good["cert"], good["key"])
    assert (own.chain, own.key) == (Path(good["cert"]).read_bytes(), Path(good["key"]).read_bytes())
    assert repr(own.key) not in repr(own)
    both = Path(good["cert"]).with_name("both.pem")
    both.write_bytes(own.key + own.chain)
    assert set(faults({"ca": good["ca"], "cert": str(both)})) == {""}
    Path(good["ca"]).write_bytes(b"about it\n" + Path(good["ca"]).read_bytes() * 2)
    assert len(authorities_in(good["ca"])) == 2


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[StrictServer]:
    (tmp_path / "server").mkdir()
    with StrictServer(tmp_path / "server") as server:
        yield server


@pytest.mark.parametrize("spoil", [missing, no_pem, other_key])
@pytest.mark.parametrize("how", ["--short", "--verbose", "--idempotent"])
def test_the_command_line_says_it_before_it_connects(
    strict: StrictServer, good: Own, tmp_path: Path, spoil: Spoil, how: str
) -> None:
    wanted = spoil(good, tmp_path)
    places = ["--url", f"mmtps://127.0.0.1:{strict.port}", "--ca", strict.ca, "--timeout", "50"]
    done = subprocess.run(
        [sys.executable, "-m", "accessgw.client.cli", "call", "echo", how, *places,
         "--cert", good["cert"], "--key", good["key"]],
        capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"accessgw-client: error: {wanted}"
    assert strict.accepted == 0


def test_files_that_a_plain_connection_does_not_need_are_not_looked_at(good: Own, tmp_path: Path) -> None:
    missing(good, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "accessgw.client.cli", "call", "echo", "--url", "mmtp://127.0.0.1:1", "--cert", good["cert"]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert good["cert"] not in done.stderr


# --- an application that does not ask


async def told_by_aio(url: str, own: Own) -> tuple[str, list[str]]:
    notes: list[Note] = []
    async with asyncio.timeout(30):
        client = AioClient(url, "d1", "t", **own, on_note=notes.append)
        try:
            await client.call("echo", timeout=0.3)
        except CallFailed as failure:
            return failure.name, [note.message for note in notes]
        finally:
            await client.close()
    return "", []


async def told_by_twisted(reactor: Any, url: str, own: Own) -> tuple[str, list[str]]:
    notes: list[Note] = []
    client = Client(url, "d1", "t", reactor=reactor, **own, on_note=notes.append)
    try:
        await client.call("echo", timeout=0.3)
    except CallFailed as failure:
        return failure.name, [note.message for note in notes]
    finally:
        await client.close()
    return "", []


def test_it_hears_which_file_and_the_client_goes_on(strict: StrictServer, good: Own, tmp_path: Path) -> None:
    wanted, url = missing(good, tmp_path), f"https://127.0.0.1:{strict.port}"
    for name, notes in (asyncio.run(told_by_aio(url, good)), run(told_by_twisted, url, good)):
        assert name == "deadline"
        assert set(notes) == {wanted}
    assert strict.accepted == 0
