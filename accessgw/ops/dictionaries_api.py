"""The paths under /v1/dictionaries."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.dictionaries import DictionaryControl
from accessgw.ops.http_api import Reply, Request, Route
from accessgw.ops.queries import shown

MAX_CLASSES = 64


class DictionariesApi:
    """Handlers over a DictionaryControl; without one the paths answer 404 `not_enabled`."""

    def __init__(self, control: DictionaryControl | None) -> None:
        self._given = control

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/dictionaries", "read", self._overview),
            Route("POST", "/v1/dictionaries/train", "operate", self._train),
            Route("GET", "/v1/dictionaries/{id}", "read", self._show),
            Route("GET", "/v1/dictionaries/{id}/content", "read", self._content),
            Route("POST", "/v1/dictionaries/{id}/activate", "operate", self._activate),
            Route("POST", "/v1/dictionaries/{id}/rollback", "operate", self._roll_back),
        ]

    @property
    def _control(self) -> DictionaryControl:
        if self._given is None:
            raise ControlError(404, "not_enabled", "this gateway has no dictionaries")
        return self._given

    def _overview(self, _request: Request) -> Reply:
        return Reply(self._control.overview())

    def _show(self, request: Request) -> Reply:
        return Reply(self._control.show(_id(request)))

    def _content(self, request: Request) -> Reply:
        content = self._control.content(_id(request))
        return Reply(content, headers=(("content-type", "application/octet-stream"),))

    def _train(self, request: Request) -> Deferred[Reply]:
        body = _body(request, "app", "classes")
        app = body.get("app")
        if app is not None and not isinstance(app, str):
            raise ControlError(400, "invalid", f"app: expected a string, got {shown(app)}", "app")
        classes = body.get("classes", [])
        if not isinstance(classes, list) or len(classes) > MAX_CLASSES or not all(_is_class(name) for name in classes):
            raise ControlError(
                400, "invalid", f"classes: expected at most {MAX_CLASSES} names such as qpayments.pay", "classes"
            )
        return self._control.train(app, sorted(set(classes))).addCallback(lambda rows: Reply({"dictionaries": rows}))

    def _activate(self, request: Request) -> Deferred[Reply]:
        share = _body(request, "share").get("share", 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ControlError(
                400, "invalid", f"share: expected more than 0 and at most 1, got {shown(share)}", "share"
            )
        return self._control.activate(_id(request), float(share)).addCallback(Reply)

    def _roll_back(self, request: Request) -> Deferred[Reply]:
        _body(request)
        return self._control.roll_back(_id(request)).addCallback(Reply)


def _id(request: Request) -> int:
    text = request.params["id"]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ControlError(404, "not_found", f"no such dictionary: {text}")
    return int(text)


def _body(request: Request, *known: str) -> dict[str, Any]:
    body = request.json()
    for key in body:
        if key not in known:
            expected = " or ".join(known) or "none"
            raise ControlError(400, "invalid", f"{key}: unknown key, expected {expected}", key)
    return body


def _is_class(name: Any) -> bool:
    return isinstance(name, str) and len(name) > 1 and name[0] in "qap"
