"""What a device says of itself when it comes, what of that may pass, and where a HELLO says it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct, field

from accessgw.core.authentication import AdmissionRefused
from accessgw.model.identity import ConnectionInfo, Credentials, Generation, Identity
from accessgw.model.pushes import Cursor, Scope, StreamKey
from accessgw.model.reasons import CloseReason
from protocols.mmtp.handshake import Hello, StreamCursor
from protocols.mmtp.statuses import Status

_APP = re.compile(r"[\x20-\x7e]{0,64}")
MAX_DEVICE = 256
MAX_ATTRIBUTES = 16
MAX_ATTRIBUTE = 256


class Introduction(Struct):
    """What a device says of itself: in a HELLO, or in the long form of a short request."""

    credentials: Credentials
    generation: Generation | None = field(default_factory=lambda: Generation(0, 0))
    """None: the protocol has no generations, the newest connection takes over."""
    proven: Identity | None = None
    """Who it is, when that was proved before: no authenticator is asked again."""
    attributes: dict[str, str] = field(default_factory=dict)


def is_device_id(device: str) -> bool:
    """Whether a device may be called so."""
    return device.isprintable() and 1 <= len(device) <= MAX_DEVICE and " " not in device


def _is_app(text: str) -> bool:
    return not text or _APP.fullmatch(text) is not None


def check_introduction(introduction: Introduction) -> None:
    """What a device says of itself goes into headers, logs and metrics: only harmless text passes. Raises
    AdmissionRefused."""
    credentials = introduction.credentials
    attributes = introduction.attributes
    if not is_device_id(credentials.device):
        problem = f"a device id is 1 to {MAX_DEVICE} printable characters without spaces"
    elif (credentials.app or credentials.app_version) and not (
        _is_app(credentials.app) and _is_app(credentials.app_version)
    ):
        problem = "an application and its version are at most 64 printable ASCII characters each"
    elif not attributes:
        return
    elif len(attributes) > MAX_ATTRIBUTES:
        problem = f"expected at most {MAX_ATTRIBUTES} attributes, got {len(attributes)}"
    elif any(len(k) > MAX_ATTRIBUTE or len(v) > MAX_ATTRIBUTE for k, v in attributes.items()):
        problem = f"an attribute is at most {MAX_ATTRIBUTE} characters"
    elif not all(k.isprintable() and v.isprintable() for k, v in attributes.items()):
        problem = "attributes are printable text"
    else:
        return
    raise AdmissionRefused(Status.PROTOCOL, CloseReason.PROTOCOL_ERROR, problem)


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
