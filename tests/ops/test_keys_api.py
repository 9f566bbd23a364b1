from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.interfaces.control import ControlError
from tests.ops.control_fakes import Api
from tests.ops.keys_fakes import FakeKeys

FINGERPRINT = "ab" * 32


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
def api(keys: FakeKeys) -> Api:
    return Api(keys=keys)


@pytest.mark.parametrize(
    ("method", "path", "body", "role"),
    [
        ("GET", "/v1/keys", b"", "read"),
        ("POST", "/v1/keys/rotate", b"", "operate"),
        ("POST", "/v1/keys/revoke", {"epoch": 1}, "operate"),
    ],
)
def test_every_path_needs_its_role(api: Api, method: str, path: str, body: Any, role: str) -> None:
    assert api.ask(method, path, body, f"dev-{role}").status == 200
    assert api.ask(method, path, body, "dev-push").status == 403


def test_without_tickets_there_are_no_keys() -> None:
    answer = Api().ask("GET", "/v1/keys", token="dev-read")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_enabled")


def test_keys_are_listed_and_rotated(api: Api, keys: FakeKeys) -> None:
    listed = api.ask("GET", "/v1/keys", token="dev-read").json
    assert [row["state"] for row in listed["epochs"]] == ["current", "next"]
    assert listed["revoked"]["certificates"] == 41
    assert api.ask("POST", "/v1/keys/rotate", token="dev-operate").json["epoch"] == 8
    assert keys.asked == ["rotate"]


def test_an_epoch_or_a_certificate_is_revoked(api: Api, keys: FakeKeys) -> None:
    colons = ":".join([FINGERPRINT[:2]] * 32)
    for body in ({"epoch": 0}, {"certificate": FINGERPRINT}, {"certificate": colons.upper()}):
        assert api.ask("POST", "/v1/keys/revoke", body, "dev-operate").json["revoked"]
    assert keys.asked == [0, bytes.fromhex(FINGERPRINT), bytes.fromhex(FINGERPRINT)]
    assert api.control.asked == []


def test_the_log_says_what_was_revoked(api: Api) -> None:
    lines: list[str | None] = []

    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        for body in ({"epoch": 0}, {"device": "d1"}, {"certificate": FINGERPRINT.upper()}):
            api.ask("POST", "/v1/keys/revoke", body, "dev-operate")
    finally:
        globalLogPublisher.removeObserver(observe)
    said = [line for line in lines if line and line.startswith("revoked")]
    assert said == ["revoked: epoch 0", "revoked: device d1", f"revoked: certificate {FINGERPRINT}"]


def test_a_revoked_device_loses_its_session_after_its_tickets(api: Api, keys: FakeKeys) -> None:
    answer = api.ask("POST", "/v1/keys/revoke", {"device": "d1"}, "dev-operate")
    assert answer.json == {"device": "d1", "revoked": True, "closed": True}
    assert (keys.asked, api.control.asked) == (["d1"], [("revoke", "d1")])


def test_the_session_stays_when_the_revocation_could_not_be_kept(api: Api, keys: FakeKeys) -> None:
    keys.error = ControlError(503, "store_unavailable", "disk full")
    assert api.ask("POST", "/v1/keys/revoke", {"device": "d1"}, "dev-operate").status == 503
    assert api.control.asked == []


def test_whose_session_is_revoked_loses_its_tickets(api: Api, keys: FakeKeys) -> None:
    assert api.ask("POST", "/v1/devices/d1/close", token="dev-operate").status == 200
    assert keys.asked == []
    answer = api.ask("POST", "/v1/devices/d1/close", {"revoke": True}, "dev-operate")
    assert answer.json == {"device": "d1", "closed": True, "revoked": True}
    assert keys.asked == ["d1"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected one of epoch, device, certificate, got nothing"),
        ({"epoch": 1, "device": "d1"}, "got epoch, device"),
        ({"user": "alice"}, "got user"),
        ({"epoch": 256}, "expected an integer in 0..255, got 256"),
        ({"epoch": True}, "got true"),
        ({"device": ""}, "1 to 256 bytes"),
        ({"device": "读" * 86}, "1 to 256 bytes"),
        ({"device": 5}, "1 to 256 bytes"),
        ({"certificate": "ab"}, "64 hexadecimal digits"),
        ({"certificate": "xy" * 32}, "64 hexadecimal digits"),
        ({"certificate": None}, "64 hexadecimal digits"),
    ],
)
def test_other_revocations_are_refused(api: Api, keys: FakeKeys, body: dict[str, Any], said: str) -> None:
    answer = api.ask("POST", "/v1/keys/revoke", body, "dev-operate")
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")
    assert said in answer.json["error"]["message"]
    assert (keys.asked, api.control.asked) == ([], [])


def test_a_rotation_takes_nothing(api: Api, keys: FakeKeys) -> None:
    assert api.ask("POST", "/v1/keys/rotate", {"epoch": 3}, "dev-operate").status == 400
    assert keys.asked == []
