"""Reads the body of POST /v1/push: JSON to PushRequests, with the path of whatever is wrong.

The bytes of `payload` go to devices exactly as they were sent, so that 1.10 stays 1.10.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from accessgw.core.interfaces.control import ControlError
from accessgw.model.pushes import Priority, PushRequest, Scope, StreamKey
from accessgw.ops.queries import shown

MAX_NAME = 256
"""Bytes of an id, a biz or a collapse key."""
MAX_TTL = 10 * 365 * 86400
"""Seconds; ten years."""
_KEYS = ("to", "biz", "payload", "payload_b64", "ttl", "collapse", "priority")
_LIST = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_ONE = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_pushes(body: bytes, max_batch: int, max_payload: int) -> tuple[list[PushRequest], bool]:
    """(the pushes, whether they came as a list). Raises ControlError 400 (or 413) with the path: `[3].to`."""
    as_list = body.lstrip()[:1] == b"["
    try:
        items = _LIST.decode(body) if as_list else [_ONE.decode(body)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid("", f"expected a push, or a list of pushes, as JSON: {error}") from None
    if not items:
        raise _invalid("", "expected at least one push, got an empty list")
    if len(items) > max_batch:
        raise ControlError(413, "too_large", f"expected at most {max_batch} pushes, got {len(items)}")
    return [_push(item, f"[{i}]" if as_list else "", max_payload) for i, item in enumerate(items)], as_list


def _invalid(path: str, message: str) -> ControlError:
    return ControlError(400, "invalid", f"{path}: {message}" if path else message, path)


def _push(item: dict[str, msgspec.Raw], path: str, max_payload: int) -> PushRequest:
    prefix = f"{path}." if path else ""
    for key in item:
        if key not in _KEYS:
            raise _invalid(prefix + key, f"unknown key, expected {', '.join(_KEYS)}")
    fields = {key: _decode(item[key], prefix + key) for key in item if key != "payload"}
    scope, id, where = _target(fields.get("to"), prefix + "to")
    biz = _name(fields.get("biz"), prefix + "biz")
    body = _payload(item.get("payload"), fields.get("payload_b64"), "payload_b64" in fields, prefix)
    if len(body) > max_payload:
        path = f"{prefix}payload" if "payload" in item else f"{prefix}payload_b64"
        raise ControlError(413, "too_large", f"{path}: expected at most {max_payload} bytes, got {len(body)}", path)
    ttl = fields.get("ttl")
    if ttl is not None and (not _is_number(ttl) or not 0 < ttl <= MAX_TTL):
        raise _invalid(prefix + "ttl", f"expected seconds greater than 0 and at most {MAX_TTL}, got {shown(ttl)}")
    priority = fields.get("priority", 0)
    if isinstance(priority, bool) or priority not in (0, 1, 2):
        raise _invalid(prefix + "priority", f"expected 0, 1 or 2, got {shown(priority)}")
    collapse = fields.get("collapse")
    return PushRequest(
        StreamKey(scope, id, biz),
        body,
        ttl=None if ttl is None else float(ttl),
        collapse="" if collapse is None else _name(collapse, prefix + "collapse"),
        priority=Priority(int(priority)),
        where=where,
    )


def _decode(raw: msgspec.Raw, path: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(path, f"expected JSON: {error}") from None


def _target(to: Any, path: str) -> tuple[Scope, str, dict[str, Any]]:
    if not isinstance(to, dict):
        raise _invalid(path, f"expected an object, got {shown(to)}")
    scopes = [scope for scope in Scope if scope.value in to]
    if len(scopes) != 1:
        raise _invalid(path, "expected exactly one of device, user, topic, broadcast")
    (scope,) = scopes
    for key in to:
        if key not in (scope.value, "where"):
            raise _invalid(f"{path}.{key}", "unknown key, expected device, user, topic, broadcast or where")
    where = _where(to.get("where"), f"{path}.where")
    if scope is Scope.BROADCAST:
        if to["broadcast"] is not True:
            raise _invalid(f"{path}.broadcast", f"expected true, got {shown(to['broadcast'])}")
        return scope, "", where
    return scope, _name(to[scope.value], f"{path}.{scope.value}"), where


def _where(where: Any, path: str) -> dict[str, Any]:
    if where is None:
        return {}
    if not isinstance(where, dict):
        raise _invalid(path, f"expected an object, got {shown(where)}")
    for key, value in where.items():
        values = value if isinstance(value, list) else [value]
        if not key or not values or not all(isinstance(one, str | int) and one != "" for one in values):
            raise _invalid(f"{path}.{key}", f"expected text, a number or a list of them, got {shown(value)}")
    return where


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value or len(value.encode()) > MAX_NAME or not value.isprintable():
        raise _invalid(path, f"expected 1 to {MAX_NAME} bytes of printable text, got {shown(value)}")
    return value


def _payload(raw: msgspec.Raw | None, encoded: Any, has_encoded: bool, prefix: str) -> bytes:
    if (raw is None) != has_encoded:
        raise _invalid(prefix + "payload", "expected exactly one of payload and payload_b64")
    if raw is not None:
        body = bytes(raw)
        _decode(raw, prefix + "payload")
        return body
    if not isinstance(encoded, str):
        raise _invalid(prefix + "payload_b64", f"expected base64 text, got {shown(encoded)}")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(prefix + "payload_b64", f"expected base64 text: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
