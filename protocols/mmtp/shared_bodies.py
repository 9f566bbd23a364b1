"""A push body and its codings, each made once for all receivers (specification, section 8)."""

from __future__ import annotations

from protocols.mmtp.bodies import compress
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.history import compress_after

MAX_FORMS = 64
"""Codings kept of one body: dictionaries in use, and histories that receivers have in common."""

_Key = tuple[bytes, bytes]
_EXPLICIT: _Key = (b"explicit", b"")


class SharedBody:
    """A body that goes to many receivers.

    Receivers of a broadcast that joined it at one place have the same history, so their minis are the same too.
    """

    __slots__ = ("_forms", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._forms: dict[_Key, bytes | None] = {}

    def explicit(self) -> bytes | None:
        """The body in coding 2, None when raw is better."""
        forms = self._forms
        if _EXPLICIT not in forms:
            self._keep(_EXPLICIT, compress(self.body))
        return forms[_EXPLICIT]

    def after(self, dictionary: Dictionary | None, history: bytes) -> bytes | None:
        """The body in coding 3 after `history` (History.tail), None when raw is better."""
        key = (b"" if dictionary is None else dictionary.digest, history)
        forms = self._forms
        if key not in forms:
            self._keep(key, compress_after(self.body, dictionary, history))
        return forms[key]

    def _keep(self, key: _Key, form: bytes | None) -> None:
        if len(self._forms) >= MAX_FORMS:
            del self._forms[next(iter(self._forms))]
        self._forms[key] = form
