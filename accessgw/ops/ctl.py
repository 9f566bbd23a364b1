"""accessgwctl: the control API for a person at a shell.

Exit codes: 0 done, 1 the gateway refused or failed, 2 wrong usage, 3 the gateway cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from accessgw.ops import ctl_dictionary, ctl_import, ctl_keys, ctl_mqtt, passwd
from accessgw.ops.ctl_client import ControlClient, Refused, Unreachable, trusting
from accessgw.ops.ctl_session import FAILED, OK, UNREACHABLE, Session, Usage, complain, quoted
from accessgw.ops.ctl_view import dated, printable, trouble

DEFAULT_URL = "http://127.0.0.1:7900"
KINDS = ("connect", "disconnect", "push", "push refused", "status")
"""Kinds of events."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    url = getattr(options, "url", None) or os.environ.get("ACCESSGW_URL") or DEFAULT_URL
    token = getattr(options, "token", None) or os.environ.get("ACCESSGW_TOKEN") or ""
    ca = getattr(options, "ca", "")
    try:
        context = trusting(ca) if ca else None
    except OSError as error:
        parser.error(f"--ca: {ca}: {trouble(error)}")
    try:
        client = ControlClient(url, token, context=context)
    except ValueError as error:
        parser.error(f"--url: {error}")
    session = Session(client, getattr(options, "json", False))
    try:
        options.run(session, options)
    except Usage as error:
        parser.error(str(error))
    except Refused as error:
        return complain(str(error), FAILED)
    except Unreachable as error:
        return complain(str(error), UNREACHABLE)
    except KeyboardInterrupt:
        return OK
    except BrokenPipeError:
        # the reader (head, less) has seen enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return session.code


# ------------------------------------------------------------------ commands


def _status(session: Session, options: argparse.Namespace) -> None:
    session.show(session.client.request("GET", "/v1/status", role="read"))


