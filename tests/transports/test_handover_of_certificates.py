"""Connections with client certificates change their process: the new one ends them when a list names what they stand on."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread

from accessgw.core.revoked_connections import RevokedConnections
from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.serials import serial_of
from accessgw.model.counters import TlsCounters
from accessgw.transports.handover import HandoverReceiver, HandoverSender
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.reactor_loop import run
from tests.transports.handover_peers import MovableEchoes
from tests.transports.support import Journal, listen, make_services


class Side:
    """What one of the processes has."""

    def __init__(self, reactor, folder, authority, name):
        self.journal = Journal()
        self.services = make_services(reactor, self.journal)
        self.store = RevocationStore(folder / name)
        self.factories = {"http/1.1": MovableEchoes()}
        contexts = ServerContexts(
            [self_signed(folder, "localhost")],
            ["http/1.1"],
            clients=ClientCertificates("require", authority.file),
            options=ContextOptions(name=name, revocations=self.store),
        )
        self.listener = listen(
            self.services, self.journal, contexts, self.factories, transport="tls", protocols=("http/1.1",)
        )
        RevokedConnections(reactor, self.services.table, self.store, TlsCounters())

    async def revoke(self, *serials):
        await deferToThread(self.store.use_list, "crl.pem", set(serials), time.time())
        self.store.poll(time.time())


def connect(port, issued):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(issued.chain, issued.key)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))


def echo(tls):
    tls.sendall(b"x")
    return tls.recv(1)


def ended(tls):
    """What it is told; then it ends its side, too, for which the gateway would wait some seconds."""
    said = tls.recv(1)
    tls.close()
    return said


def channel(reactor, sender, receiver):
    """Between the two."""
    for end, protocol in zip(socket.socketpair(), (sender, receiver), strict=True):
        end.setblocking(False)
        reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda made=protocol: made))
        end.close()


async def move(reactor, folder):
    folder = Path(folder)
    authority = Authority(folder, "devices")
    factory = authority.intermediate("factory")
    old, new = (Side(reactor, folder, authority, name) for name in ("old", "new"))
    devices = [factory.issue("one"), authority.issue("two"), authority.issue("three")]
    clients = [await deferToThread(connect, old.listener.port, issued) for issued in devices]
    said = [await deferToThread(echo, tls) for tls in clients]
    before = {one.info.certificate_identity: one.info.serials for one in old.services.table.snapshot()}

    sender = HandoverSender(old.services.timers)
    channel(reactor, sender, HandoverReceiver(new.listener.adopting, new.factories))
    moved = [await sender.offer(one) for one in old.services.table.snapshot()]
    said += [await deferToThread(echo, tls) for tls in clients]
    infos = {one.info.certificate_identity: one.info for one in new.services.table.snapshot()}
    result = {
        "moved": moved,
        "said": b"".join(said),
        "kept": {name: info.serials for name, info in infos.items()} == before,
        "lengths": [len(infos[name].serials) for name in ("one", "two", "three")],
        "shared": len({id(info.serials[-1][0]) for info in infos.values()}) == 1
        and len({id(info.alpn) for info in infos.values()}) == 1,
    }
    # the factory is below the CA, like the devices: all three have the one issuer above or before them
    await new.revoke(serial_of(factory.certificate.public_bytes(Encoding.DER)))
    result["below"] = await deferToThread(ended, clients[0])
    await new.journal.all_closed(1)
    await new.revoke(serial_of(devices[1].der))
    result["leaf"] = await deferToThread(ended, clients[1])
    await new.journal.all_closed(2)
    result["other"] = await deferToThread(echo, clients[2])
    result["reasons"] = new.journal.reasons
    clients[2].close()
    sender.transport.loseConnection()
    return result


def test_what_a_connection_stands_on_goes_along(tmp_path):
    assert run(move, str(tmp_path)) == {
        "moved": [True] * 3,
        "said": b"xxxxxx",
        "kept": True,
        "lengths": [2, 1, 1],
        "shared": True,
        "below": b"",
        "leaf": b"",
        "other": b"x",
        "reasons": ["revoked", "revoked"],
    }
