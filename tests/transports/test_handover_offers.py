"""Offers that no process of ours would make, or one of another version: refused, and nothing of them is kept."""

from __future__ import annotations

import dataclasses
import os
import socket

import msgspec
import pytest
from twisted.internet.testing import StringTransport

from accessgw.model.identity import ConnectionInfo
from accessgw.transports.handover import ACCEPT, OFFER, REFUSE, HandoverReceiver
from protocols.tls.record_state import VERSION, DetachedState

GOOD = DetachedState(0x1301, True, bytes(32), bytes(range(32)), 3, 4)
INFO = ConnectionInfo(id=1, listener="tls", transport="tls", peer="127.0.0.1", alpn="mmtp/1")


def body(records=GOOD.to_bytes(), info=INFO, binding=b"state"):
    return msgspec.msgpack.encode([info, binding, records])


def changed(**fields):
    return dataclasses.replace(GOOD, **fields).to_bytes()


class Receiver:
    def __init__(self):
        self.made = []
        self.receiver = HandoverReceiver(lambda *given: self.made.append(given), {"mmtp/1": object()})
        self.transport = StringTransport()
        self.receiver.makeConnection(self.transport)

    def offer(self, content, number=1):
        """The kind of the answer and its words; the descriptor that came with it."""
        ours, self.theirs = socket.socketpair()
        descriptor = os.dup(ours.fileno())
        ours.close()
        self.receiver.fileDescriptorReceived(descriptor)
        self.transport.clear()
        self.receiver.dataReceived(
            bytes([OFFER]) + number.to_bytes(4, "big") + len(content).to_bytes(4, "big") + content
        )
        said = self.transport.value()
        return said[0], said[9:].decode(), descriptor


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


BAD = {
    "a newer version": (body(bytes([VERSION + 1]) + GOOD.to_bytes()[1:]), f"expected version {VERSION}"),
    "cut off": (body(GOOD.to_bytes()[:-1]), "unsent"),
    "more behind it": (body(GOOD.to_bytes() + b"x"), "bytes"),
    "a suite of nobody": (body(GOOD.to_bytes()[:2] + b"\x13\x09" + GOOD.to_bytes()[4:]), "suite"),
    "the side of a client": (body(changed(is_server=False)), "server's side"),
    "over for us": (body(changed(closed=True)), "goes on"),
    "over for the peer": (body(changed(peer_closed=True)), "goes on"),
    "a number that cannot be": (body(changed(write_sequence=1 << 48)), "sequence"),
    "a protocol of nobody": (
        body(info=ConnectionInfo(id=1, listener="tls", transport="tls", peer="", alpn="h2")),
        "h2",
    ),
    "no message": (b"\xc1", ""),
    "another message": (msgspec.msgpack.encode([1, 2, 3]), ""),
    "nothing": (b"", ""),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_it_is_refused_with_its_reason_and_let_go(content, words):
    receiver = Receiver()
    kind, said, descriptor = receiver.offer(content)
    assert kind == REFUSE
    assert words in said
    assert not is_open(descriptor)
    # and the next one is looked at
    assert receiver.offer(body(), 2)[0] == ACCEPT
    assert not receiver.transport.disconnecting
    assert receiver.made == []


def test_what_was_accepted_is_let_go_with_the_channel():
    receiver = Receiver()
    kind, _, descriptor = receiver.offer(body())
    assert (kind, is_open(descriptor)) == (ACCEPT, True)
    receiver.receiver.connectionLost()
    assert not is_open(descriptor)
    assert receiver.made == []
