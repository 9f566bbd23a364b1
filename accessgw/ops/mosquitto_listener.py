"""Turns the listeners of mosquitto.conf into ours.

Where a listener's protection cannot be carried over, it is bound to loopback instead: what was closed stays closed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from accessgw.config import syntax
from accessgw.ops.mosquitto_conf import Entry, Loss, Mosquitto, Section, is_security, is_true

LOOPBACK = "127.0.0.1"
CLOSED = "it listens on loopback only until this is settled"
CARRIED = {
    "port", "bind_address", "protocol", "certfile", "keyfile", "cafile", "require_certificate", "use_identity_as_username",
    "use_subject_as_username", "socket_domain", "tls_version", "max_connections", "max_qos", "websockets_origin",
}  # fmt: skip
PROTECTION = {
    "bind_interface": "an interface cannot be named, give its address",
    "crlfile": "revocation lists are not supported",
    "psk_hint": "TLS with pre-shared keys is not supported",
    "mount_point": "topics have no mount point",
    "disable_client_cert_date_checks": "certificates out of date are refused",
    "use_username_as_clientid": "the client id is taken as it comes",
}
"""Keys without which a listener would let in, or show, more."""
REASONS = {
    "capath": "a directory of CAs is not supported, put them into one file",
    "ciphers": "ciphers are chosen by the gateway",
    "ciphers_tls1.3": "ciphers are chosen by the gateway",
    "dhparamfile": "key exchange is by elliptic curves only",
    "http_dir": "no files are served",
    "max_topic_alias": "mqtt.topic_alias_maximum is for all listeners",
    "max_topic_alias_broker": "mqtt.topic_alias_maximum is for all listeners",
    "accept_protocol_versions": "every listener takes 3.1, 3.1.1 and 5",
    "enable_proxy_protocol": "name the proxies that are trusted in proxy_protocol_from",
    "websockets_headers_size": "the size of headers is bounded by the gateway",
}


@dataclass
class Listener:
    """One of ours, and what it came from."""

    settings: dict[str, Any]
    section: Section
    entry: Entry | None
    by_certificate: bool = False
    """A client certificate alone names the user."""
    closed: bool = False
    notes: list[str] = field(default_factory=list)

    def close(self, losses: list[Loss], entry: Entry, reason: str) -> None:
        """Bind it to loopback, since something that protected it is lost."""
        losses.append(Loss.of(entry, f"{reason}; {CLOSED}"))
        self.closed = True
        if self.settings["transport"] != "unix":
            self.settings["address"] = LOOPBACK


def listeners(found: Mosquitto, losses: list[Loss]) -> list[Listener]:
    """All of them, in order; without any, mosquitto's own local one."""
    made: list[Listener] = []
    default = found.default_listener
    own = [entry for entry in default.entries if not is_security(entry.key)]
    if own or not found.listeners:
        made += _listener(default, default.last("port") or default.last("bind_address"), bool(own), losses)
    for section in found.listeners:
        made += _listener(section, section.head, True, losses)
    names: dict[str, int] = {}
    for listener in made:
        name = listener.settings["name"]
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            listener.settings["name"] = f"{name}-{names[name]}"
    return made


def _listener(section: Section, entry: Entry | None, open_: bool, losses: list[Loss]) -> list[Listener]:
    port, host = "1883", section.value("bind_address") if open_ else LOOPBACK
    if section.head is not None:
        port, host = (*section.head.value.split(None, 1), "", "")[:2]
    elif section.last("port"):
        port = section.value("port")
    if host.startswith("/") and port == "0":
        settings: dict[str, Any] = {"name": "mqtt-unix", "transport": "unix", "path": host}
    elif port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536:
        settings = {"name": f"mqtt-{port}", "transport": "tcp", "address": "", "port": int(port)}
    else:
        if entry is not None:
            losses.append(Loss.of(entry, f"expected a port in 1..65535, got {entry.value[:60]}"))
        return []
    listener = Listener(settings, section, entry)
    if settings["transport"] == "tcp":
        _address(listener, host, losses)
    _protocol(listener, losses)
    _tls(listener, losses)
    for one in section.entries:
        if one.key in PROTECTION and is_true(one.value) is not False:
            listener.close(losses, one, PROTECTION[one.key])
        elif one.key not in CARRIED and not is_security(one.key) and one.key not in PROTECTION:
            losses.append(Loss.of(one, REASONS.get(one.key, "listeners have no such setting")))
    if section.head is not None:
        losses += [
            Loss.of(one, "belongs to the default listener only")
            for one in section.entries
            if one.key in ("port", "bind_address")
        ]
    return [listener]


