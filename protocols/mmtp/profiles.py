"""Header blocks where a side speaks profile D: codecs that are resumed, checkpoints (specification, 7.2, 7.3)."""

from __future__ import annotations

from typing import NamedTuple

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.events import CheckpointTaken, Event, Headers
from protocols.mmtp.frames import FrameType, TableKind, encode_frame
from protocols.mmtp.header_rules import OPERATION
from protocols.mmtp.headers import FRAME_RESERVE, HeaderCodec, check_operation, operation_of
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import AppTable
from protocols.mmtp.templates import TemplateDecoder, TemplateEncoder, TemplateState, decode_state
from protocols.mmtp.varint import MAX_VARINT, encode_varint

TEMPLATE_CAPABILITY = "template"
CHECKPOINT_BLOCKS = 16
"""Blocks between two checkpoints."""
EARLY_CHECKPOINTS = 32
"""Checkpoints of a connection that may come sooner, since a state grows when it is young."""


class Checkpoint(NamedTuple):
    """A state by its number in its direction."""

    number: int
    state: TemplateState


class Resting(NamedTuple):
    """A codec that was put away: what its next block is made or read with."""

    table: AppTable
    encoded: bytes
    changed: bool
    """As TemplateEncoder.changed."""


class Profiles:
    """Takes the place of HeaderCodec: each direction is profile D, or H as there."""

    __slots__ = (
        "_decoder",
        "_direction",
        "_early",
        "_encoder",
        "_number",
        "_plain",
        "_quiet",
        "_since",
        "_since_taken",
        "_taken",
        "_under_way",
        "missing",
    )

    def __init__(self, plain: HeaderCodec, direction: str) -> None:
        """`direction` is that of our own blocks: events.UP or events.DOWN."""
        self._plain = plain
        self._direction = direction
        self._encoder: TemplateEncoder | Resting | TemplateState | AppTable | None = None
        """Made of a state or a table at the first block: many connections carry none."""
        self._number = 0
        """Of our last checkpoint."""
        self._under_way: Checkpoint | None = None
        self._since = 0
        """Blocks since our last checkpoint."""
        self._early = EARLY_CHECKPOINTS
        self._decoder: TemplateDecoder | Resting | TemplateState | AppTable | None = None
        self._taken = 0
        """Number of the peer's last checkpoint."""
        self._since_taken = 0
        self._quiet = False
        """No block since the last call of rest()."""
        self.missing = False
        """Gateway: blocks of requests are in a state that we do not have."""

    def encode_from(self, table: AppTable | None, resumed: Checkpoint | None = None) -> None:
        """Our next block is profile D of `table`, in the empty state or a resumed one; None: profile H."""
        self._under_way = None
        self._since = 0
        self._number = resumed.number if resumed is not None else 0
        self._encoder = table if resumed is None else resumed.state

    def decode_from(self, table: AppTable | None, resumed: Checkpoint | None = None) -> None:
        """The peer's next block is so."""
        self.missing = False
        self._since_taken = 0
        self._taken = resumed.number if resumed is not None else 0
        self._decoder = table if resumed is None else resumed.state

    # --- as HeaderCodec

    def encode(self, operation: str | None, headers: Headers, own: Limits, peer: Limits) -> bytes:
        """See HeaderCodec.encode."""
        encoder = self._encoder
        if encoder is None:
            return self._plain.encode(operation, headers, own, peer)
        if operation is None and not headers:
            return b""
        self._quiet = False
        if not isinstance(encoder, TemplateEncoder):
            encoder = self._encoder = _encoder_of(encoder)
        if operation is not None:
            check_operation(operation)
            headers = [(OPERATION, operation), *headers]
        elif headers[0][0] == OPERATION:
            raise LocalError(f"header: expected a lower-case name, got {OPERATION!r}")
        block = encoder.encode(headers, min(peer.max_headers, peer.max_frame - FRAME_RESERVE), peer.max_header_fields)
        self._since += 1
        return block

    def _decode(self, block: bytes, enforced: Limits) -> Headers | None:
        """None: it is profile H."""
        decoder = self._decoder
        if decoder is None:
            return None
        if not block:
            return []
        self._quiet = False
        if not isinstance(decoder, TemplateDecoder):
            decoder = self._decoder = _decoder_of(decoder)
        self._since_taken += 1
        return decoder.decode(block, enforced.max_headers, enforced.max_header_fields)

    def decode_request(self, block: bytes, enforced: Limits) -> tuple[str, Headers]:
        """See HeaderCodec.decode_request."""
        fields = self._decode(block, enforced)
        if fields is None:
            return self._plain.decode_request(block, enforced)
        return operation_of(fields), fields[1:]

    def decode_response(self, block: bytes, enforced: Limits) -> Headers:
        """See HeaderCodec.decode_response."""
        fields = self._decode(block, enforced)
        if fields is None:
            return self._plain.decode_response(block, enforced)
        if fields and fields[0][0] == OPERATION:
            raise RemoteError(Status.PROTOCOL, f"header: expected a lower-case name, got {OPERATION!r}")
        return fields

    # --- idle connections

    @property
    def rests(self) -> bool:
        """rest() has nothing to put away."""
        return not isinstance(self._encoder, TemplateEncoder | TemplateState) and not isinstance(
            self._decoder, TemplateDecoder | TemplateState
        )

    def rest(self) -> bool:
        """Put both codecs away when no block came or left since the last call; whether they are. They forget what was
        only observed, so it costs some bytes later: call it seldom."""
        if not self._quiet:
            self._quiet = True
            return self.rests
        encoder, decoder = self._encoder, self._decoder
        if isinstance(encoder, TemplateEncoder):
            changed = encoder.changed
            self._encoder = _put_away(encoder.checkpoint(), changed)
        elif isinstance(encoder, TemplateState):
            self._encoder = _put_away(encoder, False)
        if isinstance(decoder, TemplateDecoder):
            self._decoder = _put_away(decoder.checkpoint(), False)
        elif isinstance(decoder, TemplateState):
            self._decoder = _put_away(decoder, False)
        return True

    # --- checkpoints

    def after_block(self, out: list[bytes], events: list[Event]) -> None:
        """The frame of a block that was encoded here is in `out`: a checkpoint follows when the state has changed, and
        the peer has got the last one."""
        encoder = self._encoder
        if not isinstance(encoder, TemplateEncoder) or self._under_way is not None or not encoder.changed:
            return
        if self._number == MAX_VARINT:  # the peer named it so; no number follows
            return
        if self._since < CHECKPOINT_BLOCKS:
            if not self._early:
                return
            self._early -= 1
        self._since = 0
        self._number += 1
        self._under_way = made = Checkpoint(self._number, encoder.checkpoint())
        out.append(encode_frame(FrameType.TABLE, TableKind.CHECKPOINT, encode_varint(made.number)))
        events.append(CheckpointTaken(self._direction, made.number, made.state))

    def acked(self, number: int) -> Checkpoint:
        """The peer has our checkpoint. Raises RemoteError(PROTOCOL) when that is not under way."""
        made = self._under_way
        if made is None or made.number != number:
            expected = "none" if made is None else made.number
            raise RemoteError(
                Status.PROTOCOL, f"TABLE: expected acknowledgement of checkpoint {expected}, got {number}"
            )
        self._under_way = None
        return made

    def came(self, number: int) -> tuple[Checkpoint | None, bool]:
        """The peer's checkpoint, and whether it was early; None for one in a state that we do not have.
        Raises RemoteError(PROTOCOL)."""
        if self.missing:
            return None, True
        decoder = self._decoder
        if decoder is None:
            raise RemoteError(Status.PROTOCOL, "TABLE: checkpoint of profile H")
        if number != self._taken + 1:
            raise RemoteError(Status.PROTOCOL, f"TABLE: expected checkpoint {self._taken + 1}, got {number}")
        if not isinstance(decoder, TemplateDecoder):
            decoder = self._decoder = _decoder_of(decoder)
        self._taken = number
        early = self._since_taken < CHECKPOINT_BLOCKS
        self._since_taken = 0
        return Checkpoint(number, decoder.checkpoint()), early


def _put_away(state: TemplateState, changed: bool) -> Resting:
    return Resting(state.table, state.encoded, changed)


def _encoder_of(begin: Resting | TemplateState | AppTable) -> TemplateEncoder:
    if isinstance(begin, AppTable):
        return TemplateEncoder(begin)
    if isinstance(begin, Resting):
        encoder = TemplateEncoder.resumed(begin.table, decode_state(begin.encoded, begin.table))
        encoder.changed = begin.changed
        return encoder
    return TemplateEncoder.resumed(begin.table, begin)


def _decoder_of(begin: Resting | TemplateState | AppTable) -> TemplateDecoder:
    if isinstance(begin, AppTable):
        return TemplateDecoder(begin)
    if isinstance(begin, Resting):
        return TemplateDecoder.resumed(begin.table, decode_state(begin.encoded, begin.table))
    return TemplateDecoder.resumed(begin.table, begin)