def _devices(session: Session, options: argparse.Namespace) -> None:
    if options.id:
        row = session.client.request("GET", f"/v1/devices/{quoted(options.id)}", role="read")
        session.show(row if session.as_json else _dated(row))
        return
    query = {"user": options.user, "connected": options.connected, "after": options.after, "limit": options.limit}
    given = urlencode({name: value for name, value in query.items() if value not in (None, "")})
    answer = session.client.request("GET", f"/v1/devices?{given}", role="read")
    if session.as_json:
        session.show(answer)
        return
    session.show([_dated(row) for row in answer["devices"]])
    if answer["next"]:
        print(f"more: --after {printable(answer['next'])}", file=sys.stderr)


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a device, with the time of its connection as a person reads it."""
    connection = row.get("connection")
    return row | {"connection": dated(connection, "since")} if isinstance(connection, dict) else row


def _push(session: Session, options: argparse.Namespace) -> None:
    to: dict[str, Any] = {}
    for scope in ("device", "user", "topic"):
        if getattr(options, scope) is not None:
            to[scope] = getattr(options, scope)
    if options.broadcast:
        to["broadcast"] = True
    if options.where:
        to["where"] = _json("--where", options.where)
    body = {
        "to": to,
        "biz": options.biz,
        "ttl": options.ttl,
        "collapse": options.collapse,
        "priority": options.priority,
    }
    head = json.dumps({name: value for name, value in body.items() if value is not None}, ensure_ascii=False)
    # the payload goes out as it was typed: 1.10 stays 1.10
    text = f'{head[:-1]}, "payload": {_payload(options)}}}'
    session.show(session.client.request("POST", "/v1/push", text, role="push", key=options.key))


def _payload(options: argparse.Namespace) -> str:
    if options.text is not None:
        return json.dumps(options.text, ensure_ascii=False)
    if options.file is not None:
        try:
            text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Usage(f"--file: {trouble(error)}") from None
        name = "--file"
    else:
        text, name = options.payload, "PAYLOAD"
    _json(name, text)
    return str(text)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = "; give plain text with --text" if name == "PAYLOAD" else ""
        raise Usage(f"{name}: expected JSON: {error}{hint}") from None


def _close(session: Session, options: argparse.Namespace) -> None:
    path = f"/v1/devices/{quoted(options.id)}/close"
    body = json.dumps({"revoke": True}) if options.revoke else ""
    answer = session.client.request("POST", path, body, role="operate")
    session.show(answer)
    if not answer["closed"]:
        missing = "had no session" if options.revoke else "was not connected"
        session.code = complain(f"{options.id} {missing}", FAILED)


def _drain(session: Session, options: argparse.Namespace) -> None:
    body = "" if options.seconds is None else json.dumps({"seconds": options.seconds})
    session.show(session.client.request("POST", "/v1/drain", body, role="operate"))


def _reload(session: Session, options: argparse.Namespace) -> None:
    session.show(session.client.request("POST", "/v1/reload", role="operate"))


def _config(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("GET", "/v1/config", role="read")
    print(json.dumps(answer, ensure_ascii=False, indent=2))


def _workers(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("GET", "/v1/workers", role="read")
    session.show(answer if session.as_json else answer["workers"])


def _top(session: Session, options: argparse.Namespace) -> None:
    session.show(session.client.request("GET", f"/v1/top?limit={options.limit}", role="read"))


def _trace(session: Session, options: argparse.Namespace) -> None:
    path = f"/v1/devices/{quoted(options.id)}"
    try:
        connected = bool(session.client.request("GET", path, role="read").get("connected"))
    except Refused as error:
        if error.status != 404:
            raise
        connected = False
    if not connected:
        print(f"waiting for {printable(options.id)}", file=sys.stderr, flush=True)
    session.show_events(f"{path}/trace")


def _events(session: Session, options: argparse.Namespace) -> None:
    def wanted(event: dict[str, Any]) -> bool:
        kind = event.get("type")
        if kind == "status":
            return options.status or "status" in options.kind
        # that something was left out matters whatever is watched
        return not options.kind or kind in options.kind or kind in ("left out", "dropped")

    session.show_events("/v1/events", wanted)


def _streams(session: Session, options: argparse.Namespace) -> None:
    if (options.scope == "broadcast") != (options.id == "-"):
        raise Usage("ID: a broadcast has the id -, and nothing else has")
    path = f"/v1/streams/{options.scope}/{quoted(options.id)}/{quoted(options.biz)}"
    session.show(session.client.request("GET", path, role="read"))


def _passwd(session: Session, options: argparse.Namespace) -> None:
    try:
        print(printable(passwd.run(options)))
    except passwd.PasswdError as error:
        session.code = complain(str(error), FAILED)


# ------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    # given before or after the command, whatever comes to hand
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--url", help=f"control API, default $ACCESSGW_URL or {DEFAULT_URL}")
    common.add_argument("--token", help="bearer token, default $ACCESSGW_TOKEN; on loopback the development tokens")
    common.add_argument(
        "--ca", metavar="FILE", help="authorities to trust for https://, PEM, default $SSL_CERT_FILE or the system's"
    )
    common.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser = argparse.ArgumentParser(
        prog="accessgwctl",
        parents=[common],
        description="Looks at a running gateway and tells it what to do.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the gateway cannot be reached.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Session, argparse.Namespace], None], help_: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, parents=[common], help=help_, description=help_[0].upper() + help_[1:] + ".")
        one.set_defaults(run=run)
        return one

    command("status", _status, "how the gateway is: connections, calls, pushes")
    devices = command("devices", _devices, "devices that the gateway knows, or one of them")
    devices.add_argument("id", nargs="?", metavar="DEVICE", help="show this one")
    devices.add_argument("--user", default="", help="only of this user")
    state = devices.add_mutually_exclusive_group()
    state.add_argument("--connected", dest="connected", action="store_const", const="true", help="only connected ones")
    state.add_argument("--away", dest="connected", action="store_const", const="false", help="only others")
    devices.add_argument("--after", default="", metavar="DEVICE", help="go on after this one")
    devices.add_argument("--limit", type=int, help="at most so many (100)")
    _push_arguments(command("push", _push, "send a push; answered when it is durable"))
    close = command("close", _close, "close the connection of a device; its session stays")
    close.add_argument("id", metavar="DEVICE")
    close.add_argument("--revoke", action="store_true", help="end the session too, connected or not, and void its key")
    drain = command("drain", _drain, "tell all devices to leave, at a rate; ready fails from now on")
    drain.add_argument("--seconds", type=float, help="over how long (as configured)")
    command("reload", _reload, "read the configuration again; a bad file changes nothing")
    command("config", _config, "the configuration in force, secrets masked, and the back ends in use (JSON)")
    command("workers", _workers, "the processes that serve connections")
    command("top", _top, "where the calls go, busiest first").add_argument("--limit", type=int, default=20)
    trace = command("trace", _trace, "connects, frames and calls of one device as they happen, until interrupted")
    trace.add_argument("id", metavar="DEVICE")
    events = command("events", _events, "what happens in the gateway, until interrupted")
    events.add_argument("--kind", action="append", default=[], choices=KINDS, help="only these, repeatable")
    events.add_argument("--status", action="store_true", help="also the figures of every second")
    streams = command("streams", _streams, "where a stream of pushes stands")
    streams.add_argument("scope", choices=("device", "user", "topic", "broadcast"))
    streams.add_argument("id", metavar="ID", help="device, user or topic; - for a broadcast")
    streams.add_argument("biz", metavar="BIZ")
    passwd.add_arguments(command("passwd", _passwd, "put a user into a password file, or take one out"))
    ctl_dictionary.add_commands(commands, common)
    ctl_keys.add_commands(commands, common)
    ctl_mqtt.add_commands(commands, common)
    ctl_import.add_command(commands, common)
    return parser


def _push_arguments(push: argparse.ArgumentParser) -> None:
    to = push.add_mutually_exclusive_group(required=True)
    to.add_argument("--device", help="to one device")
    to.add_argument("--user", help="to all devices of a user")
    to.add_argument("--topic", help="to all subscribers of a topic")
    to.add_argument("--broadcast", action="store_true", help="to everyone")
    push.add_argument("--where", metavar="JSON", help='only devices that fit: {"os": ["ios"], "app_version": ">=2.1"}')
    push.add_argument("--biz", required=True, help="the stream's biz, such as orders")
    push.add_argument("--ttl", type=float, metavar="SECONDS", help="nobody needs it after this")
    push.add_argument("--collapse", metavar="KEY", help="replaces earlier pushes with the same key")
    push.add_argument("--priority", type=int, choices=(0, 1, 2), help="0 now, 1 with the next activity, 2 bulk")
    push.add_argument("--key", default="", help="Idempotency-Key: a repetition with it sends nothing twice")
    what = push.add_mutually_exclusive_group(required=True)
    what.add_argument("payload", nargs="?", metavar="PAYLOAD", help="JSON")
    what.add_argument("--text", help="plain text instead, sent as a JSON string")
    what.add_argument("--file", help="JSON from a file instead, - for standard input")


if __name__ == "__main__":
    sys.exit(main())
