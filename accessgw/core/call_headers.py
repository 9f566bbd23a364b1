"""Headers of a call on their way to an upstream and back (interface: from a call to an upstream)."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from accessgw.model.calls import Call, Headers
from protocols.mmtp.header_rules import is_header_name
from protocols.mmtp.statuses import Status

BUSY = frozenset({Status.OVERLOAD, Status.RATE_LIMIT})
"""Refusals of the gateway that say when to try again (specification, section 11.2)."""
TRY_AGAIN: Headers = [("retry-after", "1")]

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS = frozenset(
    {
        "early-data",
        "forwarded",
        "traceparent",
        "x-app",
        "x-app-version",
        "x-call-id",
        "x-deadline-ms",
        "x-device-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-stress",
        "x-user-id",
        "x-zone",
    }
)
"""An upstream believes these because only the gateway sets them; a device's own are dropped. So are spellings with
an underscore: many services hand both to their code under one name (CGI, RFC 3875 4.1.18)."""
_DROPPED = _HOP_BY_HOP | _OURS
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VISIBLE = re.compile(r"[!#$&'()*+,\-./0-9:;<=>?@A-Z\[\]^_`a-z{|}~]*")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class BadHeader(Exception):
    """A header of a device that must not reach HTTP: it could end the header or begin another request."""


def towards_upstream(call: Call, zone: str, now: float, random_bytes: Callable[[int], bytes]) -> Headers:
    """The headers of the upstream request. `call.deadline` must be set. Raises BadHeader.

    A device's traceparent (W3C Trace Context) is kept when it is valid; else one is made, not marked
    as sampled: sampling is the service's choice.
    """
    headers: Headers = []
    named_by_connection = _listed(call.headers, "connection") if call.http_method else frozenset()
    traceparent = ""
    for name, value in call.headers:
        if name.replace("_", "-") in _DROPPED or name in named_by_connection:
            if name == "traceparent" and _TRACEPARENT.fullmatch(value):
                traceparent = value
            elif name == "content-length" and call.http_method and call.more:
                # A service that knows no chunks (RFC 9112, 7.1) still gets a streamed body of known length.
                headers.append((name, value))
            continue
        if not is_header_name(name) or _BAD_VALUE.search(value):
            raise BadHeader(f"header {name!r} is not one that HTTP allows")
        headers.append((name, value))
    identity = call.identity
    if identity.device:
        headers.append(("x-device-id", visible(identity.device)))
    if identity.user:
        headers.append(("x-user-id", visible(identity.user)))
    if identity.app:
        headers.append(("x-app", visible(identity.app)))
    if identity.app_version:
        headers.append(("x-app-version", visible(identity.app_version)))
    if not call.http_method:
        headers.append(("x-call-id", f"{call.call_id:016x}"))
    elif call.connection is not None and call.connection.peer:
        headers.append(("x-forwarded-for", call.connection.peer))
        headers.append(("x-forwarded-proto", "https" if call.connection.transport == "tls" else "http"))
    if call.deadline is not None:
        headers.append(("x-deadline-ms", str(max(1, int((call.deadline - now) * 1000)))))
    headers.append(("x-zone", zone))
    if not traceparent:
        random = random_bytes(24).hex()
        traceparent = f"00-{random[:32]}-{random[32:]}-00"
    headers.append(("traceparent", traceparent))
    if call.early:
        headers.append(("early-data", "1"))
    return headers


def towards_device(headers: Headers, keep_length: bool) -> Headers:
    """The upstream's headers without those that concern its connection only."""
    named_by_connection = _listed(headers, "connection")
    return [
        (name, value)
        for name, value in headers
        if (name not in _HOP_BY_HOP and name not in named_by_connection) or (keep_length and name == "content-length")
    ]


def content_length(headers: Headers) -> int:
    """Bytes of the body that the headers announce; -1 when they do not."""
    for name, value in headers:
        if name == "content-length":
            return int(value) if value.isascii() and value.isdigit() else -1
    return -1


def _listed(headers: Headers, wanted: str) -> frozenset[str]:
    return frozenset(token.strip().lower() for name, value in headers if name == wanted for token in value.split(","))


def visible(value: str) -> str:
    """Identities may hold any text; in a header all but visible ASCII is percent-encoded (and `%` itself)."""
    if _VISIBLE.fullmatch(value):
        return value
    return quote(value, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~")
