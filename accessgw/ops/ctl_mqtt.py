"""accessgwctl mqtt ...: publish, watch, look and act through /v1/mqtt."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich.text import Text

from accessgw.ops.ctl_json import text_of
from accessgw.ops.ctl_session import FAILED, Session, Usage, complain, quoted
from accessgw.ops.ctl_view import cell, dated, printable, trouble

LINES_AT_ONCE = 100
"""Messages of `publish --lines` in one request."""
Run = Callable[[Session, argparse.Namespace], None]


# ------------------------------------------------------------------ messages


def _publish(session: Session, options: argparse.Namespace) -> None:
    message = _message(options)
    if options.lines:
        if options.key:
            raise Usage("--key: stands for one request, and --lines makes many")
        _publish_lines(session, message)
        return
    answer = session.client.request(
        "POST", "/v1/mqtt/publish", json.dumps(message | _payload(options)), role="push", key=options.key
    )
    session.show(answer)


def _message(options: argparse.Namespace) -> dict[str, Any]:
    message: dict[str, Any] = {"topic": options.topic, "qos": options.qos, "retain": options.retain}
    if options.expiry is not None:
        message["expiry"] = options.expiry
    properties: dict[str, Any] = {}
    if options.content_type is not None:
        properties["content_type"] = options.content_type
    if options.response_topic is not None:
        properties["response_topic"] = options.response_topic
    if options.correlation_data is not None:
        properties["correlation_data_b64"] = _base64(options.correlation_data.encode(errors="surrogateescape"))
    if options.user_property:
        properties["user"] = options.user_property
    return message | ({"properties": properties} if properties else {})


def _publish_lines(session: Session, message: dict[str, Any]) -> None:
    total = 0
    for lines in _batches():
        body = json.dumps([message | {"payload_b64": _base64(line)} for line in lines])
        for result in session.client.request("POST", "/v1/mqtt/publish", body, role="push"):
            if "error" in result:
                session.code = complain(result["error"]["message"], FAILED)
            else:
                total += 1
    session.show({"published": total})


def _batches() -> Iterator[list[bytes]]:
    """What has come on standard input so far, line by line, without waiting for more of it."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), 65536):
        *lines, rest = (rest + data).split(b"\n")
        for start in range(0, len(lines), LINES_AT_ONCE):
            yield lines[start : start + LINES_AT_ONCE]
    if rest:
        yield [rest]


