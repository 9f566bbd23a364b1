"""Certificates in memory, and a link between two engines that keeps all bytes, both for the tests of TLS engines."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import EarlyDataReceived, HandshakeCompleted, PlaintextReceived
from protocols.tls.psk import ExternalPsk
from protocols.tls.records import RecordLayer
from protocols.tls.server_context import ServerCertificate, ServerContext, ServerOptions

IDENTITY = b"\x01" + b"0123456789abcdef"
PSK = ExternalPsk(IDENTITY, b"k" * 32, max_early_data=16384, alpn="mmtp/1")


def make_key(kind="ec"):
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """A CA in memory."""

    def __init__(self, name, parent=None):
        self.parent = parent
        self.key = make_key()
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.subject, self.key, (parent or self), ca=True)
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    @staticmethod
    def _sign(subject, key, issuer, ca=False, names=()):
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(issuer.key, hashes.SHA256())

    def issue(self, name="localhost", kind="ec", ocsp=b""):
        key = make_key(kind)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        chain = [self._sign(subject, key, self, names=(name,))]
        if self.parent is not None:
            chain.append(self.certificate)
        return ServerCertificate.of(chain, key, ocsp)


@cache
def issuer():
    return Issuer("root")


@cache
def localhost(kind="ec"):
    return issuer().issue("localhost", kind)


def keys(*known):
    """A find_psk that knows these."""
    return {psk.identity: psk for psk in known}.get


def server(**options):
    options.setdefault("certificates", [localhost()])
    options.setdefault("alpn", ["mmtp/1"])
    options.setdefault("find_psk", keys(PSK))
    options.setdefault("max_early_data", 16384)
    return ServerContext(ServerOptions(**options))


def client(**options):
    options.setdefault("authorities", issuer().pem)
    options.setdefault("alpn", ["mmtp/1"])
    return ClientContext(ClientOptions(**options))


class Moved:
    """A record layer that goes on for an engine, behind what the engine has left to send."""

    def __init__(self, engine, state):
        self.state = dataclasses.replace(state)
        self._engine, self._layer = engine, RecordLayer(state)
        self._layer.start()

    def to_send(self):
        return self._engine.to_send() + self._layer.to_send()

    def __getattr__(self, name):
        return getattr(self._layer, name)


class Link:
    """Carries bytes between two engines a flight at a time, and keeps the flights and the events.

    The engines named in `moving` are detached as soon as their hand-shake is complete.
    """

    def __init__(self, device, gateway, step=1 << 20, moving=()):
        self.device, self.gateway, self.step, self.moving = device, gateway, step, moving
        self.up, self.down = b"", b""
        self.device_events, self.gateway_events = [], []
        self.flights = 0

    def to_gateway(self):
        """One flight of the device; True when there was one."""
        data = self.device.to_send()
        self.up += data
        self.flights += bool(data)
        for at in range(0, len(data), self.step):
            self.gateway.feed(data[at : at + self.step])
            self.gateway_events += self.gateway.events()
            self.gateway = self._moved("gateway", self.gateway)
            self.gateway_events += self.gateway.events()
        return bool(data)

    def to_device(self):
        data = self.gateway.to_send()
        self.down += data
        for at in range(0, len(data), self.step):
            self.device.feed(data[at : at + self.step])
            self.device_events += self.device.events()
            self.device = self._moved("device", self.device)
            self.device_events += self.device.events()
        return bool(data)

    def _moved(self, name, engine):
        if name not in self.moving or not engine.handshaken or isinstance(engine, Moved):
            return engine
        state = engine.detach()
        assert state is not None, f"the {name} was not to be detached"
        return Moved(engine, state)

    def run(self):
        """From the ClientHello until both are silent."""
        self.device.start()
        return self.run_on()

    def run_on(self):
        """Until both are silent."""
        while self.to_gateway() | self.to_device():
            pass
        return self


def completed(events):
    """The one HandshakeCompleted."""
    (event,) = [event for event in events if isinstance(event, HandshakeCompleted)]
    return event


def early(events):
    return b"".join(event.data for event in events if isinstance(event, EarlyDataReceived))


def plaintext(events):
    return b"".join(event.data for event in events if isinstance(event, PlaintextReceived))


def records(data):
    """Whole records in `data`."""
    found = []
    while data:
        end = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:end])
        data = data[end:]
    return found
