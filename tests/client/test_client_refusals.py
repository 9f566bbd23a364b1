"""Certificates of the client that the gateway's TLS refuses: how that is told, and that it ends the attempts."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from accessgw.client import CallFailed, Client, Note
from accessgw.client.commands import Changed
from accessgw.client.tls_errors import is_refusal, words_of
from protocols.mmtp.handshake import Welcome
from protocols.mmtp.statuses import Status
from protocols.tls.alerts import name_of, plaintext_alert
from tests.client import tls_files
from tests.client.driver import Driver
from tests.client.fake_gateway import FakeGateway
from tests.client.strict_server import StrictServer
from tests.reactor_loop import run

REFUSED = [42, 43, 44, 45, 46, 47, 48, 116]
OTHERS = [10, 40, 70, 80, 120]


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[StrictServer]:
    with StrictServer(tmp_path) as server:
        yield server


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accessgw.client.cli", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def of_the_library(alert: int) -> ssl.SSLError:
    """What the standard library says when the server answers with an alert."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="gw")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(plaintext_alert(alert))
    with pytest.raises(ssl.SSLError) as raised:
        tls.do_handshake()
    return raised.value


def of_pyopenssl(alert: int) -> SSL.Error:
    tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    tls.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    tls.bio_write(plaintext_alert(alert))
    with pytest.raises(SSL.Error) as raised:
        tls.do_handshake()
    return raised.value


@pytest.mark.parametrize("make", [of_the_library, of_pyopenssl])
@pytest.mark.parametrize("alert", REFUSED + OTHERS)
def test_alerts_about_certificates_are_known(make: Any, alert: int) -> None:
    error = make(alert)
    assert is_refusal(error) == (alert in REFUSED)
    said = words_of(error)
    assert name_of(alert).replace("_", " ") in said
    assert "('" not in said


def test_what_we_find_wrong_ourselves_is_no_refusal_of_ours() -> None:
    assert not is_refusal(SSL.Error([("SSL routines", "", "certificate verify failed")]))
    assert not is_refusal(ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired"))
    assert not is_refusal(ConnectionResetError("alert certificate expired"))
    assert words_of(TimeoutError()) == "TimeoutError"


# --- short connections


def refuse(driver: Driver, times: int) -> None:
    for _ in range(times):
        driver.core.post_failed(driver.posts[-1].post, "alert certificate expired", driver.now, refused=True)
        driver.run()
        driver.advance(6.0)


def test_a_refused_certificate_ends_a_call() -> None:
    driver = Driver("https://gw:7443")
    driver.auto_post = False
    key = driver.call()
    refuse(driver, 1)
    failure = driver.outcomes[key]
    assert isinstance(failure, CallFailed)
    assert (failure.status, failure.message) == (Status.AUTH, "alert certificate expired")
    assert len(driver.posts) == 1


def test_after_every_address_was_tried() -> None:
    driver = Driver(["https://one:7443", "https://two:7443"])
    driver.auto_post = False
    key = driver.call()
    refuse(driver, 1)
    assert key not in driver.outcomes
    refuse(driver, 1)
    assert isinstance(driver.outcomes[key], CallFailed)
    assert [post.address.host for post in driver.posts] == ["one", "two"]


def test_while_the_long_connection_may_take_it_the_call_waits_for_that() -> None:
    driver = Driver("mmtps://gw:7443", connect=False)
    driver.accepting = driver.auto_post = False
    driver.core.connect(driver.now)
    key = driver.call(timeout=30.0)
    driver.advance(2.0)
    assert len(driver.posts) == 1
    refuse(driver, 1)
    assert key not in driver.outcomes and len(driver.posts) == 1
    driver.accepting = True
    driver.advance(20.0)
    assert driver.outcomes[key].status == Status.OK


def test_the_command_line_makes_one_hand_shake_and_says_why_it_failed(strict: StrictServer) -> None:
    url = f"https://127.0.0.1:{strict.port}"
    own = ["--cert", strict.cert, "--key", strict.key]
    done = command("--short", "--url", url, "--ca", strict.ca, *own, "call", "echo")
    assert done.returncode == 3
    (words,) = re.findall(f"^cannot connect to {url}: (.+)$", done.stderr, re.MULTILINE)
    assert words.startswith("TLS: ") and words.endswith("alert certificate expired"), (
        "without names of OpenSSL's source"
    )
    assert strict.shaken == 1


async def call_once(reactor: Any, url: str, ca: str) -> list[Any]:
    notes: list[Note] = []
    client = Client(url, "d1", "t", reactor=reactor, ca=ca, on_note=notes.append)
    try:
        await client.call("echo", timeout=20.0)
    except CallFailed as failure:
        return [failure.name, failure.message, *(note.message for note in notes)]
    finally:
        await client.close()
    return []


def test_so_does_the_face_of_twisted(strict: StrictServer) -> None:
    told = run(call_once, f"https://127.0.0.1:{strict.port}", strict.ca, timeout=90)
    words = "TLS: tlsv13 alert certificate required"
    assert told == ["auth", words, words]
    assert strict.shaken == 1


# --- MQTT


def test_the_mqtt_command_says_it_in_words(strict: StrictServer) -> None:
    url = f"mqtts://127.0.0.1:{strict.port}"
    done = command("mqtt", "publish", "-t", "t", "-m", "x", "--url", url, "--ca", strict.ca)
    assert done.returncode == 3
    assert done.stderr == f"cannot connect to {url}: TLS: tlsv13 alert certificate required\n"


def test_files_of_mqtt_that_cannot_be_used_are_told(strict: StrictServer, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    nothing, key = others / "nothing.pem", tls_files.write(others)[2]
    nothing.write_text("nothing")
    for own in (["--cert", str(nothing)], ["--cert", strict.cert, "--key", str(key)]):
        done = command("mqtt", "publish", "-t", "t", "-m", "x", "--ca", strict.ca, *own)
        assert done.returncode == 2
        assert f"error: {own[-1]}: " in done.stderr
        assert "Traceback" not in done.stderr and "('" not in done.stderr
    assert strict.shaken == 0


# --- the gateway's own words


@pytest.mark.parametrize("message", ["the certificate is another device's", ""])
def test_without_another_token_the_gateways_words_are_told(message: str) -> None:
    driver = Driver(gateway=FakeGateway(welcome=Welcome(result=Status.AUTH, message=message)))
    driver.core.token(None, driver.now)
    driver.run()
    closed = driver.kinds(Changed)[-1]
    assert (closed.status, closed.message) == (Status.AUTH, message or "the credentials were refused")
