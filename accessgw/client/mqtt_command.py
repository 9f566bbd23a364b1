"""accessgw-client mqtt publish|subscribe|call: a device of MQTT at the shell."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory

from accessgw.client.addresses import Address
from accessgw.client.mqtt import MqttClient, MqttFailure, reason_text
from accessgw.client.mqtt_arguments import DEFAULT_APP, DEFAULT_URL
from accessgw.client.tls_errors import words_of
from accessgw.client.tunnel import Tunnel
from accessgw.client.twisted_transports import ALPN_SHORT, Endpoints
from protocols.errors import LocalError
from protocols.mqtt.packets import V5, Connect, Packet, Properties, Property, Publish, SubscriptionRequest
from protocols.mqtt.reasons import FAILURE

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
PATH = "/mqtt"
SUBPROTOCOL = "mqtt"
ALPN = b"mqtt"
OK, FAILED, UNREACHABLE = 0, 1, 3
KEEP_ALIVE = 60
_SECRET = ("password",)


def parse_url(url: str) -> Address:
    """`mqtts://host[:port]`, `wss://host[:port][/path]` and the same without TLS; ValueError says what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError(f"expected mqtts://, mqtt://, wss:// or ws://, got {url!r}")
    websocket = parts.scheme in ("ws", "wss")
    path = parts.path if parts.path != "/" else ""
    if not parts.hostname or (path and not websocket) or parts.query or parts.username is not None:
        raise ValueError(f"expected {parts.scheme}://host:port{PATH if websocket else ''}, got {url!r}")
    if not re.fullmatch(r"(/[!$-~]*)?", path):
        raise ValueError(f"expected a path of ASCII without spaces, got {url!r}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"expected a port in 1..65535, got {url!r}") from None
    where = (path or PATH) if websocket else ""
    return Address(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path=where)


def connect_packet(args: argparse.Namespace) -> Connect:
    """CONNECT as the options say: the client id is the device, the token the password."""
    # Two commands at once are two devices: one would throw the other out.
    device = args.device or f"accessgw-client-{secrets.token_hex(4)}"
    user = args.user or (device if args.token else "")
    password = args.token.encode() if args.token else None
    return Connect(
        device,
        version=args.mqtt_version,
        keep_alive=KEEP_ALIVE,
        username=user or None,
        password=password,
    )


async def run(reactor: Any, args: argparse.Namespace, address: Address, endpoints: Endpoints) -> int:
    """Connect, do it, leave; the exit code."""
    client = MqttClient(
        connect_packet(args),
        reactor,
        secure=address.secure,
        on_packet=_shown if args.verbose else _unseen,
        tunnel=Tunnel(address, secrets.randbits(128), SUBPROTOCOL) if address.websocket else None,
    )
    endpoint = endpoints.endpoint(address, _alpn(address))
    opening: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: client))
    opening.addTimeout(args.timeout, reactor)
    try:
        await opening
        client.accepted.addTimeout(args.timeout, reactor)
        await client.accepted
    except Exception as error:
        # whatever an endpoint, OpenSSL or a server says: who typed wants to read it
        print(f"cannot connect to {args.url}: {words_of(error)}", file=sys.stderr)
        client.disconnect()
        return UNREACHABLE
    stopping = reactor.addSystemEventTrigger("before", "shutdown", client.disconnect)
    try:
        if args.mqtt_command == "publish":
            code = await _publish(client, args)
        elif args.mqtt_command == "call":
            inbox: Deferred[Publish] = Deferred()
            client.on_message = _first(inbox)
            code = await _call(client, args, inbox, reactor)
        else:
            printer = _Printer(client, args.count, reactor)
            client.on_message = printer.take
            code = await _subscribe(client, args, printer)
    except (MqttFailure, LocalError) as error:
        print(str(error), file=sys.stderr)
        code = FAILED
    reactor.removeSystemEventTrigger(stopping)
    await client.disconnect()
    return code


def _alpn(address: Address) -> bytes:
    return ALPN_SHORT if address.websocket else ALPN


async def _publish(client: MqttClient, args: argparse.Namespace) -> int:
    reason = await client.publish(args.topic, args.payload, args.qos, args.retain)
    if reason and args.verbose:
        print(f"** {reason_text(reason)}", file=sys.stderr)
    return OK


async def _subscribe(client: MqttClient, args: argparse.Namespace, printer: _Printer) -> int:
    try:
        reasons = await client.subscribe([SubscriptionRequest(filter, args.qos) for filter in args.filter])
    except MqttFailure:
        # pushes need no subscription: enough of them may have come before its acknowledgement
        if printer.done:
            return OK
        raise
    refused = [(filter, reason) for filter, reason in zip(args.filter, reasons, strict=True) if reason >= FAILURE]
    for filter, reason in refused:
        print(f"{filter}: {reason_text(reason)}", file=sys.stderr)
    if len(refused) == len(reasons):
        return FAILED
    why = await client.ended
    if printer.done or (not why.reason and str(why) == "disconnected"):
        return OK
    print(f"the connection is over: {why}", file=sys.stderr)
    return UNREACHABLE


