"""accessgwctl keys ...: secrets of tickets, and what is not taken any more."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from accessgw.ops.ctl_client import Refused, Unreachable
from accessgw.ops.ctl_session import OK, Session, Usage, complain, quoted
from accessgw.ops.ctl_view import dated

LOOK = 5.0
"""Seconds to wait for what is asked only to give a hint."""

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
    if session.as_json:
        session.show(row)
        return
    new = row.pop("new")
    shown = _dated(row)
    session.show(shown)
    if not new:
        complain(f"no other was made: epoch {row['epoch']} waits already, until {shown['mints_from']}", OK)


def _revoke(session: Session, options: argparse.Namespace) -> None:
    body = {name: getattr(options, name) for name in ("epoch", "device", "certificate")}
    if options.certificate is not None:
        body["certificate"] = _fingerprint(options.certificate)
    given = json.dumps({name: value for name, value in body.items() if value is not None})
    answer = session.client.request("POST", "/v1/keys/revoke", given, role="operate")
    session.show(answer)
    # asked when it is done: a revocation waits for nothing
    if options.device is not None and not answer["closed"] and _is_unknown(session, options.device):
        complain(
            f"this gateway knows no device {options.device} (no session, nothing stored): is it spelt so?"
            " If it is, tickets that it has from before are void all the same",
            OK,
        )


def _fingerprint(words: list[str]) -> str:
    """What openssl prints, `sha256 Fingerprint=AB:CD...`, is two words where a shell has split it."""
    name, _, digits = " ".join(words).rpartition("=")
    if name.lower() not in ("", "sha256 fingerprint") or " " in digits:
        raise Usage(f"--certificate: expected one SHA-256 fingerprint, got {' '.join(words)}")
    return digits


def _is_unknown(session: Session, device: str) -> bool:
    """Whether the gateway says that it knows nothing of the device; False when it cannot be asked."""
    try:
        session.client.request("GET", f"/v1/devices/{quoted(device)}", role="read", timeout=LOOK)
    except Refused as refused:
        return refused.status == 404
    except Unreachable:
        return False
    return False


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    return dated(row, "made", "mints_from")


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

    command(
        "list", _list, "the epochs in force by number (a new store begins at any of 0 to 255), and how much is revoked"
    )
    command("rotate", _rotate, "make tickets with a new secret; the tickets of the last two stay good")
    revoke = command("revoke", _revoke, "make tickets worthless, or a certificate")
    what = revoke.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--epoch", type=int, metavar="NUMBER", help="all tickets of an epoch; its devices connect in full"
    )
    what.add_argument("--device", help="all tickets that a device has now, its session and its connection")
    what.add_argument(
        "--certificate",
        nargs="+",
        metavar="SHA256",
        help="a client certificate, for good, by its fingerprint, also as openssl x509 -fingerprint -sha256 prints it",
    )
