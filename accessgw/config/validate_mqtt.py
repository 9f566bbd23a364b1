"""Checks of MQTT's settings: topics, rules, bridges, and limits that must fit one another."""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Iterator, Sequence

from accessgw.config import syntax
from accessgw.config.errors import Problem
from accessgw.config.files import no_password, readable
from accessgw.config.structure import shown
from accessgw.model.listener_settings import TransportLimits
from accessgw.model.mqtt_settings import (
    BridgeSettings,
    BridgeTopicSettings,
    MessageRuleSettings,
    MqttSettings,
    TopicRuleSettings,
)

PACKET_OVERHEAD = 16
"""Bytes of a PUBLISH beside topic, properties and payload, rounded up."""
RULE = "a topic filter such as devices/{device}/#"
FILTER = 'a topic filter such as "sensors/+/temperature"'


def check_mqtt(mqtt: MqttSettings, limits: TransportLimits, clusters: Sequence[str]) -> Iterator[Problem]:
    """Every problem of `mqtt`, whose structure is already known to be right; `clusters` are the names that exist."""
    yield from _limits(mqtt, limits)
    for index, rule in enumerate(mqtt.acl):
        yield from _topic_rule(f"mqtt.acl[{index}]", rule)
    yield from _names("mqtt.rules", [one.name for one in mqtt.rules])
    for index, message_rule in enumerate(mqtt.rules):
        yield from _message_rule(f"mqtt.rules[{index}]", message_rule, clusters)
    yield from _names("mqtt.bridges", [one.name for one in mqtt.bridges])
    for index, bridge in enumerate(mqtt.bridges):
        yield from _bridge(f"mqtt.bridges[{index}]", bridge)


