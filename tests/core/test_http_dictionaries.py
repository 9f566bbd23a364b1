"""dcz on the public HTTP listener: negotiation, what is left alone, request bodies, the published dictionaries."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable

import pytest
import zstandard

from accessgw.core.http_dictionaries import MAX_REQUEST, PATH, HttpDictionaries, pattern
from accessgw.core.http_routes import HttpRoutes
from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.core.short import ShortConnections
from accessgw.model.counters import DictionaryCounters
from accessgw.model.http import HttpRequest
from accessgw.model.route_settings import RouteSettings
from protocols.http.dcz import HEADER_SIZE, VARY, DczDictionary
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary
from tests.core.gateway_fakes import FakeConnection, FakeExchangeOfHttp, Gateway

CONTENT = b'{"status": "paid", "currency": "CNY", "merchant": "Corner Shop", "channel": "mobile", "items": []}' * 2
OLD = CONTENT.replace(b"CNY", b"EUR")
BODY = CONTENT[:98] + b'{"order": "4711"}'
ROUTE = RouteSettings(
    path="/api/", cluster="c", require="none", bodies="orders.list", bodies_app="wallet", max_request_body=1 << 19
)
SECRET = RouteSettings(path="/auth", cluster="c", require="none", bodies="auth.login", bodies_app="wallet")
OTHER = RouteSettings(path="/", cluster="c", require="none")


class FakeDictionaries:
    """A PublicDictionaries of one app; number 1 is retired, number 2 active."""

    def __init__(self) -> None:
        self.old = Dictionary(1, OLD, ["aorders.*"])
        self.current = Dictionary(2, CONTENT, ["aorders.*", "aauth.login"])
        self.readable_ids = {1, 2}
        self.in_force: Bundle | None = Bundle((self.current,))
        self.samples: list[tuple[str, str, str, str, bytes]] = []
        self.observe: Callable[[str, str, str, str, bytes], None] = self._observe
        self.changed: Callable[[str], None] = lambda app: None

    def _observe(self, app: str, kind: str, name: str, user: str, body: bytes) -> None:
        self.samples.append((app, kind, name, user, body))

    def is_secret(self, name: str) -> bool:
        return name.startswith("auth.")

    def bundle_for(self, app: str, device: str) -> Bundle | None:
        return self.active(app)

    def known(self, digest: bytes) -> Bundle | None:
        return None

    def dictionary(self, id: int) -> Dictionary | None:
        return next((one for one in self.readable() if one.id == id), None)

    def readable(self) -> Iterable[Dictionary]:
        return [one for one in (self.old, self.current) if one.id in self.readable_ids]

    def active(self, app: str) -> Bundle | None:
        return self.in_force if app == "wallet" else None

    def used(self, app: str) -> Iterable[Dictionary]:
        return [self.old, self.current] if app == "wallet" else []

    def on_change(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self.changed = changed
        return lambda: None


class World:
    def __init__(self, *routes: RouteSettings, enabled: bool = True) -> None:
        self.gateway = Gateway(*(routes or (ROUTE, SECRET, OTHER)))
        self.service = FakeDictionaries()
        self.counters = DictionaryCounters()
        self.dictionaries = HttpDictionaries(
            self.service, lambda: self.gateway.calls.routes, self.gateway.clock, self.counters, enabled=enabled
        )
        self.routes = HttpRoutes(
            short=ShortConnections(self.gateway.services, 30.0),
            calls=self.gateway.calls,
            chain=self.gateway.chain,
            clock=self.gateway.clock,
            describe=dict,
            dictionaries=self.dictionaries,
        )

    def begin(self, method: str, target: str, *headers: tuple[str, str]) -> FakeExchangeOfHttp:
        fields = [("host", "gw"), *headers]
        exchange = FakeExchangeOfHttp(HttpRequest(method, target, fields, FakeConnection().info))
        exchange.upload = self.routes(exchange)
        return exchange

    def ask(self, method: str, target: str, *headers: tuple[str, str], body: bytes = b"") -> FakeExchangeOfHttp:
        if body:
            headers = (*headers, ("content-length", str(len(body))))
        exchange = self.begin(method, target, *headers)
        if body:
            exchange.upload.data(body)
        exchange.upload.finished()
        return exchange

    def answer(self, *headers: tuple[str, str], body: bytes = BODY, status: int = 200) -> None:
        self.gateway.upstreams.last.answer(status, body, [("content-type", "application/json"), *headers])

    def sent(self) -> dict[str, str]:
        return dict(self.gateway.upstreams.last.request.headers)


def available(content: bytes) -> tuple[str, str]:
    return "available-dictionary", f":{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def holding(content: bytes) -> tuple[tuple[str, str], ...]:
    return ("accept-encoding", "gzip, br, zstd, dcb, dcz"), available(content)


def expanded(body: bytes, content: bytes) -> bytes:
    """Read as any client would: the header is a frame that zstd skips."""
    assert body[8:HEADER_SIZE] == hashlib.sha256(content).digest()
    data = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=data).stream_reader(io.BytesIO(body[HEADER_SIZE:])).read()


def header(exchange: FakeExchangeOfHttp, name: str) -> str:
    found = [value for key, value in exchange.headers if key == name]
    assert len(found) <= 1, found
    return found[0] if found else ""


def error(exchange: FakeExchangeOfHttp) -> str:
    code = json.loads(exchange.body)["error"]["code"]
    assert isinstance(code, str)
    return code


# ---------------------------------------------------------------- answers


def test_who_holds_the_dictionary_gets_dcz() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders?page=2", *holding(CONTENT), ("dictionary-id", '"x"'))
    sent = world.sent()
    assert sent["accept-encoding"] == "identity", "what is compressed already cannot be compressed with a dictionary"
    assert "available-dictionary" not in sent and "dictionary-id" not in sent
    world.answer(("etag", '"v1"'), ("accept-ranges", "bytes"), ("vary", "Origin"))
    assert header(exchange, "content-encoding") == "dcz"
    assert len(exchange.body) < len(BODY)
    assert expanded(exchange.body, CONTENT) == BODY
    assert header(exchange, "vary") == f"Origin, {VARY}"
    assert header(exchange, "etag") == 'W/"v1"'
    assert header(exchange, "accept-ranges") == header(exchange, "content-length") == header(exchange, "link") == ""
    counters = world.counters
    assert (counters.http_bodies, counters.http_raw, counters.http_packed) == (1, len(BODY), len(exchange.body))


def test_who_has_none_is_told_where_it_is() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", ("accept-encoding", "gzip, dcz"))
    assert world.sent()["accept-encoding"] == "gzip"
    world.answer()
    assert exchange.body == BODY
    place = f"{PATH}{world.service.current.digest.hex()}/api/"
    assert header(exchange, "link") == f'<{place}>; rel="compression-dictionary"'
    assert header(exchange, "vary") == VARY
    fetched = world.ask("GET", place)
    assert (fetched.status, fetched.body) == (200, CONTENT)
    assert header(fetched, "use-as-dictionary") == 'match="/api/*"'
    assert header(fetched, "cache-control") == "public, max-age=604800, immutable"
    assert world.counters.http_fetched == 1


def test_a_client_that_knows_nothing_of_it_gets_only_vary() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", ("accept-encoding", "gzip"))
    world.answer()
    assert (exchange.body, header(exchange, "vary"), header(exchange, "link")) == (BODY, VARY, "")


def test_a_page_is_told_before_its_browser_speaks_of_dcz() -> None:
    world = World()
    exchange = world.ask("GET", "/api/page", ("accept-encoding", "gzip, br"), ("sec-fetch-dest", "document"))
    world.answer()
    assert world.service.current.digest.hex() in header(exchange, "link")
    exchange = world.ask("GET", "/api/page", ("sec-fetch-dest", "document"), available(OLD))
    world.answer()
    assert exchange.body == BODY, "it did not say that it takes dcz"
    exchange = world.ask("GET", "/api/page", ("accept-encoding", "gzip"), ("sec-fetch-dest", "empty"))
    world.answer()
    assert header(exchange, "link") == ""


def test_a_dictionary_of_earlier_still_serves_and_the_present_one_is_named() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", *holding(OLD))
    world.answer()
    assert expanded(exchange.body, OLD) == BODY
    assert world.service.current.digest.hex() in header(exchange, "link")
    world.service.readable_ids = {2}
    exchange = world.ask("GET", "/api/orders", *holding(OLD))
    world.answer()
    assert exchange.body == BODY, "forgotten"


def test_a_change_of_dictionaries_is_seen() -> None:
    world = World()
    world.ask("GET", "/api/orders", *holding(CONTENT))
    world.answer()
    world.service.in_force = Bundle((world.service.old,))
    world.service.changed("wallet")
    exchange = world.ask("GET", "/api/orders", ("accept-encoding", "dcz"))
    world.answer()
    assert world.service.old.digest.hex() in header(exchange, "link")
    world.service.in_force = None
    world.service.changed("wallet")
    exchange = world.ask("GET", "/api/orders", ("accept-encoding", "dcz"))
    world.answer()
    assert header(exchange, "link") == ""


@pytest.mark.parametrize(
    "asked",
    [
        (("accept-encoding", "gzip, dcz"), available(b"unknown")),
        (("accept-encoding", "gzip"), available(CONTENT)),
        (("accept-encoding", "*"), available(CONTENT)),
        (("accept-encoding", "dcz;q=0"), available(CONTENT)),
        (("accept-encoding", "dcz"), ("available-dictionary", "sha256")),
        (("accept-encoding", "dcz"), available(CONTENT), available(OLD)),
        (*holding(CONTENT), ("range", "bytes=0-99")),
        (*holding(CONTENT), ("cache-control", "no-transform")),
        (*holding(CONTENT), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")),
        (*holding(CONTENT), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("origin", "https://a.b")),
    ],
)
def test_what_the_client_did_not_ask_for_it_does_not_get(asked: tuple[tuple[str, str], ...]) -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", *asked)
    assert "dcz" not in world.sent().get("accept-encoding", "")
    world.answer()
    assert (exchange.body, header(exchange, "content-encoding")) == (BODY, "")
    assert header(exchange, "vary") == VARY


def test_a_page_of_another_origin_that_may_read_the_answer_gets_dcz() -> None:
    world = World()
    page = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("origin", "https://a.b"))
    exchange = world.ask("GET", "/api/orders", *holding(CONTENT), *page)
    world.answer(("access-control-allow-origin", "https://a.b"))
    assert expanded(exchange.body, CONTENT) == BODY


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (200, (("content-encoding", "gzip"),), BODY),
        (200, (("cache-control", "max-age=9, no-transform"),), BODY),
        (200, (("repr-digest", "sha-256=:AA==:"),), BODY),
        (206, (("content-range", "bytes 0-1/2"),), BODY),
        (404, (), BODY),
        (200, (), b"{}"),
        (200, (), bytes(range(256))),
    ],
)
def test_what_is_sent_as_it_is(status: int, fields: tuple[tuple[str, str], ...], body: bytes) -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", *holding(CONTENT))
    world.answer(*fields, body=body, status=status)
    assert (exchange.status, exchange.body) == (status, body)
    assert header(exchange, "content-encoding") == dict(fields).get("content-encoding", "")
    assert header(exchange, "vary") == VARY


def test_secret_operations_are_left_alone() -> None:
    world = World(ROUTE, SECRET, RouteSettings(path="/s/", cluster="c", require="none", secret=True, bodies="orders.x",
                                               bodies_app="wallet"))  # fmt: skip
    for target in ("/auth/login", "/s/x"):
        exchange = world.ask("GET", target, *holding(CONTENT))
        assert "dcz" in world.sent()["accept-encoding"] and "available-dictionary" in world.sent()
        world.answer()
        assert exchange.body == BODY
        assert header(exchange, "vary") == header(exchange, "link") == ""
    assert not world.service.samples
    assert world.ask("GET", f"{PATH}{world.service.current.digest.hex()}/auth").status == 404
    assert world.ask("GET", f"{PATH}active/s/").status == 404


def test_other_routes_and_a_gateway_without_the_switch_are_left_alone() -> None:
    for world in (World(OTHER), World(enabled=False)):
        exchange = world.ask("POST", "/api/x", *holding(CONTENT), ("content-encoding", "dcz"), body=b"as it is")
        assert (world.gateway.upstreams.last.request.body, world.sent()["content-encoding"]) == (b"as it is", "dcz")
        assert "available-dictionary" in world.sent()
        world.answer()
        assert (exchange.body, header(exchange, "vary")) == (BODY, "")
        assert world.ask("GET", f"{PATH}active/api/").status == 404


def head(world: World) -> None:
    """The service's answer to HEAD."""
    sink = world.gateway.upstreams.last.sink
    sink.started(200, [("content-length", "900")], "http://u:1", 1)
    sink.finished()


