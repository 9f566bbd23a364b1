"""accessgw-client: a device at the shell."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from accessgw.client import mqtt_arguments
from accessgw.client.addresses import parse
from accessgw.client.aio import Client
from accessgw.client.model import CallFailed, CannotConnect, Note, Push, State
from accessgw.client.trace import FrameTrace

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
DEFAULT_URL = "mmtps://127.0.0.1:7443"
URL_HELP = f"mmtps://, mmtp:// (plain), wss:// (WebSocket) or https:// (short); {DEFAULT_URL}"
DEVELOPMENT_CA = os.path.join("var", "ca.pem")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; the exit code: 0 done, 1 the call failed, 2 usage, 3 cannot connect."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command == "mqtt":
        from accessgw.client import mqtt_command

        try:
            mqtt_command.main(args, authorities(args), DEFAULT_URL)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return
    try:
        if args.command == "call":
            args.payload = read_payload(args.payload)
        args.header = [read_header(text) for text in args.header or ()]
        client = make_client(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        code = asyncio.run(run(client, args))
    except KeyboardInterrupt:
        code = OK if args.command == "listen" else 130
    except BrokenPipeError:
        sys.stderr.close()
        code = FAILED
    sys.exit(code)


def make_parser() -> argparse.ArgumentParser:
    """Options may stand before or after the command."""
    parser = argparse.ArgumentParser(
        prog="accessgw-client",
        description="A device at the shell: call operations, listen to pushes, speak MQTT.",
        epilog="Exit codes: 0 done, 1 the call failed, 2 usage, 3 cannot connect.",
    )
    _common(parser, {})
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    call = commands.add_parser("call", help="call an operation and print its answer")
    call.add_argument("operation", help="such as payments.query")
    call.add_argument("payload", nargs="?", help="JSON; - reads it from standard input")
    call.add_argument("--header", action="append", metavar="NAME:VALUE", help="a header of the call, repeatable")
    call.add_argument(
        "--idempotent",
        action="store_true",
        help="the call may be executed more than once; with --state-dir it leaves in early data",
    )

    listen = commands.add_parser("listen", help="print pushes, one JSON object a line, until interrupted")
    listen.add_argument("--topic", action="append", default=[], help="subscribe to a topic first, repeatable")
    listen.add_argument("--biz", help="only pushes of this biz")
    listen.add_argument("--count", type=int, default=0, metavar="N", help="end after so many pushes")
    listen.set_defaults(header=None)
    for command in (call, listen):
        _common(command, {"default": argparse.SUPPRESS})
    mqtt_arguments.add_commands(
        commands, lambda command: _common(command, {"default": argparse.SUPPRESS}, mqtt_arguments.URL_HELP, mqtt=True)
    )
    return parser


def _common(
    parser: argparse.ArgumentParser, default: dict[str, Any], url_help: str = URL_HELP, *, mqtt: bool = False
) -> None:
    def option(*names: str, value: Any = None, **more: Any) -> None:
        parser.add_argument(*names, **{"default": value, **more, **default})

    hidden = argparse.SUPPRESS if mqtt else ""
    option("--url", value=DEFAULT_URL, help=url_help)
    option("--device", value="", help="device id; when left out the host name, over MQTT one of its own")
    option("--user", value="", help="user, told to the gateway as an attribute; over MQTT the user name")
    option("--token", value="dev-device", help="device token; over MQTT the password")
    # mqtt_command refuses those that mean nothing there, wherever they stand.
    option("--app", value=mqtt_arguments.DEFAULT_APP, help=hidden or "application name; not over MQTT")
    option("--ca", metavar="FILE", help=f"authorities to trust; {DEVELOPMENT_CA} when it is there")
    option("--cert", metavar="FILE", help="own certificate, for listeners that ask for one")
    option("--key", metavar="FILE", help="its private key")
    option("--insecure", action="store_true", value=False, help="trust any certificate")
    remembered = "remember how far pushes were processed, header states, dictionaries, tickets; not over MQTT"
    option("--state-dir", metavar="DIR", help=hidden or remembered)
    profiles = "header blocks: d templates where the gateway can, h HPACK; not over MQTT"
    option("--profile", choices=("h", "d"), value="d", help=hidden or profiles)
    plain = "bodies without dictionaries and history; not over MQTT"
    option("--no-dictionaries", action="store_true", value=False, help=hidden or plain)
    option("--timeout", type=float, value=10.0, metavar="SECONDS", help="for connecting, and for the call")
    by_short = "by a short connection (HTTPS) only; not over MQTT"
    option("--short", action="store_true", value=False, help=hidden or by_short)
    option("-v", "--verbose", action="store_true", value=False, help="show the frames on standard error")


def read_payload(text: str | None) -> Any:
    """The JSON of the command line; ValueError when it is none."""
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"payload: expected JSON, got {text[:40]!r}: {error}") from None


def read_header(text: str) -> tuple[str, str]:
    """NAME:VALUE; ValueError when it is something else."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"--header: expected NAME:VALUE, got {text!r}")
    return name.strip().lower(), value.strip()


def make_client(args: argparse.Namespace) -> Client:
    """The client that the options describe."""
    url = args.url
    if args.short:
        address = parse(url)
        url = f"{'https' if address.secure else 'http'}://{address.authority}"
    ca = authorities(args)
    client = Client(
        url,
        args.device or socket.gethostname(),
        args.token,
        user=args.user,
        app=args.app,
        ca=ca,
        cert=args.cert,
        key=args.key,
        insecure=args.insecure,
        state_dir=args.state_dir,
        templates=args.profile == "d",
        dictionaries=not args.no_dictionaries,
        history=not args.no_dictionaries,
    )
    if parse(url).secure:
        client.check_files()
    return client


