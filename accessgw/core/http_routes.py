"""What the public HTTP listeners serve: short connections, the gateway's description, and routes by path."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import json
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.core.authentication import AdmissionRefused, AuthenticatorChain
from accessgw.core.http_calls import HttpCall, respond_error
from accessgw.core.http_dictionaries import PATH as DICTIONARY_PATH
from accessgw.core.http_dictionaries import HttpDictionaries
from accessgw.core.interfaces.calls import CallService
from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.http import HttpExchange, HttpHandler, HttpUpload
from accessgw.core.introductions import is_device_id
from accessgw.model.calls import Call, Headers
from accessgw.model.http import BodyCollector, HttpRequest
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.reasons import CloseReason
from protocols.mmtp.short import PATH as SHORT_PATH
from protocols.mmtp.statuses import Status

log = Logger()

DESCRIPTION_PATH = "/.well-known/accessgw"
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
"""CONNECT asks for a tunnel, TRACE would echo headers that the gateway added (RFC 9110, 9.3.6 and 9.3.8)."""
_SAFE_EARLY = frozenset({"GET", "HEAD"})
"""Methods of requests in 0-RTT data (RFC 8470 section 4); and of those only what a route calls idempotent is done."""


class HttpRoutes:
    """An HttpHandler. `describe` gives the body of /.well-known/accessgw; without `dictionaries` there are none."""

    def __init__(
        self,
        *,
        short: HttpHandler,
        calls: CallService,
        chain: AuthenticatorChain,
        clock: Clock,
        describe: Callable[[], dict[str, object]],
        dictionaries: HttpDictionaries | None = None,
    ) -> None:
        self._short = short
        self._calls = calls
        self._chain = chain
        self._clock = clock
        self._describe = describe
        self._dictionaries = dictionaries

    def __call__(self, exchange: HttpExchange) -> HttpUpload:
        request = exchange.request
        path = request.path
        if request.early and request.method not in _SAFE_EARLY:
            return _refuse(exchange, 425, "too_early", "try again after the TLS hand-shake")
        if path == SHORT_PATH:
            if request.method == "POST":
                return self._short(exchange)
            return _refuse(exchange, 405, "method_not_allowed", "expected POST", [("allow", "POST")])
        if path == DESCRIPTION_PATH:
            if request.method not in ("GET", "HEAD"):
                return _refuse(exchange, 405, "method_not_allowed", "expected GET", [("allow", "GET, HEAD")])
            headers = [("content-type", "application/json"), ("cache-control", "no-store")]
            exchange.respond(200, headers, json.encode(self._describe()))
            return _ignored()
        if path.startswith(DICTIONARY_PATH) and self._dictionaries is not None:
            if request.method not in ("GET", "HEAD"):
                return _refuse(exchange, 405, "method_not_allowed", "expected GET", [("allow", "GET, HEAD")])
            self._dictionaries.serve(exchange)
            return _ignored()
        if request.method in _REFUSED_METHODS:
            return _refuse(exchange, 405, "method_not_allowed", f"{request.method} is not served")
        if not request.target.startswith("/"):
            return _refuse(exchange, 400, "bad_request", "expected a target that begins with /")
        served = HttpCall(exchange)
        Deferred.fromCoroutine(self._serve(served, self._clock.seconds())).addErrback(self._defect, served)
        return served

    async def _serve(self, served: HttpCall, received_at: float) -> None:
        request = served.exchange.request
        try:
            identity = await self._identify(request)
        except AdmissionRefused as error:
            served.refuse(error.status)
            return
        # What proved the identity here is not the upstream's business.
        hidden = identity.strength > Strength.ANONYMOUS and _bearer(request)
        call = Call(
            operation="",
            identity=identity,
            call_id=0,
            headers=[h for h in request.headers if not (hidden and h[0] == "authorization")],
            binding="http",
            connection=request.connection,
            http_method=request.method,
            http_target=request.target,
            early=request.early,
            received_at=received_at,
        )
        coding = self._dictionaries.coding_for(call) if self._dictionaries is not None else None
        served.start(self._calls, call, coding)

    async def _identify(self, request: HttpRequest) -> Identity:
        """Who asks: by bearer token (RFC 6750), by a verified client certificate, or by both, as the chain takes them of a
        HELLO; else nobody. Without x-device-id it is the device that the certificate names. Raises AdmissionRefused where an
        authenticator refuses."""
        token, info = _bearer(request), request.connection
        certificate = info.certificate_identity
        # A certificate that names what no device may be called proves no device, as at HELLO.
        if token or is_device_id(certificate):
            device = request.header("x-device-id") or certificate
            if device and not is_device_id(device):
                raise AdmissionRefused(Status.PROTOCOL, CloseReason.PROTOCOL_ERROR, "x-device-id is no device id")
            identity = await self._chain.authenticate(
                Credentials(
                    device=device,
                    token=token,
                    certificate_identity=certificate,
                    loopback=info.loopback,
                    peer=info.peer,
                )
            )
            if identity is not None:
                return identity
        return Identity(device="", strength=Strength.ANONYMOUS)

    def _defect(self, failure: Failure, served: HttpCall) -> None:
        log.failure("an HTTP request failed", failure=failure)
        served.refuse(Status.INTERNAL)


def _bearer(request: HttpRequest) -> str:
    """The token in `authorization`; empty without one."""
    scheme, _, token = request.header("authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refuse(exchange: HttpExchange, status: int, code: str, message: str, headers: Headers | None = None) -> HttpUpload:
    respond_error(exchange, status, code, message, headers)
    return _ignored()


def _ignored() -> HttpUpload:
    """For a request that is answered already: its body is read past."""
    return BodyCollector(0, lambda body: None, lambda: None)