def test_the_answer_to_head_says_nothing_of_a_length_that_is_not_known() -> None:
    world = World()
    exchange = world.ask("HEAD", "/api/orders", *holding(CONTENT))
    head(world)
    assert (exchange.status, exchange.body, header(exchange, "content-length")) == (200, b"", "")
    assert header(exchange, "vary") == VARY
    exchange = world.ask("HEAD", "/api/orders", ("accept-encoding", "gzip"))
    head(world)
    assert header(exchange, "content-length") == "900"


def test_a_short_answer_of_unknown_length_is_compressed_when_it_comes_at_once() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", *holding(CONTENT))
    sink = world.gateway.upstreams.last.sink
    sink.started(200, [], "http://u:1", 1)
    sink.data(BODY[:40])
    sink.data(BODY[40:])
    assert not exchange.status
    sink.finished()
    assert expanded(exchange.body, CONTENT) == BODY
    world.gateway.clock.advance(1)
    assert exchange.over and not exchange.cut


def test_a_stream_is_not_held_back() -> None:
    world = World()
    exchange = world.ask("GET", "/api/events", *holding(CONTENT))
    sink = world.gateway.upstreams.last.sink
    sink.started(200, [("content-type", "text/event-stream")], "http://u:1", 1)
    sink.data(b"data: 1\n\n")
    world.gateway.clock.advance(0)
    assert exchange.body == b"data: 1\n\n"
    assert (header(exchange, "vary"), header(exchange, "content-encoding")) == (VARY, "")
    sink.data(b"data: 2\n\n")
    sink.finished()
    assert exchange.body == b"data: 1\n\ndata: 2\n\n" and exchange.over
    long = world.ask("GET", "/api/events", *holding(CONTENT))
    sink = world.gateway.upstreams.last.sink
    sink.started(200, [], "http://u:1", 1)
    for _ in range(3):
        sink.data(b"x" * 30_000)
    assert len(long.body) == 90_000, "more than a short one: not held back"


