"""The status of a call whose upstream gave no complete response."""

from __future__ import annotations

from accessgw.core.interfaces.upstreams import UpstreamFailure
from protocols.mmtp.statuses import Status

_STATUS = {
    "connect": Status.UPSTREAM_UNAVAILABLE,
    "no_endpoint": Status.UPSTREAM_UNAVAILABLE,
    "reset": Status.UPSTREAM_UNAVAILABLE,
    "protocol": Status.UPSTREAM_UNAVAILABLE,
    "overload": Status.OVERLOAD,
    "timeout": Status.DEADLINE,
    "too_large": Status.INTERNAL,
    "cancelled": Status.CANCELLED,
}


def status_of_failure(failure: UpstreamFailure, claimed: bool) -> int:
    """`claimed`: the call may be executed once only. UPSTREAM_UNAVAILABLE promises that it was not executed, so
    a claimed call that may have been has OUTCOME_UNKNOWN instead."""
    status = _STATUS.get(failure.kind, Status.INTERNAL)
    if status == Status.UPSTREAM_UNAVAILABLE and failure.executed and claimed:
        return Status.OUTCOME_UNKNOWN
    return status
