"""MMTP, the mobile protocol: frames, hand-shake, calls, pushes; specification in docs/spec/mmtp.md."""

from __future__ import annotations

from protocols.mmtp.connection import CAPABILITIES, Connection, Role
from protocols.mmtp.handshake import Goaway, Hello, StreamCursor, Welcome
from protocols.mmtp.pushes import encode_push
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Retry, Status, http_from_status, retry_of, status_from_http

__all__ = [
    "CAPABILITIES",
    "Connection",
    "Goaway",
    "Hello",
    "Limits",
    "Retry",
    "Role",
    "Status",
    "StreamCursor",
    "Welcome",
    "encode_push",
    "http_from_status",
    "retry_of",
    "status_from_http",
]
