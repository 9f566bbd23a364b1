"""What HTTP/1.1 connections report, for both roles."""

from __future__ import annotations

from dataclasses import dataclass

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class RequestReceived:
    """Server: the head of a request."""

    method: str
    target: str
    headers: Headers
    version: str
    keep_alive: bool
    expect_continue: bool = False
    upgrade: str = ""


@dataclass(slots=True)
class ResponseReceived:
    """Client: the head of a final (not 1xx) response."""

    status: int
    headers: Headers
    keep_alive: bool
    length: int | None = None
    """Bytes of the body, when the head says so."""


@dataclass(slots=True)
class DataReceived:
    """A part of the body."""

    data: bytes


@dataclass(slots=True)
class MessageComplete:
    """The body is complete."""


HttpEvent = RequestReceived | ResponseReceived | DataReceived | MessageComplete
