"""Reads mosquitto.conf: lines into settings of the broker, its listeners and its bridges.

A key says by itself what it belongs to: a listener's keys go to the last `listener` line (or the default
listener before the first), a bridge's to the last `connection`, all others to the broker, wherever they stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MAX_FILES = 1000
"""Files of all include_dir together."""
MAX_LINES = 1_000_000

_SECURITY_WORDS = (
    "acl_file allow_anonymous allow_zero_length_clientid auto_id_prefix password_file psk_file"
    " auth_plugin auth_plugin_deny_special_chars plugin"
)
SECURITY = frozenset(_SECURITY_WORDS.split())
"""Of the broker, or of each listener with `per_listener_settings true`; so are auth_opt_* and plugin_opt_*."""
_LISTENER_WORDS = (
    "accept_protocol_versions bind_address bind_interface cafile capath certfile ciphers ciphers_tls1.3 crlfile"
    " dhparamfile disable_client_cert_date_checks enable_proxy_protocol http_dir keyfile max_connections max_qos"
    " max_topic_alias max_topic_alias_broker mount_point port protocol psk_hint require_certificate socket_domain"
    " tls_engine tls_engine_kpass_sha1 tls_keyform tls_version use_identity_as_username use_subject_as_username"
    " use_username_as_clientid websockets_headers_size websockets_origin"
)
LISTENER = frozenset(_LISTENER_WORDS.split())
_BRIDGE_WORDS = (
    "address addresses bridge_alpn bridge_attempt_unsubscribe bridge_bind_address bridge_cafile bridge_capath"
    " bridge_certfile bridge_ciphers bridge_ciphers_tls1.3 bridge_clean_start bridge_identity bridge_insecure"
    " bridge_keyfile bridge_max_packet_size bridge_max_topic_alias bridge_outgoing_retain bridge_protocol_version"
    " bridge_psk bridge_receive_maximum bridge_reload_type bridge_require_ocsp bridge_session_expiry_interval"
    " bridge_tcp_keepalive bridge_tcp_user_timeout bridge_tls_use_os_certs bridge_tls_version cleansession clientid"
    " idle_timeout keepalive_interval local_cleansession local_clientid local_password local_username notification_topic"
    " notifications notifications_local_only password remote_clientid remote_password remote_username restart_timeout"
    " round_robin start_type threshold topic try_private username"
)
BRIDGE = frozenset(_BRIDGE_WORDS.split())


class ImportFailed(Exception):
    """What was given is no configuration that can be read; with file and line."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else message)
        self.file = file
        self.line = line
        self.message = message


class Entry(NamedTuple):
    """One line."""

    file: str
    line: int
    key: str
    value: str


class Loss(NamedTuple):
    """What was not carried over, or was but not quite."""

    file: str
    line: int
    key: str
    reason: str

    @classmethod
    def of(cls, entry: Entry, reason: str) -> Loss:
        """About one line."""
        return cls(entry.file, entry.line, entry.key, reason)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.reason}"


@dataclass
class Section:
    """A listener or a bridge: the line that began it, and its own."""

    head: Entry | None
    entries: list[Entry] = field(default_factory=list)

    def last(self, key: str) -> Entry | None:
        """The entry that holds: mosquitto takes the last one."""
        return next((entry for entry in reversed(self.entries) if entry.key == key), None)

    def value(self, key: str, default: str = "") -> str:
        """Its value."""
        entry = self.last(key)
        return default if entry is None else entry.value


@dataclass
class Mosquitto:
    """A configuration as it stands in its files."""

    broker: Section = field(default_factory=lambda: Section(None))
    default_listener: Section = field(default_factory=lambda: Section(None))
    listeners: list[Section] = field(default_factory=list)
    bridges: list[Section] = field(default_factory=list)
    misplaced: list[Loss] = field(default_factory=list)
    per_listener: bool = False
    """Each listener has its own security."""


