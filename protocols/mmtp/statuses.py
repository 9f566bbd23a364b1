"""The one number space of RESPONSE, RESET, GOAWAY and WELCOME (specification, Statuses)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Why something ended. 64 and above belong to applications."""

    OK = 0
    PROTOCOL = 1
    FRAME_SIZE = 2
    COMPRESSION = 3
    STATE_MISS = 4
    DICTIONARY_MISS = 5
    AUTH = 6
    SESSION_UNKNOWN = 7
    OVERLOAD = 8
    RATE_LIMIT = 9
    UNIT_MOVED = 10
    DEADLINE = 11
    CANCELLED = 12
    UNKNOWN_OPERATION = 13
    EARLY_DATA_REFUSED = 14
    INTERNAL = 15
    SLOW_READER = 16
    DUPLICATE = 17
    VERSION = 18
    UPSTREAM_UNAVAILABLE = 19
    REPLACED = 20
    DRAINING = 21
    FLOW_CONTROL = 22
    FORBIDDEN = 23
    REVOKED = 24
    OUTCOME_UNKNOWN = 25


APPLICATION_STATUS = 64
"""First status that belongs to applications."""


class Retry(IntEnum):
    """What a device may do with a failed call."""

    NO = 0
    """Do not retry."""
    YES = 1
    """Retry, here, with the same call id."""
    ELSEWHERE = 2
    """Retry on another connection or address, with the same call id."""
