"""TLS toward services, against the standard library's server on the system's OpenSSL."""

from __future__ import annotations

import os
import random
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.core.failures import status_of_failure
from accessgw.core.interfaces.upstreams import UpstreamRequest
from accessgw.model.route_settings import ClusterSettings, HealthCheckSettings, UpstreamTlsSettings
from accessgw.model.settings import AuthenticatorSettings
from accessgw.upstreams.client import HttpUpstreams
from accessgw.upstreams.post import Poster, cluster_of
from accessgw.upstreams.questions import Questions, clusters_of_questions
from accessgw.upstreams.tls import LOOK_AFTER, ClusterTls
from loadtest.free_ports import free_ports
from protocols.mmtp.statuses import Status
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.upstreams.tls_servers import Server, certificate, replace_files, serving
from tests.upstreams.upstream_fakes import Sink, Waiting


class Client:
    """Upstreams, and their calls. `later` moves the clock that files are looked at by."""

    def __init__(self, reactor: Any, *clusters: ClusterSettings) -> None:
        self.reactor = reactor
        self.counters: dict[str, Any] = {}
        self.upstreams = HttpUpstreams(reactor, clusters, random=random.Random(1).random, counters=self.counters)
        self.upstreams.start()

    def ask(self, cluster: str, target: str = "/", body: bytes = b"", **more: Any) -> Deferred[Sink]:
        sink = Waiting()
        request = UpstreamRequest(
            "POST" if body else "GET", target, [], body, deadline=self.reactor.seconds() + 10.0, **more
        )
        self.upstreams.request(cluster, request, sink)
        return sink.done

    async def why(self, cluster: str, **more: Any) -> str:
        """Kind, status and message of a failure, and whether the server may have acted."""
        failure = (await self.ask(cluster, **more)).failure
        assert failure is not None
        assert Status(status_of_failure(failure, claimed=True)) == Status.UPSTREAM_UNAVAILABLE
        return f"{failure.kind} {failure.executed}: {failure.message}"


def cluster(name: str, server: Server, ca: str, **more: Any) -> ClusterSettings:
    tls = {key: more.pop(key) for key in ("server_name", "certificate", "key", "minimum") if key in more}
    return ClusterSettings(
        name=name, endpoints=(server.endpoint,), tls=UpstreamTlsSettings(ca=ca, **tls), **{"eject_after": 1000, **more}
    )


