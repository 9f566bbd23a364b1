"""A long connection inside WebSocket, where only HTTP gets through: its upgrade, and messages around the bytes."""

from __future__ import annotations

from accessgw.client.addresses import Address
from protocols.errors import RemoteError
from protocols.http.websocket import BytesReceived, Role, WebSocket
from protocols.http.websocket_handshake import KEY_SIZE, ClientHandshake
from protocols.mmtp.statuses import Status

SUBPROTOCOL = "mmtp"


class Tunnel:
    """Between a link's protocol object and its transport.

    Nothing is sent inside before the server has answered the upgrade.
    """

    def __init__(self, address: Address, nonce: int, subprotocol: str = SUBPROTOCOL) -> None:
        """`nonce` is a random number of 128 bits."""
        self._handshake: ClientHandshake | None = ClientHandshake(
            address.authority, address.path, nonce.to_bytes(KEY_SIZE, "big"), (subprotocol,)
        )
        self._socket = WebSocket(Role.CLIENT)
        self._request = self._handshake.request

    @property
    def open(self) -> bool:
        """Messages can be sent."""
        return self._handshake is None and not self._socket.closing

    def receive(self, data: bytes) -> bytes:
        """The bytes inside. RemoteError carries an MMTP status; what came before it is lost with the connection."""
        try:
            if self._handshake is not None:
                rest = self._handshake.receive(data)
                if rest is None:
                    return b""
                self._handshake = None
                data = rest
            self._socket.receive(data)
        except RemoteError as error:
            raise RemoteError(Status.PROTOCOL, str(error)) from error
        return b"".join(event.data for event in self._socket.events() if isinstance(event, BytesReceived))

    def send(self, data: bytes) -> None:
        """One message; only while `open`."""
        self._socket.send(data)

    def close(self) -> None:
        """Say a close frame, if there is somebody to hear it."""
        if self._handshake is None:
            self._socket.close()

    def to_send(self) -> bytes:
        """Bytes for the transport."""
        request, self._request = self._request, b""
        return request + self._socket.to_send()
