from __future__ import annotations

import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from twisted.internet.defer import fail

from accessgw.core.interfaces.control import ControlError
from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.settings import ControlSettings, ControlTokenSettings
from accessgw.ops import ctl
from accessgw.ops.ctl_view import event_line, printable, show
from loadtest.free_ports import free_ports
from tests.ops.control_fakes import Api
from tests.ops.ctl_gateway import Gateway
from tests.ops.keys_fakes import FakeKeys


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    gateway = Gateway(Api(keys=FakeKeys()))
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
            code = ctl.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_every_command_answers(gateway: Gateway, run: Run) -> None:
    for arguments, shown in (
        (["status"], "ready"),
        (["devices"], "d2"),
        (["devices", "d/1"], "d/1"),
        (["push", "--device", "d1", "--biz", "orders", "{}"], "device/d1/orders"),
        (["close", "d1"], "closed"),
        (["close", "d1", "--revoke"], "revoked"),
        (["drain", "--seconds", "3"], "seconds"),
        (["reload"], "listeners[tls].port"),
        (["config"], "httptools"),
        (["workers"], "42"),
        (["top"], "payments.pay"),
        (["trace", "d1"], "frame"),
        (["events"], "frame"),
        (["events", "--status"], "connections=3"),
        (["streams", "user", "alice", "orders"], "head"),
        (["keys", "list"], "2027-01-15T08:00:00+00:00"),
        (["keys", "list"], "certificates"),
        (["keys", "rotate"], "2027-01-15T08:00:05+00:00"),
        (["keys", "revoke", "--epoch", "8"], "revoked"),
        (["keys", "revoke", "--device", "d1"], "closed"),
        (["keys", "revoke", "--certificate", "ab" * 32], "revoked"),
        (["keys", "revoke", "--device", "away"], "revoked"),
        (["keys", "revoke", "--certificate", "sha256 Fingerprint=" + ":".join(["AB"] * 32)], "revoked"),
        (["keys", "revoke", "--certificate", "sha256", "Fingerprint=" + ":".join(["AB"] * 32)], "revoked"),
        (["keys", "revoke", "--certificate", "SHA256", "Fingerprint=" + ":".join(["AB"] * 32), "--json"], "true"),
    ):
        code, out, err = run(*arguments)
        assert (code, err) == (0, ""), arguments
        assert shown in out, arguments


def test_development_tokens_are_chosen_by_role_on_loopback(gateway: Gateway, run: Run) -> None:
    run("status"), run("push", "--user", "u", "--biz", "b", "1"), run("reload")
    assert [fields["authorization"] for _, _, fields, _ in gateway.requests] == [
        "Bearer dev-read", "Bearer dev-push", "Bearer dev-operate",
    ]  # fmt: skip


