"""Limits of one side, and the SETTINGS that tell the peer of them (specification, sections 5 and 13)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.fields import read_fields, read_varint, varint_field
from protocols.mmtp.statuses import Status

MAX_FRAME = 2
MAX_HEADERS = 4
MAX_HEADER_FIELDS = 6
MAX_OPEN_CALLS = 8
CALL_WINDOW = 10
CONNECTION_WINDOW = 12
HEADER_TABLE = 14
PUSH_WINDOW = 16
PUSH_WINDOW_BYTES = 18

_LARGEST_WINDOW = (1 << 31) - 1

DEFAULTS: dict[int, int] = {
    MAX_FRAME: 256 * 1024,
    MAX_HEADERS: 64 * 1024,
    MAX_HEADER_FIELDS: 64,
    MAX_OPEN_CALLS: 64,
    CALL_WINDOW: 64 * 1024,
    CONNECTION_WINDOW: 256 * 1024,
    HEADER_TABLE: 4096,
    PUSH_WINDOW: 64,
    PUSH_WINDOW_BYTES: 64 * 1024,
}
"""What holds before a side has heard anything else."""

ALLOWED: dict[int, tuple[int, int]] = {
    MAX_FRAME: (16 * 1024, 16 * 1024 * 1024),
    MAX_HEADERS: (4096, 1024 * 1024),
    MAX_HEADER_FIELDS: (16, 1024),
    MAX_OPEN_CALLS: (0, 127),
    CALL_WINDOW: (0, _LARGEST_WINDOW),
    CONNECTION_WINDOW: (0, _LARGEST_WINDOW),
    HEADER_TABLE: (0, 64 * 1024),
    PUSH_WINDOW: (1, 65535),
    PUSH_WINDOW_BYTES: (0, _LARGEST_WINDOW),
}


@dataclass(slots=True, frozen=True)
class Limits:
    """What one side accepts; sizes in bytes, times in seconds."""

    max_frame: int = 256 * 1024
    max_hello: int = 8 * 1024
    """Bytes before a complete HELLO."""
    max_headers: int = 64 * 1024
    """Expanded header bytes of one call, 32 per field included."""
    max_header_fields: int = 64
    max_open_calls: int = 64
    call_window: int = 64 * 1024
    """Body bytes that the peer may send ahead per call."""
    connection_window: int = 256 * 1024
    max_body: int = 16 * 1024 * 1024
    """Expanded bytes of one compressed body."""
    max_ratio: int = 200
    """Largest expansion of a compressed body, not enforced up to 64 KiB expanded."""
    header_table: int = 4096
    """Dynamic table of HPACK, per direction."""
    push_window: int = 64
    push_window_bytes: int = 64 * 1024
    control_frames_per_second: float = 20.0
    control_frame_burst: int = 200
    hello_timeout: float = 5.0


def settings_of(limits: Limits) -> dict[int, int]:
    """The settings that tell the peer of `limits`: those that differ from the defaults.

    Raises LocalError for a limit that the protocol does not allow.
    """
    values: dict[int, int] = {key: getattr(limits, name) for key, name in NAMES.items()}
    check_settings(values)
    return {key: value for key, value in values.items() if value != DEFAULTS[key]}


def check_settings(settings: dict[int, int]) -> None:
    """Raises LocalError when a known setting is outside what the protocol allows."""
    for key, value in settings.items():
        low, high = ALLOWED.get(key, (0, _LARGEST_WINDOW))
        if not low <= value <= high:
            raise LocalError(f"setting {key}: expected {low}..{high}, got {value}")


def encode_settings(settings: dict[int, int]) -> bytes:
    """Settings as fields, ids ascending."""
    return b"".join(varint_field(key, value) for key, value in sorted(settings.items()))


def decode_settings(data: bytes, pos: int, end: int) -> dict[int, int]:
    """The known settings of data[pos:end]. Raises RemoteError(PROTOCOL) for values outside what is allowed."""
    settings: dict[int, int] = {}
    for key, start, stop in read_fields(data, pos, end, ALLOWED):
        value = read_varint(data, start, stop)
        low, high = ALLOWED[key]
        if not low <= value <= high:
            raise RemoteError(Status.PROTOCOL, f"setting {key}: expected {low}..{high}, got {value}")
        settings[key] = value
    return settings


NAMES: dict[int, str] = {
    MAX_FRAME: "max_frame",
    MAX_HEADERS: "max_headers",
    MAX_HEADER_FIELDS: "max_header_fields",
    MAX_OPEN_CALLS: "max_open_calls",
    CALL_WINDOW: "call_window",
    CONNECTION_WINDOW: "connection_window",
    HEADER_TABLE: "header_table",
    PUSH_WINDOW: "push_window",
    PUSH_WINDOW_BYTES: "push_window_bytes",
}
DEFAULT_LIMITS = Limits()


def apply(limits: Limits, settings: dict[int, int]) -> Limits:
    """`limits` with the known ones of `settings` instead; the same object when nothing changes."""
    changed = {NAMES[key]: value for key, value in settings.items() if key in NAMES}
    return replace(limits, **changed) if changed else limits


def larger(one: Limits, other: Limits) -> Limits:
    """What is allowed while the peer may follow either: the larger of each setting, else those of `one`."""
    return replace(one, **{name: max(getattr(one, name), getattr(other, name)) for name in NAMES.values()})


@lru_cache(maxsize=64)
def until_heard(limits: Limits) -> Limits:
    """What a peer is held to that may not have heard of `limits` yet. Raises LocalError as settings_of does."""
    return larger(limits, DEFAULT_LIMITS) if settings_of(limits) else limits
