"""HELLO, WELCOME, SETTINGS and GOAWAY as data, and their key-value coding."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.digests import checked_digest, read_digest, whole_digest
from protocols.mmtp.fields import (
    expect_end,
    milliseconds_field,
    read_fields,
    read_milliseconds,
    read_sized,
    read_string,
    read_u64,
    read_varint,
    sized,
    string_field,
    varint_field,
)
from protocols.mmtp.fields import field as one_field
from protocols.mmtp.settings import decode_settings, encode_settings
from protocols.mmtp.statuses import Status
from protocols.mmtp.tickets import (
    GrantedTickets,
    ShownCertificate,
    decode_certificate,
    decode_tickets,
    encode_certificate,
    encode_tickets,
)
from protocols.mmtp.varint import decode_varint, encode_varint

VERSION = 1
MAX_DEVICE = 256
MAC_KEY_SIZE = 32
UP_ACCEPTED = 1
DOWN_ACCEPTED = 2
SCOPES = ("device", "user", "topic", "broadcast")
"""Names of stream scopes by their number on the wire."""


@dataclass(slots=True, frozen=True)
class StreamCursor:
    """How far the device has processed a stream."""

    scope: str
    id: str
    biz: str
    epoch: int
    seq: int


@dataclass(slots=True, frozen=True)
class NamedStates:
    """The header states that a device begins with (HELLO key 18): a table and a checkpoint per direction."""

    table: int
    table_digest: bytes
    up: int = 0
    """Checkpoint of the device's encoder; 0: the empty state."""
    up_digest: bytes = b""
    down: int = 0
    """Checkpoint of the device's decoder; 0: none."""
    down_digest: bytes = b""


@dataclass(slots=True)
class Hello:
    """What a device says first."""

    device: str
    version: int = 1
    token: str = field(default="", repr=False)
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
    headers: NamedStates | None = None
    """Header states of profile D that hold from here on; filled in by Connection.send_hello."""
    bundle: bytes = b""
    """Digest of the bundle of dictionaries that the device holds, 8 bytes; filled in by Connection.send_hello."""
    tickets: int = 0
    """How many tickets the device would take."""
    plain: bool = False
    """Until TABLE start our header blocks are profile H, and until WELCOME our bodies coding 0, whatever is named."""
    certificate: ShownCertificate | None = None
    """Over a ticket: the client certificate that it was given for."""


@dataclass(slots=True)
class Welcome:
    """The gateway's answer to HELLO."""

    result: int = 0
    """Status."""
    message: str = ""
    session: str = ""
    mac_key: bytes = field(default=b"", repr=False)
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
    table: tuple[int, bytes] | None = None
    """Id and digest of the table of the gateway's header blocks, None: profile H. This, `accepted` and `bundle` are
    filled in by Connection.send_welcome."""
    accepted: int = 0
    """Bits of what HELLO named: UP_ACCEPTED, DOWN_ACCEPTED."""
    bundle: bytes = b""
    """Digest of the bundle in force, 8 bytes; empty: none."""
    tickets: GrantedTickets | None = None
    """For the next connections, only over TLS; a secret."""


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


def encode_cursor(cursor: StreamCursor) -> bytes:
    """Scope, id, biz, epoch, seq (specification, section 4.1). Raises LocalError for an unknown scope."""
    if cursor.scope not in SCOPES:
        raise LocalError(f"scope: expected one of {', '.join(SCOPES)}, got {cursor.scope!r}")
    return (
        encode_varint(SCOPES.index(cursor.scope))
        + sized(cursor.id.encode())
        + sized(cursor.biz.encode())
        + encode_varint(cursor.epoch)
        + encode_varint(cursor.seq)
    )


def decode_cursor(data: bytes, pos: int, end: int) -> StreamCursor:
    """The inverse of encode_cursor."""
    scope, pos = decode_varint(data, pos, end)
    if scope >= len(SCOPES):
        raise RemoteError(Status.PROTOCOL, f"scope: expected 0..{len(SCOPES) - 1}, got {scope}")
    name, pos = read_sized(data, pos, end)
    biz, pos = read_sized(data, pos, end)
    epoch, pos = decode_varint(data, pos, end)
    seq, pos = decode_varint(data, pos, end)
    expect_end(pos, end)
    return StreamCursor(SCOPES[scope], name, biz, epoch, seq)


def encode_named_states(named: NamedStates) -> bytes:
    """Value of HELLO key 18."""
    parts = [encode_varint(named.table), checked_digest(named.table_digest), encode_varint(named.up)]
    if named.up:
        parts.append(checked_digest(named.up_digest))
    parts.append(encode_varint(named.down))
    if named.down:
        parts.append(checked_digest(named.down_digest))
    return b"".join(parts)