async def _call(client: MqttClient, args: argparse.Namespace, inbox: Deferred[Publish], reactor: Any) -> int:
    name = secrets.token_hex(8)
    client.ended.addCallback(lambda why: why if inbox.called else inbox.errback(why))
    # of MQTT 5 the gateway learns how long the answer is waited for
    expiry: Properties = {Property.MESSAGE_EXPIRY: math.ceil(args.timeout)} if args.mqtt_version == V5 else {}
    await client.publish(f"$call/{args.operation}/{name}", args.payload, 1, properties=expiry)
    inbox.addTimeout(args.timeout, reactor, lambda result, seconds: _no_answer(seconds))
    answer = await inbox
    failed = answer.topic.endswith("/error")
    print(_pretty(answer.payload), file=sys.stderr if failed else sys.stdout)
    if args.verbose:
        for key, value in answer.properties.get(Property.USER_PROPERTY, []):
            print(f"** {key}: {value}", file=sys.stderr)
    return FAILED if failed or _status(answer) else OK


def _status(answer: Publish) -> bool:
    """Whether a client of MQTT 5 is told a status other than 0."""
    return any(key == "status" and value != "0" for key, value in answer.properties.get(Property.USER_PROPERTY, []))


def _no_answer(seconds: float) -> Deferred[Any]:
    return fail(MqttFailure(f"no answer within {seconds:g} s"))


def _first(inbox: Deferred[Publish]) -> Callable[[Publish], None]:
    def take(message: Publish) -> None:
        if not inbox.called and message.topic.startswith("$reply/"):
            inbox.callback(message)

    return take


class _Printer:
    """Prints messages, a JSON object a line, and leaves after so many."""

    def __init__(self, client: MqttClient, count: int, clock: Any) -> None:
        self._client = client
        self._clock = clock
        self._left = count
        self.done = False

    def take(self, message: Publish) -> None:
        if self.done:
            return
        print(message_line(message), flush=True)
        self._left -= 1
        if self._left == 0:
            self.done = True
            # when the message has been acknowledged
            self._clock.callLater(0, self._client.disconnect)


def message_line(message: Publish) -> str:
    """One message as a JSON object on one line."""
    shown: dict[str, Any] = {"topic": message.topic, "qos": message.qos}
    if message.retain:
        shown["retain"] = True
    try:
        text = message.payload.decode()
    except UnicodeDecodeError:
        shown["payload_hex"] = message.payload.hex()
    else:
        try:
            shown["payload"] = json.loads(text)
        except (ValueError, RecursionError):
            shown["text"] = text
    for identifier, value in message.properties.items():
        plain = value.hex() if isinstance(value, bytes) else value
        shown.setdefault("properties", {})[Property(identifier).name.lower()] = plain
    return json.dumps(shown, ensure_ascii=False)


def packet_line(direction: str, packet: Packet) -> str:
    """One packet for -v: its name and what is set in it; no passwords, and not more of a payload than fits."""
    arrow = "->" if direction == "send" else "<-"
    parts = []
    for name in packet.__dataclass_fields__:
        value = getattr(packet, name)
        if name in _SECRET and value:
            value = "***"
        elif name == "properties":
            value = {Property(key).name.lower(): item for key, item in value.items()}
        if value not in (None, "", 0, False, b"", {}, []):
            text = repr(value)
            parts.append(f"{name}={text if len(text) <= 80 else text[:77] + '...'}")
    return f"{arrow} {type(packet).__name__.upper()}  {' '.join(parts)}".rstrip()


def _shown(direction: str, packet: Packet) -> None:
    print(packet_line(direction, packet), file=sys.stderr)


def _unseen(direction: str, packet: Packet) -> None:
    """Nobody asked for the packets."""


def _pretty(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body.decode()), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "backslashreplace")


def payload_of(args: argparse.Namespace) -> bytes:
    """The bytes that the options name; ValueError when a call's are no JSON."""
    if args.mqtt_command == "publish":
        if args.null:
            return b""
        return sys.stdin.buffer.read() if args.message == "-" else os.fsencode(args.message)
    if args.mqtt_command == "subscribe" or args.payload is None:
        return b""
    text = sys.stdin.read() if args.payload == "-" else args.payload
    try:
        json.loads(text)
    except ValueError as error:
        raise ValueError(f"payload: expected JSON, got {text[:40]!r}: {error}") from None
    return str(text).encode()


def main(args: argparse.Namespace, ca: str | None, default_url: str) -> None:
    """Run the command that was parsed and exit; `ca` are the authorities to trust, `default_url` is what the other
    commands connect to. Raises ValueError and OSError for arguments that make no sense."""
    for option, given in (
        ("--short", args.short),
        ("--state-dir", args.state_dir),
        ("--app", args.app != DEFAULT_APP),
        ("--profile", args.profile != "d"),
        ("--no-dictionaries", args.no_dictionaries),
    ):
        if given:
            raise ValueError(f"{option}: means nothing over MQTT")
    if args.url == default_url:
        args.url = DEFAULT_URL
    address = parse_url(args.url)
    args.payload = payload_of(args)
    from twisted.internet import reactor  # the process is ours; importing this module must not install one
    from twisted.internet.task import react

    endpoints = Endpoints(reactor, ca=ca, cert=args.cert, key=args.key or args.cert, insecure=args.insecure)
    if address.secure:
        endpoints.endpoint(address, _alpn(address))

    async def command(reactor: Any) -> None:
        code = await run(reactor, args, address, endpoints)
        if code:
            raise SystemExit(code)

    react(lambda reactor: Deferred.fromCoroutine(command(reactor)))