async def later(reactor: Any, seconds: float) -> None:
    """Wait until the reactor's clock has moved on."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    await done


async def service_identity(reactor: Any, folder: str) -> dict[str, Any]:
    authority = Authority(Path(folder), "ca")
    server = serving(certificate(authority, "s", "one.example", "*.wild.example", "127.0.0.1"))
    unnamed = serving(authority.issue("127.0.0.1", usage=ExtendedKeyUsageOID.SERVER_AUTH))
    named = server.endpoint.replace("127.0.0.1", "localhost")
    client = Client(
        reactor,
        cluster("address", server, authority.file),
        cluster("name", server, authority.file, server_name="one.example"),
        cluster("wild", server, authority.file, server_name="a.wild.example"),
        cluster("deep", server, authority.file, server_name="a.b.wild.example"),
        cluster("other", server, authority.file, server_name="two.example"),
        cluster("other_address", server, authority.file, server_name="127.0.0.2"),
        cluster("common_name", unnamed, authority.file),
        ClusterSettings(name="dns", dns=named, tls=UpstreamTlsSettings(ca=authority.file)),
        ClusterSettings(
            name="dns_as", dns=named, tls=UpstreamTlsSettings(ca=authority.file, server_name="one.example")
        ),
    )
    seen: dict[str, Any] = {}
    for name in ("address", "name", "wild", "dns_as"):
        seen[name] = (await client.ask(name, "/x")).body
    for name in ("deep", "other", "other_address", "common_name", "dns"):
        seen[name] = await client.why(name)
    seen["large"] = (await client.ask("name", body=b"x" * 3_000_000)).body == b"x" * 3_000_000
    stream = await client.ask("name", "/stream")
    seen["stream"] = stream.body == b"".join(bytes([at]) * 5000 for at in range(200))
    many = await gatherResults([client.ask("name", f"/{at}") for at in range(50)])
    seen["many"] = [sink.body for sink in many] == [b"/%d" % at for at in range(50)]
    seen["cut"] = (await client.ask("name", "/cut")).failure
    seen["sni"] = set(server.names)
    seen["failures"] = client.counters["other"].connect_failures
    client.upstreams.stop()
    return seen


def test_the_name_decides_and_all_that_http_does_works(tmp_path: Path) -> None:
    seen = run(service_identity, str(tmp_path))
    assert seen["address"] == seen["name"] == seen["wild"] == seen["dns_as"] == b"/x"
    for name, wanted in (
        ("deep", "a.b.wild.example"), ("other", "two.example"), ("other_address", "127.0.0.2"), ("dns", "localhost")
    ):  # fmt: skip
        assert seen[name] == (
            f"connect False: TLS: the certificate is not for {wanted}: it names one.example, *.wild.example, 127.0.0.1"
        )
    assert seen["common_name"].endswith("it names nobody (it has no subject alternative names)")
    assert seen["large"] and seen["stream"] and seen["many"]
    assert seen["cut"].kind == "reset" and "close_notify" in seen["cut"].message
    assert None in seen["sni"] and "one.example" in seen["sni"] and "127.0.0.2" not in seen["sni"]
    assert seen["failures"] >= 1


async def wrong_servers(reactor: Any, folder: str) -> dict[str, str]:
    ours, foreign = Authority(Path(folder), "ours"), Authority(Path(folder), "foreign")
    now = datetime.now(UTC)
    servers = {
        "expired": serving(certificate(ours, "expired", "127.0.0.1", days=-1.0)),
        "early": serving(certificate(ours, "early", "127.0.0.1", after=now + timedelta(hours=1))),
        "foreign": serving(certificate(foreign, "f", "127.0.0.1")),
        "client": serving(ours.issue("c", names=certificate_names(), usage=ExtendedKeyUsageOID.CLIENT_AUTH)),
        "old": serving(certificate(ours, "o", "127.0.0.1"), newest=ssl.TLSVersion.TLSv1_2),
    }
    clusters = [cluster(name, server, ours.file, minimum="1.3") for name, server in servers.items()]
    plain = ClusterSettings(name="files", endpoints=("https://127.0.0.1:1",), tls=UpstreamTlsSettings(ca="gone.pem"))
    client = Client(reactor, *clusters, plain)
    seen = {name: await client.why(name, idempotent=True, retries=0) for name in [*servers, "files"]}
    client.upstreams.stop()
    return seen


def certificate_names() -> list[Any]:
    from ipaddress import ip_address

    from cryptography import x509

    return [x509.IPAddress(ip_address("127.0.0.1"))]


def test_servers_that_do_not_prove_who_they_are_are_refused_with_a_reason(tmp_path: Path) -> None:
    seen = run(wrong_servers, str(tmp_path))
    assert all(why.startswith("connect False: TLS: ") for why in seen.values()), seen
    assert "certificate has expired" in seen["expired"]
    assert "certificate is not yet valid" in seen["early"]
    assert "unable to get local issuer certificate" in seen["foreign"]
    assert "unsuitable certificate purpose" in seen["client"]
    assert "protocol version" in seen["old"]
    assert "gone.pem: No such file" in seen["files"]


async def our_certificates(reactor: Any, folder: str, newest: ssl.TLSVersion) -> dict[str, Any]:
    place = Path(folder)
    authority, foreign = Authority(place, "ca"), Authority(place, "foreign")
    server = serving(certificate(authority, "s", "127.0.0.1"), authority.file, newest)
    first, second = authority.issue("first"), authority.issue("second")
    wrong, expired = foreign.issue("wrong"), authority.issue("expired", days=-1.0)
    client = Client(
        reactor,
        cluster("good", server, authority.file, certificate=first.chain, key=first.key, max_connections=1),
        cluster("none", server, authority.file),
        cluster("wrong", server, authority.file, certificate=wrong.chain, key=wrong.key),
        cluster("expired", server, authority.file, certificate=expired.chain, key=expired.key),
    )
    seen: dict[str, Any] = {"good": (await client.ask("good", "/x")).body}
    for name in ("none", "wrong", "expired"):
        seen[name] = await client.why(name)
    # a new certificate comes into force with the next connection, a broken one does not
    replace_files(first, second)
    await later(reactor, LOOK_AFTER)
    await client.ask("good", "/renewed")
    before = list(server.seen)
    client.upstreams.reconfigure([])
    client.upstreams.reconfigure([cluster("good", server, authority.file, certificate=first.chain, key=first.key)])
    seen["kept"] = len(before)
    await client.ask("good", "/again")
    Path(first.key).write_bytes(b"broken")
    await later(reactor, LOOK_AFTER)
    client.upstreams._clusters["good"].endpoints[0].close_idle(float("inf"))
    seen["broken"] = (await client.ask("good", "/y")).body
    seen["clients"] = [common for _, _, common in server.seen]
    client.upstreams.stop()
    return seen


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_shown_and_renewed(tmp_path: Path, newest: ssl.TLSVersion) -> None:
    seen = run(our_certificates, str(tmp_path), newest)
    assert seen["good"] == b"/x"
    for name, words in (
        ("none", ("required", "handshake failure")),
        ("wrong", ("unknown ca",)),
        ("expired", ("expired",)),
    ):
        assert seen[name].startswith("connect False: TLS: "), seen[name]
        assert any(word in seen[name] for word in words), seen[name]
    assert seen["kept"] == 1, "a kept connection goes on under the old certificate"
    assert seen["broken"] == b"/y"
    assert seen["clients"] == ["first", "second", "second"]


def test_a_client_certificate_that_has_ended_is_said_once_and_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    first, second = authority.issue("first", days=1.0), authority.issue("second", days=9.0)
    settings = UpstreamTlsSettings(ca=authority.file, certificate=first.chain, key=first.key)
    clock, day = [0.0], 86_400.0
    began = time.time()
    tls = ClusterTls(settings, lambda: clock[0], lambda: began + clock[0], used_by=lambda: "cluster payments")
    lines: list[str] = []

    def said(after: float) -> list[str]:
        clock[0] = after
        tls.look()
        return lines

    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        assert said(0.0) == []
        (line,) = said(2.0 * day)
        assert line.startswith(f"CERTIFICATE EXPIRED: {first.chain} (cluster payments) ended at ") and line.endswith(
            "; replace it"
        )
        assert said(3.0 * day) == [line]
        replace_files(first, second)
        assert len(said(4.0 * day)) == 2 and "loaded" in lines[1]
        assert len(said(10.0 * day)) == 3 and lines[2].startswith("CERTIFICATE EXPIRED: ")
    finally:
        globalLogPublisher.removeObserver(observe)


async def sessions(reactor: Any, folder: str, newest: ssl.TLSVersion) -> list[Any]:
    authority = Authority(Path(folder), "ca")
    server = serving(certificate(authority, "s", "127.0.0.1"), "", newest)
    settings = cluster("c", server, authority.file, idle_timeout=0.01)
    client = Client(reactor, settings)
    for _ in range(3):
        await client.ask("c", "/x")
        endpoint = client.upstreams._clusters["c"].endpoints[0]
        endpoint.close_idle(float("inf"))
    # CAs that changed are asked again
    other = Authority(Path(folder), "other")
    Path(authority.file).write_bytes(Path(authority.file).read_bytes() + Path(other.file).read_bytes())
    await later(reactor, LOOK_AFTER)
    await client.ask("c", "/x")
    client.upstreams.stop()
    return server.seen


@pytest.mark.parametrize(("newest", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")])
def test_sessions_are_resumed_until_the_files_change(tmp_path: Path, newest: ssl.TLSVersion, name: str) -> None:
    seen = run(sessions, str(tmp_path), newest)
    assert seen == [(name, False, ""), (name, True, ""), (name, True, ""), (name, False, "")]


async def checks(reactor: Any, folder: str) -> list[tuple[bool, str]]:
    authority, foreign = Authority(Path(folder), "ca"), Authority(Path(folder), "foreign")
    health = HealthCheckSettings(path="/health", interval=0.05, timeout=2.0, unhealthy_after=1, healthy_after=1)
    server = serving(certificate(authority, "s", "127.0.0.1"))
    client = Client(
        reactor,
        cluster("well", server, authority.file, health=health),
        cluster("ill", server, foreign.file, health=health),
    )
    while len(server.seen) < 2 or client.upstreams.snapshot()[1]["healthy"]:
        await later(reactor, 0.02)
    rows = client.upstreams.snapshot()
    client.upstreams.stop()
    return [(row["healthy"], row["error"]) for row in rows]


def test_health_checks_go_over_tls(tmp_path: Path) -> None:
    well, ill = run(checks, str(tmp_path))
    assert well == (True, "")
    assert not ill[0] and "unable to get local issuer certificate" in ill[1]


async def posts(reactor: Any, folder: str) -> list[Any]:
    authority = Authority(Path(folder), "ca")
    server = serving(certificate(authority, "s", "127.0.0.1", "localhost"), authority.file)
    ours = authority.issue("gateway")
    tls = UpstreamTlsSettings(ca=authority.file, certificate=ours.chain, key=ours.key)
    hook = server.endpoint.replace("127.0.0.1", "localhost") + "/hook"
    question = AuthenticatorSettings(kind="http", url=server.endpoint + "/login", tls=tls)
    blind = AuthenticatorSettings(
        kind="http", url=server.endpoint + "/login", tls=UpstreamTlsSettings(ca=authority.file)
    )
    client = Client(reactor, cluster_of(hook, "hook", tls), *clusters_of_questions([question, blind]))
    seen: list[Any] = [await Poster(client.upstreams, "hook", reactor)(hook, [], b"event", 5.0)]
    ask = Questions(client.upstreams, reactor)
    seen.append(await ask(question, b"who"))
    try:
        await ask(blind, b"who")
    except Exception as error:
        seen.append(str(error))
    client.upstreams.stop()
    return [*seen, {common for _, _, common in server.seen}]


def test_webhooks_and_authenticators_speak_tls_with_certificates_of_their_own(tmp_path: Path) -> None:
    status, answer, refused, clients = run(posts, str(tmp_path))
    assert (status, answer) == (200, (200, b"who"))
    assert "connect" in refused and "certificate" in refused
    assert clients == {"gateway"}


async def against_s_server(reactor: Any, folder: str) -> tuple[int, str]:
    authority = Authority(Path(folder), "ca")
    shown, ours = certificate(authority, "s", "127.0.0.1"), authority.issue("gateway")
    (port,) = free_ports(1)
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", shown.chain, "-key", shown.key, "-www",
               "-CAfile", authority.file, "-Verify", "1", "-verify_return_error"]  # fmt: skip
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        while "ACCEPT" not in (line := server.stdout.readline()):
            assert line, "openssl s_server has ended"
        tls = UpstreamTlsSettings(ca=authority.file, certificate=ours.chain, key=ours.key)
        client = Client(reactor, ClusterSettings(name="c", endpoints=(f"https://127.0.0.1:{port}",), tls=tls))
        sink = await client.ask("c")
        client.upstreams.stop()
        return sink.status, sink.body.decode()
    finally:
        server.kill()
        server.wait()


def test_openssl_s_server_agrees(tmp_path: Path) -> None:
    if not any(os.access(f"{place}/openssl", os.X_OK) for place in os.get_exec_path()):
        pytest.skip("there is no openssl command")
    status, page = run(against_s_server, str(tmp_path))
    assert status == 200
    assert "TLSv1.3" in page and "CN = gateway" in page.replace("CN=gateway", "CN = gateway")
