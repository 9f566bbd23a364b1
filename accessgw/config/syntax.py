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

ENDPOINT = '"http://address:port" with an IP address (names go into dns) or "unix:/path"'
HOST_PORT = '"host:port"'
OPERATION = 'a name such as "payments.pay", or one that ends in "*"'


def is_endpoint(text: str) -> bool:
    """`http://127.0.0.1:7800` or `unix:/run/service.sock`; addresses, not names."""
    if text.startswith("unix:"):
        return text.startswith("unix:/") and len(text) > len("unix:/")
    if not text.startswith("http://"):
        return False
    host, port = _host_and_port(text.removeprefix("http://"), 80)
    return bool(port) and is_address(host)


def is_host_port(text: str) -> bool:
    """`host:port`, `[::1]:7443`; the port is not optional."""
    host, port = _host_and_port(text, 0)
    return bool(port) and (is_address(host) or _HOST.fullmatch(host) is not None)


def is_url(text: str) -> bool:
    """An http:// URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


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
