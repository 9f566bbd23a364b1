"""What a client is configured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accessgw.client.addresses import Address, parse


@dataclass(slots=True, frozen=True)
class ClientSettings:
    """Identity, addresses and bounds of one client. Times are seconds."""

    addresses: tuple[Address, ...]
    """Long connections; empty with a https:// URL: short ones only."""
    short_addresses: tuple[Address, ...]
    """Where short connections go; empty: none are made."""
    device: str
    token: str = ""
    user: str = ""
    """Told to the gateway as the attribute `user`; who is signed in is for the token to say."""
    app: str = ""
    app_version: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    network: int = 0
    """Hash of the network that the device is on; heartbeats are learned per network."""
    persistent: bool = False
    """Cursors are stored before pushes are acknowledged."""
    max_open: int = 64
    """Calls open at once on the long connection."""
    max_waiting: int = 256
    """Calls waiting beside them; more fail with status overload."""
    max_reply: int = 16 * 1024 * 1024
    """Largest answer, bytes."""
    max_held: int = 1024
    """Pushes that the application has not taken yet; past it the long connection is given up for a while."""
    max_posts: int = 8
    """Short connections at once."""
    connect_timeout: float = 5.0
    hello_timeout: float = 5.0
    stagger: float = 0.25
    """Between the starts of two addresses of one race."""
    patience: float = 0.4
    """How long a call waits for a long connection before it goes over a short one."""
    templates: bool = True
    """Header blocks by templates (profile D), where the gateway speaks them; else HPACK (profile H)."""
    dictionaries: bool = True
    """Bodies with dictionaries that the gateway gives."""
    history: bool = True
    """Pushes that refer to earlier ones of their stream."""
    max_dictionary_bytes: int = 512 * 1024
    """Of all dictionaries together; offers that do not fit are not taken."""
    metered: bool = False
    """Begin as on a network that costs by the byte: no dictionaries and tables are fetched, those at hand are used."""
    backoff_initial: float = 0.5
    backoff_cap: float = 30.0


def addresses_of(urls: Sequence[str], short_url: str = "") -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """Long and short addresses from the URLs of a client. ValueError says what is wrong.

    Short connections go to the same host and port when that speaks TLS (ALPN tells them apart), to `short_url`
    otherwise; plain mmtp:// has none of its own.
    """
    parsed = [parse(url) for url in urls]
    if not parsed:
        raise ValueError("expected at least one URL")
    long = tuple(a for a in parsed if a.scheme not in ("https", "http"))
    short = [a for a in parsed if a.scheme in ("https", "http")]
    short += [Address("https", a.host, a.port) for a in parsed if a.scheme in ("mmtps", "wss")]
    short += [Address("http", a.host, a.port) for a in parsed if a.scheme == "ws"]
    if short_url:
        address = parse(short_url)
        if address.scheme not in ("https", "http"):
            raise ValueError(f"expected https:// for short connections, got {short_url!r}")
        short.insert(0, address)
    return long, tuple(dict.fromkeys(short))
