"""Who sees a push: the `where` of requests."""

from __future__ import annotations

import pytest

from accessgw.core.visibility import InvalidWhere, compile_where, parse_version
from accessgw.model.identity import Identity

PHONE = Identity(
    "d", "u", "wallet", "2.10.1", attributes={"os": "ios", "region": "eu", "beta": "true", "os_version": "17"}
)


@pytest.mark.parametrize(
    ("where", "seen"),
    [
        ({"app": "wallet"}, True),
        ({"app": "other"}, False),
        ({"os": ["android", "ios"]}, True),
        ({"os": ["android"]}, False),
        ({"os": "ios", "region": "us"}, False),
        ({"os": "ios", "region": "eu"}, True),
        ({"beta": True}, True),
        ({"tier": "gold"}, False),
        ({"app_version": ">=2.1"}, True),
        ({"app_version": ">=2.1, <2.10"}, False),
        ({"app_version": ["<2", ">2.9,<3"]}, True),
        ({"app_version": "2.10.1"}, True),
        ({"app_version": "!=2.10.1.0"}, False),
        ({"app_version": "==2.10.1"}, True),
        ({"app_version": "<=2.10.0"}, False),
        ({"os_version": ">16"}, True),
        ({"os_version": 17}, True),
    ],
)
def test_where(where: dict[str, object], seen: bool) -> None:
    visibility = compile_where(where)
    assert visibility is not None
    assert visibility.admits(PHONE) is seen


def test_an_empty_where_is_no_filter():
    assert compile_where({}) is None


def test_a_session_that_does_not_say_its_version_never_matches():
    for where in ({"app_version": "!=1"}, {"app_version": "<9"}, {"app": ["", "x"][1:]}):
        visibility = compile_where(where)
        assert visibility is not None
        assert not visibility.admits(Identity("d"))
    odd = compile_where({"app_version": "!=1"})
    assert odd is not None
    assert not odd.admits(Identity("d", app_version="not a version"))


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ({"app_version": ">=x"}, "where.app_version"),
        ({"app_version": ""}, "where.app_version"),
        ({"os": []}, "where.os"),
        ({"os": None}, "where.os"),
        ({"os": {"not": "ios"}}, "where.os"),
        ({"os": ["ios", 1.5]}, "where.os"),
        ({"os": "x" * 257}, "where.os"),
        ({"": "x"}, "where"),
        ({str(n): "x" for n in range(17)}, "where"),
        ({"region": ["x"] * 65}, "where.region"),
    ],
)
def test_what_means_nothing_is_refused_with_its_path(where: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidWhere) as caught:
        compile_where(where)
    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_versions_are_ordered_as_people_mean_them():
    texts = ["1.9", "1.10-alpha", "1.10-beta", "1.10", "1.10.1", "2", "10"]
    versions = [parse_version(text) for text in texts]
    assert None not in versions
    assert versions == sorted(versions)  # type: ignore[type-var]
    assert parse_version("v2.1.0+7") == parse_version("2.1")
    assert parse_version("two") is None
