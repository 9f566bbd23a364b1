"""Everything that moves the state of an MQTT connection: one table, (state, who sends, what) -> next state.

Two rules. One: whoever sends or receives a packet looks it up here, and what is not here is an error: RemoteError
when the packet came, LocalError when it was about to leave. Two: nothing else changes a state, but that an error and
the end of the transport close the connection. Both roles read the same table, one's sending being the other's
receiving.
"""

from __future__ import annotations

from enum import Enum, auto

from protocols.mqtt.packets import PacketType


class _Key(Enum):
    """Members that key tables: Enum's own hash is a Python function, theirs is the object's."""

    __hash__ = object.__hash__


class Role(_Key):
    """Which side of the connection one is."""

    SERVER = "server"
    CLIENT = "client"

    @property
    def peer(self) -> Role:
        """The other one."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER


class State(_Key):
    """Where a connection stands."""

    START = auto()
    """Nothing but CONNECT may come (section 3.1)."""
    CONNECTING = auto()
    """CONNECT came, CONNACK did not; the client may already go on (section 3.1.4)."""
    AUTHENTICATING = auto()
    """The same with an Authentication Method: only AUTH goes on (section 4.12)."""
    OPEN = auto()
    REAUTHENTICATING = auto()
    """Open; the client has asked to be authenticated again (section 4.12.1)."""
    CLOSED = auto()


class Variant(_Key):
    """Packets of one type that move the state differently."""

    CONNECT_WITH_METHOD = auto()
    REFUSAL = auto()
    """CONNACK that accepts nothing."""
    AUTH_SUCCESS = auto()
    AUTH_CONTINUE = auto()
    AUTH_AGAIN = auto()
    """Re-authenticate."""


Input = PacketType | Variant

_S = State
_T = PacketType
_V = Variant
_SERVER = Role.SERVER
_CLIENT = Role.CLIENT

_FROM_BOTH = (_T.PUBLISH, _T.PUBACK, _T.PUBREC, _T.PUBREL, _T.PUBCOMP)
_FROM_CLIENT = (*_FROM_BOTH, _T.SUBSCRIBE, _T.UNSUBSCRIBE, _T.PINGREQ)
_FROM_SERVER = (*_FROM_BOTH, _T.SUBACK, _T.UNSUBACK, _T.PINGRESP)

TABLE: dict[tuple[State, Role, Input], State] = {
    (_S.START, _CLIENT, _T.CONNECT): _S.CONNECTING,
    (_S.START, _CLIENT, _V.CONNECT_WITH_METHOD): _S.AUTHENTICATING,
    **{(_S.CONNECTING, _CLIENT, kind): _S.CONNECTING for kind in _FROM_CLIENT},
    (_S.CONNECTING, _CLIENT, _T.DISCONNECT): _S.CLOSED,
    (_S.CONNECTING, _SERVER, _T.CONNACK): _S.OPEN,
    (_S.CONNECTING, _SERVER, _V.REFUSAL): _S.CLOSED,
    (_S.AUTHENTICATING, _CLIENT, _V.AUTH_CONTINUE): _S.AUTHENTICATING,
    (_S.AUTHENTICATING, _CLIENT, _T.DISCONNECT): _S.CLOSED,
    (_S.AUTHENTICATING, _SERVER, _V.AUTH_CONTINUE): _S.AUTHENTICATING,
    (_S.AUTHENTICATING, _SERVER, _T.CONNACK): _S.OPEN,
    (_S.AUTHENTICATING, _SERVER, _V.REFUSAL): _S.CLOSED,
    **{(_S.OPEN, _CLIENT, kind): _S.OPEN for kind in _FROM_CLIENT},
    **{(_S.OPEN, _SERVER, kind): _S.OPEN for kind in _FROM_SERVER},
    (_S.OPEN, _CLIENT, _V.AUTH_AGAIN): _S.REAUTHENTICATING,
    (_S.OPEN, _CLIENT, _T.DISCONNECT): _S.CLOSED,
    (_S.OPEN, _SERVER, _T.DISCONNECT): _S.CLOSED,
    **{(_S.REAUTHENTICATING, _CLIENT, kind): _S.REAUTHENTICATING for kind in _FROM_CLIENT},
    **{(_S.REAUTHENTICATING, _SERVER, kind): _S.REAUTHENTICATING for kind in _FROM_SERVER},
    (_S.REAUTHENTICATING, _CLIENT, _V.AUTH_CONTINUE): _S.REAUTHENTICATING,
    (_S.REAUTHENTICATING, _SERVER, _V.AUTH_CONTINUE): _S.REAUTHENTICATING,
    (_S.REAUTHENTICATING, _SERVER, _V.AUTH_SUCCESS): _S.OPEN,
    (_S.REAUTHENTICATING, _CLIENT, _T.DISCONNECT): _S.CLOSED,
    (_S.REAUTHENTICATING, _SERVER, _T.DISCONNECT): _S.CLOSED,
}

LIVE = frozenset((_S.OPEN, _S.REAUTHENTICATING))
"""States in which messages go both ways."""


def packet_type(what: Input) -> PacketType:
    """The type of packet that an input is."""
    if isinstance(what, PacketType):
        return what
    if what is Variant.CONNECT_WITH_METHOD:
        return PacketType.CONNECT
    return PacketType.CONNACK if what is Variant.REFUSAL else PacketType.AUTH


MAY_SEND: dict[tuple[State, Role], frozenset[PacketType]] = {
    (state, role): frozenset(packet_type(what) for at, who, what in TABLE if at is state and who is role)
    for state in State
    for role in Role
}
"""Types of packets that a role may send in a state: those that begin a row of the table."""
