"""Checks between settings: names that must exist or be unique, files that must be readable, orders that must hold."""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

from accessgw.config import syntax
from accessgw.config.errors import Problem
from accessgw.config.files import readable
from accessgw.config.structure import shown
from accessgw.config.validate_authenticators import check_authenticators
from accessgw.config.validate_mqtt import check_mqtt
from accessgw.config.validate_tls import certificate_problems, check_tls, profile_problems
from accessgw.config.validate_upstream_tls import upstream_tls
from accessgw.model.listener_settings import ListenerSettings
from accessgw.model.route_settings import ClusterSettings, RouteSettings
from accessgw.model.settings import ControlSettings, GatewaySettings
from accessgw.model.tls_settings import TlsSettings

PROTOCOLS = ("mmtp/1", "mqtt", "http/1.1")
"""What a listener can serve."""
CONDITIONS = ("app", "app_version", "user")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def validate(settings: GatewaySettings) -> list[Problem]:
    """Every problem of settings whose structure is already known to be right."""
    problems: list[Problem] = []
    if not settings.listeners:
        problems.append(Problem("listeners", "expected at least one listener, got none"))
    problems += _unique("listeners", [listener.name for listener in settings.listeners])
    for index, listener in enumerate(settings.listeners):
        problems += _listener(f"listeners[{index}]", listener, settings.tls)
    problems += check_tls(settings.tls, settings.listeners)
    problems += _same_address(settings.listeners, settings.control)
    problems += check_authenticators(settings.authenticators)
    problems += _unique("clusters", [cluster.name for cluster in settings.clusters])
    for index, cluster in enumerate(settings.clusters):
        problems += _cluster(f"clusters[{index}]", cluster)
    known = [cluster.name for cluster in settings.clusters]
    for index, route in enumerate(settings.routes):
        problems += _route(f"routes[{index}]", route, known)
    for index, one in enumerate(settings.filters):
        if not one.name:
            problems.append(Problem(f"filters[{index}].name", "expected the name of a filter, got an empty one"))
    problems += check_mqtt(settings.mqtt, settings.limits, known)
    problems += _control(settings.control)
    problems += _addresses(settings)
    problems += _orders(settings)
    return problems


