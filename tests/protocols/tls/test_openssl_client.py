"""OpenSSL's own client against the engine and what it detaches to: keys, tickets and early data over loopback."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import socket
import threading

import pytest

from protocols.errors import RemoteError
from protocols.tls.engine import EarlyDataReceived, HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import session_der
from tests.interop.programs import needs, run
from tests.protocols.tls.tls_links import IDENTITY, PSK, Moved, completed, early, issuer, keys, plaintext, server

pytestmark = needs("openssl", "openssl")


class Serving:
    """Accepts on loopback, one connection after another; answers early data and the first line, then closes."""

    def __init__(self, context, detach):
        self._context, self._detach = context, detach
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = []
        """Per connection: its events, and all bytes that came."""
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                with peer:
                    peer.settimeout(20)
                    self._serve(peer)

    def _serve(self, peer):
        engine, events, came = self._context.engine(detachable=self._detach), [], bytearray()
        self.connections.append((events, came))
        with contextlib.suppress(RemoteError, OSError):
            while data := peer.recv(65536):
                came += data
                engine.feed(data)
                told = engine.events()
                if self._detach and any(isinstance(event, HandshakeCompleted) for event in told):
                    engine = Moved(engine, engine.detach())
                    told += engine.events()
                events += told
                for event in told:
                    if isinstance(event, EarlyDataReceived):
                        engine.encrypt(b"early:" + event.data)
                    elif isinstance(event, PlaintextReceived):
                        engine.encrypt(b"echo:" + event.data)
                        engine.close()
                peer.sendall(engine.to_send())
                if any(isinstance(event, PlaintextReceived) for event in told):
                    return


@pytest.fixture
def speak(tmp_path):
    """Runs s_client against a port with more arguments; its output, which must show a verified server."""
    authority = tmp_path / "ca.pem"
    authority.write_bytes(issuer().pem)

    def run_client(serving, *more, data=b"a line\n"):
        done = run(
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{serving.port}",
            "-CAfile",
            authority,
            "-verify_return_error",
            "-servername",
            "localhost",
            "-alpn",
            "mmtp/1",
            "-ign_eof",
            *more,
            data=data,
        )
        return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")

    return run_client


def early_file(tmp_path, data=b"a call in 0-RTT"):
    path = tmp_path / "early"
    path.write_bytes(data)
    return path


def key_file(tmp_path, psk):
    body = base64.encodebytes(session_der(psk)).decode()
    path = tmp_path / "psk.pem"
    path.write_text(f"-----BEGIN SSL SESSION PARAMETERS-----\n{body}-----END SSL SESSION PARAMETERS-----\n")
    return path


@pytest.mark.parametrize(("version", "detach"), [("-tls1_3", False), ("-tls1_3", True), ("-tls1_2", False)])
def test_full_handshakes(speak, detach, version):
    context = server(minimum="1.2", alpn_below_1_3=frozenset({"mmtp/1"}))
    with Serving(context, detach) as serving:
        output = speak(serving, version)
    assert "echo:a line" in output
    assert "Verify return code: 0 (ok)" in output
    ((events, _),) = serving.connections
    assert completed(events).version == {"-tls1_3": "TLSv1.3", "-tls1_2": "TLSv1.2"}[version]
    assert plaintext(events) == b"a line\n"


@pytest.mark.parametrize("detach", [False, True], ids=["engine", "detached"])
def test_an_external_key_of_17_bytes_with_early_data(speak, tmp_path, detach):
    assert len(IDENTITY) == 17
    more = ("-psk_session", key_file(tmp_path, PSK), "-psk_identity", IDENTITY.decode("latin-1"))
    more += ("-early_data", early_file(tmp_path), "-ciphersuites", "TLS_AES_128_GCM_SHA256")
    with Serving(server(), detach) as serving:
        output = speak(serving, *more)
    assert "Early data was accepted" in output
    assert "early:a call in 0-RTT" in output and "echo:a line" in output
    ((events, _),) = serving.connections
    seen = completed(events)
    assert (seen.resumed, seen.psk_identity, seen.early) == (True, IDENTITY, "accepted")
    assert early(events) == b"a call in 0-RTT"


@pytest.mark.parametrize(
    ("known", "resumed"),
    [((), False), ((dataclasses.replace(PSK, max_early_data=0),), True)],
    ids=["stale", "no early"],
)
def test_early_data_that_is_refused(speak, tmp_path, known, resumed):
    more = ("-psk_session", key_file(tmp_path, PSK), "-psk_identity", IDENTITY.decode("latin-1"))
    more += ("-early_data", early_file(tmp_path), "-ciphersuites", "TLS_AES_128_GCM_SHA256")
    with Serving(server(find_psk=keys(*known)), True) as serving:
        output = speak(serving, *more)
    assert "Early data was rejected" in output and "echo:a line" in output
    ((events, _),) = serving.connections
    seen = completed(events)
    assert (seen.resumed, seen.early) == (resumed, "refused")
    assert not early(events)


def test_a_wrong_key_gets_an_alert(speak, tmp_path):
    wrong = dataclasses.replace(PSK, key=os.urandom(32))
    more = ("-psk_session", key_file(tmp_path, wrong), "-psk_identity", IDENTITY.decode("latin-1"))
    with Serving(server(), True) as serving:
        output = speak(serving, *more, "-ciphersuites", "TLS_AES_128_GCM_SHA256")
    ((events, _),) = serving.connections
    assert events == []
    assert "echo" not in output


@pytest.mark.parametrize("detach", [False, True], ids=["engine", "detached"])
@pytest.mark.parametrize("taken", [False, True], ids=["not taken", "taken"])
def test_an_ordinary_ticket_with_early_data(speak, tmp_path, taken, detach):
    session = tmp_path / "session"
    context = server(ticket_early_data=taken)
    with Serving(context, detach) as serving:
        speak(serving, "-sess_out", session)
        output = speak(serving, "-sess_in", session, "-early_data", early_file(tmp_path))
    assert "Reused, TLSv1.3" in output
    assert "echo:a line" in output
    assert f"Early data was {'accepted' if taken else 'rejected'}" in output
    (first, _), (events, came) = serving.connections
    assert not completed(first).resumed
    seen = completed(events)
    assert (seen.resumed, seen.psk_identity, seen.early) == (True, b"", "accepted" if taken else "refused")
    assert early(events) == (b"a call in 0-RTT" if taken else b"")
    if taken:
        # OpenSSL takes a replay as well; the random is what it is known by.
        again = context.engine()
        with contextlib.suppress(RemoteError):
            again.feed(bytes(came[:-1]))
        (replayed, *_) = again.events()
        assert isinstance(replayed, EarlyDataReceived)
        assert (replayed.client_random, replayed.identity) == (events[0].client_random, events[0].identity)
        assert len(replayed.client_random) == 32 and replayed.identity
        assert not again.handshaken


def test_a_ticket_of_another_context_falls_back(speak, tmp_path):
    """As after a reload, or in another process: the keys of tickets are each context's own."""
    session = tmp_path / "session"
    with Serving(server(ticket_early_data=True), True) as serving:
        speak(serving, "-sess_out", session)
    with Serving(server(ticket_early_data=True), True) as serving:
        output = speak(serving, "-sess_in", session, "-early_data", early_file(tmp_path))
    assert "Early data was rejected" in output and "echo:a line" in output
    ((events, _),) = serving.connections
    assert (completed(events).resumed, completed(events).early) == (False, "refused")
