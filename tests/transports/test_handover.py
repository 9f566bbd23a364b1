"""Live TLS connections change their process under load; none is lost, no byte comes twice or not at all."""

from __future__ import annotations

import ctypes
import shutil
import socket
import time

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from accessgw.crypto.development import ensure_development_certificate
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.reasons import CloseReason
from protocols.errors import LocalError
from tests.client.patience import patience
from tests.reactor_loop import run
from tests.transports.handover_mmtp import SdkLoad
from tests.transports.handover_peers import EngineClient, Load, OpensslClient, Other, Place
from tests.transports.support import until

ENGINES = 46
SDKS = 8
OPENSSLS = 4 if shutil.which("openssl") else 0


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("state"))
    ensure_development_certificate(directory, time.time(), "gateway.test")
    return directory


def files_in(state):
    files = ensure_development_certificate(state, time.time(), "gateway.test")
    return CertificateSettings(chain=files.chain, key=files.key)


def clients_of(port, state, engines, openssls):
    with open(f"{state}/ca.pem", "rb") as file:
        ca = file.read()
    return [
        *(EngineClient(port, ca, seed) for seed in range(engines)),
        *(OpensslClient(port, f"{state}/ca.pem", 1000 + seed) for seed in range(openssls)),
    ]


def memory(layer):
    """Of the objects that hold its keys."""
    directions = layer._reader, layer._writer
    if hasattr(directions[0], "_keys"):
        return b"".join(bytes(direction._keys) for direction in directions)
    return b"".join(ctypes.string_at(id(direction), direction.__sizeof__()) for direction in directions)


async def under_load(reactor, state, directory):
    files = files_in(state)
    place = Place(reactor, files)
    table = place.services.table
    clients = await deferToThread(clients_of, place.listener.port, state, ENGINES, OPENSSLS)
    load = Load(clients)
    await until(reactor, lambda: load.least() > 50_000)

    # one that dies before it has accepted: everything stays
    other = Other(f"{directory}/first", "die", files)
    sender = await place.sender(reactor, f"{directory}/first")
    kept = await gatherResults([sender.offer(connection) for connection in table.snapshot()])
    exited = (await deferToThread(other.end))[1]
    before = load.least()
    await until(reactor, lambda: load.least() > before + 50_000)
    result = {"exited": exited, "kept": kept.count(False), "open": len(table)}

    # one that takes them
    echoed = sum(echo.count for echo in place.echoes.made)
    layers = [connection._records for connection in table.snapshot()]
    secrets = [layer._writer.secret() for layer in layers]
    result["held"] = all(secret in memory(layer) for secret, layer in zip(secrets, layers, strict=True))
    other = Other(f"{directory}/second", "take", files)
    sender = await place.sender(reactor, f"{directory}/second")
    taken = await gatherResults([sender.offer(connection) for connection in table.snapshot()])
    result |= {"taken": taken.count(True), "left": len(table), "reasons": set(place.journal.reasons)}
    dead = 0
    for layer, secret in zip(layers, secrets, strict=True):
        try:
            layer.encrypt(b"x")
        except LocalError as error:
            dead += "handed over" in str(error) and secret not in memory(layer)
    result["dead"] = dead
    assert echoed > 0
    before = load.least()
    await until(reactor, lambda: load.least() > before + 100_000)
    result["bytes"] = await deferToThread(load.finish)
    result["other"] = (await deferToThread(other.end))[0]
    return result


@pytest.mark.skipif(not OPENSSLS, reason="no openssl here (Debian package openssl)")
def test_fifty_connections_under_load(state, tmp_path):
    done = run(under_load, state, str(tmp_path), timeout=120)
    connections = ENGINES + OPENSSLS
    assert done["exited"] == 9
    assert done["kept"] == done["open"] == connections
    assert done["held"]
    assert done["taken"] == connections
    assert done["left"] == 0
    assert done["dead"] == connections
    assert done["reasons"] == {"draining"}
    # The bindings went with their state: the other process counts on from what this one had echoed.
    assert done["other"].split() == [str(done["bytes"]), str(connections)]


async def sdk_calls(reactor, state, directory):
    files = files_in(state)
    place = Place(reactor, files, "mmtp/1")
    table = place.services.table
    with patience():
        load = SdkLoad(reactor, place.listener.port, f"{state}/ca.pem", SDKS)
        await until(reactor, lambda: load.least() >= 5)

        other = Other(f"{directory}/third", "take", files, "mmtp/1")
        sender = await place.sender(reactor, f"{directory}/third")
        offers = gatherResults([sender.offer(connection) for connection in table.snapshot()])
        open_calls = [echo.wire.open_calls() for echo in place.echoes.made if echo.left]
        taken = await offers
        before = load.least()
        await until(reactor, lambda: load.least() >= before + 5)
        answered = await load.finish()
    said, _ = await deferToThread(other.end)
    return {
        "taken": taken.count(True),
        "open": sum(open_calls),
        "left": len(table),
        "opened": len(place.journal.opened),
        "states": {tuple(states) for states in load.states},
        "notes": load.notes,
        "answered": answered,
        "other": said,
    }


