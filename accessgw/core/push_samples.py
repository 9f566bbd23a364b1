"""Bodies of pushes as samples for dictionaries: those to one user or device, with whose they are."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.core.registry import SessionRegistry
from accessgw.model.pushes import PushRequest, Scope
from protocols.mmtp.dictionaries import PUSH_KIND


class PushSamples:
    """Called with each push once. The application is that of a session of the receiver; without one nobody knows it,
    nor whose device it is, so that the body is nobody's sample. Topics and broadcasts have no receiver to count."""

    def __init__(self, registry: SessionRegistry, observe: Callable[[str, str, str, str, bytes], None]) -> None:
        """`observe` is DictionaryService.observe."""
        self._registry = registry
        self._observe = observe

    def __call__(self, push: PushRequest) -> None:
        scope, id, biz = push.stream
        if scope == Scope.DEVICE:
            session = self._registry.by_device(id)
        elif scope == Scope.USER:
            session = self._registry.any_of_user(id)
        else:
            return
        if session is not None:
            identity = session.identity
            self._observe(identity.app, PUSH_KIND, biz, identity.owner, push.body)
