"""Listeners that serve MQTT: told by ALPN, by being alone, or by the first byte; over TLS 1.2 as well."""

from __future__ import annotations

import socket
import ssl
import time

import pytest
from twisted.internet.threads import deferToThread

from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.listener_settings import CertificateSettings
from protocols.proxyproto import encode_v1, encode_v2
from tests.reactor_loop import run
from tests.transports.support import Journal, dialogue, echo_factories, listen, make_services, outcome, play

ALL = ("mmtp/1", "mqtt", "http/1.1")
CONNECT = b"\x10\x0c\x00\x04MQTT\x05\x00\x00\x00\x00"


def begin(reactor, state, protocols, minimum="1.2", proxy=(), **limits):
    journal = Journal()
    services = make_services(reactor, journal, **limits)
    settings = {"protocols": protocols, "proxy_protocol_from": proxy}
    contexts = None
    if state is not None:
        files = ensure_development_certificate(state, time.time(), "gateway.test")
        certificate = CertificateSettings(chain=files.chain, key=files.key)
        contexts = ServerContexts([certificate], protocols, options=ContextOptions(minimum=minimum))
        settings["transport"] = "tls"
    return journal, listen(services, journal, contexts, echo_factories(journal, protocols), **settings)


def speak(port, state, data, *alpn, version=ssl.TLSVersion.TLSv1_3, prelude=b""):
    """(what came back, version, ALPN), or the refusal in words."""
    context = ssl.create_default_context(cafile=state + "/ca.pem")
    context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(prelude)
        try:
            with context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
                tls.sendall(data)
                return tls.recv(100), tls.version(), tls.selected_alpn_protocol()
        except ssl.SSLError as error:
            return str(error).upper().replace(" ", "_")


OLD = ssl.TLSVersion.TLSv1_2


async def several(reactor, state):
    journal, listener = begin(reactor, state, ALL)
    results = []
    for data, *alpn in (
        (CONNECT,),
        (b"GET / HTTP/1.1\r\n",),
        (CONNECT, "mqtt"),
        (CONNECT, "http/1.1", "mqtt"),
        (b"\x80", "mqtt"),
    ):
        results.append(await deferToThread(speak, listener.port, state, data, *alpn))
    results.append(await deferToThread(speak, listener.port, state, CONNECT, version=OLD))
    results.append(await deferToThread(speak, listener.port, state, CONNECT, "mmtp/1", "mqtt", version=OLD))
    for data in (b"\x80hello", b"\x20nonsense"):
        results.append(await deferToThread(speak, listener.port, state, data))
    await journal.all_closed(9)
    return results, [b.name for b in journal.bindings], journal.reasons, [closed[1] for closed in journal.closed]


def test_tls_with_several_protocols(played):
    results, names, reasons, details = outcome(played, "several")
    assert results == [
        (CONNECT, "TLSv1.3", None),
        (b"GET / HTTP/1.1\r\n", "TLSv1.3", None),
        (CONNECT, "TLSv1.3", "mqtt"),
        (CONNECT, "TLSv1.3", "mqtt"),
        (b"\x80", "TLSv1.3", "mqtt"),
        (CONNECT, "TLSv1.2", None),
        (CONNECT, "TLSv1.2", "mqtt"),
        (b"", "TLSv1.3", None),
        (b"", "TLSv1.3", None),
    ]
    assert names == ["mqtt", "http/1.1", "mqtt", "mqtt", "mqtt", "mqtt", "mqtt"]
    assert set(reasons[:7]) <= {"peer_closed", "peer_reset"} and reasons[7:] == ["protocol_error"] * 2
    assert details[7] == "without ALPN: expected mqtt or http/1.1, got what looks like mmtp/1"
    assert "0x20" in details[8]


async def alone(reactor, state):
    """Port 8883: whatever comes is MQTT, whether ALPN says so or nothing."""
    journal, listener = begin(reactor, state, ("mqtt",))
    results = []
    for alpn, version in (((), OLD), ((), ssl.TLSVersion.TLSv1_3), (("mqtt",), OLD)):
        results.append(await deferToThread(speak, listener.port, state, b"\x80", *alpn, version=version))
    results.append(await deferToThread(speak, listener.port, state, b"x", "http/1.1"))
    await journal.all_closed(4)
    _, strict = begin(reactor, state, ("mqtt",), minimum="1.3")
    results.append(await deferToThread(speak, strict.port, state, b"x", version=OLD))
    results.append(await deferToThread(speak, strict.port, state, b"x"))
    journal, mmtp = begin(reactor, state, ("mmtp/1",))
    results.append(await deferToThread(speak, mmtp.port, state, b"\x80", version=OLD))
    results.append(await deferToThread(speak, mmtp.port, state, b"\x80"))
    await journal.all_closed(2)
    return results, journal.reasons


