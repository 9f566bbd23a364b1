"""The filter access-rules."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.interfaces import Refused
from accessgw.model.calls import Call
from accessgw.model.identity import Identity
from accessgw.plugins.access_rules import make
from protocols.mmtp.statuses import Status


def allowed(rules: Any, operation: str = "", path: str = "", **identity: Any) -> bool:
    call = Call(operation, Identity("d1", **identity), 1, [], http_method="GET" if path else "", http_target=path)
    try:
        rules.call(call)
    except Refused as error:
        assert error.status == Status.FORBIDDEN
        return False
    return True


def test_the_first_rule_that_fits_decides() -> None:
    rules = make({
        "default": "deny",
        "rules": [
            {"action": "deny", "operations": ["pay.*"], "attributes": {"region": ["xx", "yy"]}},
            {"action": "allow", "operations": ["pay.*"], "users": ["*"], "apps": ["wallet"]},
            {"action": "allow", "operations": ["feed.read", "gw.*"]},
            {"action": "allow", "operations": ["admin"], "users": ["root"]},
        ],
    })  # fmt: skip
    assert allowed(rules, "feed.read")
    assert allowed(rules, "gw.time")
    assert not allowed(rules, "feed.write")
    assert allowed(rules, "pay.send", user="alice", app="wallet")
    assert not allowed(rules, "pay.send", app="wallet")
    assert not allowed(rules, "pay.send", user="alice", app="shop")
    assert not allowed(rules, "pay.send", user="alice", app="wallet", attributes={"region": "yy"})
    assert allowed(rules, "admin", user="root")
    assert not allowed(rules, "admin", user="alice")


def test_paths() -> None:
    rules = make({"rules": [{"action": "deny", "paths": ["/admin"]}, {"action": "deny", "operations": ["x"]}]})
    assert allowed(rules, path="/public")
    for path in ("/admin/x", "/%61dmin", "//admin", "/public/../admin"):
        assert not allowed(rules, path=path), path
    assert allowed(rules, "y")
    assert not allowed(rules, "x")
    nobody = make({"rules": [{"action": "deny"}]})
    assert not allowed(nobody, "x")
    assert not allowed(nobody, path="/x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default": "maybe"}, 'default: expected "allow" or "deny"'),
        ({"rules": {}}, "rules: expected a list"),
        ({"rules": [5]}, "rules[0]: expected a table"),
        ({"rules": [{}]}, "rules[0].action: "),
        ({"rules": [{"action": "allow", "operation": "x"}]}, "rules[0].operation: unknown key"),
        ({"rules": [{"action": "allow", "operations": "x"}]}, "rules[0].operations: expected a list of text"),
        ({"rules": [{"action": "allow", "operations": ["a*b"]}]}, "rules[0].operations[0]: "),
        ({"rules": [{"action": "allow", "attributes": {"os": "ios"}}]}, "rules[0].attributes.os: "),
    ],
)
def test_bad_settings_name_the_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make(settings)
    assert str(caught.value).startswith(message)
