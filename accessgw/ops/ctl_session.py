"""What the commands of accessgwctl share: the client, the way to print, exit codes and errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rich.console import Console

from accessgw.ops import ctl_json
from accessgw.ops.ctl_client import ControlClient
from accessgw.ops.ctl_view import event_line, printable, show

PIPE_WIDTH = 400
OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


class Usage(Exception):
    """Arguments that fit the parser but make no sense."""


class Session:
    """One run: the client and the way to print."""

    def __init__(self, client: ControlClient, as_json: bool) -> None:
        self.client = client
        self.as_json = as_json
        self.code = OK
        # a pipe has no width that a table would have to fit
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
        self.console: Console = _Console(width=wide, highlight=False)

    def show(self, answer: Any, *, title: str = "") -> None:
        """Print an answer."""
        if self.as_json:
            print(ctl_json.dumps(answer, indent=2))
        else:
            show(self.console, answer, title)

    def show_events(self, path: str, wanted: Callable[[dict[str, Any]], bool] = lambda event: True) -> None:
        """Print events, a line each, until the gateway or the person ends them."""
        for event in self.client.events(path):
            if wanted(event):
                self.show_event(event)

    def show_event(self, event: dict[str, Any]) -> None:
        """Print one event."""
        if self.as_json:
            print(ctl_json.dumps(event), flush=True)
        else:
            self.console.print(event_line(event), soft_wrap=True)


class _Console(Console):
    """Rich's own handling of a reader that went away ends the process with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def complain(message: str, code: int) -> int:
    """Print a complaint on standard error; gives back `code`."""
    for line in message.splitlines():
        print(f"accessgwctl: {printable(line)}", file=sys.stderr)
    return code


def quoted(part: str) -> str:
    """A part of a path, percent-encoded, slashes too."""
    return quote(part, safe="")
