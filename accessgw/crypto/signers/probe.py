"""Whether a signer that is not ours serves at its socket: one connection on plain calls, for `--check`."""

from __future__ import annotations

import os
import socket

from protocols.errors import RemoteError
from protocols.signing import KeysOffered, SigningConnection

_PIECE = 1 << 16


class NoSigner(Exception):
    """Nobody who would sign; the message says why."""


def keys_offered(path: str, timeout: float) -> frozenset[str]:
    """Ids of the keys that the signer at the Unix socket `path` has; `timeout`: seconds for each step of its greeting.

    Raises NoSigner.
    """
    wire = SigningConnection(signer=False)
    wire.hello()
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout)
            link.connect(path)
            link.sendall(wire.to_send())
            while data := link.recv(_PIECE):
                for event in wire.receive(data):
                    if isinstance(event, KeysOffered):
                        return event.keys
    except TimeoutError:
        raise NoSigner(f"who listens at {path} says nothing for {timeout:g} s") from None
    except (BrokenPipeError, ConnectionResetError):
        pass
    except OSError as error:
        raise NoSigner(f"no signer at {path}: {os.strerror(error.errno) if error.errno else error}") from None
    except RemoteError as error:
        raise NoSigner(f"who listens at {path} does not speak our protocol: {error}") from None
    raise NoSigner(f"who listens at {path} closes the connection: does it serve this user?")
