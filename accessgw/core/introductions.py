"""What a HELLO says, long or short connection, in the words of core."""

from __future__ import annotations

from collections.abc import Iterable

from accessgw.core.sessions import Introduction
from accessgw.model.identity import ConnectionInfo, Credentials, Generation, Identity
from accessgw.model.pushes import Cursor, Scope, StreamKey
from protocols.mmtp.handshake import Hello, StreamCursor


def introduction_of(hello: Hello, info: ConnectionInfo) -> Introduction:
    """What a HELLO says, with what the transport knows."""
    return Introduction(
        Credentials(
            device=hello.device,
            token=hello.token,
            app=hello.app,
            app_version=hello.app_version,
            certificate_identity=info.certificate_identity,
            loopback=info.loopback,
            peer=info.peer,
        ),
        Generation(hello.boot, hello.counter),
        attributes=dict(hello.attributes),
    )


def cursors_of(identity: Identity, cursors: Iterable[StreamCursor]) -> list[Cursor]:
    """The cursors of streams that may be this device's: a HELLO must not open a stranger's stream.

    Topics pass here; whether the device has subscribed is the push side's question.
    """
    owners = {Scope.DEVICE: identity.device, Scope.USER: identity.user, Scope.BROADCAST: ""}
    own = []
    for cursor in cursors:
        scope = Scope(cursor.scope)
        if scope is Scope.TOPIC or (owners[scope] == cursor.id and (cursor.id or scope is Scope.BROADCAST)):
            own.append(Cursor(StreamKey(scope, cursor.id, cursor.biz), cursor.epoch, cursor.seq))
    return own