def decode_named_states(data: bytes, pos: int, end: int) -> NamedStates:
    """The inverse of encode_named_states. Raises RemoteError(PROTOCOL)."""
    table, pos = decode_varint(data, pos, end)
    table_digest, pos = read_digest(data, pos, end)
    up, pos = decode_varint(data, pos, end)
    up_digest = down_digest = b""
    if up:
        up_digest, pos = read_digest(data, pos, end)
    down, pos = decode_varint(data, pos, end)
    if down:
        down_digest, pos = read_digest(data, pos, end)
    expect_end(pos, end)
    return NamedStates(table, table_digest, up, up_digest, down, down_digest)


def encode_hello(hello: Hello) -> bytes:
    """Payload of HELLO."""
    if not 1 <= len(hello.device.encode()) <= MAX_DEVICE:
        raise LocalError(f"device: expected 1..{MAX_DEVICE} bytes, got {len(hello.device.encode())}")
    parts = [
        varint_field(1, hello.version),
        string_field(2, hello.app),
        string_field(3, hello.device),
        string_field(4, hello.app_version),
        string_field(5, hello.token),
        *(string_field(6, name) for name in sorted(hello.capabilities)),
        one_field(7, encode_varint(hello.boot) + encode_varint(hello.counter)) if hello.boot or hello.counter else b"",
        b"" if hello.time is None else milliseconds_field(8, hello.time),
        one_field(9, hello.call_base.to_bytes(8, "big")) if hello.call_base else b"",
        *(one_field(10, encode_cursor(cursor)) for cursor in hello.cursors),
        one_field(11, encode_settings(hello.settings)) if hello.settings else b"",
        varint_field(12, hello.network) if hello.network else b"",
        varint_field(14, hello.last_close) if hello.last_close else b"",
        *(one_field(16, sized(name.encode()) + value.encode()) for name, value in sorted(hello.attributes.items())),
        b"" if hello.headers is None else one_field(18, encode_named_states(hello.headers)),
        one_field(20, checked_digest(hello.bundle)) if hello.bundle else b"",
        varint_field(22, hello.tickets) if hello.tickets else b"",
        b"" if hello.certificate is None else one_field(24, encode_certificate(hello.certificate)),
        one_field(26, b"") if hello.plain else b"",
    ]
    return b"".join(parts)


_HELLO_KEYS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 26))
_HELLO_REPEATED = frozenset((6, 10, 16))


def decode_hello(data: bytes, pos: int, end: int) -> Hello:
    """The inverse of encode_hello. Raises RemoteError: VERSION for another version, else PROTOCOL."""
    hello = Hello(device="")
    capabilities: list[str] = []
    for key, start, stop in read_fields(data, pos, end, _HELLO_KEYS, _HELLO_REPEATED):
        if key == 1:
            hello.version = read_varint(data, start, stop)
            if hello.version != VERSION:
                raise RemoteError(Status.VERSION, f"version: expected {VERSION}, got {hello.version}")
        elif key == 2:
            hello.app = read_string(data, start, stop)
        elif key == 3:
            if stop - start > MAX_DEVICE:
                raise RemoteError(Status.PROTOCOL, f"device: expected 1..{MAX_DEVICE} bytes, got {stop - start}")
            hello.device = read_string(data, start, stop)
        elif key == 4:
            hello.app_version = read_string(data, start, stop)
        elif key == 5:
            hello.token = read_string(data, start, stop)
        elif key == 6:
            capabilities.append(read_string(data, start, stop))
        elif key == 7:
            hello.boot, middle = decode_varint(data, start, stop)
            hello.counter, after = decode_varint(data, middle, stop)
            expect_end(after, stop)
        elif key == 8:
            hello.time = read_milliseconds(data, start, stop)
        elif key == 9:
            hello.call_base = read_u64(data, start, stop)
        elif key == 10:
            hello.cursors.append(decode_cursor(data, start, stop))
        elif key == 11:
            hello.settings = decode_settings(data, start, stop)
        elif key == 12:
            hello.network = read_varint(data, start, stop)
        elif key == 14:
            hello.last_close = read_varint(data, start, stop)
        elif key == 16:
            name, after = read_sized(data, start, stop)
            hello.attributes[name] = read_string(data, after, stop)
        elif key == 18:
            hello.headers = decode_named_states(data, start, stop)
        elif key == 20:
            hello.bundle = whole_digest(data, start, stop)
        elif key == 22:
            hello.tickets = read_varint(data, start, stop)
        elif key == 24:
            hello.certificate = decode_certificate(data, start, stop)
        else:
            expect_end(start, stop)
            hello.plain = True
    if not hello.device:
        raise RemoteError(Status.PROTOCOL, f"device: expected 1..{MAX_DEVICE} bytes, got none")
    hello.capabilities = frozenset(capabilities)
    return hello


