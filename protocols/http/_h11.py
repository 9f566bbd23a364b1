"""Heads split by h11, for machines without httptools."""

from __future__ import annotations

import h11

# h11 takes a 101 for an error unless it was asked for; whether ours was is decided elsewhere.
_REQUEST = h11.Request(
    method="GET", target="/", headers=[("host", "h"), ("connection", "upgrade"), ("upgrade", "websocket")]
)
_END = h11.EndOfMessage()


def split_request(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header fields of a complete request head, as sent; ValueError for a bad one."""
    return _feed(h11.Connection(h11.SERVER), head)


def split_response(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header fields of a complete response head, as sent; ValueError for a bad one."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(_REQUEST)
    connection.send(_END)
    return _feed(connection, head)


def _feed(connection: h11.Connection, head: bytes) -> list[tuple[bytes, bytes]]:
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise ValueError(str(error)) from None
    if not isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
        raise ValueError("the head is not complete")
    return list(event.headers)
