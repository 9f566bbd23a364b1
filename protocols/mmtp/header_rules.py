"""What names and values of headers may be, and which values are credentials (specification, 7)."""

from __future__ import annotations

import re

from protocols.errors import LocalError

OPERATION = ":op"
"""The name that begins the list of a REQUEST."""
_NAME = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+")
_BAD_VALUE = re.compile(r"[\0\r\n]")

_CREDENTIALS = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization"))


def is_credential(name: str) -> bool:
    """Whether values of this header must never be kept in a table or template."""
    return name in _CREDENTIALS or name.endswith("-token")


def is_header_name(name: str) -> bool:
    """Whether `name` is allowed in a header block; `:op` is not, it is the operation's."""
    return _NAME.fullmatch(name) is not None


def width_of(value: str) -> int:
    """Bytes of a value in UTF-8. Raises LocalError for what is no Unicode text."""
    try:
        return len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise LocalError(f"header value: expected Unicode text, got {value[:64]!r}") from None


def is_header_value(value: str) -> bool:
    """Whether `value` has no NUL, CR and LF."""
    return _BAD_VALUE.search(value) is None
