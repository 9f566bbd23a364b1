"""accessgwctl keys ...: secrets of tickets, and what is not taken any more."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from accessgw.ops.ctl_session import Session

Run = Callable[[Session, argparse.Namespace], None]


def _list(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("GET", "/v1/keys", role="read")
    if session.as_json:
        session.show(answer)
        return
    session.show([_dated(row) for row in answer["epochs"]], title="epochs")
    session.show(answer["revoked"], title="revoked")


def _rotate(session: Session, options: argparse.Namespace) -> None:
    row = session.client.request("POST", "/v1/keys/rotate", role="operate")
    session.show(row if session.as_json else _dated(row))


def _revoke(session: Session, options: argparse.Namespace) -> None:
    body = {name: getattr(options, name) for name in ("epoch", "device", "certificate")}
    if options.certificate is not None:
        # openssl prints "sha256 Fingerprint=..."
        body["certificate"] = options.certificate.rpartition("=")[2]
    given = json.dumps({name: value for name, value in body.items() if value is not None})
    session.show(session.client.request("POST", "/v1/keys/revoke", given, role="operate"))


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its times as a person reads them."""
    times = {name: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row[name])) for name in ("made", "mints_from")}
    return row | times


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `keys` with its commands to the subparsers of accessgwctl."""
    keys = commands.add_parser("keys", parents=[common], help="secrets of tickets, and who is not let in any more")
    inner = keys.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help_: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = inner.add_parser(
            name, parents=[common], help=help_, description=help_[0].upper() + help_[1:] + "."
        )
        one.set_defaults(run=run)
        return one

    command("list", _list, "the epochs in force, and how much is revoked")
    command("rotate", _rotate, "make tickets with a new secret; the tickets of the last two stay good")
    revoke = command("revoke", _revoke, "make tickets worthless, or a certificate")
    what = revoke.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--epoch", type=int, metavar="NUMBER", help="all tickets of an epoch; its devices connect in full"
    )
    what.add_argument("--device", help="all tickets that a device has now, its session and its connection")
    what.add_argument("--certificate", metavar="SHA256", help="a client certificate, for good, by its fingerprint")
