"""HELLO, WELCOME, SETTINGS and GOAWAY as data, and their key-value coding."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class StreamCursor:
    """How far the device has processed a stream."""

    scope: str
    id: str
    biz: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Hello:
    """What a device says first."""

    device: str
    version: int = 1
    token: str = ""
    app: str = ""
    app_version: str = ""
    capabilities: frozenset[str] = frozenset()
    """Names of features that the device understands, such as `zstd`."""
    boot: int = 0
    counter: int = 0
    """Connection generation."""
    time: float | None = None
    """The device's estimate of the server's wall clock, seconds."""
    call_base: int = 0
    """Random 64-bit base of call ids."""
    cursors: list[StreamCursor] = field(default_factory=list)
    settings: dict[int, int] = field(default_factory=dict)
    """SETTINGS of the device, see protocols.mmtp.settings."""
    network: int = 0
    """Hash of the network that the device is on, 0 when unknown."""
    last_close: int = 0
    """Status with which its last connection ended, as the device saw it."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Facts such as os, os_version, region, language."""


@dataclass(slots=True)
class Welcome:
    """The gateway's answer to HELLO."""

    result: int = 0
    """Status."""
    message: str = ""
    session: str = ""
    mac_key: bytes = b""
    """Key of short connections, 32 bytes."""
    time: float = 0.0
    """Server's wall clock, seconds."""
    capabilities: frozenset[str] = frozenset()
    """Of the device's capabilities, those that will be used."""
    settings: dict[int, int] = field(default_factory=dict)
    heartbeat: float = 0.0
    """Suggested heartbeat interval, seconds; 0: none."""
    idle_timeout: float = 0.0
    """The gateway closes after this much silence, seconds."""
    zone: str = ""
    addresses: list[str] = field(default_factory=list)
    """Alternate host:port."""
    addresses_valid: float = 0.0
    """Seconds that `addresses` stay true."""
    retry_after: float = 0.0
    """With a refusal: seconds to wait before the next attempt."""


@dataclass(slots=True)
class Goaway:
    """One side is leaving."""

    status: int = 0
    message: str = ""
    last_call: int = -1
    """Last call processed (absolute number); every later one is certainly unexecuted. -1: none."""
    address: str = ""
    """Where to go instead, host:port; empty: the same."""
    delay: float = 0.0
    """Spread: reconnect after a random part of this many seconds."""
