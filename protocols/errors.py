"""The errors of every protocol in this package: our caller erred, or the peer did."""


class ProtocolError(Exception):
    """Base of all protocol errors. Never raised itself; see LocalError and RemoteError."""

    def __init__(self, message: str) -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract: raise LocalError or RemoteError")
        super().__init__(message)


class LocalError(ProtocolError):
    """Our own side asked for something that the protocol does not allow now.

    Nothing was sent and the state is as it was before the call.
    """


class TooLargeForPeer(LocalError):
    """What we have to say is larger than the peer said that it takes. It is the peer's doing, not a defect of ours."""


class RemoteError(ProtocolError):
    """The peer broke the protocol.

    `code` is the number that the protocol sends for it (an MMTP status, an MQTT reason code, an
    HTTP status, a TLS alert), so whoever catches the error knows what to tell the peer.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = int(code)


def without_frames(error: RemoteError) -> RemoteError:
    """The same error, to be kept: the frames of one that was raised, and of its cause, have the objects which it came
    through, and only the garbage collector would free those."""
    return RemoteError(error.code, str(error))
