"""Full hand-shakes with a gateway, and a load of them."""

from __future__ import annotations

import socket
import ssl
import threading

from tests.system.gateway_process import PATIENCE

LIMITS = """
[limits]
handshake_timeout = 90.0
accepts_per_address_per_second = 100000.0
accept_burst_per_address = 100000
"""
"""Of a gateway that takes the load: of one address it would refuse connections. Signers may start slowly."""


def shake_hands(port: int) -> str:
    """The name in the certificate, after a full hand-shake and an answer over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the CAs of the system, which take long to load
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 ")
        certificate = sock.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate.hex()


class Load:
    """Hand-shakes without end on a few threads; every one must succeed."""

    def __init__(self, port: int, threads: int = 3) -> None:
        self._port = port
        self._ending = threading.Event()
        self._lock = threading.Condition()
        self.done = 0
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                shake_hands(self._port)
            except OSError as error:
                self.errors.append(repr(error))
                return
            with self._lock:
                self.done += 1
                self._lock.notify_all()

    def more(self, count: int) -> None:
        """Wait for as many to be done from now on."""
        with self._lock:
            until = self.done + count
            assert self._lock.wait_for(lambda: self.done >= until or self.errors, timeout=PATIENCE)
        assert not self.errors, self.errors

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self.errors, self.errors
