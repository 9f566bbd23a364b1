"""What an application gives to a call, as bytes and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from accessgw.client.model import Headers


def encode_payload(payload: Any, raw: bool) -> tuple[bytes, str]:
    """Body and content type: bytes as they are, None as an empty body, everything else as JSON.

    Raises TypeError for `raw` without bytes, and what json raises.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), ""
    if raw:
        raise TypeError(f"raw: expected bytes, got {type(payload).__name__}")
    if payload is None:
        return b"", ""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"


def topic_list(topics: Sequence[str]) -> dict[str, list[str]]:
    """The payload of gw.subscribe and gw.unsubscribe."""
    if not topics or not all(isinstance(topic, str) and topic for topic in topics):
        raise ValueError(f"expected names of topics, got {topics!r}")
    return {"topics": list(topics)}


def header_list(headers: Mapping[str, str] | Sequence[tuple[str, str]] | None, content_type: str) -> Headers:
    """Headers with lower-case names; the content type unless they name one."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    out = [(name.lower(), value) for name, value in pairs]
    if content_type and all(name != "content-type" for name, _ in out):
        out.insert(0, ("content-type", content_type))
    return out