def _unique(path: str, names: list[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if not syntax.is_name(name):
            yield Problem(f"{path}[{index}].name", f"expected letters, digits, `_`, `-` and `.`, got {shown(name)}")
        elif name in names[:index]:
            yield Problem(f"{path}[{index}].name", f"{shown(name)} is the name of {path}[{names.index(name)}] already")


def _each(path: str, values: Iterable[str], good: Callable[[str], bool], expected: str) -> Iterator[Problem]:
    for index, value in enumerate(values):
        if not good(value):
            yield Problem(f"{path}[{index}]", f"expected {expected}, got {shown(value)}")


# ------------------------------------------------------------------ listeners


def _listener(path: str, listener: ListenerSettings, tls: TlsSettings) -> Iterator[Problem]:
    unix = listener.transport == "unix"
    if unix and not listener.path:
        yield Problem(f"{path}.path", "required for transport unix, expected a path, got nothing")
    if not unix and listener.path:
        yield Problem(f"{path}.path", f"only transport unix has a path, this is {listener.transport}")
    if not unix and not syntax.is_address(listener.address):
        yield Problem(f"{path}.address", f"expected an IPv4 or IPv6 address, got {shown(listener.address)}")
    if not listener.protocols:
        yield Problem(f"{path}.protocols", "expected at least one protocol, got none")
    names = ", ".join(f'"{name}"' for name in PROTOCOLS)
    yield from _each(f"{path}.protocols", listener.protocols, PROTOCOLS.__contains__, f"one of {names}")
    for index, network in enumerate(listener.proxy_protocol_from):
        if network == "unix" and unix:
            continue
        problem = syntax.network_problem(network)
        if problem:
            yield Problem(f"{path}.proxy_protocol_from[{index}]", f"expected a network such as 10.0.0.0/8: {problem}")
    if listener.certificates and listener.transport != "tls":
        yield Problem(f"{path}.certificates", f"only transport tls has certificates, this is {listener.transport}")
    else:
        for index, certificate in enumerate(listener.certificates):
            yield from certificate_problems(f"{path}.certificates[{index}]", certificate, tls, listener.profile)
            if index and not certificate.names:
                expected = "expected at least one server name (only the first certificate may have none)"
                yield Problem(f"{path}.certificates[{index}].names", expected)
    yield from profile_problems(path, listener, tls)
    yield from _clients(path, listener)
    expected = 'an origin such as "https://app.example.com", without a path'
    yield from _each(f"{path}.websocket_origins", listener.websocket_origins, syntax.is_origin, expected)
    if listener.websocket_origins and "http/1.1" not in listener.protocols:
        yield Problem(f"{path}.websocket_origins", 'WebSockets need the protocol "http/1.1", which is not served here')


def _clients(path: str, listener: ListenerSettings) -> Iterator[Problem]:
    """Client certificates."""
    if listener.client_certificates == "off":
        for name in ("client_ca", "client_crl"):
            if getattr(listener, name):
                yield Problem(f"{path}.{name}", 'is used with client_certificates "request" or "require" only')
        return
    if listener.transport != "tls":
        got = listener.transport
        yield Problem(f"{path}.client_certificates", f"only transport tls has client certificates, this is {got}")
    if not listener.client_ca:
        mode = listener.client_certificates
        yield Problem(
            f"{path}.client_ca", f'required for client_certificates "{mode}", expected a PEM file, got nothing'
        )
        return
    if listener.client_crl:
        yield from readable(f"{path}.client_crl", listener.client_crl)
    unreadable = list(readable(f"{path}.client_ca", listener.client_ca))
    yield from unreadable
    if not unreadable:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(listener.client_ca)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            yield Problem(f"{path}.client_ca", f"expected PEM certificates of CAs, OpenSSL says: {reason}")


def _same_address(listeners: tuple[ListenerSettings, ...], control: ControlSettings) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    places = [
        (f"listeners[{index}]", listener.path or f"{listener.address}:{listener.port}", listener.path or listener.port)
        for index, listener in enumerate(listeners)
    ]
    for path, place, fixed in [*places, ("control", f"{control.address}:{control.port}", control.port)]:
        if not fixed:
            continue
        if place in taken:
            yield Problem(
                f"{path}.{'port' if isinstance(fixed, int) else 'path'}", f"{place} is taken by {taken[place]}"
            )
        taken.setdefault(place, path)


# ------------------------------------------------------------------ who may do what


def _control(control: ControlSettings) -> Iterator[Problem]:
    if not syntax.is_address(control.address):
        yield Problem("control.address", f"expected an IPv4 or IPv6 address, got {shown(control.address)}")
    seen: dict[str, int] = {}
    for index, token in enumerate(control.tokens):
        if not token.token:
            yield Problem(f"control.tokens[{index}].token", "expected a token, got an empty one")
        elif token.token in seen:
            yield Problem(f"control.tokens[{index}].token", f"is the same as control.tokens[{seen[token.token]}].token")
        if not token.roles:
            yield Problem(f"control.tokens[{index}].roles", 'expected some of "push", "read", "operate", got none')
        seen.setdefault(token.token, index)


# ------------------------------------------------------------------ where calls go


def _cluster(path: str, cluster: ClusterSettings) -> Iterator[Problem]:
    if not cluster.endpoints and not cluster.dns:
        yield Problem(f"{path}.endpoints", "expected at least one endpoint, or dns, got neither")
    yield from _each(f"{path}.endpoints", cluster.endpoints, syntax.is_endpoint, syntax.ENDPOINT)
    if cluster.dns and not syntax.is_dns(cluster.dns):
        yield Problem(f"{path}.dns", f"expected {syntax.DNS}, got {shown(cluster.dns)}")
    safe = cluster.dns.startswith("https://") or any(one.startswith("https://") for one in cluster.endpoints)
    yield from upstream_tls(f"{path}.tls", cluster.tls, safe)
    if cluster.health.path and not cluster.health.path.startswith("/"):
        yield Problem(f"{path}.health.path", f'expected a path that begins with "/", got {shown(cluster.health.path)}')


def _route(path: str, route: RouteSettings, clusters: list[str]) -> Iterator[Problem]:
    if bool(route.operation) == bool(route.path):
        got = "both" if route.path else "neither"
        yield Problem(path, f"expected exactly one of operation and path, got {got}")
    if route.operation and not syntax.is_operation_pattern(route.operation):
        yield Problem(f"{path}.operation", f"expected {syntax.OPERATION}, got {shown(route.operation)}")
    if route.operation.startswith("gw."):
        yield Problem(f"{path}.operation", "operations that begin with gw. are answered by the gateway itself")
    if route.path and not route.path.startswith("/"):
        yield Problem(f"{path}.path", f'expected a prefix that begins with "/", got {shown(route.path)}')
    if route.operation and (route.methods or route.hosts):
        key = "methods" if route.methods else "hosts"
        yield Problem(f"{path}.{key}", "belongs to path routes only")
    if route.bodies and not route.path:
        yield Problem(f"{path}.bodies", "belongs to path routes only")
    if route.bodies and route.secret:
        yield Problem(f"{path}.bodies", "a secret route uses no dictionaries")
    if route.bodies_app and not route.bodies:
        yield Problem(f"{path}.bodies_app", "says nothing without bodies")
    methods = ", ".join(METHODS)
    yield from _each(f"{path}.methods", route.methods, METHODS.__contains__, f"one of {methods}")
    if route.upstream_method not in METHODS:
        yield Problem(f"{path}.upstream_method", f"expected one of {methods}, got {shown(route.upstream_method)}")
    if not route.upstream_path.startswith("/"):
        got = shown(route.upstream_path)
        yield Problem(f"{path}.upstream_path", f'expected a path that begins with "/", got {got}')
    unknown = syntax.unknown_placeholder(route.upstream_path)
    if unknown:
        known = "{operation}, {device}, {user}, {app} or {header:name}"
        yield Problem(f"{path}.upstream_path", f"expected {known}, got {shown(unknown)}")
    if route.cluster not in clusters:
        near = difflib.get_close_matches(route.cluster, clusters, 1)
        hint = f', did you mean "{near[0]}"?' if near else ""
        yield Problem(f"{path}.cluster", f"unknown cluster {shown(route.cluster)}{hint}")
    for key, value in route.when.items():
        prefix, colon, name = key.partition(":")
        if key not in CONDITIONS and not (prefix in ("header", "attribute") and colon and name):
            expected = "app, app_version, user, header:NAME or attribute:NAME"
            yield Problem(f"{path}.when.{key}", f"unknown condition, expected {expected}")
        elif key == "app_version" and not syntax.is_version_condition(value):
            yield Problem(f"{path}.when.{key}", f"expected a version such as >=2.1, got {shown(value)}")


# ------------------------------------------------------------------ the rest


def _addresses(settings: GatewaySettings) -> Iterator[Problem]:
    for path, value in (("public_address", settings.public_address), ("drain.alternate", settings.drain.alternate)):
        if value and not syntax.is_host_port(value):
            yield Problem(path, f"expected {syntax.HOST_PORT}, got {shown(value)}")
    yield from _each("alternate_addresses", settings.alternate_addresses, syntax.is_host_port, syntax.HOST_PORT)
    if settings.webhook.url and not syntax.is_url(settings.webhook.url):
        yield Problem("webhook.url", f"expected {syntax.URL}, got {shown(settings.webhook.url)}")
    elif "@" in urlsplit(settings.webhook.url).netloc:
        yield Problem("webhook.url", "expected no user name or password in the URL, they would go out as a host")
    yield from upstream_tls("webhook.tls", settings.webhook.tls, settings.webhook.url.startswith("https://"))
    demo = settings.demo_upstream
    if demo and not (demo.startswith("http://") and syntax.is_endpoint(demo)):
        yield Problem("demo_upstream", f"expected http://address:port, got {shown(demo)}")
    if not settings.state_dir:
        yield Problem("state_dir", "expected a directory, got an empty name")


def _orders(settings: GatewaySettings) -> Iterator[Problem]:
    limits, mmtp, calls, pushes = settings.limits, settings.mmtp, settings.calls, settings.pushes
    webhook = settings.webhook
    for smaller, least, larger, most in (
        ("limits.hello_timeout", limits.hello_timeout, "limits.idle_timeout", limits.idle_timeout),
        ("mmtp.heartbeat_hint", mmtp.heartbeat_hint, "limits.idle_timeout", limits.idle_timeout),
    ):
        if least >= most:
            yield Problem(larger, f"expected more than {smaller} ({least:g}), got {most:g}")
    for smaller, least, larger, most in (
        ("mmtp.max_hello", mmtp.max_hello, "mmtp.max_frame", mmtp.max_frame),
        ("mmtp.call_window", mmtp.call_window, "mmtp.connection_window", mmtp.connection_window),
        ("calls.answer_horizon", calls.answer_horizon, "calls.claim_horizon", calls.claim_horizon),
        ("calls.max_kept_answer", calls.max_kept_answer, "calls.max_answer_bytes", calls.max_answer_bytes),
        ("webhook.retry_initial", webhook.retry_initial, "webhook.retry_max", webhook.retry_max),
    ):
        if least > most:
            yield Problem(larger, f"expected at least {smaller} ({least:g}), got {most:g}")
    if pushes.slow_reader_bytes * 2 > limits.write_buffer:
        yield Problem(
            "pushes.slow_reader_bytes",
            f"expected at most half of limits.write_buffer ({limits.write_buffer // 2}), got {pushes.slow_reader_bytes}",
        )
    if pushes.max_payload + 1024 > mmtp.max_frame:
        yield Problem(
            "pushes.max_payload",
            f"expected at most mmtp.max_frame less 1024 ({mmtp.max_frame - 1024}), got {pushes.max_payload}",
        )
