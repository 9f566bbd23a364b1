"""Dictionaries of bodies for ordinary HTTP clients: content coding `dcz`, negotiated as RFC 9842 says.

A path route that names an operation (`bodies`) uses the dictionary of that operation's answers. Dictionaries lie at
well-known paths, as raw content, for everybody; a response tells where (Link), and the dictionary tells for which paths
it is (Use-As-Dictionary).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, unquote

from accessgw.core.http_calls import WHOLE, respond_error
from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.dictionaries import PublicDictionaries
from accessgw.core.interfaces.http import HttpExchange
from accessgw.model.calls import Call, Headers
from accessgw.model.counters import DictionaryCounters
from accessgw.model.route_settings import RouteSettings
from accessgw.policy.http_codings import (
    dictionary_allowed,
    only_coding,
    outermost_coding,
    transformable,
    weak_etag,
    with_vary,
    without_coding,
)
from accessgw.policy.routing import RouteTable
from protocols.errors import RemoteError
from protocols.http.dcz import (
    CODING,
    HEADER_SIZE,
    MAGIC,
    VARY,
    DczDictionary,
    accepts_dcz,
    available_dictionary,
    use_as_dictionary,
)
from protocols.mmtp.bundles import Bundle, ClassMap
from protocols.mmtp.dictionaries import ANSWER_KIND, Dictionary

PATH = "/.well-known/accessgw/dictionary/"
"""Below it: the digest (16 hexadecimal digits) or `active`, then the path of the route."""
ACTIVE = "active"
MAX_AGE = 7 * 86400
"""Seconds that a client may use a dictionary without asking for it anew."""
MAX_REQUEST = 1024 * 1024
"""Bytes of a request body in dcz, before and after: it is expanded in one go, on the reactor's thread."""
LEAST = 64
"""Bytes of a body that is worth the 40 that dcz puts in front."""

_DIGEST = re.compile(r"[0-9a-f]{16}")
_SPECIAL = re.compile(r"[:*+?(){}\\]")
"""What means something in a URL pattern."""
_UNRESERVED = "/-._~!$&'()*+,;=:@"
_DOCUMENTS = frozenset({"document", "iframe", "frame"})
_OWN = frozenset({"available-dictionary", "dictionary-id"})
_ENCODED = frozenset({"content-length", "transfer-encoding", "content-encoding"})
_DIGESTS = frozenset({"content-digest", "repr-digest", "digest", "content-md5"})
"""They are of the bytes in their coding (RFC 9530 section 2)."""


class _App:
    """What an app's dictionaries are for HTTP, until they change."""

    __slots__ = ("active", "by_digest")

    def __init__(
        self, active: Bundle | None, by_digest: dict[bytes, tuple[Dictionary, DczDictionary, ClassMap]]
    ) -> None:
        self.active = active
        self.by_digest = by_digest
        """By SHA-256: those in force and those of earlier."""


