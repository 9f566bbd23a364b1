"""Which route a call takes, and the path that it asks its upstream for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from accessgw.model.calls import Call
from accessgw.model.route_settings import RouteSettings
from accessgw.policy.conditions import Condition, compile_condition

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_HEADER = re.compile(r"header:[a-z0-9!#$%&'*+\-.^_`|~]+")
_UNFIT = re.compile(r"[\x00-\x20#\x7f]")
_SIMPLE = ("operation", "device", "user", "app")
_SLASHES = re.compile(r"[/\\]+")
_PARAMETERS = re.compile(r";[^/\\]*")


class RouteError(ValueError):
    """A route that cannot be used; the message begins with its place in the configuration."""


class UnsafePath(ValueError):
    """A call's values would make the upstream path mean something else; nothing may be sent."""


@dataclass(slots=True, frozen=True)
class Route:
    """One rule, compiled."""

    settings: RouteSettings
    index: int
    """Its place in the configuration."""
    conditions: tuple[Condition, ...]

    @property
    def name(self) -> str:
        """Its operation pattern or path prefix, for logs and metrics."""
        return self.settings.operation or self.settings.path

    @property
    def cluster(self) -> str:
        """Name of the cluster that serves it."""
        return self.settings.cluster

    def holds(self, call: Call) -> bool:
        """Every condition of the route is true for the call."""
        return all(condition(call) for condition in self.conditions)


class RouteTable:
    """All routes. Operations: exact names first, then the longest literal prefix, then the order of the
    configuration. Paths: the longest prefix, then the order. Conditions are asked in that order too."""

    __slots__ = ("_exact", "_lengths", "_paths", "_prefixes", "routes", "secret_operations")

    def __init__(self, routes: Sequence[RouteSettings]) -> None:
        """Raises RouteError."""
        self.routes = tuple(_compile(index, settings) for index, settings in enumerate(routes))
        self.secret_operations = tuple(
            route.settings.operation for route in self.routes if route.settings.secret and route.settings.operation
        )
        """Operation patterns of secret routes."""
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: dict[str, list[Route]] = {}
        for route in self.routes:
            pattern = route.settings.operation
            if pattern.endswith("*"):
                self._prefixes.setdefault(pattern[:-1], []).append(route)
            elif pattern:
                self._exact.setdefault(pattern, []).append(route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._paths = sorted(
            (route for route in self.routes if route.settings.path),
            key=lambda route: (-len(route.settings.path), route.index),
        )

    def match(self, call: Call, now: float) -> Route | None:
        """The route of a call, None when there is none. `now` is for rules that depend on the time; none does yet."""
        if call.http_method:
            return self._match_path(call)
        operation = call.operation
        for route in self._exact.get(operation, ()):
            if route.holds(call):
                return route
        for length in self._lengths:
            if length <= len(operation):
                for route in self._prefixes.get(operation[:length], ()):
                    if route.holds(call):
                        return route
        return None

    def _match_path(self, call: Call) -> Route | None:
        path = comparable_path(call.http_target)
        if path is None:
            return None
        host = _host(call)
        for route in self._paths:
            settings = route.settings
            if (
                _under(path, settings.path)
                and (not settings.methods or call.http_method in settings.methods)
                and (not settings.hosts or any(_serves(pattern, host) for pattern in settings.hosts))
                and route.holds(call)
            ):
                return route
        return None


def comparable_path(target: str) -> str | None:
    """The path of a request target as the upstream may come to see it, or None when it holds dot segments.

    Routes differ in the authentication that they ask for, so a path must not pass for another by
    percent-encoding, doubled slashes or path parameters, which servers undo (RFC 3986 6.2.2, 3.3).
    """
    path = target.partition("?")[0]
    if "%" in path:
        path = unquote(path, "latin-1")
    if ";" in path:
        path = _PARAMETERS.sub("", path)
    path = _SLASHES.sub("/", path)
    return None if _has_dot_segment(path) else path


def render_path(template: str, call: Call) -> str:
    """The upstream path of an operation call: placeholders filled in and percent-encoded, so that none adds a
    segment, a query or a line. UnsafePath when a value is missing or a segment becomes `.` or `..`."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        value = _value(name, call)
        if not value:
            raise UnsafePath(f"the path {template} needs {name}, which the call does not have")
        try:
            return quote(value, safe="")
        except UnicodeEncodeError:
            raise UnsafePath(f"{name} holds half of a surrogate pair") from None

    path = _PLACEHOLDER.sub(fill, template)
    if _has_dot_segment(path.partition("?")[0]):
        raise UnsafePath(f"the path {template} would hold a dot segment")
    return path


def _has_dot_segment(path: str) -> bool:
    return "/." in path and any(segment in {".", ".."} for segment in path.split("/"))


def _value(name: str, call: Call) -> str:
    if name == "operation":
        return call.operation
    if name == "device":
        return call.identity.device
    if name == "user":
        return call.identity.user
    if name == "app":
        return call.identity.app
    wanted = name.removeprefix("header:")
    return next((value for key, value in call.headers if key == wanted), "")


def _host(call: Call) -> str:
    host = next((value for name, value in call.headers if name == "host"), "").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def _serves(pattern: str, host: str) -> bool:
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _under(path: str, prefix: str) -> bool:
    """`/api/` covers what begins with it; `/api` covers itself and what is below it, not `/apix`."""
    if not path.startswith(prefix):
        return False
    return prefix.endswith("/") or len(path) == len(prefix) or path[len(prefix)] == "/"


def _compile(index: int, settings: RouteSettings) -> Route:
    place = f"routes[{index}]"
    if bool(settings.operation) == bool(settings.path):
        raise RouteError(f"{place}: expected exactly one of operation and path")
    if "*" in settings.operation[:-1]:
        raise RouteError(f'{place}.operation: expected "*" at the end only, got "{settings.operation}"')
    if settings.path and comparable_path(settings.path) != settings.path:
        raise RouteError(f'{place}.path: expected a plain path prefix, got "{settings.path}"')
    if settings.path and not settings.path.startswith("/"):
        raise RouteError(f'{place}.path: expected a prefix that begins with "/", got "{settings.path}"')
    _check_template(f"{place}.upstream_path", settings.upstream_path)
    conditions = []
    for key, value in settings.when.items():
        try:
            conditions.append(compile_condition(key, value))
        except ValueError as error:
            raise RouteError(f"{place}.when.{key}: {error}") from None
    return Route(settings, index, tuple(conditions))


def _check_template(place: str, template: str) -> None:
    if not template.startswith("/") or not template.isascii() or _UNFIT.search(template) or _has_dot_segment(template):
        raise RouteError(f'{place}: expected a path that begins with "/", got "{template}"')
    for name in _PLACEHOLDER.findall(template):
        if name not in _SIMPLE and not _HEADER.fullmatch(name):
            known = "{operation}, {device}, {user}, {app} or {header:name}"
            raise RouteError(f'{place}: expected {known}, got "{{{name}}}"')
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise RouteError(f'{place}: a brace has no partner in "{template}"')
