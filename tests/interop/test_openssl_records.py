"""A detached record layer against openssl s_client, which updates its keys by command."""

from __future__ import annotations

import contextlib
import socket
import subprocess

import pytest
from OpenSSL import SSL

from accessgw.crypto.contexts import ServerContexts
from protocols.tls.engine import CloseNotifyReceived, PlaintextReceived
from protocols.tls.key_schedule import SUITES_BY_NAME
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer
from tests.crypto.certificates import self_signed
from tests.interop.programs import needs
from tests.protocols.tls.record_peers import BACKENDS, backend_or_skip
from tests.protocols.tls.test_records_openssl import records, take

pytestmark = needs("openssl", "openssl")


class Server:
    """One accepted connection: OpenSSL for the hand-shake, then the record layer under test."""

    def __init__(self, context: SSL.Context, accepted: socket.socket, backend: str) -> None:
        self.socket = accepted
        secrets: dict[str, bytes] = {}

        def note(_: SSL.Connection, line: bytes) -> None:
            label, _random, secret = line.split()
            secrets[label.decode()] = bytes.fromhex(secret.decode())

        context.set_keylog_callback(note)
        connection = SSL.Connection(context, None)
        connection.set_accept_state()
        tickets = b""
        while True:
            connection.bio_write(accepted.recv(65536))
            done = False
            with contextlib.suppress(SSL.WantReadError):
                connection.do_handshake()
                done = True
            said = take(connection)
            accepted.sendall(said)
            if done:
                tickets = said
                break
        state = DetachedState(
            SUITES_BY_NAME[connection.get_cipher_name()].id,
            True,
            secrets["CLIENT_TRAFFIC_SECRET_0"],
            secrets["SERVER_TRAFFIC_SECRET_0"],
            write_sequence=records(tickets),
        )
        self.layer = RecordLayer(state, backend=backend_or_skip(backend))

    def hear(self) -> list[object]:
        """What the next bytes bring; our answer goes out at once."""
        self.layer.feed(self.socket.recv(65536))
        self.flush()
        return list(self.layer.events())

    def flush(self) -> int:
        said = self.layer.to_send()
        self.socket.sendall(said)
        return len(said)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("suite", SUITES_BY_NAME)
def test_s_client_updates_its_keys(tmp_path, suite, backend):
    backend_or_skip(backend)
    certificate = self_signed(tmp_path, "localhost")
    context = ServerContexts([certificate], []).context()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-ciphersuites", suite]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(30)
                converse(Server(context, accepted, backend), process)
        finally:
            process.kill()
            process.wait()


def converse(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Data, a key update that is asked to be answered, one that is not, our own, and the end."""
    assert process.stdin is not None
    assert process.stdout is not None

    def type_in(text: bytes) -> None:
        process.stdin.write(text)
        process.stdin.flush()

    def read_until(text: bytes) -> None:
        said = b""
        while text not in said:
            part = process.stdout.read1(65536)  # type: ignore[attr-defined]
            assert part, said
            said += part

    type_in(b"before\n")
    assert server.hear() == [PlaintextReceived(b"before\n")]
    for letter, answers in ((b"K\n", True), (b"k\n", False), (b"K\n", True)):
        type_in(letter)
        server.layer.feed(server.socket.recv(65536))
        assert server.layer.events() == []
        # Records of both twins carry 5 bytes of KeyUpdate, and 22 around them.
        assert server.flush() == (27 if answers else 0)
        server.layer.encrypt(b"now " + letter)
        server.flush()
        read_until(b"now " + letter)
        type_in(b"after " + letter)
        assert server.hear() == [PlaintextReceived(b"after " + letter)]
    type_in(b"Q\n")
    assert server.hear() == [CloseNotifyReceived()]
    assert server.socket.recv(1) == b""
    server.layer.feed_eof()