def test_the_sdk_calls_streams_and_takes_pushes_and_does_not_notice(state, tmp_path):
    done = run(sdk_calls, state, str(tmp_path), timeout=120)
    assert done["taken"] == SDKS
    assert done["left"] == 0
    # What was asked of this process, the other has answered.
    assert done["open"] > 0
    # One connection each, from the first to the last call, and no call twice.
    assert done["opened"] == SDKS
    assert done["states"] == {("CONNECTING", "CONNECTED", "CLOSED")}
    assert done["notes"] == []
    assert done["other"].split() == [str(done["answered"]), str(SDKS)]


async def silence(reactor, state, directory):
    files = files_in(state)
    place = Place(reactor, files)
    load = Load(await deferToThread(clients_of, place.listener.port, state, 3, 0))
    await until(reactor, lambda: load.least() > 1000)
    other = Other(f"{directory}/silent", "silent", files)
    sender = await place.sender(reactor, f"{directory}/silent", timeout=0.5)
    taken = await gatherResults([sender.offer(connection) for connection in place.services.table.snapshot()])
    late = await sender.offer(place.services.table.snapshot()[0])
    before = load.least()
    await until(reactor, lambda: load.least() > before + 1000)
    await deferToThread(load.finish)
    await deferToThread(other.end)
    return taken, late


def test_one_that_does_not_answer(state, tmp_path):
    assert run(silence, state, str(tmp_path)) == ([False] * 3, False)


def ask_and_wait(client, size):
    """In a thread: send so much that the echo does not fit into the kernel, without reading."""
    client.sock.setblocking(True)
    client.layer.encrypt(bytes(size))
    client.sock.sendall(client.layer.to_send())


def read_all(client, size):
    got = b""
    while len(got) < size:
        got += client.receive()
    return got == bytes(size)


async def unsent(reactor, state, directory):
    place = Place(reactor, files_in(state))
    sender, _ = await place.channel(reactor, f"{directory}/unsent")
    (client,) = await deferToThread(clients_of, place.listener.port, state, 1, 0)
    await until(reactor, lambda: len(place.echoes.made) == 1)
    (connection,) = place.services.table.snapshot()
    connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # not less: each few bytes would wait for a late acknowledgement of TCP
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    await deferToThread(ask_and_wait, client, 400_000)
    await until(reactor, lambda: place.echoes.made[0].count == 400_000)
    waited = connection.buffered
    moved = await sender.offer(connection)
    good = await deferToThread(read_all, client, 400_000)
    client.close()
    return waited > 100_000, moved, connection.buffered, good, [echo.count for echo in place.echoes.made]


def test_bytes_that_wait_for_the_kernel_go_along(state, tmp_path):
    assert run(unsent, state, str(tmp_path)) == (True, True, 0, True, [400_000, 400_000])


async def ends(reactor, state, directory):
    place = Place(reactor, files_in(state))
    table = place.services.table
    refusing, _ = await place.channel(reactor, f"{directory}/refusing", {"mmtp/1": place.echoes})
    clients = await deferToThread(clients_of, place.listener.port, state, 2, 0)
    await until(reactor, lambda: len(place.echoes.made) == 2)
    first, second = table.snapshot()
    result = {"refused": await refusing.offer(first)}
    await deferToThread(ask_and_wait, clients[0], 100)
    result["goes on"] = await deferToThread(read_all, clients[0], 100)

    # closed while it is under way: the other side lets go, too
    sender, receiver = await place.channel(reactor, f"{directory}/closing")
    told = sender.offer(first)
    first.write(b"nothing may be said now")
    first.close(CloseReason.REVOKED)
    result["closed"] = await told
    try:
        result["end"] = await deferToThread(clients[0].sock.recv, 100)
    except ConnectionError:
        result["end"] = b""
    result["reasons"] = place.journal.reasons

    # not one of those that can move, after its end
    result["ended"] = await sender.offer(first)
    # frames that are none
    told = sender.offer(second)
    receiver.transport.write(bytes.fromhex("07 00000002 00000000"))
    result["noise"] = await told
    await deferToThread(ask_and_wait, clients[1], 100)
    result["after noise"] = await deferToThread(read_all, clients[1], 100)
    sender, receiver = await place.channel(reactor, f"{directory}/hostile")
    lost = Deferred()
    receiver.connectionLost = lambda reason: lost.callback(None)
    sender.transport.write(bytes.fromhex("01 00000001 7fffffff"))
    await lost
    result["open"] = len(table)
    for client in clients:
        client.close()
    return result


def test_refused_closed_meanwhile_and_noise_on_the_channel(state, tmp_path):
    assert run(ends, state, str(tmp_path)) == {
        "refused": False,
        "goes on": True,
        "closed": False,
        "end": b"",
        "reasons": ["revoked"],
        "ended": False,
        "noise": False,
        "after noise": True,
        "open": 1,
    }
