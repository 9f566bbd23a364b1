"""Content codings of HTTP: what may be transformed, for whom a dictionary may be used, how fields change with it."""

from __future__ import annotations

from collections.abc import Collection

from accessgw.model.calls import Headers


def _first(headers: Headers, wanted: str) -> str:
    return next((value.strip() for name, value in headers if name == wanted), "")


def _items(headers: Headers, wanted: str) -> list[str]:
    """The members of a list field, in order."""
    members = (part.strip() for name, value in headers if name == wanted for part in value.split(","))
    return [member for member in members if member]


def outermost_coding(headers: Headers) -> str:
    """The content coding that was applied last, lower-cased; empty: none (RFC 9110 section 8.4)."""
    codings = _items(headers, "content-encoding")
    return codings[-1].lower() if codings else ""


def transformable(headers: Headers) -> bool:
    """Whether intermediaries may change the content (RFC 9111 sections 5.2.1.6 and 5.2.2.6)."""
    return all(item.lower() != "no-transform" for item in _items(headers, "cache-control"))


def dictionary_allowed(asked: Headers, answered: Headers | None) -> bool:
    """Whether a response may be compressed with a dictionary for who asks (RFC 9842 section 9.3.3).

    A page of another origin that may not read the response must not see how well it compresses. `answered` None:
    the answer is not there yet; True then means that it depends on the answer at most.
    """
    site = _first(asked, "sec-fetch-site").lower()
    mode = _first(asked, "sec-fetch-mode").lower()
    if site in ("", "same-origin") or mode in ("", "navigate", "same-origin"):
        return True
    origin = _first(asked, "origin")
    if mode != "cors" or not origin:
        return False
    return answered is None or _first(answered, "access-control-allow-origin") in ("*", origin)


def without_coding(headers: Headers, codings: Collection[str]) -> Headers:
    """Without these codings in Accept-Encoding; `identity` when nothing is left."""
    kept = []
    for name, value in headers:
        if name == "accept-encoding":
            items = [item.strip() for item in value.split(",")]
            left = [item for item in items if item and item.partition(";")[0].strip().lower() not in codings]
            # without the field every coding would do
            kept.append((name, ", ".join(left) or "identity"))
        else:
            kept.append((name, value))
    return kept


def only_coding(headers: Headers, coding: str) -> Headers:
    """With an Accept-Encoding of this coding only."""
    return [*((name, value) for name, value in headers if name != "accept-encoding"), ("accept-encoding", coding)]


def with_vary(headers: Headers, names: str) -> Headers:
    """A copy whose Vary field has these names, too (RFC 9110 section 12.5.5)."""
    present = _items(headers, "vary")
    if "*" in present:
        return list(headers)
    lower = {name.lower() for name in present}
    missing = [name for name in names.split(", ") if name not in lower]
    return [*(h for h in headers if h[0] != "vary"), ("vary", ", ".join([*present, *missing]))]


def weak_etag(value: str) -> str:
    """An entity tag for the same in another coding: equal in what it says, not in its bytes (RFC 9110, 8.8.1)."""
    return value if value.startswith("W/") else f"W/{value}"