def test_an_answer_held_back_that_breaks_off_is_an_error() -> None:
    world = World()
    exchange = world.ask("GET", "/api/orders", *holding(CONTENT))
    upstream = world.gateway.upstreams.last
    upstream.sink.started(200, [], "http://u:1", 1)
    upstream.sink.data(b"part")
    upstream.sink.failed(UpstreamFailure("connect", "", True))
    assert exchange.status >= 500 and not exchange.cut
    world.gateway.clock.advance(1)
    gone = world.ask("GET", "/api/orders", *holding(CONTENT))
    upstream = world.gateway.upstreams.last
    upstream.sink.started(200, [], "http://u:1", 1)
    upstream.sink.data(b"part")
    gone.upload.aborted()
    world.gateway.clock.advance(1)
    assert not gone.status


def test_answers_to_somebody_are_samples() -> None:
    world = World()
    world.ask("GET", "/api/orders", ("authorization", "Bearer ok:alice"), ("x-device-id", "d9"))
    world.answer()
    assert world.service.samples == [("wallet", "a", "orders.list", "alice", BODY)]
    world.ask("GET", "/api/orders")
    world.answer()
    world.ask("GET", "/api/orders", ("authorization", "Bearer ok:alice"), ("x-device-id", "d9"))
    world.answer(("content-encoding", "gzip"))
    world.ask("GET", "/api/orders", ("authorization", "Bearer ok:alice"), ("x-device-id", "d9"))
    world.answer(status=500)
    assert len(world.service.samples) == 1


