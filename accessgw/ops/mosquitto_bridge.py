"""Turns a `connection` of mosquitto.conf into a bridge (mqtt.bridges)."""

from __future__ import annotations

import re
import shlex
from typing import Any

from accessgw.config import syntax
from accessgw.ops.mosquitto_conf import Entry, Loss, Section, is_true

DIRECTIONS = ("in", "out", "both")
SAME = {
    "address", "addresses", "bridge_cafile", "bridge_certfile", "bridge_keyfile", "bridge_protocol_version",
    "cleansession", "clientid", "remote_clientid", "keepalive_interval", "remote_username", "username",
    "remote_password", "password", "restart_timeout", "topic", "bridge_clean_start",
}  # fmt: skip
"""Keys that are carried."""
NEEDLESS = {
    "bridge_insecure": "false",
    "bridge_attempt_unsubscribe": "true",
    "bridge_outgoing_retain": "true",
    "bridge_require_ocsp": "false",
    "bridge_tls_use_os_certs": "true",
    "bridge_reload_type": "lazy",
    "bridge_tls_version": "tlsv1.2",
    "try_private": "true",
    "notifications": "false",
    "notifications_local_only": "false",
    "start_type": "automatic",
    "round_robin": "false",
}
"""Keys whose value here is what ours does anyway."""
REASONS = {
    "bridge_insecure": "a bridge always verifies the certificate and the name of the other broker",
    "bridge_psk": "TLS with pre-shared keys is not supported",
    "bridge_identity": "TLS with pre-shared keys is not supported",
    "bridge_capath": "a directory of CAs is not supported, put them into one file: ca",
    "bridge_alpn": "a bridge offers no ALPN of one's choice",
    "bridge_bind_address": "the system chooses the local address",
    "notifications": "the state of bridges is on $SYS/broker/connection/NAME/state, in the metrics, and shown by `accessgwctl mqtt bridges`",
    "notification_topic": "the state of bridges is on $SYS/broker/connection/NAME/state, in the metrics, and shown by `accessgwctl mqtt bridges`",
    "start_type": "a bridge connects at the start and stays",
    "idle_timeout": "a bridge connects at the start and stays",
    "threshold": "a bridge connects at the start and stays",
    "round_robin": "a bridge has one address",
}


def bridge_settings(section: Section, losses: list[Loss]) -> dict[str, Any] | None:
    """The bridge; None when it cannot be, which `losses` then say."""
    head = section.head
    assert head is not None
    name = re.sub(r"[^A-Za-z0-9_.\-]", "-", head.value)
    if not syntax.is_name(name):
        losses.append(Loss.of(head, f"expected a name, got {head.value[:60]}"))
        return None
    _unsupported(section, losses)
    if section.last("bridge_psk") or section.last("bridge_identity"):
        losses.append(Loss.of(head, "left out as a whole: its TLS would be lost"))
        return None
    tls = any(section.last(key) for key in ("bridge_cafile", "bridge_capath", "bridge_certfile"))
    if is_true(section.value("bridge_tls_use_os_certs")):
        tls = True
    address = _address(section, losses, 8883 if tls else 1883)
    if not address:
        losses.append(Loss.of(head, "left out as a whole: it has no address that can be used"))
        return None
    bridge: dict[str, Any] = {"name": name, "address": address}
    if tls:
        bridge["tls"] = True
        files = (("bridge_cafile", "ca"), ("bridge_certfile", "certificate"), ("bridge_keyfile", "key"))
        bridge |= {setting: section.value(key) for key, setting in files if section.value(key)}
    bridge["version"] = _version(section, losses)
    for keys, setting in (
        (("remote_clientid", "clientid"), "client_id"),
        (("remote_username", "username"), "username"),
        (("remote_password", "password"), "password"),
    ):
        value = next((section.value(key) for key in keys if section.value(key)), "")
        if value:
            bridge[setting] = value
    _numbers(section, bridge, losses)
    bridge["topics"] = [topic for entry in section.entries if entry.key == "topic" for topic in _topic(entry, losses)]
    if not bridge["topics"]:
        losses.append(Loss.of(head, "left out as a whole: it carries no topics"))
        return None
    return bridge


