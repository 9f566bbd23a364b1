"""What names and values of headers may be, and which values are credentials (specification, 7)."""

from __future__ import annotations

import re

OPERATION = ":op"
"""The name that begins the list of a REQUEST."""
HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+")
BAD_VALUE = re.compile(r"[\0\r\n]")

_CREDENTIALS = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization"))


def is_credential(name: str) -> bool:
    """Whether values of this header must never be kept in a table or template."""
    return name in _CREDENTIALS or name.endswith("-token")


def is_header_name(name: str) -> bool:
    """Whether `name` is allowed in a header block; `:op` is not, it is the operation's."""
    return HEADER_NAME.fullmatch(name) is not None


def is_header_value(value: str) -> bool:
    """Whether `value` has no NUL, CR and LF."""
    return BAD_VALUE.search(value) is None