def is_true(text: str) -> bool | None:
    """`true`, `1`, `false`, `0` in any case; None for anything else."""
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())


def is_security(key: str) -> bool:
    """Whether the key is one of those that may be set per listener."""
    return key in SECURITY or key.startswith(("auth_opt_", "plugin_opt_"))


def read(path: str) -> Mosquitto:
    """The configuration of a file and all that it includes. Raises ImportFailed."""
    return collect(list(_included(path, read_text(path, path, 0), [1])))


def parse(text: str, file: str = "mosquitto.conf") -> Mosquitto:
    """The configuration of a text. Raises ImportFailed."""
    return collect(list(_included(file, text, [1])))


def read_text(path: str, file: str, line: int) -> str:
    """A file's text. Raises ImportFailed that blames `line` of `file`."""
    try:
        return Path(path).read_bytes().decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            at = error.object[: error.start].count(b"\n") + 1
            raise ImportFailed(path, at, f"expected UTF-8, got byte 0x{error.object[error.start]:02x}") from None
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ImportFailed(file, line, f"cannot read {path}: {reason}") from None


def lines(text: str, file: str) -> Iterator[tuple[int, str]]:
    """(number, line) of what is neither empty nor a comment. Raises ImportFailed."""
    for number, whole in enumerate(text.split("\n"), 1):
        if number > MAX_LINES:
            raise ImportFailed(file, number, f"expected at most {MAX_LINES} lines")
        if "\0" in whole:
            raise ImportFailed(file, number, "expected text, got U+0000")
        line = whole.strip()
        if line and not line.startswith("#"):
            yield number, line


def first_word(line: str) -> tuple[str, str]:
    """The first word and the rest."""
    word, *rest = line.split(None, 1)
    return word, rest[0] if rest else ""


def _included(file: str, text: str, count: list[int]) -> Iterator[Entry]:
    for number, line in lines(text, file):
        key, value = first_word(line)
        entry = Entry(file, number, key, value)
        yield entry
        if key == "include_dir":
            yield from _directory(entry, count)


def _directory(entry: Entry, count: list[int]) -> Iterator[Entry]:
    directory = entry.value
    if not os.path.isabs(directory) and not os.path.isdir(directory):
        directory = os.path.join(os.path.dirname(entry.file), directory)
    try:
        # upper case of each letter before lower case, as mosquitto reads them
        names = sorted((name for name in os.listdir(directory) if name.endswith(".conf")), key=_order)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ImportFailed(entry.file, entry.line, f"include_dir: cannot read {entry.value}: {reason}") from None
    for name in names:
        count[0] += 1
        if count[0] > MAX_FILES:
            raise ImportFailed(entry.file, entry.line, f"include_dir: expected at most {MAX_FILES} files")
        path = os.path.join(directory, name)
        yield from _included(path, read_text(path, entry.file, entry.line), count)


def _order(name: str) -> list[tuple[str, bool]]:
    return [(char.lower(), char.islower()) for char in name]


def collect(entries: list[Entry]) -> Mosquitto:
    """Put every entry where it belongs."""
    found = Mosquitto()
    found.per_listener = any(
        [is_true(entry.value) is True for entry in entries if entry.key == "per_listener_settings"][-1:]
    )
    listener = found.default_listener
    bridge: Section | None = None
    for entry in entries:
        if entry.key == "listener":
            listener = Section(entry)
            found.listeners.append(listener)
        elif entry.key == "connection":
            bridge = Section(entry)
            found.bridges.append(bridge)
        elif entry.key in BRIDGE:
            if bridge is None:
                found.misplaced.append(Loss.of(entry, "expected after a line `connection NAME`"))
            else:
                bridge.entries.append(entry)
        elif entry.key in LISTENER or (found.per_listener and is_security(entry.key)):
            listener.entries.append(entry)
        elif entry.key not in ("per_listener_settings", "include_dir"):
            found.broker.entries.append(entry)
    return found