def authorities(args: argparse.Namespace) -> str | None:
    """The file of authorities to trust: the one that was named, or the development one where it is."""
    ca: str | None = args.ca
    if ca is None and not args.insecure and os.path.exists(DEVELOPMENT_CA):
        ca = DEVELOPMENT_CA
    if ca is not None and not os.path.exists(ca):
        raise ValueError(f"--ca: there is no file {ca}")
    return ca


async def run(client: Client, args: argparse.Namespace) -> int:
    """Connect, do it, leave."""
    seen = _Seen(client, args.verbose)
    calling: asyncio.Task[int] | None = None
    try:
        if args.command == "call" and args.idempotent:
            # Where there is a ticket of an earlier run it leaves in the first flight, so it has to be there before.
            calling = asyncio.create_task(_call(client, args, seen))
        try:
            await asyncio.wait_for(_connect(client, seen), args.timeout)
        except (TimeoutError, CannotConnect) as error:
            if calling is not None:
                calling.cancel()
            reason = str(error) or seen.error or f"no answer within {args.timeout:g} s"
            print(f"cannot connect to {args.url}: {reason.removeprefix(f'{args.url}: ')}", file=sys.stderr)
            return UNREACHABLE
        if calling is not None:
            return await calling
        if args.command == "call":
            return await _call(client, args, seen)
        return await _listen(client, args)
    except CallFailed as failure:
        code = "" if str(failure.status) in failure.name else f" ({failure.status})"
        print(f"{failure.name}{code}: {failure.message}", file=sys.stderr)
        return FAILED
    finally:
        await client.close()


async def _connect(client: Client, seen: _Seen) -> None:
    """At a shell the first round of attempts decides: whoever types wants to hear of a wrong address at once."""
    connecting = asyncio.ensure_future(client.connect())
    refused = asyncio.ensure_future(seen.waiting.wait())
    try:
        await asyncio.wait((connecting, refused), return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise CannotConnect(seen.status, seen.error)
        await connecting
    finally:
        connecting.cancel()
        refused.cancel()
        # It may have failed in the same moment, and asyncio complains of an exception that nobody has seen.
        await asyncio.gather(connecting, refused, return_exceptions=True)


class _Seen:
    """What the client tells beside answers and pushes."""

    def __init__(self, client: Client, verbose: bool) -> None:
        self.error = ""
        self.status = 0
        self.waiting = asyncio.Event()
        self.contact = False
        self._verbose = verbose
        self._trace = FrameTrace()
        client.on_note = self._note
        client.on_state = self._state
        client.on_trace = self._traced

    def _note(self, note: Note) -> None:
        if note.kind == "short_failed":
            self.error = note.message
        if self._verbose or note.kind in ("gap", "truncated", "history_lost", "protocol_error", "save_failed"):
            stream = f" {note.scope}/{note.id}/{note.biz}" if note.scope else ""
            print(
                f"** {note.kind}{stream}: {note.message}" + (f" ({note.count})" if note.count else ""), file=sys.stderr
            )

    def _state(self, state: State, status: int, message: str) -> None:
        self.error = message or self.error
        self.status = status
        if state is State.WAITING:
            self.waiting.set()
        if self._verbose:
            print(f"** {state.value}" + (f": {message}" if message else ""), file=sys.stderr)

    def _traced(self, kind: str, data: bytes) -> None:
        self.contact = self.contact or kind in ("received", "posted")
        if self._verbose:
            for line in self._trace.lines(kind, data):
                print(line, file=sys.stderr)


async def _call(client: Client, args: argparse.Namespace, seen: _Seen) -> int:
    try:
        reply = await client.call(
            args.operation, args.payload, headers=args.header, timeout=args.timeout, idempotent=args.idempotent
        )
    except CallFailed as failure:
        if not seen.contact:
            reason = (seen.error or str(failure)).removeprefix(f"{args.url}: ")
            print(f"cannot connect to {args.url}: {reason}", file=sys.stderr)
            return UNREACHABLE
        raise
    print(pretty(reply.body))
    if args.verbose:
        print(f"** {reply.elapsed * 1000:.1f} ms over the {reply.via} connection", file=sys.stderr)
    return OK


async def _listen(client: Client, args: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        if args.topic:
            await client.subscribe(*args.topic)
        about = "".join(f", topic {topic}" for topic in args.topic or ()) + (f", biz {args.biz}" if args.biz else "")
        print(f"listening{about}; Ctrl-C ends it", file=sys.stderr)
        left = args.count
        async for push in client.pushes(args.biz):
            print(push_line(push), flush=True)
            push.ack()
            left -= 1
            if left == 0:
                break
    except asyncio.CancelledError:
        return OK
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    if client.reason is not None:
        print(f"the connection is over: {client.reason}", file=sys.stderr)
        return UNREACHABLE
    return OK


def pretty(body: bytes) -> str:
    """JSON with indentation; text as it is; other bytes in hexadecimal."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body.hex(" ")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


def push_line(push: Push) -> str:
    """One push as a JSON object on one line."""
    try:
        payload: dict[str, Any] = {"payload": push.json()}
    except ValueError:
        payload = {"payload_hex": push.body.hex()}
    stream = {"scope": push.scope, "id": push.id, "biz": push.biz, "epoch": push.epoch, "seq": push.seq}
    return json.dumps({**stream, **payload}, ensure_ascii=False)


if __name__ == "__main__":
    main()