def _unsupported(section: Section, losses: list[Loss]) -> None:
    for entry in section.entries:
        if entry.key in SAME or entry.value.lower() == NEEDLESS.get(entry.key):
            continue
        losses.append(Loss.of(entry, REASONS.get(entry.key, "bridges have no such setting")))


def _address(section: Section, losses: list[Loss], default: int) -> str:
    entry = section.last("addresses") or section.last("address")
    if entry is None:
        return ""
    found = ""
    for text in entry.value.split():
        address = text if syntax.is_host_port(text) else f"{text}:{default}"
        if not syntax.is_host_port(address):
            losses.append(Loss.of(entry, f"expected host[:port], got {text[:60]}"))
        elif found:
            losses.append(Loss.of(entry, f"a bridge has one address, {text} is left out"))
        else:
            found = address
    return found


def _version(section: Section, losses: list[Loss]) -> int:
    entry = section.last("bridge_protocol_version")
    if entry is None or entry.value == "mqttv311":
        return 4
    if entry.value != "mqttv50":
        losses.append(Loss.of(entry, f"expected mqttv311 or mqttv50, got {entry.value[:60]}: 3.1.1 is taken"))
        return 4
    return 5


def _numbers(section: Section, bridge: dict[str, Any], losses: list[Loss]) -> None:
    entry = section.last("keepalive_interval")
    if entry is not None:
        if _is_number(entry.value) and 5 <= int(entry.value) <= 65535:
            bridge["keep_alive"] = int(entry.value)
        else:
            losses.append(Loss.of(entry, f"expected seconds in 5..65535, got {entry.value[:60]}"))
    entry = section.last("cleansession") or section.last("bridge_clean_start")
    if entry is not None:
        clean = is_true(entry.value)
        if clean is None:
            losses.append(Loss.of(entry, f"expected true or false, got {entry.value[:60]}"))
        else:
            bridge["clean_start"] = clean
    entry = section.last("restart_timeout")
    if entry is not None:
        seconds = entry.value.split()
        if seconds and len(seconds) <= 2 and all(_is_number(one) and int(one) > 0 for one in seconds):
            bridge["retry_initial"] = float(seconds[0])
            bridge["retry_max"] = max(float(seconds[-1]), float(seconds[0]))
        else:
            losses.append(Loss.of(entry, f"expected one or two numbers of seconds, got {entry.value[:60]}"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _topic(entry: Entry, losses: list[Loss]) -> list[dict[str, Any]]:
    """`topic PATTERN [DIRECTION [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]`, with "" for an empty part."""
    try:
        parts = shlex.split(entry.value, posix=True) if '"' in entry.value else entry.value.split()
    except ValueError:
        parts = []
    pattern, direction, qos, local, remote, *more = [*parts, *["", "out", "0", "", ""][len(parts) :]]
    if not parts or more or direction not in DIRECTIONS or qos not in ("0", "1", "2"):
        losses.append(Loss.of(entry, "expected PATTERN [in|out|both [0|1|2 [LOCAL-PREFIX [REMOTE-PREFIX]]]]"))
        return []
    if any(char in prefix for prefix in (local, remote) for char in "+#"):
        losses.append(Loss.of(entry, "expected prefixes without wildcards"))
        return []
    if not all(syntax.is_topic_filter(prefix + pattern) for prefix in (local, remote)) or pattern.startswith("$share/"):
        losses.append(Loss.of(entry, f"expected a topic filter, got {pattern[:60]}"))
        return []
    topic: dict[str, Any] = {"filter": pattern, "direction": direction, "qos": int(qos)}
    topic |= {"local_prefix": local} if local else {}
    topic |= {"remote_prefix": remote} if remote else {}
    return [topic]
