"""A relay in front of a TLS port that sees the records which pass: what one write made is one record (RFC 8446, 5.1).

Since TLS 1.3 hides its later hand-shake messages in records of the same type, count from mark() on.
"""

from __future__ import annotations

import contextlib
import socket
import threading

APPLICATION_DATA = 0x17
HEADER = 5
OVERHEAD = 17
"""Bytes of a TLS 1.3 record with AES-GCM or ChaCha20 beside its header and content: type and tag."""


def record_sizes(data: bytes) -> list[int]:
    """Bytes of content of the application data records in whole records."""
    sizes = []
    while data:
        size = int.from_bytes(data[3:HEADER], "big")
        if data[0] == APPLICATION_DATA:
            sizes.append(size - OVERHEAD)
        data = data[HEADER + size :]
    return sizes


class TlsTap:
    """Listens on `port`, relays one connection after another to `target` on loopback. Threads of its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._seen = {"up": b"", "down": b""}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TlsTap:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mark(self) -> None:
        """Forget the records so far. Nothing may be under way."""
        self._seen = {"up": b"", "down": b""}

    def records(self, way: str) -> list[int]:
        """Bytes of content of the application data records from the device (`up`) or to it (`down`)."""
        return record_sizes(self._seen[way])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for one in (device, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.append(one)
                for way, source, sink in (("up", device, server), ("down", server, device)):
                    threading.Thread(target=self._relay, args=(way, source, sink), daemon=True).start()

    def _relay(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._seen[way] += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
