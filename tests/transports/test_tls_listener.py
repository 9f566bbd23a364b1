"""The TLS listener on real sockets: ALPN, SNI, time-outs, the ends of a connection, independent clients."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from twisted.internet.threads import deferToThread

from accessgw.crypto.contexts import ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.http import BodyCollector
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.reasons import CloseReason
from accessgw.transports.http import HttpBindingFactory
from protocols.proxyproto import encode_v1
from tests.reactor_loop import run
from tests.transports.support import (
    HeldTime,
    Journal,
    dialogue,
    echo_factories,
    listen,
    make_services,
    outcome,
    play,
    until,
)

OPENSSL = shutil.which("openssl")
CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("state"))
    ensure_development_certificate(directory, time.time(), "gateway.test")
    return directory


def begin(reactor, state, protocols=("mmtp/1", "http/1.1"), factories=None, proxy=(), **limits):
    journal = Journal()
    services = make_services(reactor, journal, **limits)
    files = ensure_development_certificate(state, time.time(), "gateway.test")
    contexts = ServerContexts([CertificateSettings(chain=files.chain, key=files.key)], protocols)
    listener = listen(
        services,
        journal,
        contexts,
        factories or echo_factories(journal),
        transport="tls",
        protocols=protocols,
        proxy_protocol_from=proxy,
    )
    return journal, services, listener


def client_context(state, *alpn):
    context = ssl.create_default_context(cafile=state + "/ca.pem")
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def connect(port, context, name="localhost"):
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)


async def alpn_and_echo(reactor, state):
    journal, services, listener = begin(reactor, state)

    def clients():
        results = []
        for offer in (("mmtp/1",), ("http/1.1", "mmtp/1"), ("h2", "http/1.1"), ()):
            with connect(listener.port, client_context(state, *offer)) as tls:
                tls.sendall(b"hello")
                results.append((tls.selected_alpn_protocol(), tls.version(), tls.recv(100)))
                tls.unwrap()
        try:
            connect(listener.port, client_context(state, "h2"))
            results.append("connected")
        except ssl.SSLError as error:
            results.append(str(error))
        return results

    results = await deferToThread(clients)
    await journal.all_closed(5)
    infos = [(info.alpn, info.tls_version, info.server_name) for info in journal.opened]
    counters = services.counters
    names = [binding.name for binding in journal.bindings]
    return (
        results,
        journal.reasons,
        infos,
        names,
        counters.handshakes,
        counters.handshake_failures,
        journal.closed[4][1],
    )


def test_alpn_chooses_the_binding(played):
    (*results, refusal), reasons, infos, names, handshakes, failures, detail = outcome(played, "alpn_and_echo")
    assert results == [
        ("mmtp/1", "TLSv1.3", b"hello"),
        ("mmtp/1", "TLSv1.3", b"hello"),
        ("http/1.1", "TLSv1.3", b"hello"),
        (None, "TLSv1.3", b"hello"),
    ]
    assert "application protocol" in refusal.lower().replace("_", " ") or "1120" in refusal
    assert reasons == ["peer_closed"] * 4 + ["handshake_failed"]
    assert infos[0] == ("mmtp/1", "TLSv1.3", "localhost")
    assert names == ["mmtp/1", "mmtp/1", "http/1.1", "http/1.1"]
    assert (handshakes, failures) == (4, 1)
    assert detail.startswith("alert 120") and "h2" in detail


async def ends(reactor, state):
    held = HeldTime(reactor)
    journal, services, listener = begin(held, state, protocols=("mmtp/1",), handshake_timeout=5, hello_timeout=5)
    counters = services.counters

    def half_open():
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as sock:
            try:
                return sock.recv(1)
            except ConnectionError:
                return "reset"

    def silent_after_handshake():
        with connect(listener.port, client_context(state, "mmtp/1")) as tls:
            try:
                return tls.recv(1)
            except OSError:
                return "reset"

    def no_alpn():
        with connect(listener.port, client_context(state)) as tls:
            try:
                return tls.recv(1)
            except ssl.SSLError as error:
                return str(error)

    def cut():
        tls = connect(listener.port, client_context(state, "mmtp/1"))
        tls.sendall(b"x")
        tls.recv(1)
        tls.shutdown(socket.SHUT_WR)  # FIN without close_notify
        tls.close()

    seen = []
    for client, waits in (
        (half_open, lambda: counters.open == 1),
        (silent_after_handshake, lambda: counters.handshakes == 1),
    ):
        said = deferToThread(client)
        await until(reactor, waits)
        held.wait(6)
        seen.append(await said)
        await journal.all_closed(len(seen))
    seen.append(await deferToThread(no_alpn))
    await journal.all_closed(3)
    await deferToThread(cut)
    await journal.all_closed(4)
    seen.append(await dialogue(listener.port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
    await journal.all_closed(5)
    seen.append(await dialogue(listener.port, encode_v1("192.0.2.1", 1, "192.0.2.2", 2)))
    await journal.all_closed(6)
    return seen, journal.reasons, counters.handshake_failures


def test_connections_end_with_their_reasons(played):
    seen, reasons, failures = outcome(played, "ends")
    assert seen[:2] == ["reset", "reset"]
    assert "application protocol" in seen[2].lower().replace("_", " ") or "1120" in seen[2]
    assert seen[4] == b""
    assert reasons == [
        "handshake_timeout",
        "hello_timeout",
        "handshake_failed",
        "peer_reset",
        "handshake_failed",
        "proxy_header",
    ]
    assert failures == 3


async def close_and_large(reactor, state):
    journal, _, listener = begin(reactor, state, protocols=("mmtp/1",), write_buffer=1 << 20)
    size = 300_000

    def client():
        got = b""
        with connect(listener.port, client_context(state, "mmtp/1")) as tls:
            tls.sendall(b"x" * size)
            while len(got) < size:
                got += tls.recv(65536)
            tls.sendall(b"end")
            last = b""
            while data := tls.recv(65536):  # a ragged end would raise
                last += data
        return len(got), last

    waiting = deferToThread(client)
    while not (journal.bindings and journal.bindings[0].received.endswith(b"end")):
        await deferToThread(time.sleep, 0.01)
    connection = journal.bindings[0].connection
    connection.write(b"bye")
    connection.close(CloseReason.DRAINING)
    connection.write(b"no more")
    result = await waiting
    await journal.all_closed()
    return result, journal.reasons


def test_large_data_and_an_orderly_close(played):
    assert outcome(played, "close_and_large") == ((300_000, b"endbye"), ["draining"])


async def proxied(reactor, state):
    journal, _, listener = begin(reactor, state, protocols=("mmtp/1",), proxy=("127.0.0.1",))

    def client():
        sock = socket.create_connection(("127.0.0.1", listener.port), timeout=10)
        sock.sendall(encode_v1("203.0.113.7", 4711, "198.51.100.1", 443))
        with client_context(state, "mmtp/1").wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"x")
            return tls.recv(1)

    got = await deferToThread(client)
    await journal.all_closed()
    return got, journal.opened[0].peer


def test_a_proxy_header_before_tls(played):
    assert outcome(played, "proxied") == (b"x", "203.0.113.7")


def hello_handler(exchange):
    def done(body):
        request = exchange.request
        answer = {"method": request.method, "path": request.path, "size": len(body), "alpn": request.connection.alpn}
        exchange.respond(200, [("content-type", "application/json")], json.dumps(answer).encode())

    return BodyCollector(1 << 22, done, lambda: exchange.respond(413, [], b""))


async def independent_clients(reactor, state):
    """curl and openssl s_client against one listener; each result is None when the tool is missing."""
    journal = Journal()
    services = make_services(reactor, journal)
    factories = {
        **echo_factories(journal, ("mmtp/1",)),
        "http/1.1": HttpBindingFactory(hello_handler, services.limits),
    }
    _, _, listener = begin(reactor, state, factories=factories)
    plain = listen(services, journal, factories=factories, protocols=("mmtp/1", "http/1.1"))
    url = f"https://localhost:{listener.port}"
    with open(state + "/upload", "wb") as file:
        file.write(bytes(2_000_000))

    def curl(*args):
        command = [CURL, "-sS", "--noproxy", "*", "--max-time", "20", "--cacert", state + "/ca.pem", *args]
        return subprocess.run(command, capture_output=True, check=False, timeout=30)

    def s_client(*args, data=b""):
        command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{listener.port}", "-CAfile", state + "/ca.pem"]
        return subprocess.run([*command, *args], input=data, capture_output=True, check=False, timeout=30)

    results = {}
    if CURL:
        both = await deferToThread(curl, f"{url}/one", f"{url}/two?x=1", "-w", "%{num_connects}\n")
        results["keep_alive"] = both.stdout.decode(), both.stderr.decode()
        upload = await deferToThread(curl, "-T", state + "/upload", "-H", "Expect: 100-continue", f"{url}/up")
        results["upload"] = upload.stdout.decode(), upload.stderr.decode()
        plainly = await deferToThread(curl, f"http://127.0.0.1:{plain.port}/plain")
        results["plain"] = plainly.stdout.decode(), plainly.stderr.decode()
        old = await deferToThread(curl, "--tls-max", "1.2", f"{url}/old")
        results["tls12"] = old.stdout.decode(), old.stderr.decode()
    if OPENSSL:
        good = await deferToThread(s_client, "-alpn", "mmtp/1", "-brief", "-verify_return_error", data=b"Q")
        results["mmtp"] = good.returncode, (good.stdout + good.stderr).decode(errors="replace")
        full = await deferToThread(s_client, "-alpn", "mmtp/1", "-servername", "localhost", data=b"Q\n")
        results["full"] = full.returncode, (full.stdout + full.stderr).decode(errors="replace")
        bad = await deferToThread(s_client, "-alpn", "imap", data=b"Q")
        results["imap"] = bad.returncode, (bad.stdout + bad.stderr).decode(errors="replace")
        low = await deferToThread(s_client, "-alpn", "mmtp/1", "-tls1_2", data=b"Q")
        results["mmtp12"] = low.returncode, (low.stdout + low.stderr).decode(errors="replace")
    return results


async def everything(reactor, state):
    return await play(
        {
            "alpn_and_echo": alpn_and_echo(reactor, state),
            "ends": ends(reactor, state),
            "close_and_large": close_and_large(reactor, state),
            "proxied": proxied(reactor, state),
            "independent_clients": independent_clients(reactor, state),
        }
    )


@pytest.fixture(scope="module")
def played(state):
    return run(everything, state)


@pytest.mark.skipif(not CURL, reason="curl is not installed")
def test_curl(played):
    independent = outcome(played, "independent_clients")
    out, err = independent["keep_alive"]
    assert not err
    assert '"path": "/one"' in out and '"path": "/two"' in out and '"alpn": "http/1.1"' in out
    assert out.count("}1\n") == 1 and out.count("}0\n") == 1  # the second request reused the connection
    assert '"size": 2000000' in independent["upload"][0], independent["upload"]
    assert '"path": "/plain"' in independent["plain"][0], independent["plain"]
    assert '"path": "/old"' in independent["tls12"][0], independent["tls12"]


@pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")
def test_openssl_s_client(played):
    independent = outcome(played, "independent_clients")
    code, text = independent["mmtp"]
    assert code == 0 and "TLSv1.3" in text and "Verification: OK" in text, text
    assert "ALPN protocol: mmtp/1" in independent["full"][1], independent["full"]
    assert independent["imap"][0] != 0 and "no application protocol" in independent["imap"][1], independent["imap"]
    assert independent["mmtp12"][0] != 0 and "no application protocol" in independent["mmtp12"][1]
