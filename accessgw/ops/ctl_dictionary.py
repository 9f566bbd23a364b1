"""accessgwctl dictionary ...: train, look at, activate and roll back dictionaries of bodies."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accessgw.ops.ctl_session import FAILED, Session, Usage, complain
from accessgw.ops.ctl_view import dated, printable

POLL = 0.2
"""Seconds between two looks at a training."""
Run = Callable[[Session, argparse.Namespace], None]


def _list(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("GET", "/v1/dictionaries", role="read")
    if session.as_json:
        session.show(answer)
        return
    if not answer["enabled"]:
        print("dictionaries.enabled is false: nothing is sampled, none are used", file=sys.stderr)
    session.show([_row(row) for row in answer["dictionaries"]], title="dictionaries")
    if options.classes:
        session.show(answer["classes"], title="sampled classes")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """What fits on a line."""
    state = row["state"]
    if state == "training":
        state += f" {row['percent']} %"
    elif state == "canary":
        state += f" {100 * row['share']:.3g} %"
    told = {name: row[name] for name in ("size", "expected", "bodies", "ratio", "errors", "reason")}
    return {"id": row["id"], "app": row["app"], "classes": row["classes"], "state": state, **told}


def _show(session: Session, options: argparse.Namespace) -> None:
    _show_one(session, session.client.request("GET", f"/v1/dictionaries/{options.id}", role="read"))


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    return dated(row, "created_at", "changed_at", "forgotten_at")


def _train(session: Session, options: argparse.Namespace) -> None:
    if options.classes and options.app is None:
        raise Usage("CLASS: give --app, too; an empty one is that of devices without a name for it")
    body: dict[str, Any] = {"classes": options.classes} if options.classes else {}
    if options.app is not None:
        body["app"] = options.app
    begun = session.client.request("POST", "/v1/dictionaries/train", json.dumps(body), role="operate")["dictionaries"]
    ids = [row["id"] for row in begun]
    rows = begun if options.no_wait else _follow(session, ids)
    session.show({"dictionaries": rows} if session.as_json else [_row(row) for row in rows])
    for row in rows:
        if row["state"] == "refused":
            session.code = complain(f"dictionary {row['id']} was refused: {row['reason']}", FAILED)


def _follow(session: Session, ids: list[int]) -> list[dict[str, Any]]:
    """Show how the trainings go on, on standard error if that is a terminal; the rows at the end."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = session.console.__class__(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[int, TaskID] = {}
        while True:
            rows = [session.client.request("GET", f"/v1/dictionaries/{id}", role="read") for id in ids]
            for row in rows:
                if row["id"] not in tasks:
                    name = printable(f"{row['id']} {', '.join(row['classes'])}")
                    tasks[row["id"]] = progress.add_task(name, total=100)
                progress.update(tasks[row["id"]], completed=row["percent"])
            if all(row["state"] != "training" for row in rows):
                return rows
            time.sleep(POLL)


def _show_one(session: Session, row: dict[str, Any]) -> None:
    session.show(row if session.as_json else _dated(row))


def _activate(session: Session, options: argparse.Namespace) -> None:
    body = json.dumps({"share": options.share}) if options.share is not None else ""
    _show_one(session, session.client.request("POST", f"/v1/dictionaries/{options.id}/activate", body, role="operate"))


def _rollback(session: Session, options: argparse.Namespace) -> None:
    _show_one(session, session.client.request("POST", f"/v1/dictionaries/{options.id}/rollback", role="operate"))


def _save(session: Session, options: argparse.Namespace) -> None:
    content = session.client.content(f"/v1/dictionaries/{options.id}/content", role="read")
    try:
        Path(options.file).write_bytes(content)
    except OSError as error:
        session.code = complain(f"{options.file}: {error.strerror}", FAILED)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `dictionary` with its commands to the subparsers of accessgwctl."""
    dictionary = commands.add_parser("dictionary", parents=[common], help="dictionaries that make bodies smaller")
    inner = dictionary.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help_: str, *, takes_id: bool = True) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = inner.add_parser(
            name, parents=[common], help=help_, description=help_[0].upper() + help_[1:] + "."
        )
        one.set_defaults(run=run)
        if takes_id:
            one.add_argument("id", type=int, metavar="ID")
        return one

    train = command("train", _train, "make dictionaries of what devices sent and got; waits for them", takes_id=False)
    train.add_argument(
        "classes",
        nargs="*",
        metavar="CLASS",
        help="one dictionary for these: q, a or p, then operation or biz, * at the end for a prefix"
        " (qpayments.pay, a*); each class that has enough bodies gets one when left out",
    )
    train.add_argument("--app", help="only of this app")
    train.add_argument("--no-wait", action="store_true", help="do not wait for the end")
    list_ = command("list", _list, "dictionaries, their states and what they save", takes_id=False)
    list_.add_argument("--classes", action="store_true", help="also what is sampled")
    command("show", _show, "everything about one")
    command("save", _save, "write its content to a file").add_argument("file", metavar="FILE")
    activate = command("activate", _activate, "give it to every device, or to a share of them as a canary")
    activate.add_argument("--share", type=float, help="more than 0 and at most 1")
    command("rollback", _rollback, "take it away; the one before it comes back")
