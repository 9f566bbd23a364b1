"""Upstreams that do not do what they should: each listens on a loopback port and misbehaves in one way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Misdeed = Callable[[socket.socket], None]


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@contextmanager
def dead() -> Iterator[str]:
    """Nobody listens: the port is bound and refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield url_of(held.getsockname()[1])


@contextmanager
def black_hole() -> Iterator[str]:
    """SYNs are dropped: a listener whose accept queue is full and stays so."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
            fillers.append(filler)
        try:
            yield url_of(listener.getsockname()[1])
        finally:
            for filler in fillers:
                filler.close()


@contextmanager
def misbehaving(misdeed: Misdeed) -> Iterator[str]:
    """Accepts, reads a request's first bytes, and then does its misdeed with the socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def one(peer: socket.socket) -> None:
        with suppress(OSError):
            peer.recv(65536)
            misdeed(peer)

    def serve() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                held.append(peer)
                threading.Thread(target=one, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield url_of(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in held:
            peer.close()
        thread.join(5)


def silence(peer: socket.socket) -> None:
    """It never answers."""


def hang_up(peer: socket.socket) -> None:
    """FIN instead of an answer."""
    peer.close()


def saying(data: bytes, then_close: bool = False) -> Misdeed:
    """It says exactly this."""

    def say(peer: socket.socket) -> None:
        peer.sendall(data)
        if then_close:
            peer.close()

    return say


def endless_head(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.sendall(b"x-more: " + b"x" * 8000 + b"\r\n")


def endless_body(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        peer.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
