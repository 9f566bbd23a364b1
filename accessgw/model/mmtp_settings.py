"""What an operator can set of MMTP: the limits of the wire, and what saves bytes on it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from accessgw.model.setting_types import Amount, Count, Rate, Seconds, SecondsOrZero, Settings


class MmtpSettings(Settings, frozen=True, kw_only=True):
    """Limits of the MMTP wire; the specification's section Limits has the meaning of each."""

    max_frame: Annotated[int, Meta(ge=16 * 1024, le=16 * 1024 * 1024)] = 256 * 1024
    """Largest frame."""
    max_hello: Annotated[int, Meta(ge=64)] = 8 * 1024
    """Bytes before a complete HELLO."""
    max_headers: Annotated[int, Meta(ge=4096, le=1024 * 1024)] = 64 * 1024
    """Expanded header bytes of one call."""
    max_header_fields: Annotated[int, Meta(ge=16, le=1024)] = 64
    """Header fields of one call."""
    max_open_calls: Annotated[int, Meta(ge=1, le=127)] = 64
    """Calls open at once on a connection (at most 127)."""
    call_window: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 64 * 1024
    """Body bytes that a peer may send ahead per call."""
    connection_window: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 256 * 1024
    """Body bytes that a peer may send ahead per connection."""
    max_body: Count = 16 * 1024 * 1024
    """Expanded bytes of one compressed body."""
    max_ratio: Count = 200
    """Largest expansion of a compressed body (not enforced up to 64 KiB expanded)."""
    header_table: Annotated[int, Meta(ge=0, le=64 * 1024)] = 4096
    """Dynamic table of HPACK (profile H), per direction."""
    push_window: Annotated[int, Meta(ge=1, le=65535)] = 64
    """Unacknowledged pushes per connection."""
    push_window_bytes: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 64 * 1024
    """Unacknowledged push bytes per connection."""
    control_frames_per_second: Rate = 20.0
    """PING with answer, RESET, SETTINGS and WINDOW frames per second that are no flood."""
    control_frame_burst: Count = 200
    """Burst of such frames."""
    heartbeat_hint: Seconds = 240.0
    """Heartbeat interval suggested in WELCOME."""
    templates: bool = True
    """Header blocks by templates (profile D) with devices that can. Dictionaries have a switch of their own:
    `dictionaries.enabled`."""
    history: Annotated[int, Meta(ge=0, le=4096)] = 4096
    """Bytes of a private stream's earlier bodies that its pushes may refer to (coding 3), for each of these streams on
    a connection; 0: none."""
    history_biz: tuple[str, ...] = ()
    """Bizs whose pushes to one user or device may do so: a name, or a prefix such as `chat.*`. Not for bodies of which
    a stranger can choose a part while another part is secret. Topics and broadcasts never do."""
    rest_after: SecondsOrZero = 30.0
    """Header codecs of a connection without calls for so long are put away in a few hundred bytes; 0: never."""


class HeaderStateSettings(Settings, frozen=True, kw_only=True):
    """States of header codecs (profile D), with which a device's next connection goes on."""

    kept: Seconds = 7 * 86400.0
    """How long a state is kept after it was written."""
    max_states: Count = 600_000
    """Checkpoints kept at once, up to six a device, 0.1 to 4 KiB each; past that the oldest go first."""
    cache_bytes: Amount = 16 * 1024 * 1024
    """Memory for the states of devices that were here last; others are read from the store."""