def _names(path: str, names: list[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if not syntax.is_name(name):
            yield Problem(f"{path}[{index}].name", f"expected letters, digits, `_`, `-` and `.`, got {shown(name)}")
        elif name in names[:index]:
            yield Problem(f"{path}[{index}].name", f"{shown(name)} is the name of {path}[{names.index(name)}] already")


# ------------------------------------------------------------------ limits


def _limits(mqtt: MqttSettings, limits: TransportLimits) -> Iterator[Problem]:
    for smaller, least, larger, most in (
        # a message that fits no queue would be lost to every session that is away
        ("mqtt.max_packet", mqtt.max_packet, "mqtt.max_queued_bytes", mqtt.max_queued_bytes),
        ("mqtt.receive_maximum", mqtt.receive_maximum, "mqtt.max_unreleased", mqtt.max_unreleased),
        ("mqtt.max_qos0_buffer", mqtt.max_qos0_buffer, "limits.write_buffer", limits.write_buffer),
        ("mqtt.max_topic_length", mqtt.max_topic_length + PACKET_OVERHEAD, "mqtt.max_packet", mqtt.max_packet),
    ):
        if least > most:
            extra = f", and {PACKET_OVERHEAD} bytes around it" if larger == "mqtt.max_packet" else ""
            yield Problem(larger, f"expected at least {smaller} ({least}{extra}), got {most}")
    if mqtt.max_packet * 2 > limits.write_buffer:
        yield Problem(
            "limits.write_buffer",
            f"expected at least twice mqtt.max_packet ({mqtt.max_packet * 2}), got {limits.write_buffer}",
        )
    if mqtt.max_retained and mqtt.max_retained_bytes < mqtt.max_topic_length:
        least = mqtt.max_topic_length
        yield Problem(
            "mqtt.max_retained_bytes",
            f"expected at least mqtt.max_topic_length ({least}), got {mqtt.max_retained_bytes}",
        )
    if mqtt.max_keep_alive > 65535:
        yield Problem("mqtt.max_keep_alive", f"expected an integer in 0..65535, got {mqtt.max_keep_alive}")
    prefix = mqtt.assigned_prefix
    if not prefix.isprintable() or any(char in prefix for char in "/+#") or len(prefix.encode()) > 64:
        yield Problem("mqtt.assigned_prefix", f"expected at most 64 bytes without /, + and #, got {shown(prefix)}")
    if mqtt.push_topic:
        unknown = next((part for part in _braces(mqtt.push_topic) if part != "{biz}"), "")
        if unknown:
            yield Problem("mqtt.push_topic", f"expected {{biz}} as the only placeholder, got {shown(unknown)}")
        elif not syntax.is_topic_name(mqtt.push_topic.replace("{biz}", "x")):
            yield Problem("mqtt.push_topic", f"expected a topic without wildcards, got {shown(mqtt.push_topic)}")


def _braces(text: str) -> Iterator[str]:
    for part in text.split("{")[1:]:
        yield "{" + part.partition("}")[0] + "}"


# ------------------------------------------------------------------ topic rules


def _topic_rule(path: str, rule: TopicRuleSettings) -> Iterator[Problem]:
    if not rule.topics:
        yield Problem(f"{path}.topics", "expected at least one topic filter, got none")
    for index, topic in enumerate(rule.topics):
        unknown = syntax.unknown_topic_placeholder(topic)
        if unknown:
            yield Problem(f"{path}.topics[{index}]", f"expected {{device}}, {{user}} or {{app}}, got {shown(unknown)}")
        elif not syntax.is_topic_rule(topic):
            yield Problem(f"{path}.topics[{index}]", f"expected {RULE}, got {shown(topic)}")
    for key, value in (("device", rule.device), ("user", rule.user)):
        if "*" in value[:-1]:
            yield Problem(f"{path}.{key}", f"expected a name, or a prefix with one * at its end, got {shown(value)}")
    if rule.permit == "deny" and rule.max_qos != 2:
        yield Problem(f"{path}.max_qos", "belongs to rules that allow")
    if rule.permit == "deny" and not rule.retain:
        yield Problem(f"{path}.retain", "belongs to rules that allow")


# ------------------------------------------------------------------ topics to services


def _message_rule(path: str, rule: MessageRuleSettings, clusters: Sequence[str]) -> Iterator[Problem]:
    if not rule.topics:
        yield Problem(f"{path}.topics", "expected at least one topic filter, got none")
    for index, topic in enumerate(rule.topics):
        if topic.startswith("$share/"):
            yield Problem(f"{path}.topics[{index}]", f"a rule takes part in no shared subscription, got {shown(topic)}")
        elif not syntax.is_topic_filter(topic):
            yield Problem(f"{path}.topics[{index}]", f"expected {FILTER}, got {shown(topic)}")
    if rule.cluster not in clusters:
        near = difflib.get_close_matches(rule.cluster, clusters, 1)
        hint = f', did you mean "{near[0]}"?' if near else ""
        yield Problem(f"{path}.cluster", f"unknown cluster {shown(rule.cluster)}{hint}")
    if not rule.path.startswith("/") or not rule.path.isascii() or not rule.path.isprintable() or " " in rule.path:
        yield Problem(f"{path}.path", f'expected a path that begins with "/", got {shown(rule.path)}')
    if rule.batch > rule.queue:
        yield Problem(f"{path}.queue", f"expected at least batch ({rule.batch}), got {rule.queue}")


# ------------------------------------------------------------------ bridges


def _bridge(path: str, bridge: BridgeSettings) -> Iterator[Problem]:
    if not syntax.is_host_port(bridge.address):
        yield Problem(f"{path}.address", f"expected {syntax.HOST_PORT}, got {shown(bridge.address)}")
    if bridge.key and not bridge.certificate:
        yield Problem(f"{path}.key", "expected together with certificate")
    if bridge.certificate and not bridge.key:
        yield Problem(f"{path}.certificate", "expected together with key")
    for key, value in (("ca", bridge.ca), ("certificate", bridge.certificate), ("server_name", bridge.server_name)):
        if value and not bridge.tls:
            yield Problem(f"{path}.{key}", "belongs to bridges with tls = true")
    if bridge.server_name and not syntax.is_server_name(bridge.server_name):
        yield Problem(f"{path}.server_name", f"expected {syntax.SERVER_NAME}, got {shown(bridge.server_name)}")
    if bridge.tls:
        yield from _bridge_files(path, bridge)
    if bridge.password and not bridge.username and bridge.version == 4:
        yield Problem(f"{path}.password", "MQTT 3.1.1 has no password without a user name: expected username")
    if bridge.retry_initial > bridge.retry_max:
        yield Problem(
            f"{path}.retry_max", f"expected at least retry_initial ({bridge.retry_initial:g}), got {bridge.retry_max:g}"
        )
    if not bridge.topics:
        yield Problem(f"{path}.topics", "expected at least one topic, got none")
    for index, topic in enumerate(bridge.topics):
        yield from _bridge_topic(f"{path}.topics[{index}]", topic)


def _bridge_files(path: str, bridge: BridgeSettings) -> Iterator[Problem]:
    files = (("ca", bridge.ca), ("certificate", bridge.certificate), ("key", bridge.key))
    unreadable = [problem for key, file in files if file for problem in readable(f"{path}.{key}", file)]
    yield from unreadable
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if bridge.ca:
        try:
            context.load_verify_locations(bridge.ca)
        except ssl.SSLError as error:
            yield Problem(f"{path}.ca", f"expected PEM certificates, OpenSSL says: {error.reason or error}")
    if bridge.certificate and bridge.key:
        try:
            context.load_cert_chain(bridge.certificate, bridge.key, password=no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            expected = "expected a PEM certificate and its unencrypted key"
            both = f"{bridge.certificate} and {bridge.key}"
            yield Problem(f"{path}.certificate", f"{expected}, OpenSSL says of {both}: {reason}")


def _bridge_topic(path: str, topic: BridgeTopicSettings) -> Iterator[Problem]:
    for key, prefix in (("local_prefix", topic.local_prefix), ("remote_prefix", topic.remote_prefix)):
        if any(char in prefix for char in "+#\0"):
            yield Problem(f"{path}.{key}", f"expected the beginning of a topic, without wildcards, got {shown(prefix)}")
        elif not syntax.is_topic_filter(prefix + topic.filter):
            yield Problem(f"{path}.filter", f"expected {FILTER}, got {shown(prefix + topic.filter)}")
            return
    if topic.filter.startswith("$share/"):
        yield Problem(f"{path}.filter", f"a bridge takes part in no shared subscription, got {shown(topic.filter)}")
