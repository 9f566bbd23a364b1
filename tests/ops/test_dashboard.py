from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from accessgw.ops.counters_view import GatewayCounters, summary
from accessgw.ops.dashboard import PAGE
from tests.ops.control_fakes import Api

TEXT = PAGE.decode()


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(TEXT)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_no_token_and_allows_only_its_own_script() -> None:
    exchange = Api().ask("GET", "/")
    assert (exchange.status, exchange.body) == (200, PAGE)
    assert exchange.headers["content-type"] == "text/html; charset=utf-8"
    policy = exchange.headers["content-security-policy"]
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", TEXT, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_nothing_is_loaded_from_elsewhere() -> None:
    for tag, attributes in Elements().found:
        for name in ("src", "href", "action"):
            assert attributes.get(name, "data:,") == "data:,", tag
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    assert set(re.findall(r"https?://[^\"'\s]+", TEXT)) == {"http://www.w3.org/2000/svg"}


def test_what_peers_say_is_never_markup() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in TEXT


def test_every_field_has_a_label() -> None:
    elements = Elements().found
    labelled = {attributes["for"] for tag, attributes in elements if tag == "label"}
    fields = {attributes["id"] for tag, attributes in elements if tag in ("input", "select")}
    assert fields == labelled
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_its_figures_are_those_of_the_status() -> None:
    shown = set(re.findall(r'^  \["(\w+)", "', TEXT, re.MULTILINE))
    assert shown
    assert shown <= set(summary(GatewayCounters()))


def test_the_paths_it_asks_for_exist() -> None:
    for path in set(re.findall(r'ask\("([^"]+)"', TEXT)):
        assert Api().ask("GET", path, token="dev-read").status == 200
