"""The client's long connection inside WebSocket: the upgrade, messages, and what goes wrong with them."""

from __future__ import annotations

import pytest

from accessgw.client.addresses import AddressBook, parse
from accessgw.client.settings import addresses_of
from accessgw.client.tunnel import Tunnel
from protocols.errors import LocalError, RemoteError
from protocols.http import ServerConnection
from protocols.http.events import RequestReceived
from protocols.http.websocket import BytesReceived, CloseReceived, Role, WebSocket
from protocols.http.websocket_handshake import answer_upgrade
from protocols.mmtp.statuses import Status

ADDRESS = parse("ws://gw:7080/edge")


def opened() -> tuple[Tunnel, WebSocket]:
    """A tunnel whose upgrade was answered, and the server's side."""
    tunnel = Tunnel(ADDRESS, 1 << 127)
    assert not tunnel.open
    http = ServerConnection()
    http.receive(tunnel.to_send())
    head = http.events()[0]
    assert isinstance(head, RequestReceived)
    assert (head.target, dict(head.headers)["host"]) == ("/edge", "gw:7080")
    headers, chosen = answer_upgrade(head, ("mmtp",), required=True)
    assert chosen == "mmtp"
    answer, _ = http.upgrade(headers)
    assert tunnel.receive(answer[:20]) == b"" and not tunnel.open
    assert tunnel.receive(answer[20:]) == b"" and tunnel.open
    return tunnel, WebSocket(Role.SERVER)


def test_bytes_both_ways():
    tunnel, server = opened()
    tunnel.send(b"up")
    server.receive(tunnel.to_send())
    assert server.events() == [BytesReceived(b"up", True)]
    server.send(b"down")
    server.ping(b"?")
    server.send(b"!")
    assert tunnel.receive(server.to_send()) == b"down!"
    server.receive(tunnel.to_send())
    assert len(server.events()) == 1  # the pong


def test_the_client_closes():
    tunnel, server = opened()
    tunnel.close()
    server.receive(tunnel.to_send())
    assert server.events() == [CloseReceived(1000, "")]
    assert not tunnel.open
    with pytest.raises(LocalError):
        tunnel.send(b"x")
    unanswered = Tunnel(ADDRESS, 1)
    unanswered.to_send()
    unanswered.close()
    assert unanswered.to_send() == b""


def test_the_server_closes():
    tunnel, server = opened()
    server.send(b"goaway")
    server.close(1001)
    assert tunnel.receive(server.to_send()) == b"goaway"
    assert not tunnel.open
    server.receive(tunnel.to_send())
    assert server.closed


def test_errors_are_mmtp_statuses():
    tunnel, _ = opened()
    with pytest.raises(RemoteError) as caught:
        tunnel.receive(b"\x81\x02no")
    assert caught.value.code == Status.PROTOCOL
    refused = Tunnel(ADDRESS, 1)
    with pytest.raises(RemoteError, match="answered the upgrade with 403") as caught:
        refused.receive(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
    assert caught.value.code == Status.PROTOCOL


def test_addresses():
    long, short = addresses_of(["wss://gw", "ws://other:80/x"])
    assert [str(address) for address in long] == ["wss://gw:7443/mmtp", "ws://other:80/x"]
    assert [str(address) for address in short] == ["https://gw:7443", "http://other:80"]
    book = AddressBook(long)
    book.learn(["gw2:443"], 60.0, 0.0)
    assert "wss://gw2:443/mmtp" in [str(address) for address in book.order(1.0)]
