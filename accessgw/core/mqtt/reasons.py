"""Why connections end, in the words of the gateway and in MQTT's."""

from __future__ import annotations

from accessgw.model.reasons import CloseReason
from protocols.mmtp.statuses import Status
from protocols.mqtt.reasons import Reason

_CLOSES: dict[CloseReason, Reason] = {
    CloseReason.IDLE: Reason.KEEP_ALIVE_TIMEOUT,
    CloseReason.PROTOCOL_ERROR: Reason.PROTOCOL_ERROR,
    CloseReason.FLOOD: Reason.MESSAGE_RATE_TOO_HIGH,
    CloseReason.AUTH_EXPIRED: Reason.NOT_AUTHORIZED,
    CloseReason.REVOKED: Reason.NOT_AUTHORIZED,
    CloseReason.FORBIDDEN: Reason.NOT_AUTHORIZED,
    CloseReason.LOGOUT: Reason.NOT_AUTHORIZED,
    CloseReason.REPLACED: Reason.SESSION_TAKEN_OVER,
    CloseReason.STALE_GENERATION: Reason.SESSION_TAKEN_OVER,
    CloseReason.SLOW_READER: Reason.QUOTA_EXCEEDED,
    CloseReason.OVERLOAD: Reason.SERVER_BUSY,
    CloseReason.MAX_AGE: Reason.MAXIMUM_CONNECT_TIME,
    CloseReason.OPERATOR: Reason.ADMINISTRATIVE_ACTION,
    CloseReason.DRAINING: Reason.SERVER_SHUTTING_DOWN,
    CloseReason.INTERNAL: Reason.UNSPECIFIED,
}

_REFUSALS: dict[int, Reason] = {
    Status.AUTH: Reason.BAD_CREDENTIALS,
    Status.FORBIDDEN: Reason.NOT_AUTHORIZED,
    Status.OVERLOAD: Reason.SERVER_BUSY,
    Status.PROTOCOL: Reason.CLIENT_ID_NOT_VALID,
    Status.REPLACED: Reason.NOT_AUTHORIZED,
    Status.RATE_LIMIT: Reason.CONNECTION_RATE_EXCEEDED,
}

_DISPLACED: dict[int, CloseReason] = {
    Reason.SESSION_TAKEN_OVER: CloseReason.REPLACED,
    Reason.QUOTA_EXCEEDED: CloseReason.SLOW_READER,
    Reason.ADMINISTRATIVE_ACTION: CloseReason.OPERATOR,
    Reason.SERVER_UNAVAILABLE: CloseReason.OVERLOAD,
    Reason.SERVER_BUSY: CloseReason.OVERLOAD,
    Reason.MESSAGE_RATE_TOO_HIGH: CloseReason.FLOOD,
    Reason.NOT_AUTHORIZED: CloseReason.FORBIDDEN,
    Reason.PROTOCOL_ERROR: CloseReason.PROTOCOL_ERROR,
    Reason.KEEP_ALIVE_TIMEOUT: CloseReason.IDLE,
}


def reason_of(close: CloseReason) -> Reason:
    """What a DISCONNECT says."""
    return _CLOSES.get(close, Reason.UNSPECIFIED)


def refusal_of(status: int) -> Reason:
    """What a CONNACK says of a refused admission."""
    return _REFUSALS.get(status, Reason.UNSPECIFIED)


def close_of(reason: int) -> CloseReason:
    """What the log says of a DISCONNECT of ours."""
    return _DISPLACED.get(reason, CloseReason.INTERNAL)
