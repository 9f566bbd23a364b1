"""curl against the HTTP side of the TLS listener and the control API."""

from __future__ import annotations

import json

from tests.interop.programs import needs, run
from tests.system.gateway_process import Gateway
from tests.system.upstream import Upstream

pytestmark = needs("curl", "curl")


def curl(gateway: Gateway, path: str, *options: object, data: bytes = b"") -> tuple[int, bytes]:
    """(status, body)."""
    url = f"https://localhost:{gateway.tls}{path}"
    done = run(
        "curl",
        "--silent",
        "--show-error",
        "--cacert",
        gateway.ca,
        "--write-out",
        "%{stderr}%{http_code}",
        *options,
        url,
        data=data,
    )
    return int(done.stderr.decode()[-3:] or 0), done.stdout


def test_the_probe_of_the_sdk(gateway: Gateway) -> None:
    status, body = curl(gateway, "/.well-known/accessgw")
    assert status == 200
    said = json.loads(body)
    assert {"version", "time", "zone", "addresses"} <= set(said)


def test_an_ordinary_http_route(gateway: Gateway, upstream: Upstream) -> None:
    status, body = curl(gateway, "/api/things?x=1", "--data-binary", "@-", data=b"z" * 300_000)
    assert status == 200
    assert json.loads(body)["you sent"] == 300_000
    assert upstream.executed == [("/api/things?x=1", upstream.executed[0][1])]


def test_several_requests_on_one_connection(gateway: Gateway, upstream: Upstream) -> None:
    urls = [f"https://localhost:{gateway.tls}/api/{n}" for n in range(3)]
    done = run(
        "curl", "--silent", "--cacert", gateway.ca, "--write-out", "%{num_connects}\\n", "--output", "/dev/null", *urls
    )
    assert done.returncode == 0
    assert len(upstream.executed) == 3


def test_no_route_is_404_in_json(gateway: Gateway) -> None:
    status, body = curl(gateway, "/nowhere")
    assert status == 404
    assert "error" in json.loads(body)


def test_a_broken_short_request_is_400(gateway: Gateway) -> None:
    status, _ = curl(gateway, "/mmtp", "--header", "content-type: application/mmtp", "--data-binary", "\x01\x07")
    assert status == 400


def test_a_push_as_the_readme_shows_it(gateway: Gateway) -> None:
    body = '{"to": {"device": "d1"}, "biz": "orders", "payload": {"text": "您的订单已发货"}}'
    done = run(
        "curl",
        "--silent",
        "--header",
        "Authorization: Bearer t-push",
        "--data",
        body,
        f"http://127.0.0.1:{gateway.control}/v1/push",
    )
    answer = json.loads(done.stdout)
    assert answer["seq"] == 1
    assert answer["live"] == 0


def test_a_health_check_of_http_1_0_on_the_control_listener(gateway: Gateway) -> None:
    """As load balancers send it: no Host, and the answer ends with the connection."""
    url = f"http://127.0.0.1:{gateway.control}/health/ready"
    done = run("curl", "--silent", "--http1.0", "--header", "Host:", "--include", "--max-time", "10", url)
    assert done.returncode == 0
    assert done.stdout.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in done.stdout.lower()


def test_an_ordinary_http_route_in_http_1_0(gateway: Gateway, upstream: Upstream) -> None:
    # with ALPN, curl would offer http/1.0 and nothing else
    status, body = curl(gateway, "/api/old", "--http1.0", "--no-alpn", "--data-binary", "@-", data=b"z" * 100_000)
    assert status == 200
    assert json.loads(body)["you sent"] == 100_000
    assert len(upstream.executed) == 1
