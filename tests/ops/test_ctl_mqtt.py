from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import fail

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.ops import ctl
from protocols.mqtt.packets import Property
from tests.ops.control_fakes import SETTINGS, Api
from tests.ops.ctl_gateway import Gateway
from tests.ops.mqtt_fakes import FakeMqtt


class MqttGateway(Gateway):
    def __init__(self) -> None:
        self.mqtt = FakeMqtt()
        self.seen: list[Any] = [
            Message("a/1", b"old", retain=True),
            Message("a/\x1b[2J", b'{"n": 1}', qos=1, publisher="d1", properties={Property.CONTENT_TYPE: "json"}),
            Message("a/3", b"\xff"),
        ]
        super().__init__(Api(replace(SETTINGS, max_body=65536), mqtt=self.mqtt))

    def happen(self) -> None:
        for one in self.seen:
            if self.mqtt.emit is not None:
                self.mqtt.emit(one)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[MqttGateway]:
    gateway = MqttGateway()
    thread = threading.Thread(target=gateway.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("ACCESSGW_URL", gateway.url)
    monkeypatch.delenv("ACCESSGW_TOKEN", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    yield gateway
    gateway.server.shutdown()
    gateway.server.server_close()
    thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = ctl.main(["mqtt", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_every_command_answers(gateway: MqttGateway, run: Run) -> None:
    for arguments, shown in (
        (["publish", "-t", "a/b", "-m", "on"], "receivers"),
        (["request", "--device", "d1", "-t", "cmd", "-m", "on"], "answered"),
        (["clients"], "c2"),
        (["clients", "--away"], "c2"),
        (["client", "c/1"], "c/1"),
        (["kick", "c1"], "c1: disconnected"),
        (["kick", "c1", "--discard"], "c1: its session is over"),
        (["subscriptions"], "a/+"),
        (["retained"], "a/2"),
        (["retained", "a/#"], "a/2"),
        (["remove-retained", "a/b"], "removed"),
        (["top"], "clients"),
        (["bridges"], "cloud"),
        (["stats"], "retained"),
        (["subscribe", "a/+"], "old"),
    ):
        code, out, err = run(*arguments)
        assert (code, err) == (0, ""), arguments
        assert shown in out, arguments


def test_a_message_with_everything(gateway: MqttGateway, run: Run) -> None:
    code, out, _ = run(
        "--json", "publish", "-t", "a/b", "-m", "", "-q", "2", "-r", "--expiry", "60", "--content-type", "c",
        "--response-topic", "r", "--correlation-data", "x", "--user-property", "k", "v", "--user-property", "k", "w",
        "--key", "once",
    )  # fmt: skip
    assert (code, json.loads(out)) == (0, {"receivers": 2})
    (message,) = gateway.mqtt.published
    assert (message.topic, message.payload, message.qos, message.retain, message.expires_at) == (
        "a/b", b"", 2, True, 1060.0,
    )  # fmt: skip
    assert message.properties == {
        Property.CONTENT_TYPE: "c",
        Property.RESPONSE_TOPIC: "r",
        Property.CORRELATION_DATA: b"x",
        Property.USER_PROPERTY: [("k", "v"), ("k", "w")],
    }
    assert gateway.requests[0][2]["idempotency-key"] == "once"
    assert gateway.requests[0][2]["authorization"] == "Bearer dev-push"


def test_payloads(gateway: MqttGateway, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_bytes(b"\0\xff")
    run("publish", "-t", "t", "-f", str(tmp_path / "p"))
    run("publish", "-t", "t", "-n", "-r")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    run("publish", "-t", "t", "-s")
    run("publish", "-t", "t", "-m", "您好")
    assert [message.payload for message in gateway.mqtt.published] == [
        b"\0\xff", b"", b"from a pipe\n", "您好".encode(),
    ]  # fmt: skip


def test_a_message_for_each_line(gateway: MqttGateway, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"".join(b"%d\n" % number for number in range(250)) + b"last")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, _ = run("--json", "publish", "-t", "t", "-l", "-q", "1")
    assert (code, json.loads(out)) == (0, {"published": 251})
    assert [message.payload for message in gateway.mqtt.published] == [b"%d" % n for n in range(250)] + [b"last"]
    assert len(gateway.requests) >= 3


def test_a_refused_line_is_told(gateway: MqttGateway, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.mqtt.publish_answer = lambda message: fail(ControlError(403, "refused", "not on this topic"))
    reading, writing = os.pipe()
    os.write(writing, b"x\n")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, _, err = run("publish", "-t", "t", "-l")
    assert (code, err) == (1, "accessgwctl: not on this topic\n")


def test_what_makes_no_sense(gateway: MqttGateway, run: Run) -> None:
    for wrong in (
        ["publish", "-t", "t"],
        ["publish", "-m", "x"],
        ["publish", "-t", "t", "-m", "x", "-n"],
        ["publish", "-t", "t", "-m", "x", "-q", "3"],
        ["publish", "-t", "t", "-l", "--key", "k"],
        ["publish", "-t", "t", "-f", "/no/such"],
        ["request", "-t", "t", "-m", "x"],
        [],
    ):
        assert run(*wrong)[0] == 2, wrong
    assert gateway.requests == []
    assert run("publish", "-t", "a/#", "-m", "x")[0] == 1


def test_what_was_not_there_is_a_failure(gateway: MqttGateway, run: Run) -> None:
    assert run("kick", "unknown") == (1, "", "accessgwctl: there is no connection of unknown\n")
    assert run("kick", "unknown", "--discard") == (1, "", "accessgwctl: there is no session of unknown\n")
    code, out, _ = run("--json", "kick", "unknown", "--discard")
    assert (code, json.loads(out)) == (1, {"client": "unknown", "kicked": False, "discarded": False})
    assert run("remove-retained", "absent")[::2] == (1, "accessgwctl: absent has no retained message\n")
    code, out, _ = run("request", "--device", "nowhere", "-t", "cmd", "-n")
    assert code == 1
    assert "offline" in out
    assert run("client", "unknown")[0] == 1


def test_messages_as_lines(gateway: MqttGateway, run: Run) -> None:
    code, out, _ = run("subscribe", "a/+", "-v")
    assert code == 0
    first, second, third = out.splitlines()
    assert first.startswith("a/1 old")
    assert second.startswith('a/\\x1b[2J {"n": 1}')
    assert "publisher=d1" in second
    assert "content_type" in second
    assert third.startswith("a/3 base64:/w==")
    assert run("subscribe", "a/+", "-C", "2")[1].count("\n") == 2
    assert "old" not in run("subscribe", "a/+", "-R")[1]
    assert json.loads(run("--json", "subscribe", "a/+", "-C", "1")[1]) | {"at": 0} == {
        "type": "message", "topic": "a/1", "text": "old", "qos": 0, "retain": True, "at": 0,
    }  # fmt: skip
    assert set(gateway.mqtt.asked) == {("subscribe", "a/+")}


PAYLOADS = ("1.0", "1e3", "100000000000000000000000", '{"b": 1.50, "a": "\\u00e9", "b": 2}', "[1,  2.0]", "-0", '"x"')


def test_payloads_are_printed_as_they_came(gateway: MqttGateway, run: Run) -> None:
    """1.0, 1e3 and the order of names say something to whoever looks for what a device sends."""
    gateway.mqtt.kept = [{"topic": f"a/{n}", "payload": text.encode()} for n, text in enumerate(PAYLOADS)]
    gateway.mqtt.kept += [{"topic": "t", "payload": b"plain"}, {"topic": "b", "payload": b"\xff"}]
    gateway.seen = [Message(f"a/{n}", text.encode()) for n, text in enumerate(PAYLOADS)]
    shown = run("retained")[1]
    as_json = run("--json", "retained")[1]
    lines = run("subscribe", "a/+")[1].splitlines()
    events = run("--json", "subscribe", "a/+")[1].splitlines()
    for n, text in enumerate(PAYLOADS):
        assert f" {text} " in next(line for line in shown.splitlines() if line.startswith(f"a/{n}")) + " "
        assert lines[n] == f"a/{n} {text}"
        assert f'"payload": {text}'.replace("[1,  2.0]", "[1, 2.0]") in events[n]
    assert "100000000000000000000000" in as_json and "1e3" in as_json and "1.50" in as_json
    assert json.loads(as_json)["retained"][0]["payload"] == 1.0
    gateway.mqtt.answer = {"status": "answered", "payload": b"1e3"}
    assert '"payload": 1e3' in run("--json", "request", "--device", "d", "-t", "cmd", "-n")[1]
    assert "1e3" in run("request", "--device", "d", "-t", "cmd", "-n")[1]


def test_traces(gateway: MqttGateway, run: Run) -> None:
    gateway.seen = [{"at": 1.5, "kind": "dropped", "topic": "a", "client": "c1"}]
    code, out, _ = run("trace", "a/#")
    assert (code, gateway.mqtt.asked) == (0, [("trace", "a/#")])
    assert "dropped" in out
    assert "client=c1" in out


def test_times_are_dates_for_people_and_numbers_in_json(gateway: MqttGateway, run: Run) -> None:
    second, date = 1_767_225_600.25, "2026-01-01T00:00:00+00:00"
    later = {"expires_at": second + 60}
    gateway.mqtt.kept = [
        {"topic": "a", "payload": b"x", "at": second, **later},
        {"topic": "b", "at": 1e300, "payload": b""},
    ]
    gateway.mqtt.rows = [{"client": "c", "connected": False, **later}, {"client": "d", "expires_at": None}]
    gateway.mqtt.bridge_rows = [{"name": "cloud", "connected": True, "since": second}]
    gateway.mqtt.client_row = {"client": "c", **later}
    for command, dates in (
        (["retained"], (date, "2026-01-01T00:01:00+00:00", "1e+300")),
        (["clients"], ("2026-01-01T00:01:00+00:00",)),
        (["client", "c"], ("2026-01-01T00:01:00+00:00",)),
        (["bridges"], (date,)),
    ):
        shown = run(*command)[1]
        assert all(wanted in shown for wanted in dates), shown
        assert "17672256" not in shown
        assert "17672256" in run("--json", *command)[1]
    gateway.seen = [Message("a", b"x", at=second)]
    assert f"at={date}" in run("subscribe", "a", "-v", "-C", "1")[1]
    assert "1767225600.25" in run("--json", "subscribe", "a", "-C", "1")[1]


def test_pages(gateway: MqttGateway, run: Run) -> None:
    assert "more: --after c1" in run("clients", "--limit", "2", "--connected")[2]
    assert "more: --after a/+ c1" in run("subscriptions", "--limit", "2")[2]
    assert "more: --after a/1" in run("retained", "--limit", "2", "--after", "a/0")[2]
    run("subscriptions", "a/+", "--after", "a/+", "c 1")
    assert gateway.mqtt.asked == [
        ("clients", "", 2, True),
        ("subscriptions", "", "", 2),
        ("retained", "#", "a/0", 2),
        ("subscriptions", "a/+", "a/+\0c 1", 100),
    ]


def test_a_request_sends_its_payload(gateway: MqttGateway, run: Run) -> None:
    run("request", "--device", "d/1", "-t", "cmd", "-m", "on", "--timeout", "2")
    assert gateway.mqtt.asked == [("request", "d/1", "cmd", b"on", 2.0)]
    sent = json.loads(gateway.requests[0][3])
    assert base64.b64decode(sent["payload_b64"]) == b"on"
