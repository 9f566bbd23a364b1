"""Content codings of HTTP: cross-origin rules of RFC 9842, and how fields change with a coding."""

from __future__ import annotations

import pytest

from accessgw.policy.http_codings import (
    dictionary_allowed,
    only_coding,
    outermost_coding,
    transformable,
    weak_etag,
    with_vary,
    without_coding,
)

PAGE = "https://app.example"


@pytest.mark.parametrize(
    ("site", "mode", "origin", "allows", "expected"),
    [
        ("", "", "", "", True),
        ("same-origin", "cors", "", "", True),
        ("same-origin", "no-cors", "", "", True),
        ("same-site", "no-cors", "", "", False),
        ("cross-site", "no-cors", PAGE, "*", False),
        ("cross-site", "", "", "", True),
        ("cross-site", "navigate", "", "", True),
        ("none", "navigate", "", "", True),
        ("cross-site", "cors", PAGE, "", False),
        ("cross-site", "cors", "", "*", False),
        ("cross-site", "cors", PAGE, "https://other.example", False),
        ("cross-site", "cors", PAGE, PAGE, True),
        ("cross-site", "cors", PAGE, "*", True),
        ("cross-site", "websocket", PAGE, "*", False),
    ],
)
def test_who_may_not_read_an_answer_must_not_see_how_it_compresses(
    site: str, mode: str, origin: str, allows: str, expected: bool
) -> None:
    """RFC 9842 section 9.3.3."""
    fields = {"sec-fetch-site": site, "sec-fetch-mode": mode, "origin": origin}
    asked = [(name, value) for name, value in fields.items() if value]
    answered = [("access-control-allow-origin", allows)] if allows else []
    assert dictionary_allowed(asked, answered) is expected
    assert dictionary_allowed(asked, None) or not expected


def test_vary_is_joined_and_kept() -> None:
    names = "accept-encoding, available-dictionary"
    assert with_vary([("a", "b")], names) == [("a", "b"), ("vary", names)]
    assert with_vary([("vary", "Origin"), ("vary", "Accept-Encoding")], names) == [
        ("vary", "Origin, Accept-Encoding, available-dictionary")
    ]
    assert with_vary([("vary", "*")], names) == [("vary", "*")]


def test_accept_encoding() -> None:
    asked = [("accept-encoding", "gzip, dcb, dcz;q=0.9"), ("accept-encoding", "DCZ"), ("x", "dcz")]
    assert without_coding(asked, ("dcz", "dcb")) == [
        ("accept-encoding", "gzip"),
        ("accept-encoding", "identity"),
        ("x", "dcz"),
    ]
    assert only_coding(asked, "identity") == [("x", "dcz"), ("accept-encoding", "identity")]


def test_codings_and_directives() -> None:
    assert outermost_coding([("content-encoding", "gzip, "), ("content-encoding", "DCZ")]) == "dcz"
    assert outermost_coding([]) == ""
    assert transformable([("cache-control", "private, max-age=0")])
    assert not transformable([("cache-control", "private"), ("cache-control", "x, No-Transform")])
    assert (weak_etag('"a"'), weak_etag('W/"a"')) == ('W/"a"', 'W/"a"')
