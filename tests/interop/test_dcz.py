"""Dictionaries for ordinary HTTP clients on a running gateway: curl with fields by hand, and a browser by itself."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.http.dcz import HEADER_SIZE, DczDictionary
from tests.interop.programs import needs, run
from tests.system.gateway_process import PATIENCE, TRAINING_PATIENCE, Gateway

USERS = 60
SETTINGS = """
[dictionaries]
enabled = true
http = true
least_messages = 200
train_timeout = 600.0
canary_share = 0

[[authenticators]]
kind = "static"
name = "users"
tokens = [{tokens}]

[[routes]]
path = "/shop/"
cluster = "business"
require = "none"
bodies = "orders.list"
bodies_app = "web"
"""
PLACE = "/.well-known/accessgw/dictionary/"
PAGE = b"<!doctype html><title>shop</title>"
TAGGED = b"""<!doctype html><title>elsewhere</title>
<link rel="compression-dictionary" href="/.well-known/accessgw/dictionary/active/shop/">"""


def orders(number: int) -> bytes:
    rows = [
        {"order": f"{number * 7919 + row:08d}", "currency": "CNY", "merchant": "Corner Shop", "status": "paid"}
        for row in range(3)
    ]
    return json.dumps({"orders": rows, "channel": "web", "next": None}).encode()


class Shop(BaseHTTPRequestHandler):
    """A service with a page, a list of orders by number, and an echo."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/shop/page":
            self.answer("text/html", PAGE)
        elif self.path == "/api/tagged":
            self.answer("text/html", TAGGED)
        else:
            self.answer("application/json", orders(int(self.path.rpartition("/")[2])))

    def do_POST(self) -> None:
        self.answer("application/octet-stream", self.rfile.read(int(self.headers["content-length"]))[::-1])

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("cache-control", "no-store")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Store(Gateway):
    """The gateway in front of the shop."""

    def get(self, path: str, headers: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read()
        finally:
            connection.close()

    def train(self) -> None:
        """Bring the dictionary of what users have got into force."""
        status, answer = self.http("POST", "/v1/dictionaries/train", {}, "t-operate")
        assert status == 200, answer
        (row,) = answer["dictionaries"]
        assert row["classes"] == ["aorders.list"]
        path = f"/v1/dictionaries/{row['id']}"
        self.wait_until(lambda: self.http("GET", path, token="t-read")[1]["state"] == "candidate", TRAINING_PATIENCE)
        status, answer = self.http("POST", f"{path}/activate", {}, "t-operate")
        assert status == 200, answer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    tokens = ", ".join(f'{{ token = "token-of-{n}", user = "user{n}" }}' for n in range(USERS))
    place: Path = tmp_path_factory.mktemp("store")
    gateway = Store(place, f"http://127.0.0.1:{server.server_port}")
    gateway.extra = SETTINGS.format(tokens=tokens)
    gateway.write_config()
    gateway.config.write_text(gateway.config.read_text().replace('["operate"]', '["operate", "read"]'))
    gateway.start()
    for number in range(USERS * 5):
        gateway.get(f"/shop/orders/{number}", {"authorization": f"Bearer token-of-{number % USERS}"})
    gateway.train()
    yield gateway
    gateway.assert_sound()
    gateway.close()
    server.shutdown()
    server.server_close()


# ---------------------------------------------------------------- curl


def curl(store: Store, path: str, *options: object, data: bytes = b"") -> tuple[dict[str, str], bytes]:
    """(fields of the last answer, with `:status`; body)."""
    done = run(
        "curl", "--silent", "--show-error", "--raw", "--cacert", store.ca, "--dump-header", "/dev/stderr", *options,
        f"https://localhost:{store.tls}{path}", data=data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *lines = done.stderr.decode().strip().split("\r\n\r\n")[-1].splitlines()
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields | {":status": first.split()[1]}, done.stdout


def dictionary(store: Store) -> bytes:
    fields, content = curl(store, f"{PLACE}active/shop/", "--location")
    assert fields[":status"] == "200" and fields["use-as-dictionary"] == 'match="/shop/*"'
    assert "immutable" in fields["cache-control"]
    return content


def available(content: bytes) -> str:
    return f"Available-Dictionary: :{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@needs("curl", "curl")
def test_curl_reads_an_answer_with_the_dictionary_that_it_was_pointed_to(store: Store) -> None:
    fields, body = curl(store, "/shop/orders/777", "--header", "Accept-Encoding: gzip, dcz")
    assert body == orders(777)
    place = fields["link"].partition("<")[2].partition(">")[0]
    assert fields["link"].endswith('rel="compression-dictionary"')
    fields, content = curl(store, place)
    assert content == dictionary(store)
    fields, packed = curl(store, "/shop/orders/777", "--header", "Accept-Encoding: dcz", "--header", available(content))
    assert fields["content-encoding"] == "dcz" and "link" not in fields
    assert fields["vary"] == "accept-encoding, available-dictionary"
    assert len(packed) < len(orders(777)) // 2
    data = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    assert zstandard.ZstdDecompressor(dict_data=data).decompress(packed[HEADER_SIZE:], max_output_size=1 << 16) == (
        orders(777)
    )


@needs("curl", "curl")
def test_curl_sends_a_body_in_dcz(store: Store) -> None:
    content = dictionary(store)
    options = ("--header", "Content-Encoding: dcz", "--data-binary", "@-")
    packed = DczDictionary(content).encode(orders(1))
    assert packed is not None
    fields, body = curl(store, "/shop/echo", *options, data=packed)
    assert (fields[":status"], body) == ("200", orders(1)[::-1])
    other = DczDictionary(b"something else " + content).encode(orders(1))
    assert other is not None
    fields, body = curl(store, "/shop/echo", *options, data=other)
    assert (fields[":status"], fields["accept-encoding"]) == ("415", "identity")
    assert b"no dictionary of this path has the SHA-256" in body


@needs("curl", "curl")
def test_the_switch_is_a_reload_away(store: Store) -> None:
    content = dictionary(store)
    options = ("--header", "Accept-Encoding: dcz", "--header", available(content))
    text = store.config.read_text()
    try:
        store.config.write_text(text.replace("http = true", "http = false"))
        status, answer = store.http("POST", "/v1/reload", token="t-operate")
        assert (status, answer["applied"]) == (200, ["dictionaries.http"])
        assert curl(store, f"{PLACE}active/shop/")[0][":status"] == "404"
        fields, body = curl(store, "/shop/orders/5", *options)
        assert body == orders(5) and "vary" not in fields
    finally:
        store.config.write_text(text)
        assert store.http("POST", "/v1/reload", token="t-operate")[0] == 200
    assert curl(store, "/shop/orders/5", *options)[0]["content-encoding"] == "dcz"


# ---------------------------------------------------------------- a browser

FETCH = """
const [path, done] = arguments;
fetch(path).then(async answer => {
  const text = await answer.text();
  const entry = performance.getEntriesByName(new URL(path, location).href).at(-1);
  done({text, encoding: answer.headers.get("content-encoding"), encoded: entry.encodedBodySize,
        decoded: entry.decodedBodySize});
}, error => done({error: String(error)}));
"""
TRIES = 40


@pytest.fixture
def browser(tmp_path: Path, store: Store) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here (pip install '.[test]')")
    from tests.interop.test_dashboard import SWITCHES

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    leaf = x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", store.tls)).encode())
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = base64.b64encode(hashlib.sha256(key).digest()).decode()
    # Not --ignore-certificate-errors: with an error, ignored or not, no dictionary is used.
    for switch in (*SWITCHES.split(), f"--ignore-certificate-errors-spki-list={trusted}"):
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    environment = os.environ | {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")), env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


@needs("chromium", "chromium")
@needs("chromedriver", "chromium-driver")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("page", ["/shop/page", "/api/tagged"])
def test_a_browser_fetches_the_dictionary_and_reads_what_is_made_with_it(
    store: Store, browser: Any, scheme: str, page: str
) -> None:
    """By the Link field of a page on the route, and by an element of a page elsewhere."""
    if int(browser.capabilities["browserVersion"].partition(".")[0]) < 130:
        pytest.skip("this Chromium knows no dictionaries (130 does)")
    port = store.tls if scheme == "https" else store.plain
    fetched = store.metric("accessgw_dictionary_http_fetched_total")
    browser.get(f"{scheme}://localhost:{port}{page}")
    store.wait_until(lambda: store.metric("accessgw_dictionary_http_fetched_total") > fetched)
    before = store.metric("accessgw_dictionary_http_bodies_total")
    for number in range(TRIES):  # when it begins to use a dictionary is the browser's affair
        seen = browser.execute_async_script(FETCH, f"/shop/orders/{1000 + number}")
        assert seen["text"].encode() == orders(1000 + number), seen
        if store.metric("accessgw_dictionary_http_bodies_total") > before:
            break
    assert seen["encoded"] < seen["decoded"] // 2, seen
