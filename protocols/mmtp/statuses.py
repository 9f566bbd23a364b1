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


_RETRY: dict[int, Retry] = {
    Status.STATE_MISS: Retry.YES,
    Status.DICTIONARY_MISS: Retry.YES,
    Status.SESSION_UNKNOWN: Retry.YES,
    Status.OVERLOAD: Retry.YES,
    Status.RATE_LIMIT: Retry.YES,
    Status.UNIT_MOVED: Retry.ELSEWHERE,
    Status.EARLY_DATA_REFUSED: Retry.YES,
    Status.SLOW_READER: Retry.ELSEWHERE,
    Status.UPSTREAM_UNAVAILABLE: Retry.YES,
    Status.DRAINING: Retry.ELSEWHERE,
}


def retry_of(status: int) -> Retry:
    """What a device may do with a call that ended with `status` (specification, section 11.2)."""
    return _RETRY.get(status, Retry.NO)


_FROM_HTTP: dict[int, int] = {
    403: Status.FORBIDDEN,
    408: Status.DEADLINE,
    425: Status.EARLY_DATA_REFUSED,
    429: Status.RATE_LIMIT,
    502: Status.UPSTREAM_UNAVAILABLE,
    503: Status.UPSTREAM_UNAVAILABLE,
    504: Status.DEADLINE,
}

_TO_HTTP: dict[int, int] = {
    Status.OK: 200,
    Status.PROTOCOL: 400,
    Status.FRAME_SIZE: 413,
    Status.COMPRESSION: 400,
    Status.STATE_MISS: 400,
    Status.DICTIONARY_MISS: 415,
    Status.AUTH: 401,
    Status.SESSION_UNKNOWN: 401,
    Status.OVERLOAD: 503,
    Status.RATE_LIMIT: 429,
    Status.UNIT_MOVED: 421,
    Status.DEADLINE: 504,
    Status.CANCELLED: 499,
    Status.UNKNOWN_OPERATION: 404,
    Status.EARLY_DATA_REFUSED: 425,
    Status.INTERNAL: 500,
    Status.SLOW_READER: 503,
    Status.DUPLICATE: 409,
    Status.VERSION: 400,
    Status.UPSTREAM_UNAVAILABLE: 503,
    Status.REPLACED: 409,
    Status.DRAINING: 503,
    Status.FLOW_CONTROL: 400,
    Status.FORBIDDEN: 403,
    Status.REVOKED: 401,
    Status.OUTCOME_UNKNOWN: 500,
}


def status_from_http(http_status: int) -> int:
    """The status of a call whose upstream answered `http_status` (specification, section 11.3)."""
    if 200 <= http_status <= 299:
        return Status.OK
    status = _FROM_HTTP.get(http_status)
    if status is not None:
        return status
    return http_status if 300 <= http_status <= 599 else Status.INTERNAL


def http_from_status(status: int) -> int:
    """The HTTP status with which the gateway itself says `status` (specification, section 11.3)."""
    http_status = _TO_HTTP.get(status)
    if http_status is not None:
        return http_status
    return status if 200 <= status <= 599 else 500
