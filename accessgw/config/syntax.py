"""The little languages inside settings: endpoints, addresses, networks, operation patterns, templates."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_OPERATION = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.\-/]*\*?")
_PLACEHOLDER = re.compile(r"operation|device|user|app|header:[a-z0-9\-]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_\-.]*[A-Za-z0-9])?\.?")
_VERSION = re.compile(r"(>=|<=|==|>|<|=)?\d+(\.\d+)*")
_TOPIC_PLACEHOLDERS = ("{device}", "{user}", "{app}")

ENDPOINT = '"http://address:port" or "https://address:port" with an IP address (names go into dns), or "unix:/path"'
HOST_PORT = '"host:port"'
SERVER_NAME = "the name or address of a server"
DNS = '"host:port" or "https://host:port"'
URL = 'an "http://" or "https://" URL'
OPERATION = 'a name such as "payments.pay", or one that ends in "*"'


def is_endpoint(text: str) -> bool:
    """`http://127.0.0.1:7800` or `unix:/run/service.sock`; addresses, not names."""
    if text.startswith("unix:"):
        return text.startswith("unix:/") and len(text) > len("unix:/")
    scheme, _, authority = text.partition("://")
    if scheme not in ("http", "https"):
        return False
    host, port = _host_and_port(authority, 80)
    return bool(port) and is_address(host)


def is_host_port(text: str) -> bool:
    """`host:port`, `[::1]:7443`; the port is not optional."""
    host, port = _host_and_port(text, 0)
    return bool(port) and (is_address(host) or _HOST.fullmatch(host) is not None)


def is_dns(text: str) -> bool:
    """A name that is looked up: `service.example:8080`, or with https:// before it, and then the port may be missing."""
    if text.startswith("https://"):
        host, port = _host_and_port(text.removeprefix("https://"), 443)
        return bool(port) and _HOST.fullmatch(host) is not None
    return is_host_port(text)


def is_url(text: str) -> bool:
    """An http:// or https:// URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """`https://app.example.com` or with a port, as a browser sends it (RFC 6454): lower case, no path; or `null`."""
    scheme, separator, authority = text.partition("://")
    if not separator:
        return text == "null"
    host, port = _host_and_port(authority, 1)
    return (
        scheme.isalpha() and text == text.lower() and bool(port) and (is_address(host) or bool(_HOST.fullmatch(host)))
    )


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_server_name(text: str) -> bool:
    """An address, or a name that can be a domain's."""
    try:
        return is_address(text) or _HOST.fullmatch(text.encode("idna").decode("ascii")) is not None
    except UnicodeError:
        return False


def network_problem(text: str) -> str:
    """Why `text` is not a network in CIDR form; empty when it is one."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return str(error)
    return ""


def is_name(text: str) -> bool:
    """A name for logs and metrics: letters, digits, `_`, `-` and `.`."""
    return _NAME.fullmatch(text) is not None


def is_operation_pattern(text: str) -> bool:
    """`payments.pay`, `payments.*` or `*`: the star stands at the end only."""
    return _OPERATION.fullmatch(text) is not None


def is_version_condition(text: str) -> bool:
    """`2.1`, `>=2.1`, `<3`."""
    return _VERSION.fullmatch(text.strip()) is not None


def unknown_placeholder(template: str) -> str:
    """The first part in braces that no call can fill (or an unmatched brace); empty when all are fine."""
    for part in re.findall(r"\{[^{}]*\}", template):
        if _PLACEHOLDER.fullmatch(part[1:-1]) is None:
            return str(part)
    rest = re.sub(r"\{[^{}]*\}", "", template)
    return next((brace for brace in "{}" if brace in rest), "")


def is_topic_name(text: str) -> bool:
    """A topic to publish to: 1 to 65535 bytes, no wildcard, no U+0000 (MQTT 5, section 4.7)."""
    return _is_topic_text(text) and "+" not in text and "#" not in text


def is_topic_filter(text: str) -> bool:
    """A topic filter: `+` alone in its level, `#` alone in the last;
    `$share/group/filter` as well (sections 4.7, 4.8.2)."""
    if text.startswith("$share/"):
        _, _, rest = text.partition("/")
        group, _, text = rest.partition("/")
        if not group or "+" in group or "#" in group:
            return False
    if not _is_topic_text(text):
        return False
    *levels, last = text.split("/")
    return all("#" not in level and ("+" not in level or level == "+") for level in levels) and (
        last in ("+", "#") or ("+" not in last and "#" not in last)
    )


def is_topic_rule(text: str) -> bool:
    """A filter that may have placeholders, whole levels or parts of one."""
    return is_topic_filter(_filled(text)) and not text.startswith("$share/")


def unknown_topic_placeholder(text: str) -> str:
    """The first part in braces that no identity can fill; empty when all are known. Other braces are text."""
    return next((part for part in re.findall(r"\{[^{}/]*\}", text) if part not in _TOPIC_PLACEHOLDERS), "")


def _filled(text: str) -> str:
    for placeholder in _TOPIC_PLACEHOLDERS:
        text = text.replace(placeholder, "x")
    return text


def _is_topic_text(text: str) -> bool:
    """Neither empty nor too long, and encodable: half of a surrogate pair is not (section 1.5.4)."""
    try:
        return 0 < len(text.encode()) <= 65535 and "\0" not in text
    except UnicodeEncodeError:
        return False


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    """(host, port); port 0 when it is missing without a default, or not in 1..65535."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            return "", 0
    else:
        host, colon, port = text.partition(":")
        rest = colon + port
    if not rest:
        return host, default
    digits = rest[1:]
    if rest[0] != ":" or not digits.isdecimal() or not digits.isascii() or not 0 < int(digits) < 65536:
        return host, 0
    return host, int(digits)