def test_tls_with_mqtt_alone_and_the_lowest_version(played):
    results, reasons = outcome(played, "alone")
    assert results[:3] == [(b"\x80", "TLSv1.2", None), (b"\x80", "TLSv1.3", None), (b"\x80", "TLSv1.2", "mqtt")]
    assert "APPLICATION_PROTOCOL" in results[3] or "1120" in results[3]
    assert "PROTOCOL_VERSION" in results[4]
    assert results[5] == (b"x", "TLSv1.3", None)
    assert "PROTOCOL_VERSION" in results[6]
    assert "NO_APPLICATION_PROTOCOL" in results[7]
    assert reasons == ["handshake_failed"] * 2


async def silent(reactor, state):
    """No ALPN and no first byte."""
    journal, listener = begin(reactor, state, ALL, hello_timeout=0.5)

    def wait():
        context = ssl.create_default_context(cafile=state + "/ca.pem")
        with (
            socket.create_connection(("127.0.0.1", listener.port), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            try:
                return tls.recv(1)
            except OSError:
                return b""

    assert await deferToThread(wait) == b""
    await journal.all_closed()
    return journal.reasons, journal.opened


def test_a_client_that_says_nothing_is_timed_out(played):
    assert outcome(played, "silent") == (["hello_timeout"], [])


async def plain(reactor, state):
    journal, listener = begin(reactor, None, ALL)
    for data in (CONNECT, b"GET /", b"\x80x"):
        assert await dialogue(listener.port, data, len(data), "fin") == data
    results = [await dialogue(listener.port, b"\x30\x00")]
    await journal.all_closed(4)
    two, other = begin(reactor, None, ("mmtp/1", "http/1.1"))
    results.append(await dialogue(other.port, CONNECT))
    await two.all_closed()
    return results, [binding.name for binding in journal.bindings], two.closed[0][:2]


def test_the_first_byte_decides_on_plain_listeners(played):
    results, names, (reason, detail) = outcome(played, "plain")
    assert results == [b"", b""]
    assert names == ["mqtt", "http/1.1", "mmtp/1"]
    assert str(reason) == "protocol_error"
    assert detail == "expected mmtp/1 or http/1.1, got what looks like mqtt"


async def proxied(reactor, state):
    seen = []
    headers = (encode_v1("203.0.113.7", 9, "198.51.100.1", 1883), encode_v2("203.0.113.8", 9, "198.51.100.1", 1883))
    for protocols in (("mqtt",), ALL):
        for header in headers:
            journal, listener = begin(reactor, None, protocols, proxy=("127.0.0.0/8",))
            assert await dialogue(listener.port, header + CONNECT, len(CONNECT), "fin") == CONNECT
            await journal.all_closed()
            seen.append((journal.bindings[0].name, journal.opened[0].peer))
            journal, listener = begin(reactor, state, protocols, proxy=("127.0.0.0/8",))
            answer = await deferToThread(speak, listener.port, state, CONNECT, prelude=header)
            assert answer == (CONNECT, "TLSv1.3", None)
            await journal.all_closed()
            seen.append((journal.bindings[0].name, journal.opened[0].peer))
    return seen


def test_proxy_headers_before_mqtt(played):
    seen = outcome(played, "proxied")
    assert {name for name, _ in seen} == {"mqtt"}
    assert [peer for _, peer in seen] == ["203.0.113.7"] * 2 + ["203.0.113.8"] * 2 + ["203.0.113.7"] * 2 + [
        "203.0.113.8"
    ] * 2


async def everything(reactor, state):
    return await play(
        {scenario.__name__: scenario(reactor, state) for scenario in (several, alone, silent, plain, proxied)}
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("state"))
    ensure_development_certificate(directory, time.time(), "gateway.test")
    return run(everything, directory)
