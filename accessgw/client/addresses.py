"""Where the gateway is: URLs, alternates learned from it, and the order in which to try them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"mmtps": 7443, "mmtp": 7080, "https": 7443, "http": 7080, "wss": 7443, "ws": 7080}
WEBSOCKET_PATH = "/mmtp"
MAX_ADDRESSES = 8


@dataclass(slots=True, frozen=True)
class Address:
    """One way to reach a gateway."""

    scheme: str
    """mmtps | mmtp | wss | ws for long connections, https | http for short ones."""
    host: str
    port: int
    server_name: str = ""
    """Name that its certificate must have; empty: the host."""
    path: str = ""
    """Of WebSocket alone."""

    @property
    def secure(self) -> bool:
        """TLS is spoken there."""
        return self.scheme in ("mmtps", "https", "wss", "mqtts")

    @property
    def websocket(self) -> bool:
        """The long connection rides in WebSocket."""
        return self.scheme in ("wss", "ws")

    @property
    def ticketed(self) -> bool:
        """Tickets of WELCOME are given and taken there (specification, section 4.5): not in WebSocket."""
        return self.secure and not self.websocket

    @property
    def name(self) -> str:
        """The name to verify."""
        return self.server_name or self.host

    @property
    def authority(self) -> str:
        """host:port, IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Address:
    """An address from `mmtps://host:port`, `wss://host:port/mmtp`; port and path may be left out. ValueError says what
    is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"expected mmtps://, mmtp://, wss:// or https://, got {url!r}")
    websocket = parts.scheme in ("wss", "ws")
    pathless = websocket or parts.path in ("", "/")
    if not parts.hostname or not pathless or parts.query or parts.username is not None:
        raise ValueError(f"expected {parts.scheme}://host:port{WEBSOCKET_PATH if websocket else ''}, got {url!r}")
    path = parts.path if parts.path != "/" else ""
    if websocket and not re.fullmatch(r"(/[!$-~]*)?", path):
        raise ValueError(f"expected a path of ASCII without spaces, got {url!r}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"expected a port in 1..65535, got {url!r}") from None
    where = (path or WEBSOCKET_PATH) if websocket else ""
    return Address(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], path=where)


def is_ip(host: str) -> bool:
    """The host is an address literal."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class AddressBook:
    """The addresses to race, best first.

    `configured` never go away. Those learned in WELCOME are true for a while; one named by GOAWAY is tried
    first, once. An address that failed goes behind those that did not.
    """

    __slots__ = ("_configured", "_failures", "_learned", "_learned_until", "_preferred")

    def __init__(self, configured: Sequence[Address]) -> None:
        self._configured = list(configured[:MAX_ADDRESSES])
        self._learned: list[Address] = []
        self._learned_until = 0.0
        self._preferred: Address | None = None
        self._failures: dict[Address, int] = {}

    def learn(self, authorities: Sequence[str], valid: float, now: float) -> None:
        """Alternates from WELCOME (host:port); malformed ones are left out."""
        self._learned = [a for a in map(self._alternate, authorities[:MAX_ADDRESSES]) if a is not None]
        self._learned_until = now + valid
        self._failures = {a: n for a, n in self._failures.items() if a in self._configured or a in self._learned}

    def prefer(self, authority: str) -> None:
        """GOAWAY named where to go instead."""
        self._preferred = self._alternate(authority)

    def succeeded(self, address: Address) -> None:
        """The gateway welcomed us there."""
        self._failures.pop(address, None)

    def failed(self, address: Address) -> None:
        """It did not answer, or refused."""
        if address in self._configured or address in self._learned:
            self._failures[address] = min(self._failures.get(address, 0) + 1, 10)

    def order(self, now: float) -> list[Address]:
        """What to try in this round, best first, without repeats."""
        known = self._configured + (self._learned if now < self._learned_until else [])
        ordered = sorted(known, key=lambda address: self._failures.get(address, 0))
        if self._preferred is not None:
            ordered.insert(0, self._preferred)
            self._preferred = None
        return list(dict.fromkeys(ordered))[:MAX_ADDRESSES]

    def _alternate(self, authority: str) -> Address | None:
        if not self._configured:
            return None
        first = self._configured[0]
        try:
            address = parse(f"{first.scheme}://{authority}")
        except ValueError:
            return None
        # a certificate seldom names bare addresses: there the name that we were configured with is verified
        return Address(
            address.scheme,
            address.host,
            address.port,
            server_name=first.name if is_ip(address.host) else "",
            path=first.path,
        )