def _payload(options: argparse.Namespace) -> dict[str, Any]:
    if options.message is not None:
        return {"payload_b64": _base64(options.message.encode(errors="surrogateescape"))}
    if options.null:
        return {"text": ""}
    try:
        data = sys.stdin.buffer.read() if options.file in (None, "-") else Path(options.file).read_bytes()
    except OSError as error:
        raise Usage(f"--file: {trouble(error)}") from None
    return {"payload_b64": _base64(data)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _request(session: Session, options: argparse.Namespace) -> None:
    body = {"device": options.device, "topic": options.topic, "timeout": options.timeout} | _payload(options)
    answer = session.client.request(
        "POST", "/v1/mqtt/request", json.dumps(body), role="push", key=options.key, timeout=options.timeout + 10
    )
    session.show(answer)
    if answer.get("status") != "answered":
        session.code = FAILED


def _subscribe(session: Session, options: argparse.Namespace) -> None:
    left = options.count
    for event in session.client.events("/v1/mqtt/subscribe?" + urlencode({"filter": options.filter})):
        is_message = event.get("type") == "message"
        if is_message and options.new and event.get("retain"):
            continue
        if session.as_json or not is_message:
            session.show_event(event)
        else:
            session.console.print(_message_line(event, options.verbose), soft_wrap=True)
        if is_message and left:
            left -= 1
            if not left:
                return


def _message_line(event: dict[str, Any], verbose: bool) -> Text:
    """Topic and payload; with `verbose` all else that is known of the message."""
    if "payload" in event:
        shown = text_of(event["payload"])
    else:
        shown = event.get("text", "base64:" + event.get("payload_b64", ""))
    line = Text(printable(str(event.get("topic", ""))) + " ", style="bold")
    line.append_text(Text(printable(str(shown)), style="not bold"))
    if verbose:
        known = ("type", "topic", "payload", "text", "payload_b64")
        shown_as = dated(event, "at", "expires_at").items()
        rest = [f"{name}={cell(value).plain}" for name, value in shown_as if name not in known]
        line.append_text(Text("  " + " ".join(map(printable, rest)), style="not bold dim"))
    return line


def _trace(session: Session, options: argparse.Namespace) -> None:
    session.show_events("/v1/mqtt/trace?" + urlencode({"filter": options.filter}))


# ------------------------------------------------------------------ clients, subscriptions, retained messages


def _page(session: Session, path: str, rows: str, query: dict[str, Any], more: Callable[[Any], str]) -> None:
    given = urlencode({name: value for name, value in query.items() if value not in (None, "")})
    answer = session.client.request("GET", f"{path}?{given}" if given else path, role="read")
    if session.as_json:
        session.show(answer)
        return
    session.show([dated(row, "at", "expires_at") for row in answer[rows]])
    if answer["next"]:
        print(f"more: --after {printable(more(answer['next']))}", file=sys.stderr)


def _clients(session: Session, options: argparse.Namespace) -> None:
    query = {"connected": options.connected, "after": options.after, "limit": options.limit}
    _page(session, "/v1/mqtt/clients", "clients", query, str)


def _client(session: Session, options: argparse.Namespace) -> None:
    row = session.client.request("GET", f"/v1/mqtt/clients/{quoted(options.id)}", role="read")
    session.show(row if session.as_json else dated(row, "expires_at"))


def _kick(session: Session, options: argparse.Namespace) -> None:
    body = json.dumps({"discard": True}) if options.discard else ""
    answer = session.client.request("POST", f"/v1/mqtt/clients/{quoted(options.id)}/kick", body, role="operate")
    if session.as_json:
        session.show(answer)
    if not answer["kicked"]:
        missing = "there is no session of" if options.discard else "there is no connection of"
        session.code = complain(f"{missing} {options.id}", FAILED)
    elif not session.as_json:
        done = (
            "its session is over" if options.discard else "disconnected; it may come back, to its session if that lasts"
        )
        session.console.print(Text(printable(f"{options.id}: {done}")), soft_wrap=True)


def _subscriptions(session: Session, options: argparse.Namespace) -> None:
    after, client = options.after or ("", "")
    query = {"filter": options.filter, "after": after, "after_client": client, "limit": options.limit}
    _page(session, "/v1/mqtt/subscriptions", "subscriptions", query, lambda at: f"{at['after']} {at['after_client']}")


def _retained(session: Session, options: argparse.Namespace) -> None:
    query = {"filter": options.filter, "after": options.after, "limit": options.limit}
    _page(session, "/v1/mqtt/retained", "retained", query, str)


def _remove_retained(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("DELETE", f"/v1/mqtt/retained/{quoted(options.topic)}", role="operate")
    session.show(answer)
    if not answer["removed"]:
        session.code = complain(f"{options.topic} has no retained message", FAILED)


# ------------------------------------------------------------------ figures


def _top(session: Session, options: argparse.Namespace) -> None:
    session.show(session.client.request("GET", f"/v1/mqtt/top?limit={options.limit}", role="read"))


def _bridges(session: Session, options: argparse.Namespace) -> None:
    answer = session.client.request("GET", "/v1/mqtt/bridges", role="read")
    session.show(answer if session.as_json else [dated(row, "since") for row in answer["bridges"]])


def _stats(session: Session, options: argparse.Namespace) -> None:
    session.show(session.client.request("GET", "/v1/mqtt/stats", role="read"))


# ------------------------------------------------------------------ arguments


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `mqtt` with its commands to the subparsers of accessgwctl."""
    mqtt = commands.add_parser("mqtt", parents=[common], help="MQTT: messages, clients, subscriptions, bridges")
    inner = mqtt.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help_: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = inner.add_parser(
            name, parents=[common], help=help_, description=help_[0].upper() + help_[1:] + "."
        )
        one.set_defaults(run=run)
        return one

    _publish_arguments(command("publish", _publish, "publish a message; answered when it is durable"))
    request = command("request", _request, "ask a device and wait for its answer; exit code 1 when there is none")
    request.add_argument("--device", required=True, help="client id of the device")
    request.add_argument("-t", "--topic", required=True, help="topic on which it is asked")
    request.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="%(default)s")
    _payload_arguments(request)
    subscribe = command("subscribe", _subscribe, "print messages of a filter as they come, retained ones first")
    subscribe.add_argument("filter", metavar="FILTER", help="such as 'sensors/+/temperature'")
    subscribe.add_argument("-C", "--count", type=int, default=0, metavar="N", help="end after so many messages")
    subscribe.add_argument("-R", "--new", action="store_true", help="no retained messages")
    subscribe.add_argument("-v", "--verbose", action="store_true", help="publisher, QoS and properties as well")
    clients = command("clients", _clients, "sessions of MQTT, connected or not")
    state = clients.add_mutually_exclusive_group()
    state.add_argument("--connected", dest="connected", action="store_const", const="true", help="only connected ones")
    state.add_argument("--away", dest="connected", action="store_const", const="false", help="only others")
    clients.add_argument("--after", default="", metavar="CLIENT", help="go on after this one")
    command("client", _client, "one client with its subscriptions").add_argument("id", metavar="CLIENT")
    kick = command("kick", _kick, "disconnect a client; its session stays for as long as the client asked")
    kick.add_argument("id", metavar="CLIENT")
    kick.add_argument("--discard", action="store_true", help="end its session too, with its queue")
    subscriptions = command("subscriptions", _subscriptions, "who subscribes to what")
    subscriptions.add_argument("filter", nargs="?", default="", metavar="FILTER", help="only to this very filter")
    subscriptions.add_argument("--after", nargs=2, metavar=("FILTER", "CLIENT"), help="go on after this one")
    retained = command("retained", _retained, "retained messages")
    retained.add_argument("filter", nargs="?", default="", metavar="FILTER", help="whose topics match")
    retained.add_argument("--after", default="", metavar="TOPIC", help="go on after this one")
    for one in (clients, subscriptions, retained):
        one.add_argument("--limit", type=int, help="at most so many (100)")
    remove = command("remove-retained", _remove_retained, "remove the retained message of a topic")
    remove.add_argument("topic", metavar="TOPIC")
    trace = command("trace", _trace, "what happens to messages of a filter, until interrupted")
    trace.add_argument("filter", metavar="FILTER")
    top = command("top", _top, "the busiest topics and clients of the last minute")
    top.add_argument("--limit", type=int, default=20)
    command("bridges", _bridges, "connections to other brokers")
    command("stats", _stats, "the broker's figures")


def _publish_arguments(publish: argparse.ArgumentParser) -> None:
    publish.add_argument("-t", "--topic", required=True)
    publish.add_argument("-q", "--qos", type=int, choices=(0, 1, 2), default=0)
    publish.add_argument("-r", "--retain", action="store_true", help="keep it as the topic's retained message")
    what = _payload_arguments(publish)
    what.add_argument("-l", "--lines", action="store_true", help="a message for each line of standard input")
    publish.add_argument("--expiry", type=float, metavar="SECONDS", help="nobody needs it after this")
    publish.add_argument("--content-type", metavar="TYPE")
    publish.add_argument("--response-topic", metavar="TOPIC")
    publish.add_argument("--correlation-data", metavar="TEXT")
    publish.add_argument(
        "--user-property", action="append", nargs=2, default=[], metavar=("NAME", "VALUE"), help="repeatable"
    )


def _payload_arguments(parser: argparse.ArgumentParser) -> Any:
    parser.add_argument("--key", default="", help="Idempotency-Key: a repetition with it does nothing twice")
    parser.set_defaults(lines=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", "--message", metavar="TEXT", help="the payload")
    what.add_argument("-f", "--file", metavar="FILE", help="the payload from a file, - for standard input")
    what.add_argument("-s", "--stdin", action="store_true", help="the payload from standard input")
    what.add_argument("-n", "--null", action="store_true", help="an empty payload; with -r it removes the retained one")
    return what
