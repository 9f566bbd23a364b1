"""From CONNECT to CONNACK: what a client asks for, what it is granted."""

from __future__ import annotations

from dataclasses import replace

from accessgw.core.interfaces.mqtt_state import StoredWill
from accessgw.core.introductions import Introduction
from accessgw.core.mqtt.bridge_loops import MARK, name_in
from accessgw.core.mqtt.owners import owner_of
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.session_keeper import Opening, granted_expiry
from accessgw.model.identity import ConnectionInfo, Credentials, Identity
from accessgw.model.mqtt_settings import MqttSettings
from protocols.mmtp.nothing import NOTHING
from protocols.mqtt.names import is_shared
from protocols.mqtt.packets import NO_PROPERTIES, V5, Connack, Connect, Properties, Property, SubscriptionRequest

KEEP_ALIVE_GRACE = 1.5
"""Section 3.1.2.10."""


def introduction_of(connect: Connect, info: ConnectionInfo, proven: Identity | None) -> Introduction:
    """The client as the gateway's sessions take it: client id = device id, password = token."""
    password = connect.password or b""
    credentials = Credentials(
        device=connect.client_id,
        # What is not text is no token that anybody knows; it stays distinct.
        token=password.decode("utf-8", "surrogateescape"),
        username=connect.username or "",
        certificate_identity=info.certificate_identity,
        loopback=info.loopback,
        peer=info.peer,
    )
    return Introduction(credentials, None, proven, NOTHING)


def opening_of(
    connect: Connect, identity: Identity, settings: MqttSettings, *, alias_maximum: int, max_packet: int
) -> Opening:
    """The session that it asks for, within our limits."""
    if connect.version == V5:
        expiry = 0.0
        if connect.properties:
            asked = connect.properties.get(Property.SESSION_EXPIRY, 0)
            expiry = granted_expiry(asked, settings.max_session_expiry)
    else:
        expiry = 0.0 if connect.clean_start else settings.max_session_expiry
    will: StoredWill | None = None
    if connect.will is not None:
        delay = float(connect.will.properties.get(Property.WILL_DELAY, 0))
        will = StoredWill(connect.will, min(delay, settings.max_will_delay))
    return Opening(
        connect.client_id,
        identity,
        owner_of(identity),
        connect.version,
        connect.clean_start,
        expiry,
        will,
        max_packet,
        min(alias_maximum, settings.topic_alias_maximum),
    )


def keep_alive_of(connect: Connect, settings: MqttSettings) -> int:
    """Seconds between packets that the client is held to, 0 for none."""
    limit = settings.max_keep_alive
    if limit and (not connect.keep_alive or connect.keep_alive > limit):
        return limit
    return connect.keep_alive


def connack_of(
    connect: Connect,
    session: MqttSession,
    present: bool,
    *,
    keep_alive: int,
    assigned: bool,
    authentication: Properties = NO_PROPERTIES,
    origin: str = "",
) -> Connack:
    """What we tell the client: what differs from what it asked (section 3.2.2.3). The connection adds its own limits,
    and has a CONNACK ready that says nothing else. A bridge of another gateway is also told our name, `origin`."""
    if connect.version != V5:
        return Connack(present, 0)
    properties: dict[int, object] = dict(authentication)
    if session.expiry != connect.properties.get(Property.SESSION_EXPIRY, 0):
        properties[Property.SESSION_EXPIRY] = int(min(session.expiry, 0xFFFFFFFF))
    if origin and name_in(connect.properties):
        properties[Property.USER_PROPERTY] = [(MARK, origin)]
    if assigned:
        properties[Property.ASSIGNED_CLIENT_ID] = connect.client_id
    if keep_alive != connect.keep_alive:
        properties[Property.SERVER_KEEP_ALIVE] = keep_alive
    return Connack(present, 0, properties)


def for_bridge(request: SubscriptionRequest) -> SubscriptionRequest:
    """What a bridge of MQTT 3.1.1 means by a subscription: nothing of its own, and retained as it was published. (No
    standard says so; mosquitto does the same.)"""
    return replace(request, no_local=not is_shared(request.filter), retain_as_published=True)
