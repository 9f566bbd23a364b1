"""Short ways for packets that come alone, one in a read, as most do: no loop, and no list of events. Each says what
Receiver.receive() would, or leaves the bytes to it."""

from __future__ import annotations

from struct import Struct
from typing import Final

from protocols.errors import RemoteError
from protocols.mqtt.decoding import BEGINNINGS
from protocols.mqtt.packets import V5, Connect, Publish
from protocols.mqtt.receiver import Receiver
from protocols.mqtt.state import Role, State

_SERVER = Role.SERVER
_START = State.START
_CONNECTING = State.CONNECTING
_OPEN = State.OPEN

_GOODBYE = b"\xe0\0"
"""DISCONNECT without reason and properties, the same in every version."""

_SHORTEST_PUBLISH: Final = 7
"""Bytes: its header of two, and five behind it."""

SHORTEST_CONNECT = 15
"""Bytes of a packet with one byte of client id, which MQTT 5 needs one more for."""
LONGEST_PLAIN = 129
"""Bytes of the longest packet that has its length in one byte."""
_PLAIN_HEAD = Struct(">BB7sBHH").unpack_from
"""First byte, length, name and level, flags, keep alive, two bytes behind them."""


def plain_connect(data: bytes) -> Connect | None:
    """The CONNECT that `data` is, where it is as nearly all are: one short packet, without a will and
    properties. None for all others, and for what may be wrong: those are for decode_body().

    One pass in one function: where clients come and go it is the packet that costs most.
    """
    size = len(data)
    if not SHORTEST_CONNECT <= size <= LONGEST_PLAIN:
        return None
    first, length, beginning, flags, keep_alive, behind = _PLAIN_HEAD(data)
    version = BEGINNINGS.get(beginning)
    if first != 0x10 or length != size - 2 or version is None or flags & 0x3D or flags & 0xC0 == 0x40:
        return None
    if version == V5:
        if behind > 255:
            return None  # properties
        pos = 15
        stop = pos + (behind << 8 | data[14])
    else:
        pos = 14
        stop = pos + behind
    raw = data[pos:stop]
    username = password = None
    try:
        if flags & 0x80:
            pos = stop + 2
            stop = pos + (data[pos - 2] << 8 | data[pos - 1])
            username = data[pos:stop].decode()
        if flags & 0x40:
            pos = stop + 2
            stop = pos + (data[pos - 2] << 8 | data[pos - 1])
            password = data[pos:stop]
        client_id = raw.decode()
    except (IndexError, UnicodeDecodeError):
        return None
    if stop != size or not raw or "\0" in client_id or (username and "\0" in username):
        return None
    return Connect(client_id, version, flags & 2 == 2, keep_alive, username, password)


class LonePackets(Receiver):
    """A connection that also receives packet by packet."""

    __slots__ = ()

    def introduced_alone(self, data: bytes) -> Connect | None:
        """The CONNECT, when `data` is one whole and plain one, and the first that comes: then it has been received,
        without an event. Else None, and `data` is for receive()."""
        if (
            self._state is not _START
            or self._pending is not None
            or self.role is not _SERVER
            or type(data) is not bytes
            or len(data) > self._max_in
        ):
            return None
        connect = plain_connect(data)
        if connect is not None:
            self.version = connect.version
            self.keep_alive = connect.keep_alive
            self._max_in = self._terms.limits.max_packet
            self._state = _CONNECTING
        return connect

    def published_alone(self, data: bytes) -> Publish | None:
        """The message, when `data` is one whole PUBLISH without properties and nothing is held back before it: then it
        has been received, without an event. Else None, and `data` is for receive(). Raises as receive() does."""
        size = len(data)
        if (
            self._state is not _OPEN
            or self._pending is not None
            or self._events is not None
            or not _SHORTEST_PUBLISH <= size <= self._max_in
            or type(data) is not bytes
        ):
            return None
        first, length, start = data[0], data[1], 2
        if length > 127:
            # Two bytes, as most have whose length does not fit into one; zero would be padding.
            more = data[2]
            if not 0 < more < 128:
                return None
            length, start = length & 127 | more << 7, 3
        qos = self._terms.publish_qos[first]
        if qos < 0 or start + length != size or length < 5:
            return None
        try:
            return self._plain_publish(first, qos, data, start, size)
        except RemoteError as error:
            self._fail(error.code, self.version)
            raise

    def acked_alone(self, data: bytes) -> int:
        """The packet id when `data` is one whole PUBACK of success and nothing is held back before it: then it has been
        received, without an event. Else 0, and `data` is for receive()."""
        if (
            self._state is _OPEN
            and len(data) == 4
            and data[0] == 0x40
            and data[1] == 2
            and self._pending is None
            and self._events is None
        ):
            packet_id = data[2] << 8 | data[3]
            if packet_id and self._outstanding:
                self._outstanding -= 1
            return packet_id
        return 0

    def left_alone(self, data: bytes) -> bool:
        """Whether `data` is one whole DISCONNECT of a client that has nothing to say with it, and nothing is held back
        before it: then it has been received, without an event. Else it is for receive()."""
        if (
            self._state is _OPEN
            and data == _GOODBYE
            and self._pending is None
            and self._events is None
            and self.role is _SERVER
        ):
            self._close()
            return True
        return False