# ---------------------------------------------------------------- requests


def packed(body: bytes, content: bytes = CONTENT) -> bytes:
    made = DczDictionary(content).encode(body)
    assert made is not None
    return made


@pytest.mark.parametrize("content", [CONTENT, OLD])
def test_a_request_body_in_dcz_reaches_the_service_expanded(content: bytes) -> None:
    world = World()
    body = packed(BODY, content)
    digest = ("content-digest", "sha-256=:AA==:")
    exchange = world.ask("POST", "/api/orders", ("content-encoding", "gzip, DCZ"), digest, body=body)
    request = world.gateway.upstreams.last.request
    assert (request.body, request.more) == (BODY, False)
    sent = world.sent()
    assert sent["content-encoding"] == "gzip"
    assert "content-digest" not in sent
    world.answer()
    assert exchange.status == 200


def test_it_may_come_in_pieces() -> None:
    world = World()
    exchange = world.begin("POST", "/api/x", ("content-encoding", "dcz"), ("transfer-encoding", "chunked"))
    for byte in packed(BODY):
        exchange.upload.data(bytes((byte,)))
    assert not world.gateway.upstreams.exchanges
    exchange.upload.finished()
    assert world.gateway.upstreams.last.request.body == BODY
    assert not exchange.paused


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (packed(BODY)[:-1], 400, "bad_request"),
        (packed(BODY) + b"x", 400, "bad_request"),
        (b"\x28\xb5\x2f\xfd", 400, "bad_request"),
        (b"", 400, "bad_request"),
        (packed(BODY, b"unknown" + CONTENT), 415, "unsupported_media_type"),
        (packed(b"a" * (1 << 20)), 413, "too_large"),
        (b"z" * ((1 << 19) + 1), 413, "too_large"),
    ],
)
def test_a_request_body_that_cannot_be_expanded_is_refused(body: bytes, status: int, code: str) -> None:
    world = World()
    exchange = world.ask("POST", "/api/orders", ("content-encoding", "dcz"), body=body)
    assert (exchange.status, error(exchange)) == (status, code)
    assert header(exchange, "accept-encoding") == ("identity" if status == 415 else "")
    assert not world.gateway.upstreams.exchanges
    assert "dcz" in json.loads(exchange.body)["error"]["message"]


