"""openssl s_client against the TLS listener, its hand-shakes on threads: resumed, early, over 1.2, key updates, attacks."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from twisted.internet.threads import deferToThread

from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.http import BodyCollector
from accessgw.model.listener_settings import CertificateSettings
from accessgw.transports.handshakes import HandshakePool
from accessgw.transports.http import HttpBindingFactory
from accessgw.transports.stream import RESET_ON_CLOSE
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.protocols.tls.tls_links import client
from tests.reactor_loop import run
from tests.transports.support import Journal, echo_factories, listen, make_services, outcome, play
from tests.transports.tls_by_hand import Guard

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("state"))
    ensure_development_certificate(directory, time.time(), "gateway.test")
    return directory


def serve_path(exchange):
    def done(body):
        early = exchange.request.early
        exchange.respond(200, [], f"{exchange.request.path} {'early' if early else 'late'}\n".encode())

    return BodyCollector(1 << 20, done, lambda: exchange.respond(413, [], b""))


class Place:
    """A listener with threads for hand-shakes."""

    engine = "pure"
    """Of all of the process."""

    def __init__(self, reactor, state, *, threads=2, waiting=1000, early=0, **limits):
        self.state = state
        self.journal = Journal()
        self.services = make_services(reactor, self.journal, **limits)
        self.services.handshakes = HandshakePool(
            self.services.tls, threads=threads, waiting=waiting, call_from_thread=reactor.callFromThread
        )
        self.services.replays = Guard()
        files = ensure_development_certificate(state, time.time(), "gateway.test")
        protocols = ("mmtp/1", "http/1.1")
        contexts = ServerContexts(
            [CertificateSettings(chain=files.chain, key=files.key)],
            protocols,
            options=ContextOptions(name="test", early_data=early, engine=self.engine),
        )
        factories = {
            **echo_factories(self.journal, ("mmtp/1",)),
            "http/1.1": HttpBindingFactory(serve_path, self.services.limits),
        }
        self.listener = listen(self.services, self.journal, contexts, factories, transport="tls", protocols=protocols)
        self.tls = self.services.tls

    def command(self, *arguments):
        return [OPENSSL, "s_client", "-connect", f"127.0.0.1:{self.listener.port}", "-servername", "localhost",
                "-CAfile", f"{self.state}/ca.pem", *arguments]  # fmt: skip

    def s_client(self, *arguments, data=b""):
        """In a thread: one that ends by itself; what it said."""
        command = self.command(*arguments)
        return deferToThread(
            lambda: subprocess.run(command, input=data, capture_output=True, check=False, timeout=30)
        ).addCallback(lambda done: (done.stdout + done.stderr).decode(errors="replace"))

    def talk(self, *steps, arguments=()):
        """In a thread: each step is (input, what to wait for in its output); everything it said."""
        return deferToThread(self._talk, steps, arguments)

    def _talk(self, steps, arguments):
        command = self.command(*arguments)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        killer = threading.Timer(30, process.kill)
        killer.start()
        said = b""
        try:
            for typed, expected in steps:
                at = len(said)
                process.stdin.write(typed)
                process.stdin.flush()
                while expected not in said[at:]:
                    more = process.stdout.read1(65536)
                    if not more:
                        return said.decode(errors="replace")
                    said += more
            process.stdin.close()
            said += process.stdout.read()
            process.wait()
        finally:
            killer.cancel()
            process.kill()
            process.wait()
        return said.decode(errors="replace")


GET = b"GET /%s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


async def resumed(reactor, state):
    place = Place(reactor, state)
    session = f"{state}/session.pem"
    common = ("-alpn", "http/1.1", "-ign_eof")
    full = await place.s_client(*common, "-sess_out", session, data=GET % b"full")
    again = await place.s_client(*common, "-sess_in", session, data=GET % b"again")
    await place.journal.all_closed(2)
    infos = [info.resumed for info in place.journal.opened]
    return full, again, (place.tls.full, place.tls.resumed, place.tls.detached, place.tls.kept), infos


def test_a_ticket_of_openssl_resumes(played):
    full, again, counted, infos = outcome(played, "resumed")
    assert "/full late" in full and "New, TLSv1.3" in full
    assert "/again late" in again and "Reused, TLSv1.3" in again
    assert counted == (1, 1, 2, 0)
    assert infos == [False, True]


async def early(reactor, state):
    place = Place(reactor, state, early=16384)
    session, request = f"{state}/early.pem", f"{state}/request"
    common = ("-alpn", "http/1.1", "-ign_eof")
    with open(request, "wb") as file:
        file.write(GET % b"asked")
    await place.s_client(*common, "-sess_out", session, data=GET % b"first")
    said = await place.s_client(*common, "-sess_in", session, "-early_data", request)
    counted = place.tls.early_accepted, dict(place.tls.early_refused)
    place.services.replays.is_ready = False
    await place.s_client(*common, "-sess_out", session, data=GET % b"first")
    refused = await place.s_client(*common, "-sess_in", session, "-early_data", request)
    return said, counted, refused, dict(place.tls.early_refused)


def test_early_data_under_a_ticket_of_openssl(played):
    said, counted, refused, reasons = outcome(played, "early")
    assert "Early data was accepted" in said
    assert "/asked early" in said
    assert counted == (1, {})
    assert "HTTP/1.1 425" in refused, refused
    assert reasons == {"not_ready": 1}


async def over_1_2(reactor, state):
    place = Place(reactor, state)
    http = await place.s_client("-tls1_2", "-alpn", "http/1.1", "-ign_eof", data=GET % b"old")
    counted = place.tls.full, place.tls.detached, place.tls.kept
    mmtp = await place.s_client("-tls1_2", "-alpn", "mmtp/1")
    older = await place.s_client("-tls1_1", "-alpn", "http/1.1", "-cipher", "DEFAULT@SECLEVEL=0")
    both = await place.s_client("-tls1_2", "-alpn", "mmtp/1,http/1.1", "-ign_eof", data=GET % b"both")
    await place.journal.all_closed(4)
    details = [detail for _, detail, *_ in place.journal.closed]
    return http, counted, mmtp, older, both, dict(place.tls.refused), details


def test_only_http_is_spoken_over_tls_1_2(played):
    http, counted, mmtp, older, both, refused, details = outcome(played, "over_1_2")
    assert "/old late" in http and "TLSv1.2" in http
    assert counted == (1, 0, 1)
    assert "no application protocol" in mmtp
    assert "alert protocol version" in older
    assert "/both late" in both and "ALPN protocol: http/1.1" in both
    assert refused == {"no_application_protocol": 1, "protocol_version": 1}
    assert any(
        d.startswith("alert 120 (no_application_protocol): TLS ALPN: expected one of mmtp/1, http/1.1") for d in details
    )
    assert any(d.startswith("alert 70 (protocol_version): ") for d in details)


async def renegotiated(reactor, state):
    place = Place(reactor, state, http_idle_timeout=5.0)
    said = await place.talk((b"", b"Secure Renegotiation"), (b"R\n", b"RENEGOTIATING"), (b"Q\n", b"DONE"),
                            arguments=("-tls1_2", "-alpn", "http/1.1"))  # fmt: skip
    await place.journal.all_closed(1)
    return said, place.journal.reasons, [detail for _, detail, *_ in place.journal.closed]


def test_nobody_renegotiates(played):
    said, reasons, details = outcome(played, "renegotiated")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said, said[-2000:]
    assert reasons == ["protocol_error"]
    assert details[0].startswith("alert 100 (no_renegotiation)")


async def key_updates(reactor, state):
    place = Place(reactor, state)
    said = await place.talk(
        (b"one\n", b"one"), (b"k\n", b"KEYUPDATE"), (b"two\n", b"two"), (b"K\n", b"KEYUPDATE"), (b"three\n", b"three"),
        (b"Q\n", b"DONE"), arguments=("-alpn", "mmtp/1"),
    )  # fmt: skip
    await place.journal.all_closed(1)
    return said, place.journal.bindings[0].received, place.journal.reasons


def test_keys_are_updated_both_ways(played):
    said, received, reasons = outcome(played, "key_updates")
    assert received == b"one\ntwo\nthree\n"
    assert said.count("KEYUPDATE") == 2
    assert reasons == ["peer_closed"]


async def crowd(reactor, state):
    """Many at once, through few threads and a short queue."""
    place = Place(reactor, state, threads=2, waiting=4)
    context = ssl.create_default_context(cafile=state + "/ca.pem")
    context.set_alpn_protocols(["mmtp/1"])
    answers = []

    def device(number):
        try:
            sock = socket.create_connection(("127.0.0.1", place.listener.port), timeout=20)
            with context.wrap_socket(sock, server_hostname="localhost") as tls:
                word = str(number).encode()
                tls.sendall(word)
                answers.append(tls.recv(100) == word)
        except OSError:
            answers.append(None)

    def devices():
        threads = [threading.Thread(target=device, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    await deferToThread(devices)
    await place.journal.all_closed(60)
    place.services.handshakes.stop()
    tls = place.tls
    return answers, tls.full, tls.pool_refused, tls.pool_waiting, place.journal.reasons


def test_a_crowd_is_served_or_refused_early(played):
    answers, full, refused, waiting, reasons = outcome(played, "crowd")
    assert len(answers) == 60
    assert False not in answers
    assert answers.count(True) == full
    assert answers.count(None) == refused == reasons.count("overload")
    assert full >= 1
    assert waiting == 0


async def hang_ups(reactor, state):
    """Peers that are gone before their step is over."""
    place = Place(reactor, state)
    engine = client(alpn=["mmtp/1"]).engine("localhost")
    engine.start()
    flight = engine.to_send()

    def devices():
        for number in range(60):
            with socket.create_connection(("127.0.0.1", place.listener.port), timeout=20) as sock:
                sock.sendall(flight if number % 2 else flight[:100])
                if number % 3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    await deferToThread(devices)
    await place.journal.all_closed(60)
    place.services.handshakes.stop()
    reasons = set(place.journal.reasons)
    return reasons, len(place.services.table), place.tls.full, place.journal.bindings


def test_peers_that_hang_up_leave_nothing_behind(played):
    reasons, open_now, full, bindings = outcome(played, "hang_ups")
    assert reasons <= {"handshake_failed", "peer_reset"}
    assert (open_now, full, bindings) == (0, 0, [])


async def everything(reactor, state, engine):
    Place.engine = engine
    return await play(
        {
            scenario.__name__: scenario(reactor, state)
            for scenario in (resumed, early, over_1_2, renegotiated, key_updates, crowd, hang_ups)
        }
    )


@pytest.fixture(scope="module", params=["pure", "native"])
def played(state, request):
    if request.param == "native" and WHY_NOT_NATIVE:
        pytest.skip(WHY_NOT_NATIVE)
    return run(everything, state, request.param, timeout=150)
