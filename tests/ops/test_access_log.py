from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from msgspec.structs import replace

from accessgw.model.calls import CallRecord
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import LogSettings
from accessgw.ops import access_log
from accessgw.ops.access_log import AccessLog
from tests.crypto.authority import Authority

CALL = CallRecord("payments.pay", "d1", "alice", 255, "mmtp", 0, 200, "demo", "127.0.0.1:7800", 1, 10, 20, 0.0123456789)
INFO = ConnectionInfo(id=3, listener="tls", transport="tls", peer="192.0.2.7", peer_port=5, alpn="mmtp/1")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "access.log"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "INTERVAL", 0.001)


def wait_until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(5000):
        if true():
            return
        pause.wait(0.002)
    raise AssertionError("it did not come to be")


def test_calls_and_connections_are_json_lines(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)), wall=lambda: 1_700_000_000.12345)
    log.start()
    log.opened(INFO)
    log.call(CALL)
    log.closed(INFO, CloseReason.IDLE, "", 100, 200, 61.5)
    log.closed(INFO, CloseReason.PROTOCOL_ERROR, "status 1: bad frame", 1, 2, 0.5)
    log.stop()
    opened, call, closed, broken = lines(path)
    assert opened == {
        "time": 1_700_000_000.123, "event": "open", "connection_id": 3, "listener": "tls", "transport": "tls",
        "peer": "192.0.2.7", "peer_port": 5, "alpn": "mmtp/1",
    }  # fmt: skip
    assert (call["event"], call["operation"], call["call_id"], call["duration"]) == (
        "call", "payments.pay", "00000000000000ff", 0.012346,
    )  # fmt: skip
    assert (closed["event"], closed["reason"], closed["duration"]) == ("close", "idle", 61.5)
    assert "detail" not in closed
    assert broken["detail"] == "status 1: bad frame"
    assert not {"device", "user", "protocol"} & closed.keys()
    assert (log.written, log.dropped, log.errors, log.pending) == (4, 0, 0, 0)


