"""Addresses of endpoints: `http://10.0.0.1:8080`, `https://[::1]:8443`, `unix:/run/service.sock`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True, frozen=True)
class Address:
    """Where one endpoint listens; a Unix socket when `path` is set."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    @property
    def name(self) -> str:
        """For logs, metrics and the Host header: `10.0.0.1:8080` or `unix:/run/service.sock`."""
        if self.path:
            return f"unix:{self.path}"
        return join_host_port(self.host, self.port)


def parse_endpoint(text: str) -> Address:
    """The address of an endpoint setting; ValueError says what was expected."""
    if text.startswith("unix:/"):
        return Address(path=text.removeprefix("unix:"))
    scheme, separator, authority = text.partition("://")
    if separator and scheme in DEFAULT_PORTS:
        host, port = split_host_port(authority, DEFAULT_PORTS[scheme])
        return Address(host, port, tls=scheme == "https")
    raise ValueError(f'expected "http://address:port", "https://address:port" or "unix:/path", got "{text}"')


def parse_name(text: str) -> Address:
    """The name of a `dns` setting: `host:port`, or `https://host[:port]` for TLS. Raises ValueError."""
    if text.startswith("https://"):
        return parse_endpoint(text)
    return Address(*split_host_port(text))


def split_host_port(text: str, default: int = 0) -> tuple[str, int]:
    """Host (without brackets) and port of `host:port`; ValueError without a port in 1..65535 or a default."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        host, port = text, str(default)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(f'expected "host:port", got "{text}"')
    return host, int(port)


def join_host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
