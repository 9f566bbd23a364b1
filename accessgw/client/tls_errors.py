"""What OpenSSL says of a connection: in words, and whether the peer refused who we are."""

from __future__ import annotations

import re
import ssl

from OpenSSL import SSL

from protocols.tls.alerts import alert_for_words, reasons_of

REFUSALS = frozenset((42, 43, 44, 45, 46, 47, 48, 116))
"""Alerts for a certificate, or for the lack of one (RFC 8446 section 6.2): another hand-shake would meet them again."""

_SAID = re.compile(r"(?:\[[A-Z0-9_]+(?:: [A-Z0-9_]+)?\] )?(.+?)(?: \(_ssl\.c:[0-9]+\))?")
"""How Python's module ssl has it: `[SSL: UNKNOWN_CA] unknown ca (_ssl.c:2580)`."""


def words_of(error: BaseException) -> str:
    """For people: an error of OpenSSL's without the names of library, function and file, another one as it is, never
    nothing."""
    if isinstance(error, SSL.Error):
        return f"TLS: {reasons_of(error)}"
    if isinstance(error, ssl.SSLError) and (said := _SAID.fullmatch(str(error))):
        return f"TLS: {said[1]}"
    return str(error) or type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """The peer has sent one of the REFUSALS."""
    if isinstance(error, SSL.Error):
        reason = reasons_of(error)
    elif isinstance(error, ssl.SSLError):
        reason = str(error).replace("_", " ")
    else:
        return False
    # what we find wrong ourselves has no such word
    return "alert" in reason.lower() and alert_for_words(reason) in REFUSALS
