"""Turns a configuration of mosquitto 2 into ours, and lists what could not be carried over.

Nothing becomes more open by it: what cannot be carried and protected something closes what it protected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from accessgw.config import ConfigError, loads
from accessgw.config.files import readable
from accessgw.model.settings import ControlSettings
from accessgw.ops.mosquitto_acl import acl_rules, parse_acl
from accessgw.ops.mosquitto_bridge import bridge_settings
from accessgw.ops.mosquitto_conf import (
    Entry,
    ImportFailed,
    Loss,
    Mosquitto,
    Section,
    is_security,
    is_true,
    read_text,
)
from accessgw.ops.mosquitto_document import document, tables
from accessgw.ops.mosquitto_listener import Listener, listeners

UNLIMITED = 2**40
"""Bytes; mosquitto writes 0 for it."""
PACKET_OVERHEAD = 1024
"""Bytes of topic and properties granted beside a payload of message_size_limit."""
UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0, "m": 30 * 86400.0, "y": 365 * 86400.0}
NEEDLESS = frozenset(
    ("autosave_interval", "autosave_on_changes", "persistence_file", "pid_file", "retry_interval", "set_tcp_nodelay")
)
"""Keys of the broker that ours needs no equal of, whatever their value."""
USUAL = {
    "allow_duplicate_messages": "false",
    "check_retain_source": "false",
    "log_timestamp": "true",
    "queue_qos0_messages": "false",
    "upgrade_outgoing_qos": "false",
}
"""Keys whose value here is what ours does anyway."""
REASONS = {
    "allow_duplicate_messages": "overlapping subscriptions are merged into one delivery",
    "auth_plugin": "plugins of mosquitto cannot be loaded; see [[authenticators]] and mqtt.acl",
    "plugin": "plugins of mosquitto cannot be loaded; see [[authenticators]] and mqtt.acl",
    "psk_file": "TLS with pre-shared keys is not supported",
    "check_retain_source": "a retained message stays when the right to publish it is taken away",
    "clientid_prefixes": "client ids are not filtered; name them in `device` of mqtt.acl",
    "global_plugin": "plugins of mosquitto cannot be loaded",
    "log_facility": "the gateway writes to standard error, or where twistd --logfile says",
    "log_timestamp_format": "lines of the gateway's log have their own form",
    "max_inflight_bytes": "messages in flight are bounded by number only: mqtt.max_inflight",
    "memory_limit": "memory is bounded by the queues and limits of each session",
    "queue_qos0_messages": "QoS 0 messages are not kept for clients that are away",
    "retain_expiry_interval": "retained messages expire as their publishers say; see mqtt.max_message_expiry",
    "upgrade_outgoing_qos": "a message is delivered with the lower of its own and the subscription's QoS",
    "user": "the service manager chooses the user; see etc/",
    "websockets_log_level": "there is no log of that library",
}


@dataclass
class Imported:
    """What came of it."""

    toml: str
    losses: list[Loss]
    notes: list[str] = field(default_factory=list)
    """What is carried but behaves a little differently."""


def convert(found: Mosquitto, name: str) -> Imported:
    """Our configuration as TOML that loads. Raises ImportFailed when there is no listener that can be."""
    work = _Work(found)
    work.run()
    losses = sorted(set(work.losses), key=lambda loss: (loss.file, loss.line, loss.key, loss.reason))
    notes = list(dict.fromkeys(work.notes))
    return Imported(document(name, tables(work.listeners, work.data, work.mqtt), losses, notes), losses, notes)


class _Work:
    """One conversion."""

    def __init__(self, found: Mosquitto) -> None:
        self.found = found
        self.losses: list[Loss] = list(found.misplaced)
        self.notes: list[str] = []
        self.data: dict[str, Any] = {}
        self.mqtt: dict[str, Any] = {}
        self.listeners: list[Listener] = []
        self.origins: dict[str, Entry] = {}
        """Path of a setting -> the line that it came from."""

    def run(self) -> None:
        self.listeners = listeners(self.found, self.losses)
        for entry in self.found.broker.entries:
            self._broker(entry)
        self._per_listener_limits()
        self._security()
        self._bridges()
        if self.found.broker.last("persistent_client_expiration") is None:
            self.notes.append("sessions that are away end after mqtt.max_session_expiry, 7 days; mosquitto keeps them")
        self._settle()
        control = ControlSettings(**self.data.get("control", {}))
        self.notes.append(
            f"the control API takes {control.address}:{control.port}, too; mosquitto has none (control.address, control.port)"
        )

    def lose(self, entry: Entry, reason: str) -> None:
        self.losses.append(Loss.of(entry, reason))

    # ------------------------------------------------------------------ the broker

    def _broker(self, entry: Entry) -> None:
        key, value = entry.key, entry.value
        if is_security(key):
            return
        if key in _NUMBERS:
            setting, translate = _NUMBERS[key]
            number = _number(value)
            if number is None:
                self.lose(entry, f"expected a number, got {value[:60]}")
            else:
                self._set(entry, setting, translate(number))
        elif key in ("retain_available", "persistence"):
            self._switch(entry)
        elif key == "persistent_client_expiration":
            self._expiration(entry)
        elif key == "persistence_location":
            self._set(entry, "store.path", os.path.join(value, "accessgw.sqlite"))
        elif key in ("log_dest", "log_type"):
            self._log(entry)
        elif key == "connection_messages" and is_true(value) is not None:
            self._set(entry, "log.connections", is_true(value))
        elif key not in NEEDLESS and value.lower() != USUAL.get(key):
            self.lose(entry, REASONS.get(key, "there is no such setting here"))

    def _set(self, entry: Entry, path: str, value: Any) -> None:
        table, _, name = path.rpartition(".")
        target = self.mqtt if table == "mqtt" else self.data.setdefault(table, {})
        target[name] = value
        self.origins[path] = entry

    def _switch(self, entry: Entry) -> None:
        on = is_true(entry.value)
        if on is None:
            self.lose(entry, f"expected true or false, got {entry.value[:60]}")
        elif entry.key == "persistence":
            self._set(entry, "store.kind", "sqlite" if on else "memory")
        else:
            self._set(entry, "mqtt.retain_available", on)

    def _expiration(self, entry: Entry) -> None:
        match = re.fullmatch(r"([0-9]{1,6})([hdwmy])", entry.value)
        if match is None or not int(match[1]):
            self.lose(entry, f"expected a time such as 14d, got {entry.value[:60]}")
        else:
            self._set(entry, "mqtt.max_session_expiry", int(match[1]) * UNITS[match[2]])

    def _log(self, entry: Entry) -> None:
        kind, _, rest = entry.value.partition(" ")
        if entry.key == "log_type":
            if kind not in ("error", "warning", "notice", "information"):
                self.lose(entry, "see acl_log, and `accessgwctl trace` and `accessgwctl mqtt trace`")
        elif kind == "stdout":
            self._set(entry, "log.access", "-")
        elif kind == "file" and rest.strip():
            self._set(entry, "log.access", rest.strip())
            self.notes.append(
                f"{rest.strip()} gets JSON lines of connections and calls; other messages go to standard error"
            )
        elif kind not in ("stderr", "none"):
            self.lose(entry, "the gateway writes to standard error, or where twistd --logfile says")

    def _per_listener_limits(self) -> None:
        for key, setting in (("max_connections", "limits.max_connections"), ("max_qos", "mqtt.max_qos")):
            given = [(listener.section.last(key), listener) for listener in self.listeners]
            entries = [entry for entry, _ in given if entry is not None and entry.value != "-1"]
            values = {entry.value for entry in entries}
            for entry in entries:
                number = _number(entry.value)
                if number is None or (key == "max_qos" and number > 2) or (key == "max_connections" and not number):
                    self.lose(entry, f"expected a number, got {entry.value[:60]}")
                elif len(values) == 1 and len(entries) == len(given) and (key == "max_qos" or len(given) == 1):
                    self._set(entry, setting, number)
                else:
                    self.lose(entry, f"{setting} is for all listeners")

    # ------------------------------------------------------------------ who may do what

    def _security(self) -> None:
        sections = [self.found.broker]
        if self.found.per_listener:
            sections = [listener.section for listener in self.listeners] or sections
        first = sections[0]
        self._differing(sections)
        for section in sections:
            for entry in section.entries:
                if entry.key in ("psk_file",) or "plugin" in entry.key or entry.key.startswith("auth_opt_"):
                    self.lose(entry, REASONS.get(entry.key, REASONS["plugin"]))
        self._authenticators(first, sections)

    def _differing(self, sections: list[Section]) -> None:
        """One chain and one list of rules serve all listeners: those that had others are closed."""
        if len(sections) < 2:
            return
        for listener in self.listeners[1:]:
            for key in ("acl_file", "password_file"):
                wanted, here = sections[0].last(key), listener.section.last(key)
                if (wanted.value if wanted else "") != (here.value if here else ""):
                    blamed = here or listener.entry or wanted
                    assert blamed is not None
                    listener.close(
                        self.losses, blamed, f"{key} differs from the first listener's, and there is one for all"
                    )

    def _authenticators(self, first: Section, sections: list[Section]) -> None:
        chain: list[dict[str, Any]] = []
        by_certificate = [listener for listener in self.listeners if listener.by_certificate]
        if by_certificate:
            chain.append({"kind": "certificate"})
            for listener in self.listeners:
                entry = listener.section.last("require_certificate")
                if "client_ca" in listener.settings and not listener.by_certificate and entry is not None:
                    listener.close(
                        self.losses, entry, "a certificate alone would be enough, as it is for other listeners"
                    )
        password = first.last("password_file")
        if password is not None:
            problem = next(readable("", password.value), None)
            if problem is None:
                chain.append({"kind": "file", "file": password.value})
                self.origins["authenticators.file"] = password
            else:
                self.lose(password, f"{problem.message}; nobody gets in by password")
        anonymous = self._anonymous(sections)
        if anonymous:
            chain.append(anonymous)
            if password is None:
                self.notes.append(
                    "a client that sends a user name is refused: there is no password file to check it by"
                )
        self.data["authenticators"] = chain
        self._zero_length(sections)
        kinds = [one["kind"] for one in chain]
        every = bool(by_certificate) and len(by_certificate) == len(self.listeners)
        self._acl(first, kinds, "device" if every else "user", bool(by_certificate))

    def _anonymous(self, sections: list[Section]) -> dict[str, Any] | None:
        given = [section.last("allow_anonymous") for section in sections]
        allowed = [is_true(entry.value) if entry else None for entry in given]
        local = not self.found.listeners and len(self.listeners) == 1 and self.listeners[0].entry is None
        local = local and not [one for one in self.found.default_listener.entries if not is_security(one.key)]
        if all(one is True or (one is None and local) for one in allowed):
            return {"kind": "anonymous"} | ({"loopback_only": True} if local else {})
        for entry, one in zip(given, allowed, strict=True):
            if entry is not None and one is not False:
                self.lose(entry, "not all listeners allow it: no listener does")
        return None

    def _zero_length(self, sections: list[Section]) -> None:
        for section in sections:
            entry = section.last("allow_zero_length_clientid")
            if entry is not None and is_true(entry.value) is not True:
                self.lose(entry, "a client without an id is given one")
            prefix = section.last("auto_id_prefix")
            if prefix is not None:
                self._set(prefix, "mqtt.assigned_prefix", prefix.value)

    def _acl(self, first: Section, kinds: list[str], who: str, by_certificate: bool) -> None:
        entry = first.last("acl_file")
        if entry is None:
            return
        self.mqtt["acl_default"] = "deny"
        if next(readable("", entry.value), None) is not None:
            self.lose(entry, f"cannot read {entry.value}; every topic is denied")
            return
        anonymous = "none"
        if "anonymous" in kinds:
            anonymous = "all" if kinds == ["anonymous"] else "some"
        acl = parse_acl(read_text(entry.value, entry.file, entry.line), entry.value)
        if by_certificate and who == "user" and acl.users:
            self.lose(entry, "rules of users are not for those whom a certificate names, since there are others too")
        if anonymous == "none" and acl.anonymous:
            numbers = ", ".join(str(one.line) for one in acl.anonymous)
            self.notes.append(
                f"{acl.file}, line {numbers}: left out: what stands before the first `user` is for clients without a user"
                " name, and none of them is let in"
            )
        rules, losses = acl_rules(acl, who=who, anonymous=anonymous)
        self.losses += losses
        self.mqtt["acl"] = rules
        self.origins["mqtt.acl"] = entry
        self.notes.append(
            "a subscription is refused unless all of its topics may be read; mosquitto grants it and leaves out the others"
        )

    # ------------------------------------------------------------------ bridges, and the whole

    def _bridges(self) -> None:
        made: dict[str, dict[str, Any]] = {}
        for section in self.found.bridges:
            bridge = bridge_settings(section, self.losses)
            if bridge is None or section.head is None:
                continue
            if bridge["name"] in made:
                self.lose(section.head, f"left out: there is a bridge {bridge['name']} already")
                continue
            made[bridge["name"]] = bridge
            self.origins[f"bridge {bridge['name']}"] = section.head
        if made:
            self.mqtt["bridges"] = list(made.values())

    def _settle(self) -> None:
        """Take back what the gateway's own checks refuse, until they refuse nothing."""
        while True:
            if not self.listeners:
                head = next((one.head for one in self.found.listeners if one.head), None)
                head = head or self.found.default_listener.last("port") or Entry("mosquitto.conf", 1, "", "")
                raise ImportFailed(head.file, head.line, "no listener can be carried over")
            try:
                loads("\n".join(tables(self.listeners, self.data, self.mqtt)))
                return
            except ConfigError as error:
                path, message = error.problems[0]
                self._take_back(path, message)

    def _take_back(self, path: str, message: str) -> None:
        listener = re.match(r"listeners\[(\d+)\](?:\.(\w+))?", path)
        if listener is not None:
            self._take_back_listener(self.listeners[int(listener[1])], listener[2] or "", message)
            return
        anywhere = Entry("mosquitto.conf", 1, path, "")
        bridge = re.match(r"mqtt\.bridges\[(\d+)\]", path)
        if bridge is not None:
            gone = self.mqtt["bridges"].pop(int(bridge[1]))
            self.lose(self.origins[f"bridge {gone['name']}"], f"left out as a whole: {path}: {message}")
        elif path.startswith("mqtt.acl"):
            self.lose(self.origins.get("mqtt.acl", anywhere), f"every topic is denied: {path}: {message}")
            self.mqtt |= {"acl": [], "acl_default": "deny"}
        elif path.startswith("authenticators"):
            kinds = {"file"} if any(one["kind"] == "file" for one in self.data["authenticators"]) else set()
            blamed = self.origins.get("authenticators.file", anywhere) if kinds else anywhere
            self.lose(blamed, f"nobody is accepted: {path}: {message}")
            self.data["authenticators"] = []
        elif path.startswith("control") and "control" not in self.data:
            self.data["control"] = {"port": 7901}
        else:
            self._take_back_setting(path, message, anywhere)

    def _take_back_setting(self, path: str, message: str, anywhere: Entry) -> None:
        table, _, name = path.rpartition(".")
        target = self.mqtt if table == "mqtt" else self.data.get(table, {})
        if name in target:
            del target[name]
            self.lose(self.origins.get(path, anywhere), message)
            return
        # a limit that was carried asks for another one
        match = re.search(r"expected at least [a-z0-9_. ]+ \((\d+)", message)
        if match is None:
            raise ImportFailed(anywhere.file, anywhere.line, f"{path}: {message}")
        (self.mqtt if table == "mqtt" else self.data.setdefault(table, {}))[name] = int(match[1])

    def _take_back_listener(self, listener: Listener, key: str, message: str) -> None:
        settings, section = listener.settings, listener.section
        anywhere = listener.entry or Entry("mosquitto.conf", 1, "listener", "")
        if key == "certificates" and key in settings:
            del settings[key]
            blamed = section.last("certfile") or anywhere
            self.lose(blamed, f"{message}; the development certificate is used")
        elif key in ("client_ca", "client_certificates", "certificate_identity") and "client_ca" in settings:
            for name in ("client_ca", "client_certificates", "certificate_identity"):
                del settings[name]
            listener.close(self.losses, section.last("cafile") or anywhere, message)
        elif key == "websocket_origins" and key in settings:
            del settings[key]
            listener.close(self.losses, section.last("websockets_origin") or anywhere, message)
        else:
            self.listeners.remove(listener)
            self.lose(anywhere, f"left out as a whole: {message}")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _packet(limit: int) -> int:
    return min(max(limit, 1024) if limit else 268_435_455, 268_435_455)


_NUMBERS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "max_inflight_messages": ("mqtt.max_inflight", lambda number: min(number or 65535, 65535)),
    "max_queued_messages": ("mqtt.max_queued", lambda number: min(number or 1_000_000, 1_000_000)),
    "max_queued_bytes": ("mqtt.max_queued_bytes", lambda number: number or UNLIMITED),
    "message_size_limit": ("mqtt.max_packet", lambda number: _packet(number + PACKET_OVERHEAD if number else 0)),
    "max_packet_size": ("mqtt.max_packet", _packet),
    "max_keepalive": ("mqtt.max_keep_alive", lambda number: number),
    "sys_interval": ("mqtt.sys_interval", float),
    "global_max_connections": ("limits.max_connections", lambda number: number or 1),
    "global_max_clients": ("mqtt.max_sessions", lambda number: number or 1),
}
