"""What an operator can set of listeners, and the bounds on the connections that they accept."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from accessgw.model.setting_types import Count, Port, Rate, Seconds, SecondsOrZero, Settings, Share


class ListenerSettings(Settings, frozen=True, kw_only=True):
    """One address on which the gateway accepts."""

    name: str
    """Name in logs and metrics; must be unique."""
    transport: Literal["tls", "tcp", "unix"] = "tcp"
    """tls: TLS over TCP with ALPN; tcp: plain, for a balancer in front; unix: plain on a Unix socket."""
    address: str = "127.0.0.1"
    """IPv4 or IPv6 address to bind."""
    port: Port = 0
    """TCP port in 1..65535; 0: the kernel chooses, for tests. Unused for unix."""
    path: str = ""
    """Path of the Unix socket."""
    mode: Annotated[int, Meta(ge=0, le=0o777, extra={"expected": "a file mode in 0o000..0o777"})] = 0o600
    """File mode of the Unix socket."""
    protocols: tuple[str, ...] = ("mmtp/1",)
    """What it speaks: `mmtp/1`, `mqtt`, `http/1.1` (with WebSocket on /mmtp and /mqtt). On tls they are the ALPN
    offers, best first; a client without ALPN, and everyone on tcp and unix with several, is told by its first byte."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Networks whose PROXY v1/v2 header is believed and required. From anyone else a PROXY header
    closes the connection. On a Unix socket, `unix` trusts its peers."""
    backlog: Count = 4096
    """Length of the kernel's accept queue."""
    certificates: tuple[CertificateSettings, ...] = ()
    """Certificates of a tls listener, the first is the default, others are chosen by SNI. Empty: the
    development certificate of the state directory."""
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version of a tls listener. Over 1.2 only `mqtt` and `http/1.1` are spoken: MMTP needs 1.3, and a
    listener that serves nothing else takes no less."""
    client_certificates: Literal["off", "request", "require"] = "off"
    """Whether a tls listener asks for client certificates. request: a client may come without one; require: it must
    not. One that does not verify (chain to `client_ca`, validity, purpose) ends the hand-shake in both."""
    client_ca: str = ""
    """PEM file of the CAs that client certificates must come from; read again when it changes."""
    certificate_identity: Literal["cn", "san_dns", "san_uri", "san_email"] = "cn"
    """What in a client certificate names the device: the common name of its subject, or its first alternative name of
    a kind. With `require` a certificate without it is refused; with `request` it counts as none."""
    client_crl: str = ""
    """PEM file of complete revocation lists, signed by those CAs; read again when it changes. A certificate on it is
    refused, its connections are closed and its tickets void within 5 seconds."""
    early_data: Annotated[int, Meta(ge=0, le=16384)] = 0
    """Bytes that a returning device may send in its first flight (0-RTT), on `mmtp/1` and `http/1.1`; 0: none."""
    tickets: Annotated[int, Meta(ge=0, le=8)] = 3
    """Tickets that a device gets with each WELCOME over TLS; each is used once."""
    session_tickets: Annotated[int, Meta(ge=0, le=8)] = 1
    """Tickets of TLS itself that other clients get with a full hand-shake; 0: none, and nobody resumes. A client that
    opens several connections at once can use more; each costs a twentieth of a hand-shake and some 290 bytes. The pure
    engine sends one, with 0 one that nobody takes; two where OPENSSL_CONF names another file than ours. None where client
    certificates are asked for."""
    groups: tuple[str, ...] = ()
    """Key exchange groups, best first, by OpenSSL's names; empty: X25519, P-256, P-384."""
    signature_algorithms: tuple[str, ...] = ()
    """Signature algorithms, best first, by OpenSSL's names; empty: the library's."""
    profile: Literal["default", "sm"] = "default"
    """sm: TLS 1.3 with SM2, SM3 and SM4 (RFC 8998) and nothing else; needs an SM2 certificate."""
    websocket_origins: tuple[str, ...] = ()
    """Origins of web pages that may open a WebSocket here, such as `https://app.example.com`; others get 403. A client
    that sends no Origin is no browser and is not asked. Empty: any."""


class CertificateSettings(Settings, frozen=True, kw_only=True):
    """A certificate chain and its key."""

    chain: str
    """PEM file, leaf first."""
    key: str = ""
    """PEM file of the private key. With tls.signer it is the signer's to read: `process` gets its path, `unix:PATH` does
    without."""
    ocsp: str = ""
    """DER file of an OCSP response to staple; read again when it changes."""
    names: tuple[str, ...] = ()
    """Server names (SNI) that it serves, `*.example.com` allowed; empty for the default."""


class TransportLimits(Settings, frozen=True, kw_only=True):
    """Bounds on connections, whatever they speak."""

    max_connections: Count = 1_000_000
    """Connections of this worker; more are refused and counted."""
    max_connections_per_address: Count = 10_000
    """Connections at once from one address (loopback and trusted proxies are counted by the address they name)."""
    accepts_per_address_per_second: Rate = 200.0
    """Token bucket of new connections per address."""
    accept_burst_per_address: Count = 400
    """Size of that bucket."""
    handshake_timeout: Seconds = 10.0
    """TLS hand-shake, from accept to completion."""
    hello_timeout: Seconds = 5.0
    """First complete HELLO or HTTP request head, from accept or hand-shake."""
    idle_timeout: Seconds = 360.0
    """A connection on which nothing arrives for so long is closed."""
    http_idle_timeout: Seconds = 65.0
    """A kept-alive HTTP connection between requests."""
    max_age: SecondsOrZero = 86400.0
    """Longest life of a connection; it is then told to go away. 0 for no limit."""
    max_age_spread: Share = 0.1
    """Random share by which max_age is shortened, so that devices do not return together."""
    tcp_user_timeout: Seconds = 30.0
    """Unacknowledged bytes older than this end the connection (TCP_USER_TIMEOUT)."""
    write_buffer: Count = 512 * 1024
    """Bytes per connection waiting for the kernel; past it the peer is a slow reader."""
    close_timeout: SecondsOrZero = 5.0
    """How long a closing connection may take to flush its last bytes."""
