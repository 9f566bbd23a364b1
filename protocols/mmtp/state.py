"""Everything that moves an MMTP state machine: two tables, (state, input) -> next state.

Two rules. One: whoever sends or receives a frame looks its input up here, and a pair that is not here is
an error: RemoteError(PROTOCOL) when the frame came, LocalError when it was about to leave. Two: nothing else
changes a state. Both roles read the same tables, one side's sending being the other's receiving;
specification, sections 2 and 6.2.
"""

from __future__ import annotations

from enum import Enum, auto

from protocols.mmtp.frames import FrameType


class _Key(Enum):
    """Members that key tables on every frame: Enum's own hash is a Python function, theirs is the object's."""

    __hash__ = object.__hash__


class ConnectionState(_Key):
    """Where a connection stands."""

    AWAIT_HELLO = auto()
    """Gateway: nothing but PING may come before HELLO."""
    AUTHENTICATING = auto()
    """Gateway: HELLO came, WELCOME has not been sent."""
    START = auto()
    """Device: HELLO has not been sent."""
    HELLO_SENT = auto()
    """Device: WELCOME has not come."""
    OPEN = auto()
    LEAVING = auto()
    """We sent GOAWAY."""
    PEER_LEAVING = auto()
    """GOAWAY came."""
    CLOSED = auto()


class CallState(_Key):
    """Where a call stands; `up` is from device to gateway."""

    UPLOADING = auto()
    WAITING = auto()
    UPLOADING_ANSWERING = auto()
    ANSWERING = auto()
    ENDED = auto()


class CallInput(_Key):
    """What happens to a call, whichever side does it."""

    UP_MORE = auto()
    UP_LAST = auto()
    CANCEL = auto()
    """RESET from the device."""
    RESPONSE_MORE = auto()
    RESPONSE_LAST = auto()
    DOWN_MORE = auto()
    DOWN_LAST = auto()
    RESET = auto()
    """RESET from the gateway."""


class Sent(_Key):
    """What moves a connection by being sent (of what is received, the frame type is the input)."""

    HELLO = auto()
    WELCOME = auto()
    REFUSAL = auto()
    """WELCOME with a result other than 0."""
    GOAWAY = auto()
    REQUEST = auto()
    RESPONSE = auto()
    PUSH = auto()
    DATA = auto()
    RESET = auto()
    SETTINGS = auto()
    OFFER = auto()
    """DICT and TABLE of the gateway."""


_C = ConnectionState
_F = FrameType

_ALWAYS = (_F.PING, _F.PONG, _F.EXT)
_FROM_DEVICE = (_F.REQUEST, _F.DATA, _F.RESET, _F.ACK, _F.WINDOW, _F.SETTINGS, _F.DICT, _F.TABLE)
_FROM_GATEWAY = (_F.RESPONSE, _F.DATA, _F.RESET, _F.PUSH, _F.WINDOW, _F.SETTINGS, _F.DICT, _F.TABLE)
_TO_DEVICE = (Sent.RESPONSE, Sent.DATA, Sent.RESET, Sent.PUSH, Sent.SETTINGS, Sent.OFFER)
_TO_GATEWAY = (Sent.REQUEST, Sent.DATA, Sent.RESET, Sent.SETTINGS)

Table = dict[tuple[ConnectionState, FrameType | Sent], ConnectionState]

SERVER: Table = {
    **{(state, kind): state for state in (_C.AWAIT_HELLO, _C.AUTHENTICATING, _C.OPEN, _C.LEAVING, _C.PEER_LEAVING)
       for kind in _ALWAYS},
    (_C.AWAIT_HELLO, _F.HELLO): _C.AUTHENTICATING,
    (_C.AWAIT_HELLO, _F.GOAWAY): _C.CLOSED,
    (_C.AWAIT_HELLO, Sent.GOAWAY): _C.CLOSED,
    **{(_C.AUTHENTICATING, kind): _C.AUTHENTICATING for kind in _FROM_DEVICE},
    (_C.AUTHENTICATING, Sent.RESET): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, Sent.SETTINGS): _C.AUTHENTICATING,
    # answers to calls in early data: specification, section 6.5
    (_C.AUTHENTICATING, Sent.RESPONSE): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, Sent.DATA): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, Sent.WELCOME): _C.OPEN,
    (_C.AUTHENTICATING, Sent.REFUSAL): _C.CLOSED,
    (_C.AUTHENTICATING, _F.GOAWAY): _C.CLOSED,
    (_C.AUTHENTICATING, Sent.GOAWAY): _C.CLOSED,
    **{(_C.OPEN, kind): _C.OPEN for kind in (*_FROM_DEVICE, *_TO_DEVICE)},
    (_C.OPEN, _F.GOAWAY): _C.PEER_LEAVING,
    (_C.OPEN, Sent.GOAWAY): _C.LEAVING,
    **{(_C.LEAVING, kind): _C.LEAVING for kind in (*_FROM_DEVICE, *_TO_DEVICE)},
    (_C.LEAVING, _F.GOAWAY): _C.PEER_LEAVING,
    (_C.LEAVING, Sent.GOAWAY): _C.LEAVING,
    **{(_C.PEER_LEAVING, kind): _C.PEER_LEAVING for kind in (*_FROM_DEVICE, *_TO_DEVICE) if kind is not _F.REQUEST},
    (_C.PEER_LEAVING, _F.GOAWAY): _C.PEER_LEAVING,
    (_C.PEER_LEAVING, Sent.GOAWAY): _C.PEER_LEAVING,
}  # fmt: skip

