"""Pieces of hand-over tests: an echo that can move, the process that takes over, clients that check every byte.

As a program it is the other process: python handover_peers.py PATH take|die|silent CHAIN KEY ALPN
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import selectors
import socket
import subprocess
import sys
import threading
from pathlib import Path

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from accessgw.crypto.contexts import ServerContexts  # noqa: E402  # as a program it needs the path first
from accessgw.transports.handover import HandoverReceiver, HandoverSender  # noqa: E402
from protocols.tls.client_context import ClientContext, ClientOptions  # noqa: E402
from protocols.tls.engine import HandshakeCompleted, PlaintextReceived  # noqa: E402
from protocols.tls.records import RecordLayer  # noqa: E402
from tests.transports.handover_mmtp import MovableCallsFactory  # noqa: E402
from tests.transports.support import Journal, listen, make_services  # noqa: E402


class MovableEcho:
    """Sends back what it gets, and counts it; what comes while it is leaving is no fault of the transport's to hide."""

    def __init__(self, connection, count=0):
        self.connection = connection
        self.count = count
        self.left = False

    def data_received(self, data):
        assert not self.left
        self.connection.established()
        self.count += len(data)
        self.connection.write(data)

    def leave(self):
        self.left = True
        return b"%d" % self.count

    def stay(self):
        self.left = False

    def drained(self):
        pass

    def aged(self):
        pass

    late = expired = aged

    def connection_lost(self, reason, detail):
        pass


class MovableEchoes:
    """Its factory."""

    def __init__(self):
        self.made = []

    def __call__(self, connection):
        self.made.append(MovableEcho(connection))
        return self.made[-1]

    def resume(self, connection, state):
        self.made.append(MovableEcho(connection, int(state)))
        return self.made[-1]


class Place:
    """A TLS listener of movable echoes in this process: of bytes, or with ALPN mmtp/1 of calls."""

    def __init__(self, reactor, state, alpn="http/1.1"):
        self.journal = Journal()
        self.services = make_services(reactor, self.journal)
        self.echoes = MovableCallsFactory(reactor) if alpn == "mmtp/1" else MovableEchoes()
        self.factories = {alpn: self.echoes}
        self.listener = listen(
            self.services,
            self.journal,
            ServerContexts([state], [alpn]),
            self.factories,
            transport="tls",
            protocols=(alpn,),
        )

    def sender(self, reactor, path, timeout=30.0):
        """Fires with the HandoverSender once somebody has connected to `path`."""
        from twisted.internet.defer import Deferred

        connected = Deferred()

        class Sender(HandoverSender):
            def connectionMade(self):
                port.stopListening()
                connected.callback(self)

        factory = Factory.forProtocol(lambda: Sender(self.services.timers, timeout))
        port = reactor.listenUNIX(path, factory, mode=0o600)
        return connected

    async def channel(self, reactor, path, factories=None):
        """A sender and a receiver, both of this process."""
        connected = self.sender(reactor, path)
        make = lambda: HandoverReceiver(self.listener.adopting, factories or self.factories)  # noqa: E731
        endpoint = UNIXClientEndpoint(reactor, path)
        receiver = await endpoint.connect(Factory.forProtocol(make))
        return await connected, receiver


class Dying(HandoverReceiver):
    """Ends without a word when some offers have come."""

    offers = 0

    def _offered(self, number, body):
        self.offers += 1
        if self.offers == 5:
            os._exit(9)


class Silent(HandoverReceiver):
    def _offered(self, number, body):
        pass


def take_over(path, kind, chain, key, alpn):
    """The other process: takes over, echoes on, and tells at the end of its input how much it has echoed."""
    from accessgw.model.listener_settings import CertificateSettings
    from accessgw.transports.reactor import install

    # The process is ours alone; the tests that import this module have a reactor of their own, so not above.
    install()
    from twisted.internet import reactor, stdio
    from twisted.internet.protocol import Protocol

    place = Place(reactor, CertificateSettings(chain=chain, key=key), alpn)
    cls = {"take": HandoverReceiver, "die": Dying, "silent": Silent}[kind]
    factory = Factory.forProtocol(lambda: cls(place.listener.adopting, place.factories))
    factory.noisy = False
    factory.startedConnecting = factory.clientConnectionLost = lambda *_: None
    factory.clientConnectionFailed = lambda *_: reactor.stop()
    reactor.connectUNIX(path, factory)

    class Input(Protocol):
        def connectionLost(self, reason=None):
            reactor.stop()

    stdio.StandardIO(Input())
    reactor.run()
    print(sum(echo.count for echo in place.echoes.made), len(place.echoes.made), flush=True)