def test_no_body_is_expanded_past_the_bound_of_all_routes() -> None:
    generous = RouteSettings(path="/api/", cluster="c", require="none", bodies="orders.x", bodies_app="wallet",
                             max_request_body=1 << 30)  # fmt: skip
    world = World(generous)
    body = b"".join(hashlib.sha256(number.to_bytes(4, "big")).hexdigest().encode() for number in range(20_000))
    exchange = world.ask("POST", "/api/x", ("content-encoding", "dcz"), body=packed(body))
    assert len(body) > MAX_REQUEST and exchange.status == 413


def test_a_request_that_must_not_be_transformed_passes() -> None:
    world = World()
    body = packed(BODY)
    world.ask("POST", "/api/x", ("content-encoding", "dcz"), ("cache-control", "no-transform"), body=body)
    assert world.gateway.upstreams.last.request.body == body
    assert world.sent()["content-encoding"] == "dcz"


# ---------------------------------------------------------------- dictionaries


def test_only_what_is_in_force_for_a_route_is_published() -> None:
    world = World()
    current, old = world.service.current.digest.hex(), world.service.old.digest.hex()
    for name in (f"{old}/api/", f"{current}/", f"{current}/other/", current, f"{current.upper()}/api/", "active", ""):
        exchange = world.ask("GET", PATH + name)
        assert (exchange.status, header(exchange, "cache-control")) == (404, "no-store"), name
    assert world.ask("POST", f"{PATH}{current}/api/").status == 405
    assert world.ask("GET", f"{PATH}{current}/%61pi/").status == 200


def test_the_active_one_has_a_place_that_does_not_change() -> None:
    world = World()
    exchange = world.ask("GET", f"{PATH}active/api/")
    assert (exchange.status, header(exchange, "cache-control")) == (307, "no-cache")
    there = world.ask("GET", header(exchange, "location"))
    assert (there.status, there.body) == (200, CONTENT)
    assert header(there, "access-control-allow-origin") == "*"
    again = world.ask("GET", header(exchange, "location"), ("if-none-match", header(there, "etag")))
    assert (again.status, again.body) == (304, b"")


def test_paths_are_plain_text_in_url_patterns() -> None:
    assert pattern("/api/") == "/api/*"
    assert pattern("/a b/:id(x)+") == r"/a%20b/\:id\(x\)\+*"
