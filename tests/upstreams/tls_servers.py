"""HTTPS servers of the standard library on threads of their own, and the certificates that they show."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.crypto.authority import Authority, Issued
from tests.upstreams.hostile_servers import Handler


class Server(ThreadingHTTPServer):
    """Notes what hand-shakes came to."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.seen: list[tuple[str, bool, str]] = []
        """TLS version, whether resumed, common name of the client."""
        self.names: list[str | None] = []
        context.sni_callback = lambda _, name, __: self.names.append(name)
        super().__init__(("127.0.0.1", 0), TlsHandler)
        self.endpoint = f"https://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The tests look at what clients are told."""

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            super().process_request_thread(request, client_address)


class TlsHandler(Handler):
    server: Server

    def setup(self) -> None:
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        certificate = self.request.getpeercert() or {}
        common = next((value for part in certificate.get("subject", ()) for key, value in part), "")
        self.server.seen.append((self.request.version(), self.request.session_reused, common))
        super().setup()

    def do_GET(self) -> None:
        if self.path == "/cut":
            # an answer that the end of the connection ends, and an end that TLS knows nothing of
            self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
            self.wfile.flush()
            raw = socket.socket(fileno=self.request.detach())
            raw.shutdown(socket.SHUT_RDWR)
            raw.close()
            self.close_connection = True
            return
        super().do_GET()


def serving(issued: Issued, clients: str = "", newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Server:
    """A server that shows `issued` and, with `clients` (PEM file of CAs), wants a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.chain, issued.key)
    context.maximum_version = newest
    context.set_alpn_protocols(["http/1.1"])
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return Server(context)


def certificate(authority: Authority, name: str, *names: str, **more: Any) -> Issued:
    """For a server, with `names` (DNS names and addresses) as subject alternative names."""
    return authority.issue(name, names=[_general(one) for one in names], usage=ExtendedKeyUsageOID.SERVER_AUTH, **more)


def replace_files(old: Issued, new: Issued) -> None:
    """`new` in the place of `old`, each file at once."""
    Path(new.key).replace(old.key)
    Path(new.chain).replace(old.chain)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