class Other:
    """That process, seen from the one that gives away."""

    def __init__(self, path, kind, files, alpn="http/1.1"):
        command = [sys.executable, __file__, path, kind, files.chain, files.key, alpn]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def end(self):
        """What it told; its exit status."""
        said, _ = self.process.communicate(timeout=30)
        return said, self.process.returncode


class EngineClient:
    """Our client engine, its records detached, on a socket."""

    def __init__(self, port, ca, seed):
        self.random = random.Random(seed)
        self.sock = socket.create_connection(("127.0.0.1", port), 20)
        engine = ClientContext(ClientOptions(ca, alpn=["http/1.1"])).engine("localhost", detachable=True)
        engine.start()
        events = []
        while not any(isinstance(event, HandshakeCompleted) for event in events):
            self.sock.sendall(engine.to_send())
            engine.feed(self.sock.recv(65536))
            events += engine.events()
        self.sock.sendall(engine.to_send())
        state = engine.detach()
        assert state is not None
        self.layer = RecordLayer(state)
        self.layer.start()
        self.sock.setblocking(False)
        self.out = b""

    def fileno(self):
        return self.sock.fileno()

    def send(self, data):
        self.layer.encrypt(data)
        self.out += self.layer.to_send()
        self.flush()

    def flush(self):
        with contextlib.suppress(BlockingIOError):
            self.out = self.out[self.sock.send(self.out) :] if self.out else b""

    def receive(self):
        data = self.sock.recv(65536)
        assert data, "the connection ended"
        self.layer.feed(data)
        told = b"".join(event.data for event in self.layer.events() if isinstance(event, PlaintextReceived))
        self.out += self.layer.to_send()
        return told

    def close(self):
        self.sock.close()


class OpensslClient:
    """An unmodified openssl s_client."""

    def __init__(self, port, ca_file, seed):
        self.random = random.Random(seed)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "http/1.1", "-quiet",
                   "-no_ign_eof", "-nocommands", "-CAfile", ca_file]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        self.out = b""

    def fileno(self):
        return self.process.stdout.fileno()

    def send(self, data):
        self.out += data
        self.flush()

    def flush(self):
        if self.out:
            self.out = self.out[self.process.stdin.write(self.out) or 0 :]

    def receive(self):
        data = os.read(self.fileno(), 65536)
        assert data, "s_client ended"
        return data

    def close(self):
        self.process.kill()
        self.process.communicate()


class Load:
    """Clients that never stop sending, in a thread; each checks that what comes back is what it sent."""

    OUTSTANDING = 48 * 1024

    def __init__(self, clients):
        self.clients = clients
        self.sent = [0] * len(clients)
        self.came = [0] * len(clients)
        self.failure = None
        self._expected = [hashlib.sha256() for _ in clients]
        self._heard = [hashlib.sha256() for _ in clients]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def least(self):
        """Bytes that have come back to every client."""
        if self.failure is not None:
            raise AssertionError(self.failure)
        return min(self.came)

    def finish(self):
        """Send no more, hear the rest; the bytes that were echoed. In a thread."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), list(zip(self.sent, self.came, strict=True))
        assert self.failure is None, self.failure
        assert self.sent == self.came
        assert [one.digest() for one in self._expected] == [one.digest() for one in self._heard]
        return sum(self.came)

    def _run(self):
        try:
            selector = selectors.DefaultSelector()
            for number, client in enumerate(self.clients):
                selector.register(client.fileno(), selectors.EVENT_READ, number)
            while not (self._stop.is_set() and self.sent == self.came):
                for number in range(len(self.clients)):
                    self._speak(number)
                for key, _ in selector.select(0.05):
                    told = self.clients[key.data].receive()
                    self._heard[key.data].update(told)
                    self.came[key.data] += len(told)
        except Exception as error:
            self.failure = repr(error)
        finally:
            for client in self.clients:
                client.close()

    def _speak(self, number):
        client = self.clients[number]
        client.flush()
        if self._stop.is_set() or client.out or self.sent[number] - self.came[number] > self.OUTSTANDING:
            return
        data = client.random.randbytes(client.random.choice((1, 100, 1000, 20_000)))
        self._expected[number].update(data)
        self.sent[number] += len(data)
        client.send(data)


if __name__ == "__main__":
    take_over(*sys.argv[1:])
