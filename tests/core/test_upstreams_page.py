"""docs/ops/upstreams.md says of headers what call_headers does."""

from __future__ import annotations

import re
from pathlib import Path

from accessgw.core.call_headers import _HOP_BY_HOP, _OURS, towards_upstream
from accessgw.model.calls import Call
from accessgw.model.identity import ConnectionInfo, Identity

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/ops/upstreams.md").read_text(encoding="utf-8")
ADDED = {name for row in re.findall(r"^\| (`[^|]*) \|", PAGE, re.M) for name in re.findall(r"`([a-z-]+)(?:: 1)?`", row)}
DROPPED = set(re.findall(r"`([a-z-]+)`", PAGE.split("Dropped are")[1].split("The gateway adds these")[0]))
IDENTITY = Identity("d 1", user="张", app="My App", app_version="2%")
CONNECTION = ConnectionInfo(1, "phones", "tls", "192.0.2.7")


def added(call: Call) -> dict[str, str]:
    call.deadline = 12.0
    return dict(towards_upstream(call, "z1", 10.0, bytes))


def test_the_page_names_every_header_that_is_added_and_no_other() -> None:
    call = added(Call("pay", IDENTITY, 255, [], early=True))
    request = added(Call("", IDENTITY, 0, [], connection=CONNECTION, http_method="GET", http_target="/"))
    assert set(call) | set(request) == ADDED
    assert call["x-call-id"] == "00000000000000ff"
    assert "x-call-id" not in request
    assert (request["x-forwarded-for"], request["x-forwarded-proto"]) == ("192.0.2.7", "https")
    assert (call["x-deadline-ms"], call["early-data"], call["x-zone"]) == ("2000", "1", "z1")


def test_the_page_names_every_header_that_is_dropped_and_no_other() -> None:
    assert (DROPPED - {"authorization"}) | ADDED == _HOP_BY_HOP | _OURS


def test_identities_are_encoded_as_the_page_says() -> None:
    headers = added(Call("pay", IDENTITY, 1, []))
    assert "`My%20App` is `My App`" in PAGE
    assert (headers["x-app"], headers["x-app-version"], headers["x-device-id"]) == ("My%20App", "2%25", "d%201")
    assert headers["x-user-id"] == "%E5%BC%A0"
