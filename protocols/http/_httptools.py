"""Heads split by llhttp, through the package httptools."""

from __future__ import annotations

import httptools


class _Fields:
    """Receives the parser's callbacks."""

    __slots__ = ("complete", "fields", "on_header")

    def __init__(self) -> None:
        self.complete = False
        self.fields: list[tuple[bytes, bytes]] = []
        append = self.fields.append

        def on_header(name: bytes, value: bytes) -> None:
            append((name, value))

        self.on_header = on_header

    def on_headers_complete(self) -> None:
        self.complete = True


def split_request(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header fields of a complete request head, as sent; ValueError for a bad one."""
    fields = _Fields()
    return _feed(httptools.HttpRequestParser(fields), fields, head)


def split_response(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header fields of a complete response head, as sent; ValueError for a bad one."""
    fields = _Fields()
    return _feed(httptools.HttpResponseParser(fields), fields, head)


def _feed(
    parser: httptools.HttpRequestParser | httptools.HttpResponseParser, fields: _Fields, head: bytes
) -> list[tuple[bytes, bytes]]:
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the parser stops after the head, which is all that we gave it
    except httptools.HttpParserError as error:
        raise ValueError(str(error)) from None
    if not fields.complete:
        raise ValueError("the head is not complete")
    return fields.fields
