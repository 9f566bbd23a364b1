"""What the rooms need of each other, as typing protocols; nothing here does anything.

Rooms never import each other: the composition root (accessgw.rooms) builds them and hands each what it asks for by
these names. A module is for the rooms that it joins:

connections, http      transports, and the protocols on their connections
tls                    transports, crypto, and who decides about tickets
authentication         the authenticator chain, and crypto
sessions, pushes       bindings, and the push side of core
calls, upstreams       bindings, core, and the clients of business services
stores, dictionaries   core, and what it keeps
mqtt, mqtt_state       the MQTT broker, its store and what it is bridged to
clock, bus             time, and other workers, for everybody
control                core, and operations

Here itself stands what operators' own filters are made of (docs/ops/filters.md).

All of it runs on the reactor's thread unless a line says otherwise. `now` is always seconds of the
worker's clock (`IReactorTime.seconds`, taken as monotonic); wall-clock values say so.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from accessgw.model.calls import Answer, Call
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.pushes import PushRequest


class Refused(Exception):
    """A filter's decision against something; carries an MMTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Filter:
    """Base of filters: override what is of interest. Each method may return its result or a
    Deferred of it. Refuse by raising Refused; any other exception costs this one connection, call
    or push (status 15), is logged and counted, and nothing else."""

    def connection(self, identity: Identity, info: ConnectionInfo | None) -> None:
        """A device was authenticated and is about to be welcomed."""

    def call(self, call: Call) -> Answer | Deferred[Answer | None] | None:
        """Return an Answer to answer it here; None to let it go on (the call may be changed)."""

    def push(self, push: PushRequest) -> PushRequest | Deferred[PushRequest | None] | None:
        """Return the push, changed or not."""
        return push