CLIENT: Table = {
    **{(state, kind): state for state in (_C.HELLO_SENT, _C.OPEN, _C.LEAVING, _C.PEER_LEAVING) for kind in _ALWAYS},
    (_C.START, Sent.HELLO): _C.HELLO_SENT,
    **{
        (_C.HELLO_SENT, kind): _C.HELLO_SENT
        for kind in (_F.RESPONSE, _F.DATA, _F.RESET, _F.WINDOW, _F.SETTINGS, *_TO_GATEWAY)
    },
    (_C.HELLO_SENT, _F.WELCOME): _C.OPEN,
    (_C.HELLO_SENT, Sent.REFUSAL): _C.CLOSED,
    (_C.HELLO_SENT, _F.GOAWAY): _C.CLOSED,
    (_C.HELLO_SENT, Sent.GOAWAY): _C.CLOSED,
    **{(_C.OPEN, kind): _C.OPEN for kind in (*_FROM_GATEWAY, *_TO_GATEWAY)},
    (_C.OPEN, _F.GOAWAY): _C.PEER_LEAVING,
    (_C.OPEN, Sent.GOAWAY): _C.LEAVING,
    **{(_C.PEER_LEAVING, kind): _C.PEER_LEAVING for kind in (*_FROM_GATEWAY, *_TO_GATEWAY) if kind is not Sent.REQUEST},
    (_C.PEER_LEAVING, _F.GOAWAY): _C.PEER_LEAVING,
    (_C.PEER_LEAVING, Sent.GOAWAY): _C.LEAVING,
    **{(_C.LEAVING, kind): _C.LEAVING for kind in (*_FROM_GATEWAY, *_TO_GATEWAY) if kind is not Sent.REQUEST},
    (_C.LEAVING, _F.GOAWAY): _C.LEAVING,
    (_C.LEAVING, Sent.GOAWAY): _C.LEAVING,
}

_S = CallState
_I = CallInput

CALL: dict[tuple[CallState, CallInput], CallState] = {
    (_S.UPLOADING, _I.UP_MORE): _S.UPLOADING,
    (_S.UPLOADING, _I.UP_LAST): _S.WAITING,
    (_S.UPLOADING, _I.CANCEL): _S.WAITING,
    (_S.UPLOADING, _I.RESPONSE_MORE): _S.UPLOADING_ANSWERING,
    (_S.UPLOADING, _I.RESPONSE_LAST): _S.ENDED,
    (_S.UPLOADING, _I.RESET): _S.ENDED,
    (_S.WAITING, _I.CANCEL): _S.WAITING,
    (_S.WAITING, _I.RESPONSE_MORE): _S.ANSWERING,
    (_S.WAITING, _I.RESPONSE_LAST): _S.ENDED,
    (_S.WAITING, _I.RESET): _S.ENDED,
    (_S.UPLOADING_ANSWERING, _I.UP_MORE): _S.UPLOADING_ANSWERING,
    (_S.UPLOADING_ANSWERING, _I.UP_LAST): _S.ANSWERING,
    (_S.UPLOADING_ANSWERING, _I.CANCEL): _S.ANSWERING,
    (_S.UPLOADING_ANSWERING, _I.DOWN_MORE): _S.UPLOADING_ANSWERING,
    (_S.UPLOADING_ANSWERING, _I.DOWN_LAST): _S.ENDED,
    (_S.UPLOADING_ANSWERING, _I.RESET): _S.ENDED,
    (_S.ANSWERING, _I.CANCEL): _S.ANSWERING,
    (_S.ANSWERING, _I.DOWN_MORE): _S.ANSWERING,
    (_S.ANSWERING, _I.DOWN_LAST): _S.ENDED,
    (_S.ANSWERING, _I.RESET): _S.ENDED,
}

UPLOAD_OPEN = frozenset((_S.UPLOADING, _S.UPLOADING_ANSWERING))
"""States in which more of the request's body may come."""


def moves(table: Table, state: ConnectionState) -> tuple[ConnectionState | None, ...]:
    """The row of what may be received in `state`, indexed by frame type: the next state, or None."""
    return _MOVES[id(table), state]


_MOVES = {
    (id(table), state): tuple(table.get((state, kind)) for kind in FrameType)
    for table in (SERVER, CLIENT)
    for state in ConnectionState
}