class HttpDictionaries:
    """`routes` gives the table in force. `enabled` may be changed at any time."""

    def __init__(
        self,
        service: PublicDictionaries,
        routes: Callable[[], RouteTable],
        clock: Clock,
        counters: DictionaryCounters,
        *,
        enabled: bool,
    ) -> None:
        self.enabled = enabled
        self.counters = counters
        self._service = service
        self._routes = routes
        self.clock = clock
        self._apps: dict[str, _App] = {}
        self._made: dict[int, DczDictionary] = {}
        self._looked_at: RouteTable | None = None
        self._any = False
        service.on_change(self._changed)

    # ---------------------------------------------------------------- calls

    def coding_for(self, call: Call) -> BodyCoding | None:
        """What becomes of the bodies of an HTTP call, None: they pass as they are.

        What the client said about dictionaries is taken out of `call.headers`: it is the gateway's business here.
        """
        if not self.enabled:
            return None
        routes = self._routes()
        if routes is not self._looked_at:
            self._looked_at = routes
            self._any = any(route.settings.bodies for route in routes.routes)
        match = routes.match(call, self.clock.seconds()) if self._any else None
        if match is None or not self._usable(match.settings):
            return None
        return BodyCoding(self, call, match.settings)

    def held_by(self, route: RouteSettings, digest: bytes) -> DczDictionary | None:
        """The dictionary with this SHA-256, when it is one of answers like the route's and not forgotten."""
        found = self._app(route.bodies_app).by_digest.get(digest)
        if found is None:
            return None
        dictionary, dcz, classes = found
        if self._service.dictionary(dictionary.id) is None:
            return None
        return dcz if classes.for_class(ANSWER_KIND, route.bodies) is not None else None

    def active(self, route: RouteSettings) -> Dictionary | None:
        """The one in force for everybody."""
        bundle = self._app(route.bodies_app).active
        return bundle.for_class(ANSWER_KIND, route.bodies) if bundle is not None else None

    def sha256(self, dictionary: Dictionary) -> bytes:
        return self._dcz(dictionary).digest

    def observe(self, call: Call, route: RouteSettings, body: bytes) -> None:
        """Offer an answer as a sample. Nobody's in particular says nothing of how many users have it in common."""
        user = call.identity.owner
        if user:
            self._service.observe(route.bodies_app, ANSWER_KIND, route.bodies, user, body)

    def _usable(self, route: RouteSettings) -> bool:
        return bool(route.bodies) and not route.secret and not self._service.is_secret(route.bodies)

    def _app(self, name: str) -> _App:
        app = self._apps.get(name)
        if app is None:
            by_digest = {}
            for one in self._service.used(name):
                dcz = self._dcz(one)
                by_digest[dcz.digest] = one, dcz, ClassMap(dict.fromkeys(one.classes, one))
            app = self._apps[name] = _App(self._service.active(name), by_digest)
        return app

    def _dcz(self, dictionary: Dictionary) -> DczDictionary:
        made = self._made.get(dictionary.id)
        if made is None:
            made = self._made[dictionary.id] = DczDictionary(dictionary.content)
        return made

    def _changed(self, app: str) -> None:
        self._apps.pop(app, None)
        self._made = {id: dcz for id, dcz in self._made.items() if self._service.dictionary(id) is not None}

    # ---------------------------------------------------------------- the dictionaries themselves

    def serve(self, exchange: HttpExchange) -> None:
        """Answer GET or HEAD on a path below PATH."""
        name, _, rest = exchange.request.path.removeprefix(PATH).partition("/")
        path = unquote("/" + rest)
        found = self._published(name, path) if self.enabled else None
        if found is None:
            message = "no dictionary in force has this digest and path"
            respond_error(exchange, 404, "not_found", message, [("cache-control", "no-store")])
            return
        public = [("access-control-allow-origin", "*"), ("x-content-type-options", "nosniff")]
        if name == ACTIVE:
            exchange.respond(307, [("location", link(found, path)), ("cache-control", "no-cache"), *public], b"")
            return
        tag = f'"{name}"'
        headers: Headers = [
            ("cache-control", f"public, max-age={MAX_AGE}, immutable"),
            ("etag", tag),
            ("use-as-dictionary", use_as_dictionary(pattern(path))),
            *public,
        ]
        if tag in exchange.request.header("if-none-match"):
            exchange.respond(304, headers, b"")
            return
        self.counters.http_fetched += exchange.request.method == "GET"
        exchange.respond(200, [("content-type", "application/octet-stream"), *headers], found.content)

    def _published(self, name: str, path: str) -> Dictionary | None:
        if name != ACTIVE and not _DIGEST.fullmatch(name):
            return None
        for route in self._routes().routes:
            settings = route.settings
            if settings.path == path and self._usable(settings):
                dictionary = self.active(settings)
                if dictionary is not None and name in (ACTIVE, dictionary.digest.hex()):
                    return dictionary
        return None


