"""The paths under /v1/dictionaries, and accessgwctl dictionary on top of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.control import ControlError
from accessgw.ops import ctl
from tests.ops.control_fakes import SETTINGS, Api
from tests.ops.ctl_gateway import Gateway


class FakeDictionaries:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.percents = [10, 60]
        self.end = "canary"
        self.changed_at = 0.0

    def row(self, id: int, state: str = "active", **more: Any) -> dict[str, Any]:
        figures = {"size": 8000, "expected": 0.3, "bodies": 5, "ratio": 0.31, "errors": 0, "reason": "a\x1b[2J"}
        figures |= {"changed_at": self.changed_at}
        return (
            {"id": id, "app": "wallet", "classes": ["qpay"], "state": state, "percent": 100, "share": 0.05}
            | figures
            | more
        )

    def overview(self) -> dict[str, Any]:
        rows = [self.row(1), self.row(2, "canary"), self.row(3, "training", percent=45)]
        return {"enabled": True, "dictionaries": rows, "classes": [{"app": "wallet", "class": "qpay", "samples": 7}]}

    def show(self, id: int) -> dict[str, Any]:
        if id == 404:
            raise ControlError(404, "not_found", "no such dictionary: 404")
        if self.percents:
            return self.row(id, "training", percent=self.percents.pop(0))
        return self.row(id, self.end, reason="because" if self.end == "refused" else "")

    def content(self, id: int) -> bytes:
        return b"\x37\xa4\x30\xec\xff"

    def train(self, app: str | None, classes: Sequence[str]) -> Deferred[list[dict[str, Any]]]:
        self.asked.append((app, list(classes)))
        return succeed([self.row(7, "training", percent=0)])

    def activate(self, id: int, share: float) -> Deferred[dict[str, Any]]:
        self.asked.append((id, share))
        return succeed(self.row(id))

    def roll_back(self, id: int) -> Deferred[dict[str, Any]]:
        if id == 9:
            return fail(ControlError(409, "conflict", "dictionary 9 is retired"))
        self.asked.append(id)
        return succeed(self.row(id, "rolled_back"))


@pytest.fixture
def fake() -> FakeDictionaries:
    return FakeDictionaries()


@pytest.fixture
def api(fake: FakeDictionaries) -> Api:
    return Api(SETTINGS, dictionaries=fake)


def post(api: Api, path: str, body: Any = None, token: str = "dev-operate") -> Any:
    return api.ask("POST", path, b"" if body is None else json.dumps(body).encode(), token=token)


def test_looking_needs_read_and_acting_operate(api: Api) -> None:
    assert api.ask("GET", "/v1/dictionaries", token="dev-read").json["enabled"] is True
    assert api.ask("GET", "/v1/dictionaries/1", token="dev-read").json["id"] == 1
    content = api.ask("GET", "/v1/dictionaries/1/content", token="dev-read")
    assert (content.body, content.headers["content-type"]) == (b"\x37\xa4\x30\xec\xff", "application/octet-stream")
    for path in ("/v1/dictionaries/train", "/v1/dictionaries/1/activate", "/v1/dictionaries/1/rollback"):
        assert post(api, path, token="dev-read").status == 403
        assert api.ask("POST", path).status == 401


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        ("train", None, (None, [])),
        ("train", {"app": "wallet"}, ("wallet", [])),
        ("train", {"app": "", "classes": ["qb", "aa*", "qb"]}, ("", ["aa*", "qb"])),
        ("5/activate", None, (5, 1.0)),
        ("5/activate", {"share": 0.25}, (5, 0.25)),
        ("5/activate", {"share": 1}, (5, 1.0)),
        ("5/rollback", None, 5),
        ("5/rollback", {}, 5),
    ],
)
def test_what_is_asked_for_is_passed_on(api: Api, fake: FakeDictionaries, path: str, body: Any, asked: Any) -> None:
    assert post(api, f"/v1/dictionaries/{path}", body).status == 200
    assert fake.asked == [asked]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("train", {"app": 5}, 400),
        ("train", {"classes": "qpay"}, 400),
        ("train", {"classes": ["q"]}, 400),
        ("train", {"classes": ["xpay"]}, 400),
        ("train", {"classes": [5]}, 400),
        ("train", {"classes": ["qpay"] * 65}, 400),
        ("train", {"clases": []}, 400),
        ("5/activate", {"share": 0}, 400),
        ("5/activate", {"share": 1.5}, 400),
        ("5/activate", {"share": True}, 400),
        ("5/activate", {"share": "all"}, 400),
        ("5/rollback", {"share": 1}, 400),
        ("x/rollback", None, 404),
        ("-1/rollback", None, 404),
        ("9/rollback", None, 409),
    ],
)
def test_what_makes_no_sense_is_refused(api: Api, fake: FakeDictionaries, path: str, body: Any, status: int) -> None:
    assert post(api, f"/v1/dictionaries/{path}", body).status == status
    assert fake.asked == []


def test_without_dictionaries_the_paths_say_so() -> None:
    exchange = Api().ask("GET", "/v1/dictionaries", token="dev-read")
    assert (exchange.status, exchange.json["error"]["code"]) == (404, "not_enabled")


# ------------------------------------------------------------------ accessgwctl

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    gateway = Gateway(api)
    thread = threading.Thread(target=gateway.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("ACCESSGW_URL", gateway.url)
    monkeypatch.delenv("ACCESSGW_TOKEN", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("accessgw.ops.ctl_dictionary.POLL", 0.0)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = ctl.main(["dictionary", *arguments])
        except SystemExit as error:
            code = int(str(error.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    gateway.server.shutdown()
    gateway.server.server_close()
    thread.join()


def test_a_list_for_people_and_one_for_programs(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0 and "canary 5 %" in out and "training 45 %" in out and "\x1b" not in out and "samples" not in out
    assert "samples" in run("list", "--classes")[1]
    assert json.loads(run("list", "--json")[1])["dictionaries"][2]["percent"] == 45


def test_train_waits_for_the_end(run: Run, fake: FakeDictionaries) -> None:
    code, out, _ = run("train", "--app", "wallet", "qpay")
    assert code == 0 and "canary" in out and fake.percents == []
    assert fake.asked == [("wallet", ["qpay"])]


def test_train_need_not_wait(run: Run, fake: FakeDictionaries) -> None:
    code, out, _ = run("train", "--no-wait")
    assert code == 0 and "training" in out and len(fake.percents) == 2 and fake.asked == [(None, [])]


def test_a_refused_training_is_a_failure(run: Run, fake: FakeDictionaries) -> None:
    fake.end = "refused"
    code, _, err = run("train")
    assert code == 1 and "dictionary 7 was refused: because" in err


def test_classes_need_an_app(run: Run, fake: FakeDictionaries) -> None:
    assert run("train", "qpay")[0] == 2 and fake.asked == []


def test_activate_and_rollback(run: Run, fake: FakeDictionaries) -> None:
    assert run("activate", "5")[0] == run("activate", "5", "--share", "0.2")[0] == run("rollback", "5")[0] == 0
    assert fake.asked == [(5, 1.0), (5, 0.2), 5]
    code, _, err = run("rollback", "9")
    assert code == 1 and "is retired" in err


def test_show_and_save(run: Run, fake: FakeDictionaries, tmp_path: Path) -> None:
    fake.percents = []
    assert "wallet" in run("show", "5")[1]
    fake.changed_at = 1_700_000_000.5
    shown = run("show", "5")[1]
    assert "2023-11-14T22:13:20+00:00" in shown
    assert "1700000000" in run("--json", "show", "5")[1]
    assert run("show", "404")[0] == 1
    assert run("save", "5", str(tmp_path / "d"))[0] == 0
    assert (tmp_path / "d").read_bytes() == b"\x37\xa4\x30\xec\xff"
    assert run("save", "5", str(tmp_path / "none" / "d"))[0] == 1