def test_the_line_of_a_call_says_why_the_upstream_failed_and_nothing_where_it_did_not(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.call(CALL)
    log.call(dataclasses.replace(CALL, status=19, reason="connect", detail="TLS: no hand-shake within 1 s"))
    log.stop()
    well, failed = lines(path)
    assert not {"reason", "detail"} & well.keys()
    assert (failed["reason"], failed["detail"]) == ("connect", "TLS: no hand-shake within 1 s")


def test_the_line_open_says_how_the_connection_came(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.opened(INFO)
    early = replace(INFO, resumed=True, early=True)
    log.opened(early)
    early.early = False  # the hand-shake is complete before the thread comes to it
    log.opened(replace(INFO, resumed=True))
    log.stop()
    assert [(line.get("resumed"), line.get("early")) for line in lines(path)] == [
        (None, None), (True, True), (True, None),
    ]  # fmt: skip


def test_a_first_flight_with_a_wrong_clock_leaves_a_line(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.untimely(INFO, "d1", -37.12345)
    log.untimely(INFO, "d2", None)
    log.reconfigure(LogSettings(access=str(path), connections=False))
    log.untimely(INFO, "d3", 1.0)
    log.stop()
    behind, silent = lines(path)
    assert {name: behind[name] for name in ("event", "reason", "device", "clock_ahead", "connection_id", "peer")} == {
        "event": "early_refused", "reason": "clock", "device": "d1", "clock_ahead": -37.123, "connection_id": 3,
        "peer": "192.0.2.7",
    }  # fmt: skip
    assert silent["device"] == "d2"
    assert "clock_ahead" not in silent


def test_a_refusal_says_what_was_shown(path: Path, tmp_path: Path) -> None:
    name = x509.DNSName("a" * 300)
    issued = Authority(tmp_path, "devices").issue('d1"\n', names=[x509.UniformResourceIdentifier("urn:d1"), name])
    shown = replace(INFO, certificate=issued.der, tls_version="TLSv1.3", server_name="gw\x01")
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.closed(shown, CloseReason.HANDSHAKE_FAILED, "why", 1, 2, 0.5)
    log.closed(replace(INFO, fingerprint=b"f" * 32, device="d1"), CloseReason.AUTH_FAILED, "why", 1, 2, 0.5)
    log.closed(replace(INFO, certificate=b"junk"), CloseReason.HANDSHAKE_FAILED, "why", 1, 2, 0.5)
    log.closed(replace(shown, fingerprint=b"f" * 32), CloseReason.IDLE, "", 1, 2, 0.5)
    log.stop()
    certificate, ticket, junk, idle = lines(path)
    assert certificate["subject"].startswith('CN=d1\\"')
    assert certificate["names"].startswith("aaa") and certificate["names"].endswith("...")
    assert len(certificate["names"]) == 256
    parsed = x509.load_der_x509_certificate(issued.der)
    assert int(certificate["serial"], 16) == parsed.serial_number
    assert certificate["fingerprint"] == sha256(issued.der).hexdigest()
    assert (certificate["tls_version"], certificate["server_name"]) == ("TLSv1.3", "gw\x01")
    assert (ticket["device"], ticket["fingerprint"]) == ("d1", "66" * 32)
    assert junk["fingerprint"] == sha256(b"junk").hexdigest()
    assert not {"subject", "names", "serial"} & (ticket.keys() | junk.keys())
    assert not {"subject", "names", "serial", "fingerprint", "tls_version", "server_name"} & idle.keys()


def test_the_end_of_a_connection_names_the_device_that_was_welcomed_on_it(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.closed(replace(INFO, device="d1", user="alice", protocol="mqtt 5"), CloseReason.REVOKED, "", 1, 2, 0.5)
    log.closed(replace(INFO, device="d2"), CloseReason.IDLE, "", 1, 2, 0.5)
    log.stop()
    named, nobody = lines(path)
    assert (named["device"], named["user"], named["reason"]) == ("d1", "alice", "revoked")
    assert named["protocol"] == "mqtt 5"
    assert nobody["device"] == "d2"
    assert "user" not in nobody


def test_what_is_switched_off_is_not_logged(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path), calls=False))
    log.start()
    log.call(CALL)
    log.opened(INFO)
    log.reconfigure(LogSettings(access=str(path), connections=False))
    log.opened(INFO)
    log.call(CALL)
    log.stop()
    assert [line["event"] for line in lines(path)] == ["open", "call"]


def test_without_a_file_nothing_is_kept() -> None:
    log = AccessLog(LogSettings())
    log.start()
    log.call(CALL)
    log.stop()
    assert (log.pending, log.dropped) == (0, 0)


def test_a_full_queue_drops_and_says_how_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()
    write = os.write

    def slow(file: int, data: bytes) -> int:
        entered.set()
        assert release.wait(10)
        return write(file, data)

    log = AccessLog(LogSettings(access=str(path), queue=2))
    log.start()
    monkeypatch.setattr(os, "write", slow)
    log.call(CALL)
    assert entered.wait(10)
    for _ in range(5):
        log.call(CALL)
    assert (log.pending, log.dropped) == (2, 3)
    release.set()
    log.stop()
    assert [line["event"] for line in lines(path)] == ["call", "call", "call", "dropped"]
    assert lines(path)[-1]["lines"] == 3


def test_a_full_disk_costs_lines_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.write, threading.Event()

    def torn(file: int, data: bytes) -> int:
        if not full.is_set():
            return write(file, data)
        if len(data) > 10:
            return write(file, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    monkeypatch.setattr(os, "write", torn)
    log.call(CALL)
    wait_until(lambda: log.written == 1)
    full.set()
    log.call(CALL)
    wait_until(lambda: log.errors == 1)
    monkeypatch.setattr(os, "write", refused)
    log.call(CALL)
    wait_until(lambda: log.errors == 2)
    monkeypatch.setattr(os, "write", write)
    log.call(CALL)
    log.stop()
    text = path.read_text().splitlines()
    assert json.loads(text[0])["event"] == json.loads(text[-1])["event"] == "call"
    assert (log.written, log.errors) == (2, 2)


def test_it_is_reopened_after_logrotate_moved_it(path: Path) -> None:
    log = AccessLog(LogSettings(access=str(path)))
    log.start()
    log.call(CALL)
    wait_until(lambda: log.written == 1)
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.opened(INFO)
    log.stop()
    assert [line["event"] for line in lines(path.with_suffix(".1"))] == ["call"]
    assert [line["event"] for line in lines(path)] == ["open"]


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(access=str(tmp_path)))
    with pytest.raises(IsADirectoryError):
        log.start()


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(LogSettings(access="-"))
    log.start()
    log.call(CALL)
    log.stop()
    assert json.loads(capfd.readouterr().out)["operation"] == "payments.pay"
