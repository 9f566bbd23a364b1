"""The demo upstream, over real HTTP."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from accessgw.demo.ledger import BadRequest, Ledger, Readings, feed


class Upstream:
    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "accessgw.demo.service", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    yield Upstream(int(line.rsplit(":", 1)[1]))
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def test_health(upstream: Upstream) -> None:
    assert upstream("GET", "/health") == (200, {"status": "ok"})


def test_payments_are_counted_by_call_id(upstream: Upstream) -> None:
    before = upstream("GET", "/ledger")[1]["executions"]
    for _ in range(2):
        status, paid = upstream("POST", "/payments.pay", {"amount": 1234}, x_call_id="00ff", x_user_id="wangfang")
        assert (status, paid["text"]) == (200, {"en": "Paid ¥12.34", "zh": "已支付 ¥12.34"})
    ledger = upstream("GET", "/ledger")[1]
    assert ledger["executions"] == before + 2
    assert ledger["by_call"]["00ff"] == 2, "it does not hide a second execution"
    assert upstream("POST", "/payments.query", {"call": "00ff"})[1]["payment"] == paid["payment"]
    assert upstream("POST", "/payments.query", {"payment": paid["payment"]})[1]["amount"] == 1234


def test_feed_and_balance(upstream: Upstream) -> None:
    status, page = upstream("POST", "/feed.list", {"size": 3, "page": 2})
    assert (status, len(page["items"]), page["more"]) == (200, 3, True)
    assert page["title"]["zh"] == "为您推荐"
    assert upstream("POST", "/accounts.balance", x_device_id="d9")[1]["balance"] == 1_000_000


def test_slow_answers_say_how_long_they_took(upstream: Upstream) -> None:
    assert upstream("POST", "/feed.slow?seconds=0.2")[1]["slept"] == 0.2
    assert upstream("POST", "/feed.slow", {"seconds": 0})[0] == 200


def test_readings_are_kept_once_each_by_device(upstream: Upstream) -> None:
    def message(seq: int, payload: str, device: str = "t1") -> dict[str, Any]:
        return {"client": device, "device": device, "epoch": 1, "seq": seq, "topic": "sensors/t1/x", "payload": payload}

    assert upstream("POST", "/readings", [message(1, "21.5"), message(2, "21.7")]) == (200, {"new": 2})
    assert upstream("POST", "/readings", [message(2, "21.7"), message(3, "22"), message(2, "1", "t2")])[1] == {"new": 2}
    devices = upstream("GET", "/readings")[1]["devices"]
    assert (devices["t1"], devices["t2"]) == (["21.5", "21.7", "22"], ["1"])


def test_echo(upstream: Upstream) -> None:
    _, echo = upstream("PUT", "/api/a/b?c=d", "文".encode(), x_test="1")
    assert (echo["method"], echo["target"], echo["body"]) == ("PUT", "/api/a/b?c=d", "文")
    assert echo["headers"]["x-test"] == ["1"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/nothing.here", None, 404, "unknown_operation"),
        ("GET", "/payments.pay", None, 405, "method"),
        ("POST", "/payments.pay", b"{", 400, "bad_json"),
        ("POST", "/readings", {}, 400, "bad_json"),
        ("POST", "/readings", [{"client": "c"}], 422, "bad_message"),
        ("POST", "/readings", ["x"], 422, "bad_message"),
        ("POST", "/payments.pay", [], 400, "bad_json"),
        ("POST", "/payments.pay", {"amount": -1}, 422, "bad_amount"),
        ("POST", "/payments.pay", {"amount": True}, 422, "bad_amount"),
        ("POST", "/payments.pay", {"amount": 10**9}, 409, "insufficient_funds"),
        ("POST", "/payments.query", {"payment": "P0"}, 404, "no_such_payment"),
        ("POST", "/feed.list", {"page": 0}, 422, "bad_page"),
        ("POST", "/feed.slow?seconds=-1", None, 422, "bad_seconds"),
        ("POST", "/feed.slow?seconds=x", None, 422, "bad_seconds"),
        ("POST", "/feed.list", b"x" * (4 * 1024 * 1024 + 1), 413, "too_large"),
    ],
)
def test_bad_requests(upstream: Upstream, method: str, path: str, body: Any, status: int, code: str) -> None:
    got, answer = upstream(method, path, body)
    assert (got, answer["error"]["code"]) == (status, code)


def test_the_ledger_is_bounded() -> None:
    ledger = Ledger()
    for n in range(10_010):
        ledger.pay(f"a{n}", f"c{n}", {"amount": 1}, 0.0)
    assert len(ledger.by_call) == 10_000
    assert ledger.executions == 10_010
    with pytest.raises(BadRequest):
        ledger.query({"payment": "P00000001"})


def test_readings_are_bounded() -> None:
    readings = Readings()
    for n in range(10_010):
        message = {"client": f"c{n}", "device": f"c{n % 2}", "epoch": 1, "seq": 1, "payload": str(n)}
        assert readings.take([message]) == 1
    assert readings.by_device["c1"] == [str(n) for n in range(9811, 10_010, 2)]


def test_the_feed_ends() -> None:
    assert feed({"page": 3, "size": 5})["items"] == []
    assert not feed({"page": 1, "size": 100})["more"]