def encode_welcome(welcome: Welcome) -> bytes:
    """Payload of WELCOME."""
    if len(welcome.mac_key) not in (0, MAC_KEY_SIZE):
        raise LocalError(f"mac_key: expected {MAC_KEY_SIZE} bytes or none, got {len(welcome.mac_key)}")
    parts = [
        varint_field(1, welcome.result) if welcome.result else b"",
        string_field(2, welcome.message),
        string_field(3, welcome.session),
        milliseconds_field(4, welcome.time) if welcome.time else b"",
        one_field(5, welcome.mac_key) if welcome.mac_key else b"",
        *(string_field(6, name) for name in sorted(welcome.capabilities)),
        one_field(7, encode_settings(welcome.settings)) if welcome.settings else b"",
        milliseconds_field(8, welcome.heartbeat) if welcome.heartbeat else b"",
        milliseconds_field(10, welcome.idle_timeout) if welcome.idle_timeout else b"",
        string_field(12, welcome.zone),
        *(string_field(14, address) for address in welcome.addresses),
        milliseconds_field(16, welcome.addresses_valid) if welcome.addresses_valid else b"",
        milliseconds_field(18, welcome.retry_after) if welcome.retry_after else b"",
        b""
        if welcome.table is None
        else one_field(20, encode_varint(welcome.table[0]) + checked_digest(welcome.table[1])),
        varint_field(22, welcome.accepted) if welcome.accepted else b"",
        one_field(24, checked_digest(welcome.bundle)) if welcome.bundle else b"",
        b"" if welcome.tickets is None else one_field(26, encode_tickets(welcome.tickets)),
    ]
    return b"".join(parts)


_WELCOME_KEYS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26))
_WELCOME_REPEATED = frozenset((6, 14))


def decode_welcome(data: bytes, pos: int, end: int) -> Welcome:
    """The inverse of encode_welcome."""
    welcome = Welcome()
    capabilities: list[str] = []
    for key, start, stop in read_fields(data, pos, end, _WELCOME_KEYS, _WELCOME_REPEATED):
        if key == 1:
            welcome.result = read_varint(data, start, stop)
        elif key == 2:
            welcome.message = read_string(data, start, stop)
        elif key == 3:
            welcome.session = read_string(data, start, stop)
        elif key == 4:
            welcome.time = read_milliseconds(data, start, stop)
        elif key == 5:
            if stop - start not in (0, MAC_KEY_SIZE):
                raise RemoteError(Status.PROTOCOL, f"mac key: expected {MAC_KEY_SIZE} bytes, got {stop - start}")
            welcome.mac_key = data[start:stop]
        elif key == 6:
            capabilities.append(read_string(data, start, stop))
        elif key == 7:
            welcome.settings = decode_settings(data, start, stop)
        elif key == 8:
            welcome.heartbeat = read_milliseconds(data, start, stop)
        elif key == 10:
            welcome.idle_timeout = read_milliseconds(data, start, stop)
        elif key == 12:
            welcome.zone = read_string(data, start, stop)
        elif key == 14:
            welcome.addresses.append(read_string(data, start, stop))
        elif key == 16:
            welcome.addresses_valid = read_milliseconds(data, start, stop)
        elif key == 18:
            welcome.retry_after = read_milliseconds(data, start, stop)
        elif key == 20:
            table, after = decode_varint(data, start, stop)
            welcome.table = (table, whole_digest(data, after, stop))
        elif key == 22:
            welcome.accepted = read_varint(data, start, stop)
        elif key == 24:
            welcome.bundle = whole_digest(data, start, stop)
        else:
            welcome.tickets = decode_tickets(data, start, stop)
    welcome.capabilities = frozenset(capabilities)
    return welcome


MAX_MESSAGE = 256


def encode_goaway(goaway: Goaway) -> bytes:
    """Payload of GOAWAY; the message is cut to MAX_MESSAGE bytes."""
    message = goaway.message.encode(errors="replace")[:MAX_MESSAGE].decode(errors="ignore")
    parts = [
        varint_field(1, goaway.status) if goaway.status else b"",
        string_field(2, message),
        varint_field(3, goaway.last_call + 1) if goaway.last_call >= 0 else b"",
        string_field(4, goaway.address),
        milliseconds_field(6, goaway.delay) if goaway.delay else b"",
    ]
    return b"".join(parts)


def decode_goaway(data: bytes, pos: int, end: int) -> Goaway:
    """The inverse of encode_goaway."""
    goaway = Goaway()
    for key, start, stop in read_fields(data, pos, end, (1, 2, 3, 4, 6)):
        if key == 1:
            goaway.status = read_varint(data, start, stop)
        elif key == 2:
            goaway.message = read_string(data, start, stop)
        elif key == 3:
            goaway.last_call = read_varint(data, start, stop) - 1
        elif key == 4:
            goaway.address = read_string(data, start, stop)
        else:
            goaway.delay = read_milliseconds(data, start, stop)
    return goaway