def test_a_token_from_the_environment_or_the_command_line(
    gateway: Gateway, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSGW_TOKEN", "anywhere")
    assert run("status")[0] == 0
    code, _, err = run("status", "--token", "wrong")
    assert (code, err.startswith("accessgwctl: 401: unknown token")) == (1, True)
    assert gateway.requests[0][2]["authorization"] == "Bearer anywhere"


def test_options_stand_before_or_after_the_command(gateway: Gateway, run: Run) -> None:
    assert json.loads(run("--json", "status")[1]) == json.loads(run("status", "--json")[1])
    assert run("--url", gateway.url, "status")[0] == run("status", "--url", gateway.url)[0] == 0


def test_json_is_the_answer_of_the_api(gateway: Gateway, run: Run) -> None:
    assert json.loads(run("devices", "--json", "--limit", "2", "--user", "alice", "--connected")[1]) == {
        "devices": [{"device": f"d{n}", "user": "alice", "connected": True} for n in range(2)],
        "next": "d1",
    }
    assert gateway.api.control.asked == [("alice", True, "", 2)]


def test_a_page_of_devices_says_how_to_go_on(gateway: Gateway, run: Run) -> None:
    code, out, err = run("devices", "--limit", "2", "--away")
    assert (code, err) == (0, "more: --after d1\n")
    assert out.splitlines()[0].split() == ["device", "user", "connected"]
    assert out.splitlines()[1].split() == ["d0", "alice", "yes"]


def test_a_push_goes_out_as_it_was_typed(gateway: Gateway, run: Run) -> None:
    code, _, _ = run(
        "push", "--broadcast", "--where", '{"os": ["ios"]}', "--biz", "通知", "--ttl", "60", "--collapse", "c",
        "--priority", "2", "--key", "once", '{"amount": 1.10}',
    )  # fmt: skip
    assert code == 0
    ((push,), key, _) = gateway.api.control.pushed[0]
    assert push.body == b'{"amount": 1.10}'
    assert (push.stream.biz, push.ttl, push.collapse, int(push.priority), push.where) == (
        "通知", 60.0, "c", 2, {"os": ["ios"]},
    )  # fmt: skip
    assert key == "once"


def test_payloads_from_text_and_files(gateway: Gateway, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"a": 1}', encoding="utf-8")
    run("push", "--device", "d", "--biz", "b", "--text", '您好 "x"')
    run("push", "--device", "d", "--biz", "b", "--file", str(file))
    assert [requests[0].body for requests, _, _ in gateway.api.control.pushed] == [
        '"您好 \\"x\\""'.encode(),
        b'{"a": 1}',
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["statuss"], "invalid choice"),
        (["upgrade"], "invalid choice"),
        (["push", "--biz", "b", "1"], "one of the arguments --device"),
        (["push", "--device", "a", "--user", "b", "--biz", "b", "1"], "not allowed with"),
        (["push", "--device", "a", "--biz", "b"], "one of the arguments"),
        (["push", "--device", "a", "--biz", "b", "hello"], "PAYLOAD: expected JSON"),
        (
            ["push", "--device", "a", "--biz", "b", "--file", "/no/such"],
            "--file: /no/such: No such file or directory\n",
        ),
        (["push", "--device", "a", "--biz", "b", "--where", "x", "1"], "--where: expected JSON"),
        (["streams", "broadcast", "x", "b"], "a broadcast has the id -"),
        (["keys", "revoke", "--certificate", "sha1", "Fingerprint=" + "AB:" * 20], "expected one SHA-256 fingerprint"),
        (["keys", "revoke", "--certificate", "ab" * 32, "cd" * 32], "expected one SHA-256 fingerprint"),
        (["status", "--ca", "/no/such"], "--ca: /no/such: No such file or directory\n"),
        (["status", "--ca", __file__], f"--ca: {__file__}: no certificate or crl found\n"),
        (["status", "--url", "gateway:7900"], '--url: expected an http:// or https:// URL, got "gateway:7900"'),
    ],
)
def test_wrong_usage_is_2(gateway: Gateway, run: Run, arguments: list[str], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert gateway.requests == []


def test_a_refusal_is_1_with_its_reason(gateway: Gateway, run: Run) -> None:
    assert run("devices", "unknown") == (1, "", "accessgwctl: 404: no such device: unknown\n")
    gateway.api.control.reload_answer = lambda: fail(ControlError(422, "bad_config", "a.b: expected", "a.b"))
    assert run("reload") == (1, "", "accessgwctl: 422: a.b: expected\n")
    gateway.api.control.reload_answer = lambda: fail(ControlError(422, "bad_config", "a: x\nb: y\x1b", "a"))
    assert run("reload")[2] == "accessgwctl: 422: a: x\naccessgwctl: b: y\\x1b\n"
    assert run("close", "--revoke", "away")[::2] == (1, "accessgwctl: away had no session\n")
    code, _, err = run("close", "away")
    assert (code, err) == (1, "accessgwctl: away was not connected\n")


def test_revoking_a_device_that_nobody_knows_is_done_and_hinted_at(gateway: Gateway, run: Run) -> None:
    code, out, err = run("keys", "revoke", "--device", "unknown", "--json")
    assert (code, json.loads(out)) == (0, {"device": "unknown", "revoked": True, "closed": False})
    assert err.startswith("accessgwctl: this gateway knows no device unknown ")
    assert [request[:2] for request in gateway.requests] == [
        ("POST", "/v1/keys/revoke"), ("GET", "/v1/devices/unknown"),
    ]  # fmt: skip


def test_a_token_that_may_not_look_hints_at_nothing(gateway: Gateway, run: Run) -> None:
    tokens = (ControlTokenSettings(token="hands", roles=("operate",)),)
    gateway.api = Api(ControlSettings(tokens=tokens), keys=FakeKeys())
    code, _, err = run("keys", "revoke", "--device", "unknown", "--token", "hands")
    assert (code, err) == (0, "")


def test_a_second_rotation_says_that_one_waits(gateway: Gateway, run: Run) -> None:
    assert run("keys", "rotate")[::2] == (0, "")
    code, out, err = run("keys", "rotate")
    assert (code, "new" in out) == (0, False)
    assert err.startswith("accessgwctl: no other was made: epoch 8 waits already, until 2027-01-15T08:00:05+00:00")
    code, out, err = run("keys", "rotate", "--json")
    assert (code, json.loads(out)["new"], err) == (0, False, "")


def test_since_when_a_device_is_connected_is_a_date_for_people_and_a_number_in_json(gateway: Gateway, run: Run) -> None:
    row = {"device": "d1", "connection": {"id": 7, "since": 1_767_225_600.25}, "attributes": {"since": 5}}
    gateway.api.control.devices_answer = [row, {"device": "d2"}]
    for command in (["devices"], ["devices", "d1"]):
        shown = run(*command)[1]
        assert "2026-01-01T00:00:00+00:00" in shown and "1767225600" not in shown
        assert "1767225600.25" in run("--json", *command)[1]


def test_a_gateway_behind_tls_is_verified(
    gateway: Gateway, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ensure_development_certificate(str(tmp_path), time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key)
    gateway.server.socket = context.wrap_socket(gateway.server.socket, server_side=True)
    url = gateway.url.replace("http://", "https://")
    assert run("status", "--url", url, "--ca", str(tmp_path / "ca.pem"))[::2] == (0, "")
    code, _, err = run("status", "--url", url)
    assert (code, "certificate verify failed" in err) == (3, True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert run("status", "--url", url)[::2] == (0, "")


def test_a_gateway_that_is_not_there_is_3(run: Run) -> None:
    (port,) = free_ports(1)
    code, out, err = run("status", "--url", f"http://127.0.0.1:{port}")
    assert (code, out) == (3, "")
    assert err == f"accessgwctl: cannot reach http://127.0.0.1:{port}: Connection refused\n"


def test_help_lists_what_is_built_and_nothing_else(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in ("status", "devices", "push", "close", "drain", "reload", "config", "top", "trace", "streams", "keys"):
        assert f"    {name} " in out
    assert "upgrade" not in out


def test_events_cannot_drive_the_terminal(gateway: Gateway, run: Run) -> None:
    _, out, _ = run("trace", "d1")
    assert "\x1b" not in out
    assert "name=PING\\x1b[2J" in out
    assert [json.loads(line)["kind"] for line in run("trace", "d1", "--json")[1].splitlines()[1:]] == ["frame"]


def test_events_are_chosen_by_kind_and_status_is_asked_for(gateway: Gateway, run: Run) -> None:
    def kinds(*arguments: str) -> list[str]:
        code, out, _ = run("events", "--json", *arguments)
        assert code == 0
        return [event.get("type", event.get("kind")) for event in map(json.loads, out.splitlines())]

    assert kinds() == ["frame"]
    assert kinds("--status") == ["status", "frame"]
    assert kinds("--kind", "status") == ["status"]
    assert kinds("--kind", "push", "--kind", "connect") == []
    assert run("events", "--kind", "weather")[0] == 2


def test_a_trace_says_that_it_waits(gateway: Gateway, run: Run) -> None:
    assert run("trace", "d1")[2] == ""
    code, _, err = run("trace", "unknown")
    assert (code, err.splitlines()[0]) == (1, "waiting for unknown"), "the stand-in knows no trace of it"


def test_tables() -> None:
    console = Console(width=60, file=io.StringIO(), highlight=False)
    show(
        console,
        {"name": "a", "none": [], "list": ["x", 1], "deep": {"b": True}, "rows": [{"n": 1.5, "device": "[b]d"}]},
    )
    show(console, [])
    assert isinstance(console.file, io.StringIO)
    assert [line.split() for line in console.file.getvalue().splitlines()] == [
        ["name", "a"], ["none", "-"], ["list", "x,", "1"], ["deep.b", "yes"],
        ["rows"], ["device", "n"], ["[b]d", "1.5"], ["none"],
    ]  # fmt: skip


def test_printable() -> None:
    assert printable("a\x1b\r\n\u202e支") == "a\\x1b\\r\\n\\u202e支"
    assert event_line({"type": "push", "stream": "x", "n": {"a": 1}}).plain == "push         stream=x n.a=1"


def test_a_remote_gateway_gets_no_development_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from accessgw.ops.ctl_client import ControlClient

    assert ControlClient("http://127.9.9.9:1").loopback
    assert ControlClient("http://[::1]:1").loopback
    assert ControlClient("http://localhost").loopback
    assert not ControlClient("https://gw.example.com").loopback