def _address(listener: Listener, host: str, losses: list[Loss]) -> None:
    settings, domain = listener.settings, listener.section.value("socket_domain")
    literal = host.removeprefix("[").removesuffix("]")
    if not host:
        settings["address"] = "::" if domain == "ipv6" else "0.0.0.0"
        if not domain:
            listener.notes.append('IPv4 only; address = "::" takes IPv6 too')
    elif host == "localhost":
        settings["address"] = "::1" if domain == "ipv6" else LOOPBACK
    elif syntax.is_address(literal):
        settings["address"] = str(ipaddress.ip_address(literal))
    else:
        settings["address"] = LOOPBACK
        entry = listener.section.last("bind_address") if listener.section.head is None else listener.entry
        if entry is not None:
            listener.close(losses, entry, f"expected an IP address to listen on, got {host[:60]}")


def _protocol(listener: Listener, losses: list[Loss]) -> None:
    entry = listener.section.last("protocol")
    if entry is None or entry.value == "mqtt":
        listener.settings["protocols"] = ["mqtt"]
    elif entry.value == "websockets":
        listener.settings["protocols"] = ["http/1.1"]
        listener.settings["name"] = listener.settings["name"].replace("mqtt-", "websocket-", 1)
        listener.notes.append("WebSockets open at the path /mqtt")
        origins = [one.value for one in listener.section.entries if one.key == "websockets_origin"]
        if origins:
            listener.settings["websocket_origins"] = origins
    else:
        listener.settings["protocols"] = ["mqtt"]
        listener.close(losses, entry, f"expected mqtt or websockets, got {entry.value[:60]}")


def _tls(listener: Listener, losses: list[Loss]) -> None:
    section, settings = listener.section, listener.settings
    chain, key = section.value("certfile"), section.value("keyfile")
    wanted = section.last("certfile") or section.last("keyfile")
    if wanted is None:
        if section.last("require_certificate") and is_true(section.value("require_certificate")):
            entry = section.last("require_certificate")
            assert entry is not None
            losses.append(Loss.of(entry, "has no meaning without certfile"))
        return
    if settings["transport"] == "unix":
        losses.append(Loss.of(wanted, "a Unix socket has no TLS"))
        return
    settings["transport"] = "tls"
    settings["name"] = re.sub(r"^(mqtt|websocket)-", r"\1s-", settings["name"])
    if chain and key:
        settings["certificates"] = [{"chain": chain, "key": key}]
    else:
        losses.append(Loss.of(wanted, "expected certfile and keyfile; the development certificate is used"))
    version = section.last("tls_version")
    if version is not None and version.value in ("tlsv1.2", "tlsv1.3"):
        settings["tls_minimum"] = version.value.removeprefix("tlsv")
    elif version is not None:
        losses.append(Loss.of(version, f"expected tlsv1.2 or tlsv1.3, got {version.value[:60]}: 1.2 is the least"))
    _client_certificates(listener, losses)


def _client_certificates(listener: Listener, losses: list[Loss]) -> None:
    section, settings = listener.section, listener.settings
    required = section.last("require_certificate")
    if required is None or is_true(required.value) is not True:
        for key in ("use_identity_as_username", "use_subject_as_username"):
            entry = section.last(key)
            if entry is not None and is_true(entry.value):
                losses.append(Loss.of(entry, "has no meaning without require_certificate"))
        return
    ca = section.value("cafile")
    if not ca:
        listener.close(losses, required, "expected cafile, one file with the CAs of the clients")
        return
    settings |= {"client_certificates": "require", "client_ca": ca, "certificate_identity": "cn"}
    subject = section.last("use_subject_as_username")
    if subject is not None and is_true(subject.value):
        losses.append(Loss.of(subject, "the common name is taken instead of the whole subject"))
        listener.by_certificate = True
    if is_true(section.value("use_identity_as_username")):
        listener.by_certificate = True
    if listener.by_certificate:
        listener.notes.append("the client id must be the certificate's common name, or empty")
