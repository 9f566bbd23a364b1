"""Client certificates of a whole gateway, on both engines: what they prove over HTTP, and what the log says of refusals."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from loadtest.free_ports import free_ports
from protocols.mmtp.events import WelcomeReceived
from protocols.mmtp.statuses import Status
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority, Issued
from tests.system.device import Device
from tests.system.gateway_process import PATIENCE, Gateway
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

[[listeners]]
name = "by-uri"
transport = "tls"
port = {by_uri}
protocols = ["mmtp/1", "http/1.1"]
client_certificates = "require"
client_ca = "{ca}"
certificate_identity = "san_uri"

[[listeners]]
name = "mqtt"
transport = "tcp"
port = {mqtt}
protocols = ["mqtt"]
"""


class House:
    """A gateway, its CA of devices, and what comes to it."""

    def __init__(self, make_gateway: MakeGateway, upstream: Upstream, directory: Path, engine: str) -> None:
        self.authority = Authority(directory, "devices")
        self.asks, self.demands, self.by_uri, self.mqtt = free_ports(4)
        ports = {"asks": self.asks, "demands": self.demands, "by_uri": self.by_uri, "mqtt": self.mqtt}
        extra = EXTRA.format(engine=engine, ca=self.authority.file, **ports)
        self.gateway = make_gateway(upstream=upstream.url, extra=extra)
        self.gateway.log_accesses()
        self.gateway.start()

    def get(self, port: int, path: str, issued: Issued | None, **headers: str) -> tuple[int, str]:
        """Status and body; `headers` with _ for -."""
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        if issued is not None:
            context.load_cert_chain(issued.chain, issued.key)
        connection = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def refused(self, port: int, issued: Issued | None) -> dict[str, Any]:
        """The line of the log about a request that TLS refuses."""
        before = len(self.ends())
        with pytest.raises(OSError):
            self.get(port, "/closed/x", issued)
        self.gateway.wait_until(lambda: len(self.ends()) > before)
        return self.ends()[before]

    def ends(self) -> list[dict[str, Any]]:
        return [
            row
            for row in self.gateway.accesses()
            if row["event"] == "close" and row["reason"] in ("handshake_failed", "auth_failed")
        ]


class Shows(Device):
    """A device with a client certificate."""

    def __init__(self, house: House, port: int, issued: Issued, device: str, token: str) -> None:
        self._issued = issued
        super().__init__(port, device, token, ca=house.gateway.ca)

    def open_socket(self, port: int, ca: Path | None) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(ca))
        context.set_alpn_protocols(["mmtp/1"])
        context.load_cert_chain(self._issued.chain, self._issued.key)
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), PATIENCE), server_hostname="localhost")


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


def test_a_refused_hand_shake_says_who_was_refused(house: House) -> None:
    expired, revoked, nameless = (
        house.authority.issue("expired", days=-1), house.authority.issue("revoked"), house.authority.issue("nameless"),
    )  # fmt: skip
    fingerprint = sha256(revoked.der).hexdigest()
    status, answer = house.gateway.http("POST", "/v1/keys/revoke", {"certificate": fingerprint}, "t-operate")
    assert status == 200, answer
    rows = {
        "expired": (expired, house.refused(house.demands, expired)),
        "revoked": (revoked, house.refused(house.demands, revoked)),
        "nameless": (nameless, house.refused(house.by_uri, nameless)),
    }
    for name, (issued, row) in rows.items():
        assert row["subject"] == f"CN={name}"
        assert row["fingerprint"] == sha256(issued.der).hexdigest()
        assert (row["server_name"], row["tls_version"]) == ("localhost", "TLSv1.3")
        assert int(row["serial"], 16) > 0
    assert "expired" in rows["expired"][1]["detail"]
    assert "was revoked" in rows["revoked"][1]["detail"]
    assert "no usable san_uri" in rows["nameless"][1]["detail"]
    nothing = house.refused(house.demands, None)
    assert not {"subject", "fingerprint", "serial"} & nothing.keys()
    assert (nothing["server_name"], nothing["tls_version"]) == ("localhost", "TLSv1.3")
    house.gateway.assert_sound()


def test_a_refused_hello_says_who_was_refused(house: House) -> None:
    d1 = house.authority.issue("d1")
    device = Shows(house, house.demands, d1, "d2", "junk")
    assert device.expect(WelcomeReceived).welcome.result == Status.AUTH
    device.socket.close()
    house.gateway.wait_until(lambda: len(house.ends()) == 1)
    (row,) = house.ends()
    assert (row["reason"], row["device"], row["subject"]) == ("auth_failed", "d2", "CN=d1")
    assert row["fingerprint"] == sha256(d1.der).hexdigest()
    # over MQTT, which has no certificate here, "d3" with a password that nobody knows
    with socket.create_connection(("127.0.0.1", house.mqtt), timeout=PATIENCE) as sock:
        sock.sendall(b"\x10\x18\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02d3\x00\x02d3\x00\x04junk")
        assert sock.recv(4) == b"\x20\x02\x00\x04"
    house.gateway.wait_until(lambda: len(house.ends()) == 2)
    assert (house.ends()[1]["reason"], house.ends()[1]["device"]) == ("auth_failed", "d3")
    # over MMTP as over HTTP: nobody knows the token, the certificate decides
    assert Shows(house, house.demands, d1, "d1", "junk").expect(WelcomeReceived).welcome.result == 0
    house.gateway.assert_sound()
