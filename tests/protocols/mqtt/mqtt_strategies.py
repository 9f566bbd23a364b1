"""Hypothesis strategies: every packet of MQTT as each version can say it, and connections to send them through."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import STANDARD_LIMITS, Limits
from protocols.mqtt.packets import (
    NO_PROPERTIES,
    V5,
    V31,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import ALLOWED, FORMS, PAIR, STRING, WILL_PROPERTIES
from protocols.mqtt.reason_tables import REASONS, RETURN_CODES

VERSIONS = (3, 4, 5)

strings = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
_level = st.text(st.characters(exclude_characters="\0+#/", exclude_categories=("Cs",)), max_size=5)
topics = st.lists(_level, min_size=1, max_size=4).map("/".join).filter(bool)
plain_filters = (
    st.tuples(st.lists(st.one_of(_level, st.just("+")), max_size=4), st.sampled_from(("#", "+", "x", "")))
    .map(lambda parts: "/".join((*parts[0], parts[1])))
    .filter(lambda text: bool(text) and not text.startswith("$share"))
)
shared_filters = st.tuples(_level.filter(bool), plain_filters).map(lambda parts: f"$share/{parts[0]}/{parts[1]}")
filters = st.one_of(plain_filters, plain_filters, shared_filters)
packet_ids = st.integers(1, 65535)
binaries = st.binary(max_size=20)
qos_levels = st.integers(0, 2)


def _value(identifier: int) -> st.SearchStrategy[Any]:
    form = FORMS[identifier]
    if identifier == Property.RESPONSE_TOPIC:
        return topics
    if form.kind == STRING:
        return strings
    if form.kind == PAIR:
        return st.lists(st.tuples(strings, strings), min_size=1, max_size=3)
    if form.high:
        return st.integers(form.low, form.high)
    return binaries


@st.composite
def property_sets(draw: st.DrawFn, allowed: frozenset[int]) -> Any:
    chosen = draw(st.lists(st.sampled_from(sorted(allowed)), unique=True, max_size=4)) if allowed else []
    return {each: draw(_value(each)) for each in chosen}


@st.composite
def packet_properties(draw: st.DrawFn, kind: PacketType, version: int) -> Any:
    if version != V5:
        return NO_PROPERTIES
    properties = draw(property_sets(ALLOWED[kind]))
    if kind is PacketType.PUBLISH and Property.SUBSCRIPTION_IDENTIFIER in properties:
        properties[Property.SUBSCRIPTION_IDENTIFIER] = draw(
            st.lists(st.integers(1, FORMS[Property.SUBSCRIPTION_IDENTIFIER].high), min_size=1, max_size=3)
        )
    if kind is PacketType.CONNECT and Property.AUTHENTICATION_DATA in properties:
        properties[Property.AUTHENTICATION_METHOD] = draw(strings)
    return properties


@st.composite
def wills(draw: st.DrawFn, version: int) -> Will:
    properties = draw(property_sets(WILL_PROPERTIES)) if version == V5 else NO_PROPERTIES
    return Will(draw(topics), draw(binaries), draw(qos_levels), draw(st.booleans()), properties)


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    username = draw(st.none() | strings)
    password = draw(st.none() | binaries) if username is not None or version == V5 else None
    clean = draw(st.booleans())
    empty_allowed = version == V5 or (version != V31 and clean)
    return Connect(
        draw(strings if empty_allowed else strings.filter(bool)),
        version,
        clean,
        draw(st.integers(0, 65535)),
        username,
        password,
        draw(st.none() | wills(version)),
        draw(packet_properties(PacketType.CONNECT, version)),
        draw(st.booleans()) if version != V5 else False,
    )


@st.composite
def connacks(draw: st.DrawFn, version: int) -> Connack:
    codes = REASONS if version == V5 else RETURN_CODES
    reason = draw(st.sampled_from(sorted(codes[PacketType.CONNACK])))
    present = draw(st.booleans()) if not reason and version != V31 else False
    return Connack(present, reason, draw(packet_properties(PacketType.CONNACK, version)))


@st.composite
def publishes(draw: st.DrawFn, version: int) -> Publish:
    qos = draw(qos_levels)
    properties = draw(packet_properties(PacketType.PUBLISH, version))
    topic = draw(topics | st.just("")) if Property.TOPIC_ALIAS in properties else draw(topics)
    dup = draw(st.booleans()) if qos else False
    packet_id = draw(packet_ids) if qos else 0
    return Publish(topic, draw(st.binary(max_size=200)), qos, draw(st.booleans()), dup, packet_id, properties)


@st.composite
def acknowledgements(draw: st.DrawFn, version: int) -> Packet:
    make, kind = draw(
        st.sampled_from(
            (
                (Puback, PacketType.PUBACK),
                (Pubrec, PacketType.PUBREC),
                (Pubrel, PacketType.PUBREL),
                (Pubcomp, PacketType.PUBCOMP),
            )
        )
    )
    reason = draw(st.sampled_from(sorted(REASONS[kind]))) if version == V5 else 0
    return make(draw(packet_ids), reason, draw(packet_properties(kind, version)))


@st.composite
def requests(draw: st.DrawFn, version: int) -> SubscriptionRequest:
    topic_filter = draw(filters)
    if version != V5:
        return SubscriptionRequest(topic_filter, draw(qos_levels))
    no_local = draw(st.booleans()) and not topic_filter.startswith("$share/")
    return SubscriptionRequest(topic_filter, draw(qos_levels), no_local, draw(st.booleans()), draw(st.integers(0, 2)))


@st.composite
def subscription_packets(draw: st.DrawFn, version: int) -> Packet:
    packet_id = draw(packet_ids)
    kind = draw(st.sampled_from((PacketType.SUBSCRIBE, PacketType.SUBACK, PacketType.UNSUBSCRIBE, PacketType.UNSUBACK)))
    properties = draw(packet_properties(kind, version))
    if kind is PacketType.SUBSCRIBE:
        return Subscribe(packet_id, draw(st.lists(requests(version), min_size=1, max_size=4)), properties)
    if kind is PacketType.UNSUBSCRIBE:
        return Unsubscribe(packet_id, draw(st.lists(filters, min_size=1, max_size=4)), properties)
    if kind is PacketType.SUBACK:
        codes = sorted((REASONS if version == V5 else RETURN_CODES)[kind])
        return Suback(packet_id, draw(st.lists(st.sampled_from(codes), min_size=1, max_size=4)), properties)
    if version != V5:
        return Unsuback(packet_id)
    return Unsuback(packet_id, draw(st.lists(st.sampled_from(sorted(REASONS[kind])), min_size=1)), properties)


@st.composite
def farewells(draw: st.DrawFn, version: int) -> Packet:
    if version != V5:
        return draw(st.sampled_from((Pingreq(), Pingresp(), Disconnect())))
    make, kind = draw(st.sampled_from(((Disconnect, PacketType.DISCONNECT), (Auth, PacketType.AUTH))))
    return make(draw(st.sampled_from(sorted(REASONS[kind]))), draw(packet_properties(kind, version)))


def packets(version: int) -> st.SearchStrategy[Packet]:
    """Any packet of the version."""
    return st.one_of(
        connects(version),
        connacks(version),
        publishes(version),
        acknowledgements(version),
        subscription_packets(version),
        farewells(version),
        st.sampled_from((Pingreq(), Pingresp())),
    )


versioned_packets = st.sampled_from(VERSIONS).flatmap(lambda version: st.tuples(st.just(version), packets(version)))
"""(version, packet)."""


def open_server(version: int, limits: Limits = STANDARD_LIMITS, **connect: Any) -> Connection:
    """A server whose client has connected; nothing is left to send."""
    connection = Connection(Role.SERVER, limits=limits, now=0.0)
    connection.receive(encode(Connect("device", version, **connect), version), 0.0)
    connection.events()
    connection.accept(Connack())
    connection.to_send(0.0)
    return connection


def open_client(
    version: int, limits: Limits = STANDARD_LIMITS, connack: Connack | None = None, **connect: Any
) -> Connection:
    """A client whose server has accepted; nothing is left to send."""
    connection = Connection(Role.CLIENT, limits=limits, now=0.0)
    connection.send(Connect("device", version, **connect))
    connection.to_send(0.0)
    connection.receive(encode(connack or Connack(), version), 0.0)
    connection.events()
    return connection
