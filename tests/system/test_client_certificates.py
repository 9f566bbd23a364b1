"""Client certificates of a whole gateway, on both engines: what they prove over HTTP, and what the log says of refusals."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority, Issued
from tests.system.gateway_process import Gateway, free_ports
from tests.system.upstream import Upstream

MakeGateway = Callable[..., Gateway]
ENGINES = ("pure",) if WHY_NOT_NATIVE else ("pure", "native")

EXTRA = """
[tls]
engine = "{engine}"

[[authenticators]]
kind = "certificate"

[[routes]]
path = "/closed/"
cluster = "business"

[[routes]]
path = "/strict/"
cluster = "business"
require = "certificate"

[[listeners]]
name = "asks"
transport = "tls"
port = {asks}
protocols = ["mmtp/1", "http/1.1"]
client_certificates = "request"
client_ca = "{ca}"

[[listeners]]
name = "demands"
transport = "tls"
port = {demands}
protocols = ["mmtp/1", "http/1.1"]
client_certificates = "require"
client_ca = "{ca}"
"""


class House:
    """A gateway, its CA of devices, and what comes to it."""

    def __init__(self, make_gateway: MakeGateway, upstream: Upstream, directory: Path, engine: str) -> None:
        self.authority = Authority(directory, "devices")
        self.asks, self.demands = free_ports(2)
        extra = EXTRA.format(engine=engine, asks=self.asks, demands=self.demands, ca=self.authority.file)
        self.gateway = make_gateway(upstream=upstream.url, extra=extra)
        self.gateway.log_accesses()
        self.gateway.start()

    def get(self, port: int, path: str, issued: Issued | None, **headers: str) -> tuple[int, str]:
        """Status and body; `headers` with _ for -."""
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        if issued is not None:
            context.load_cert_chain(issued.chain, issued.key)
        connection = http.client.HTTPSConnection("localhost", port, timeout=15, context=context)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(params=ENGINES)
def house(make_gateway: MakeGateway, upstream: Upstream, tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(make_gateway, upstream, tmp_path, request.param)


def test_a_certificate_proves_a_device_over_http(house: House) -> None:
    d1 = house.authority.issue("d1")
    junk, known, basic = "Bearer junk", "Bearer alice-token", "Basic eDp5"
    for port in (house.asks, house.demands):
        for path in ("/closed/x", "/strict/x"):
            for headers in (
                {},
                {"x_device_id": "d1"},
                {"x_device_id": "d1", "authorization": junk},
                {"x_device_id": "d1", "authorization": known},
                {"authorization": known},
                {"authorization": basic},
            ):
                status, body = house.get(port, path, d1, **headers)
                assert (status, '"device": "d1"' in body) == (200, True), (path, headers, body)
        for headers in ({}, {"authorization": junk}, {"authorization": known}):
            assert house.get(port, "/closed/x", d1, x_device_id="d2", **headers)[0] == 401, headers
    for headers in ({}, {"x_device_id": "d1"}, {"x_device_id": "d1", "authorization": junk}):
        assert house.get(house.asks, "/closed/x", None, **headers)[0] == 401, headers
    assert house.get(house.asks, "/strict/x", None, x_device_id="d1", authorization=known)[0] != 200
    assert house.get(house.asks, "/closed/x", None, x_device_id="d1", authorization=known)[0] == 200
    assert house.get(house.asks, "/api/x", None)[0] == 200
    house.gateway.assert_sound()
