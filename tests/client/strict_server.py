"""A TLS server for 127.0.0.1 that takes no client at all: it asks for a certificate, and nobody's is good."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.client import tls_files


class StrictServer:
    """`accepted` counts connections."""

    def __init__(self, directory: Path) -> None:
        ca, chain, key = tls_files.write(directory)
        self.ca = str(ca)
        self.cert, self.key = str(directory / "own.pem"), str(directory / "own.key")
        """Of a device: the server trusts its issuer, but its time is over."""
        _write_expired(Path(self.cert), Path(self.key))
        self.accepted = self._refused = 0
        self._served = threading.Condition()
        self._open = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain, key)
        self._context.load_verify_locations(self.cert)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.set_alpn_protocols(["http/1.1", "mqtt"])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    @property
    def shaken(self) -> int:
        """Hand-shakes that it has refused. The client may be gone before the thread that counts them has its turn."""
        with self._served:
            assert self._served.wait_for(lambda: not self._open, 30)
        return self._refused

    def __enter__(self) -> StrictServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with self._served:
                self._open += 1
            with contextlib.suppress(OSError):
                self._refuse(plain)
            with self._served:
                self._open -= 1
                self._served.notify_all()

    def _refuse(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        tls = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        try:
            tls.do_handshake()
        except ssl.SSLError:
            self._refused += 1
        # What is unread when a socket is closed would cost the alert its way.
        with socket.socket(fileno=tls.detach()) as alerted:
            alerted.settimeout(10)
            alerted.shutdown(socket.SHUT_WR)
            while alerted.recv(65536):
                pass


def _write_expired(cert: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(tls_files.name("d1"))
        .issuer_name(tls_files.name("d1"))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert.write_bytes(made.public_bytes(pem))
    key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
