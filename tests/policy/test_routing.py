"""Which route a call takes, and what it asks its upstream for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.model.calls import Call
from accessgw.model.identity import Identity
from accessgw.model.route_settings import RouteSettings
from accessgw.policy.conditions import parse_version
from accessgw.policy.routing import RouteError, RouteTable, UnsafePath, comparable_path, render_path


def call(operation: str = "", *, headers: list[tuple[str, str]] | None = None, method: str = "", target: str = "",
         **identity: Any) -> Call:  # fmt: skip
    return Call(operation, Identity(identity.pop("device", "d1"), **identity), 1, headers or [], http_method=method,
                http_target=target)  # fmt: skip


def table(*routes: dict[str, Any]) -> RouteTable:
    return RouteTable([RouteSettings(**{"cluster": str(at), **route}) for at, route in enumerate(routes)])


def taken(routes: RouteTable, wanted: Call) -> str:
    route = routes.match(wanted, 0.0)
    return route.cluster if route is not None else "none"


def test_exact_then_longest_prefix_then_order() -> None:
    routes = table(
        {"operation": "*"},
        {"operation": "payments.*"},
        {"operation": "payments.re*"},
        {"operation": "payments.refund"},
        {"operation": "payments.*"},
    )
    assert taken(routes, call("payments.refund")) == "3"
    assert taken(routes, call("payments.refunds")) == "2"
    assert taken(routes, call("payments.pay")) == "1"
    assert taken(routes, call("payments.")) == "1"
    assert taken(routes, call("payments")) == "0"
    assert taken(table({"operation": "a"}), call("b")) == "none"


def test_a_route_whose_conditions_fail_gives_way() -> None:
    routes = table(
        {"operation": "a", "when": {"app": "beta*", "app_version": ">=2.1"}},
        {"operation": "a", "when": {"user": "*"}},
        {"operation": "a", "when": {"header:x-Kind": "y"}},
        {"operation": "*", "when": {"attribute:region": "cn"}},
    )
    assert taken(routes, call("a", app="beta-1", app_version="2.1.0")) == "0"
    assert taken(routes, call("a", app="beta-1", app_version="2.0.9", user="u")) == "1"
    assert taken(routes, call("a", app="alpha", app_version="3")) == "none"
    assert taken(routes, call("a", headers=[("x-kind", "x"), ("x-kind", "y")])) == "2"
    assert taken(routes, call("a", attributes={"region": "cn"})) == "3"


@pytest.mark.parametrize(
    ("condition", "version", "holds"),
    [
        (">=2.1", "2.1", True),
        (">=2.1", "2.10", True),
        (">=2.1", "2.0.99", False),
        ("<3", "2.99.1", True),
        ("<3", "3.0.0", False),
        ("<= 3", "3.0.0", True),
        (">2", "2.0", False),
        ("2.1", "2.1.0", True),
        ("==2.1", "2.1.1", False),
        ("=2.1", "2.1-beta", True),
        (">=0", "", False),
        (">=0", "beta", False),
    ],
)
def test_versions(condition: str, version: str, holds: bool) -> None:
    routes = table({"operation": "a", "when": {"app_version": condition}})
    assert (taken(routes, call("a", app_version=version)) == "0") is holds


@given(
    st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=6), st.lists(st.integers(0, 99), min_size=1, max_size=6)
)
def test_versions_are_ordered_by_their_numbers(one: list[int], other: list[int]) -> None:
    texts = [".".join(map(str, numbers)) for numbers in (one, other)]
    pad = max(len(one), len(other))
    padded = [numbers + [0] * (pad - len(numbers)) for numbers in (one, other)]
    first, second = (parse_version(text) for text in texts)
    assert first is not None and second is not None
    assert (first < second) is (padded[0] < padded[1])
    assert (first == second) is (padded[0] == padded[1])


def test_paths() -> None:
    routes = table(
        {"path": "/"},
        {"path": "/api/", "methods": ("GET", "HEAD")},
        {"path": "/api/pay", "hosts": ("pay.example.com", "*.pay.example.com")},
        {"operation": "*"},
    )

    def path(target: str, method: str = "GET", host: str = "x") -> str:
        return taken(routes, call(method=method, target=target, headers=[("host", host)]))

    assert path("/other") == "0"
    assert path("/api/x?y=/z") == "1"
    assert path("/api/x", "POST") == "0"
    assert path("/api/pay", "POST", "PAY.example.com:7443") == "2"
    assert path("/api/pay/x", "POST", "cn.pay.example.com.") == "2"
    assert path("/api/payx", "POST", "pay.example.com") == "0"
    assert path("/api/pay", "GET", "other.example.com") == "1"
    assert path("/api/pay", "POST", ".pay.example.com") == "0"
    assert path("*", "OPTIONS") == "none"


@pytest.mark.parametrize(
    "target",
    ["/admin/x", "/%61dmin/x", "//admin/x", "/%2Fadmin/x", "/admin%2fx", "/\\admin/x", "/admin;a=b/x", "/admin/;/x"],
)
def test_a_guarded_path_cannot_be_spelled_otherwise(target: str) -> None:
    routes = table({"path": "/"}, {"path": "/admin/"})
    assert taken(routes, call(method="GET", target=target)) == "1"


@pytest.mark.parametrize(
    "target",
    ["/x/../admin/x", "/x/%2e%2E/admin", "/x/..%2fadmin", "/x\\..\\admin", "/..;/admin/", "/.", "/x/..", "/%2e/admin"],
)
def test_dot_segments_match_nothing(target: str) -> None:
    assert comparable_path(target) is None
    assert taken(table({"path": "/"}), call(method="GET", target=target)) == "none"


def test_dots_inside_names_are_names() -> None:
    assert comparable_path("/.well-known/a..b/...") == "/.well-known/a..b/..."


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"operation": "a", "when": {"app_version": "new"}}, 'routes[1].when.app_version: expected a version such as ">=2.1", got "new"'),
        ({"operation": "a", "when": {"app_version": "~2"}}, "routes[1].when.app_version: expected a version"),
        ({"operation": "a", "when": {"colour": "red"}}, "routes[1].when.colour: unknown condition"),
        ({"operation": "a", "when": {"header:": "red"}}, "routes[1].when.header:: unknown condition"),
        ({"operation": "a", "when": {"app": ""}}, "routes[1].when.app: expected a value"),
        ({"operation": "a*b"}, "routes[1].operation: expected"),
        ({}, "routes[1]: expected exactly one"),
        ({"operation": "a", "path": "/"}, "routes[1]: expected exactly one"),
        ({"path": "api"}, "routes[1].path: expected"),
        ({"path": "/a/../b"}, "routes[1].path: expected"),
        ({"path": "/%61"}, "routes[1].path: expected"),
        ({"operation": "a", "upstream_path": "x"}, "routes[1].upstream_path: expected a path"),
        ({"operation": "a", "upstream_path": "/a b"}, "routes[1].upstream_path: expected a path"),
        ({"operation": "a", "upstream_path": "/../{operation}"}, "routes[1].upstream_path: expected a path"),
        ({"operation": "a", "upstream_path": "/{colour}"}, 'routes[1].upstream_path: expected {operation}'),
        ({"operation": "a", "upstream_path": "/{app"}, "routes[1].upstream_path: a brace has no partner"),
    ],
)  # fmt: skip
def test_errors_name_their_place(route: dict[str, Any], message: str) -> None:
    with pytest.raises(RouteError) as caught:
        table({"operation": "ok"}, route)
    assert str(caught.value).startswith(message)


def test_rendered_paths() -> None:
    wanted = call("payments.pay", user="u/1", app="shop", headers=[("x-shard", "7?a=b#c")])
    assert render_path("/{operation}", wanted) == "/payments.pay"
    assert render_path("/v1/{app}/{user}/{header:x-shard}?d={device}", wanted) == "/v1/shop/u%2F1/7%3Fa%3Db%23c?d=d1"
    assert render_path("/{user}", call(user="支付")) == "/%E6%94%AF%E4%BB%98"


@pytest.mark.parametrize(
    ("template", "user"),
    [("/{user}", ""), ("/{user}/x", ".."), ("/{user}/x", "."), ("/{user}{user}", "."), ("/{user}", "\ud800"),
     ("/{header:x}", "u")],
)  # fmt: skip
def test_paths_that_would_mean_something_else_are_refused(template: str, user: str) -> None:
    with pytest.raises(UnsafePath):
        render_path(template, call(user=user))


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_value_adds_a_segment_a_query_or_a_line(operation: str, user: str) -> None:
    try:
        path = render_path("/a/{operation}/{user}", call(operation, user=user))
    except UnsafePath:
        return
    assert path.isascii() and path.isprintable() and " " not in path
    assert path.count("/") == 3 and not set(path) & set("?#\\;")
