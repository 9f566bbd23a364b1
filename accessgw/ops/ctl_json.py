"""Answers of the control API as accessgwctl reads and prints them: payloads stay as their devices wrote them."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_Fields = dict[str, msgspec.Raw]


def loads(text: str | bytes) -> Any:
    """A JSON text. Each `payload` of an answer, or of the rows of one of its lists, is a msgspec.Raw: 1.0 and 1e3, and
    names that come twice, are not the same once they were read. Raises ValueError."""
    value = json.loads(text)
    if not isinstance(value, dict):
        return value
    try:
        fields = msgspec.json.decode(text, type=_Fields)
    except msgspec.DecodeError:
        return value  # Python takes more for JSON
    _keep(value, fields)
    for name, rows in value.items():
        if isinstance(rows, list) and any(isinstance(row, dict) and "payload" in row for row in rows):
            for row, raw in zip(rows, msgspec.json.decode(fields[name], type=list[msgspec.Raw]), strict=True):
                if isinstance(row, dict):
                    _keep(row, msgspec.json.decode(raw, type=_Fields))
    return value


def _keep(value: dict[str, Any], fields: _Fields) -> None:
    if "payload" in fields:
        value["payload"] = fields["payload"]


def dumps(value: Any, indent: int = 0) -> str:
    """JSON text of what `loads` gave; on one line without `indent`."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()


def text_of(raw: msgspec.Raw) -> str:
    """A payload as text."""
    return bytes(raw).decode()