class BodyCoding:
    """What becomes of the bodies of one call."""

    __slots__ = ("_asked", "_call", "_dictionaries", "_held", "_link", "_route", "receives")

    def __init__(self, dictionaries: HttpDictionaries, call: Call, route: RouteSettings) -> None:
        self._dictionaries = dictionaries
        self._call = call
        self._route = route
        self._asked = call.headers
        """What the client said, for the decision about the answer."""
        self._held: DczDictionary | None = None
        """What the answer may be compressed with."""
        self._link = ""
        self.receives = outermost_coding(call.headers) == CODING and transformable(call.headers)
        """The request's body is in dcz, and to be expanded before the upstream gets it."""
        self._negotiate()

    @property
    def limit(self) -> int:
        """Bytes of a request body in dcz, before and after."""
        return min(self._route.max_request_body, MAX_REQUEST)

    def wait(self, status: int, headers: Headers, due: Callable[[], None]) -> Callable[[], None] | None:
        """Whether the rest of an answer of unknown length should be waited for until the end of this turn, since a
        short one that came at once can go in dcz. Then `due` is called; the result stops that."""
        if self._call.http_method == "HEAD" or not self._eligible(status, headers):
            return None
        if any(name == "content-length" for name, _ in headers):
            return None
        timer = self._dictionaries.clock.callLater(0, due)
        return lambda: timer.cancel() if timer.active() else None

    def _negotiate(self) -> None:
        call = self._call
        accepts = any(name == "accept-encoding" and accepts_dcz(value) for name, value in call.headers)
        # Browsers name dcz only when they hold a dictionary, and look for Link on documents.
        document = any(name == "sec-fetch-dest" and value in _DOCUMENTS for name, value in call.headers)
        if (accepts or document) and transformable(call.headers):
            said = [value for name, value in call.headers if name == "available-dictionary"]
            digest = available_dictionary(said[0]) if len(said) == 1 else None
            if accepts and digest is not None and not any(name == "range" for name, _ in call.headers):
                self._held = self._dictionaries.held_by(self._route, digest)
            active = self._dictionaries.active(self._route)
            if active is not None and self._dictionaries.sha256(active) != digest:
                self._link = f'<{link(active, self._route.path)}>; rel="compression-dictionary"'
        headers = [header for header in call.headers if header[0] not in _OWN]
        if self._held is not None and dictionary_allowed(call.headers, None):
            # What the upstream compresses cannot be compressed with a dictionary any more.
            call.headers = only_coding(headers, "identity")
        else:
            call.headers = without_coding(headers, (CODING, "dcb"))

    # ---------------------------------------------------------------- the answer

    def head(self, status: int, headers: Headers) -> Headers:
        """The head of an answer whose body passes as it is, or has none."""
        if self._call.secret:
            return headers
        headers = with_vary(headers, VARY)
        if status == 200:
            if self._link:
                headers.append(("link", self._link))
            if self._call.http_method == "HEAD" and self._eligible(status, headers):
                # That of the answer to GET, which would come in dcz: nobody knows it (RFC 9110 section 8.6).
                headers = [header for header in headers if header[0] != "content-length"]
        return headers

    def whole(self, status: int, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        """A whole answer, in dcz where that may be and is smaller."""
        if self._call.secret:
            return headers, body
        plain = status == 200 and outermost_coding(headers) == ""
        if plain and body:
            self._dictionaries.observe(self._call, self._route, body)
        headers = self.head(status, headers)
        if not plain or not LEAST <= len(body) <= WHOLE or not self._eligible(status, headers):
            return headers, body
        assert self._held is not None
        packed = self._held.encode(body)
        counters = self._dictionaries.counters
        counters.http_bodies += 1
        counters.http_raw += len(body)
        counters.http_packed += len(packed if packed is not None else body)
        if packed is None:
            return headers, body
        kept = [(name, weak_etag(value) if name == "etag" else value)
                for name, value in headers if name != "accept-ranges"]  # fmt: skip
        return [*kept, ("content-encoding", CODING)], packed

    def _eligible(self, status: int, headers: Headers) -> bool:
        names = {name for name, _ in headers}
        return (
            self._held is not None
            and status == 200
            and not names & {"content-encoding", "content-range", *_DIGESTS}
            and transformable(headers)
            and dictionary_allowed(self._asked, headers)
        )

    # ---------------------------------------------------------------- the request

    def expand(self, body: bytes) -> bytes:
        """A whole request body in dcz, expanded; `call.headers` then speak of what it was.

        Raises RemoteError: 415 for a dictionary that is not known, 413 for a body that is too large, else 400.
        """
        try:
            expanded = self._expand(body)
        except RemoteError:
            self._dictionaries.counters.http_refused += 1
            raise
        call = self._call
        rest = [part.strip() for name, value in call.headers if name == "content-encoding" for part in value.split(",")]
        codings = [part for part in rest if part][:-1]
        call.headers = [h for h in call.headers if h[0] not in _ENCODED and h[0] not in _DIGESTS]
        if codings:
            call.headers.append(("content-encoding", ", ".join(codings)))
        call.headers.append(("content-length", str(len(expanded))))
        return expanded

    def _expand(self, body: bytes) -> bytes:
        if not body.startswith(MAGIC) or len(body) < HEADER_SIZE:
            raise RemoteError(
                400, f"dcz: expected its header of {HEADER_SIZE} bytes, got {body[:8].hex() or 'nothing'}"
            )
        digest = body[len(MAGIC) : HEADER_SIZE]
        dictionary = self._dictionaries.held_by(self._route, digest)
        if dictionary is None:
            raise RemoteError(415, f"dcz: no dictionary of this path has the SHA-256 {digest.hex()}")
        return dictionary.decode(body, self.limit)


def link(dictionary: Dictionary, path: str) -> str:
    """Where the dictionary lies for a route's path."""
    return f"{PATH}{dictionary.digest.hex()}{quote(path, safe=_UNRESERVED)}"


def pattern(path: str) -> str:
    """The URL pattern of what begins with a path."""
    return _SPECIAL.sub(r"\\\g<0>", quote(path, safe=_UNRESERVED)) + "*"
