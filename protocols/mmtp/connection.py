"""One MMTP connection, either role: bytes and the time in, events and bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.acks import Acknowledger
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.attributes import RequestAttributes
from protocols.mmtp.bundles import EMPTY_BUNDLE, Bundle
from protocols.mmtp.device_calls import DeviceCalls
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.device_receiver import DeviceReceiver
from protocols.mmtp.dictionaries import PUSH_KIND, Dictionary
from protocols.mmtp.events import Event, Headers
from protocols.mmtp.frames import ACK_PLAIN, PING_ANSWER_FRAME, PING_FRAME, FrameType, encode_frame
from protocols.mmtp.gateway_calls import GatewayCalls
from protocols.mmtp.gateway_exchange import (
    FoundStates,
    GatewayExchange,
    PackedDictionary,
    packed_dictionary,
)
from protocols.mmtp.gateway_receiver import GatewayReceiver
from protocols.mmtp.greeting import say_hello, say_welcome
from protocols.mmtp.handshake import (
    Goaway,
    Hello,
    StreamCursor,
    Welcome,
    encode_goaway,
)
from protocols.mmtp.hpack_backends import Backend
from protocols.mmtp.profiles import Profiles
from protocols.mmtp.pushes import PushFrame, PushSender
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.state import ConnectionState, Sent
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import AppTable
from protocols.mmtp.wire import Wire

MAX_PONGS_OWED = 100
"""Pings of ours that may be unanswered; further ones ask for no answer."""


class Role(Enum):
    """Which side of the connection we are."""

    SERVER = "server"
    CLIENT = "client"


class Connection:
    """The protocol's connection object.

    After a RemoteError, a refusal, or the end of the transport it is `closed`, and every call does nothing;
    `closing_status` says with which status it was closed by us.
    """

    __slots__ = ("_acks", "_agreement", "_calls", "_last_call", "_pushes", "_receiver", "_wire", "role")

    def __init__(
        self, role: Role, *, limits: Limits = DEFAULT_LIMITS, now: float, hpack: Backend | None = None
    ) -> None:
        """`hpack` codes blocks of profile H; the one chosen at import unless given."""
        self.role = role
        self._last_call: int | None = None
        """As GOAWAY named it, once it has."""
        self._wire = wire = Wire(role is Role.SERVER, limits, now, hpack)
        self._calls: GatewayCalls | DeviceCalls
        self._receiver: GatewayReceiver | DeviceReceiver
        self._pushes: PushSender | None = None
        self._acks: Acknowledger | None = None
        if role is Role.SERVER:
            self._calls = calls = GatewayCalls(wire)
            self._agreement = Agreement(wire, calls)
            self._pushes = PushSender()
            self._receiver = GatewayReceiver(wire, calls, self._agreement, self._pushes)
        else:
            self._calls = opened = DeviceCalls(wire)
            self._agreement = Agreement(wire, opened)
            self._acks = Acknowledger()
            self._receiver = DeviceReceiver(wire, opened, self._agreement, self._acks)

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._wire.state

    @property
    def closed(self) -> bool:
        """Nothing more is received; what to_send() still has should be written before the transport ends."""
        return self._wire.closed

    @property
    def closing_status(self) -> int:
        """The status of the GOAWAY or refusal that we sent last, 0 when there was none."""
        return self._wire.closing_status

    # --- bytes and time

    def receive(self, data: bytes, now: float) -> None:
        """Feed bytes. Events queue up, see events(). Raises RemoteError (a GOAWAY with its code is then in to_send(),
        events decoded before the violation are still in events()); after that every call does nothing."""
        wire = self._wire
        if wire.closed:
            return
        wire.now = now
        try:
            self._receiver.receive(data)
        except RemoteError as error:
            self._fail(error.code, str(error))
            raise

    def _fail(self, status: int, message: str) -> None:
        self._receiver.forget()
        last_call = self._last_call
        if last_call is None and self.role is Role.SERVER:
            last_call = self._calls.next_number - 1
        self._wire.fail(Goaway(status, message, -1 if last_call is None else last_call))

    def receive_eof(self, now: float) -> None:
        """The transport's orderly end."""
        self._wire.now = now
        self._receiver.forget()
        self._wire.enter(ConnectionState.CLOSED)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        wire = self._wire
        events = wire.events
        if events:
            wire.events = []
        return events

    def to_send(self, now: float) -> bytes:
        """All bytes to write now, one piece, so that what leaves together leaves in one record."""
        wire = self._wire
        wire.now = now
        out = wire.out
        acks = self._acks
        if acks is not None and acks.pending and not wire.closed and (out or acks.due(now)):
            out.append(acks.take())
        exchange = self._receiver.exchange
        if exchange is not None and not wire.closed:
            exchange.fill(out)
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    @property
    def has_to_send(self) -> bool:
        """to_send() has bytes, as of the time of the last input."""
        wire = self._wire
        if wire.out:
            return True
        if wire.closed:
            return False
        acks, exchange = self._acks, self._receiver.exchange
        return (acks is not None and acks.pending > 0 and acks.due(wire.now)) or (
            exchange is not None and exchange.fills
        )

    def next_timer(self) -> float | None:
        """When handle_timer wants to be called: the HELLO time-out, or an acknowledgement that waits."""
        if self._acks is not None and not self._wire.closed:
            return self._acks.deadline
        return self._wire.timer

    def handle_timer(self, now: float) -> None:
        """The time of next_timer() has come; see to_send() and `closed`."""
        wire = self._wire
        wire.now = now
        if wire.timer is not None and now >= wire.timer:
            self._fail(Status.DEADLINE, "no complete HELLO in time")

    def rest(self) -> bool:
        """The connection is idle: header codecs of profile D that were not used since the last call are kept in some
        0.3 KiB each until their next block. False while there are others: call again later."""
        headers = self._wire.headers
        return not isinstance(headers, Profiles) or headers.rest()

    @property
    def rests(self) -> bool:
        """No header codec of profile D is there that rest() would put away."""
        headers = self._wire.headers
        return not isinstance(headers, Profiles) or headers.rests

    # --- hand-shake

    def send_hello(self, hello: Hello, headers: HeaderMemory | None = None, bundle: Bundle | None = None) -> None:
        """Client: the first frame. Settings that tell of our limits are added to hello.settings. LocalError above 8
        KiB.

        `headers` (capability `template`): all header blocks from here on are profile D and go on from there; when the
        gateway does not have that state, calls end with CallReset(STATE_MISS) and are to be repeated with their ids.
        `bundle` (capability `dict`): the dictionaries that we hold; until WELCOME bodies use them, and a call that ends
        with CallReset(DICTIONARY_MISS) is to be repeated with `secret`.
        """
        receiver = self._receiver
        if not isinstance(receiver, DeviceReceiver):
            raise LocalError("only the client sends HELLO")
        if not self._wire.closed:
            say_hello(self._wire, self._agreement, receiver, hello, headers=headers, bundle=bundle)

    def send_welcome(self, welcome: Welcome, headers: FoundStates | None = None, bundle: Bundle | None = None) -> None:
        """welcome.result != 0 refuses: the connection is closed after it.

        Settings that tell of our limits are added to welcome.settings. Capabilities are cut to what HELLO named
        and this package has; an empty set asks for all of them, `template` only with `headers`.

        `headers` is what was found of Hello.headers, `bundle` the bundle that has the digest Hello.bundle, if there is
        one. What came before and needed them is received now: see events() again, and `closed`, since the peer's bytes
        may be found wrong only here.
        """
        receiver = self._receiver
        if not isinstance(receiver, GatewayReceiver):
            raise LocalError("only the server sends WELCOME")
        if self._wire.closed:
            return
        try:
            say_welcome(self._wire, self._agreement, receiver, welcome, headers=headers, bundle=bundle)
        except RemoteError as error:
            self._fail(error.code, str(error))

    def update_settings(self, settings: dict[int, int]) -> None:
        """SETTINGS: change what we accept (see protocols.mmtp.settings for the ids)."""
        if self._wire.closed:
            return
        self._wire.sends(Sent.SETTINGS)
        self._agreement.change(settings)

    # --- calls

    def request(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        more: bool = False,
        call_id: int | None = None,
        timeout: float | None = None,
        age: float | None = None,
        secret: bool = False,
    ) -> int:
        """Open a call and return its number (-1 when closed). `call_id` marks a repetition (its own id and *resent*
        go along), `age` is how long ago it was made, `timeout` how long the device still waits, both in seconds; the
        body of a `secret` one travels raw. LocalError when too many are open, or the hand-shake has not begun."""
        if self._wire.closed:
            return -1
        self._wire.sends(Sent.REQUEST)
        attributes = RequestAttributes(call_id, timeout, call_id is not None, None if call_id is None else age)
        return self._device_calls().request(operation, headers, body, more, attributes, secret=secret)

    def respond(
        self, call: int, status: int, headers: Headers, body: bytes, *, more: bool = False, secret: bool = False
    ) -> None:
        """Server: answer a call; what credit does not allow yet is queued, and a `secret` body travels raw. LocalError
        when it is not open, was answered, or the peer would not take the headers."""
        if self._wire.closed:
            return
        self._wire.sends(Sent.RESPONSE)
        self._gateway_calls().respond(call, status, headers, body, more, secret=secret)

    def send_data(self, call: int, data: bytes, more: bool) -> None:
        """Queues what credit does not allow yet; see unsent() and CallDrained."""
        if not self._wire.closed:
            self._wire.sends(Sent.DATA)
            self._calls.send_data(call, data, more)

    def reset(self, call: int, status: int) -> None:
        """Server: ends the call. Client: asks to cancel."""
        if not self._wire.closed:
            self._wire.sends(Sent.RESET)
            self._calls.reset(call, status)

    def unsent(self, call: int) -> int:
        """Body bytes of the call that wait for credit."""
        return self._calls.unsent(call)

    def consumed(self, call: int, size: int) -> None:
        """Give `size` wire bytes of body credit back (call and connection)."""
        if not self._wire.closed:
            self._calls.consumed(call, size)

    def open_calls(self) -> int:
        """How many calls are open."""
        return len(self._calls.open)

    def _device_calls(self) -> DeviceCalls:
        if not isinstance(self._calls, DeviceCalls):
            raise LocalError("only the client opens calls")
        return self._calls

    def _gateway_calls(self) -> GatewayCalls:
        if not isinstance(self._calls, GatewayCalls):
            raise LocalError("only the server answers calls")
        return self._calls

    # --- both

    def ping(self, answer: bool = True) -> None:
        """PING; a PongReceived follows if `answer`."""
        if self._wire.closed:
            return
        if self._wire.state is ConnectionState.START:
            raise LocalError("PING is not allowed in state START")
        if answer and self._wire.pongs_owed < MAX_PONGS_OWED:
            self._wire.pongs_owed += 1
            self._wire.out.append(PING_ANSWER_FRAME)
        else:
            self._wire.out.append(PING_FRAME)

    def go_away(self, goaway: Goaway) -> None:
        """Server: last_call is filled in here; later calls are refused with the goaway's status."""
        if self._wire.closed:
            return
        state = self._wire.sends(Sent.GOAWAY)
        if self.role is Role.SERVER:
            if self._last_call is None:
                self._last_call = self._calls.next_number - 1
            self._wire.refuse = goaway.status or Status.DRAINING
            goaway = replace(goaway, last_call=self._last_call)
        self._wire.out.append(encode_frame(FrameType.GOAWAY, 0, encode_goaway(goaway)))
        self._wire.closing_status = goaway.status
        self._wire.enter(state)

    # --- tables and dictionaries, client

    def take_offers(self, *, dictionary_bytes: int, tables: bool) -> None:
        """From here on offers are wanted so far as all dictionaries together have at most so many bytes, and tables if
        `tables`; to begin with, all are."""
        receiver = self._receiver
        if isinstance(receiver, DeviceReceiver):
            receiver.wishes.dictionary_bytes = dictionary_bytes
            receiver.wishes.tables = tables

    # --- tables and dictionaries, server

    def _offering(self) -> GatewayExchange:
        """Raises LocalError where they cannot be offered."""
        self._wire.sends(Sent.OFFER)
        receiver = self._receiver
        if not isinstance(receiver, GatewayReceiver) or receiver.gateway_exchange is None:
            raise LocalError("tables and dictionaries: the device takes none")
        return receiver.gateway_exchange

    def offer_table(self, table: AppTable) -> None:
        """A table for the device's next connections; TableHeld follows. LocalError without the capability
        `template`."""
        if not self._wire.closed:
            self._offering().offer_table(table)

    def retire_table(self, id: int) -> None:
        """The device should not name the table any more."""
        if not self._wire.closed:
            self._offering().retire_table(id)

    def offer_dictionary(self, dictionary: Dictionary | PackedDictionary, base: Dictionary | None = None) -> None:
        """A dictionary for the device; DictionaryHeld follows, then use_dictionary may. A device that has `base` gets
        the difference. The first offer of a dictionary packs it (some 20 ms), unless that was done in advance.
        LocalError without the capability `dict`, and for one that the device has."""
        if not self._wire.closed:
            packed = dictionary if isinstance(dictionary, PackedDictionary) else packed_dictionary(dictionary, base)
            self._offering().offer_dictionary(packed)

    def use_dictionary(self, id: int) -> None:
        """From here on the classes of the dictionary mean it in our bodies; the device follows with its own. LocalError
        when it does not have it."""
        if not self._wire.closed:
            self._offering().use_dictionary(id)

    def drop_class(self, name: str) -> None:
        """From here on bodies of this class (kind and name, as in Dictionary.classes) have no dictionary of their
        own."""
        if not self._wire.closed:
            self._offering().drop_class(name)

    def retire_dictionary(self, id: int) -> None:
        """Use it no more, and let the device forget it; DictionaryRetired follows."""
        if not self._wire.closed:
            self._offering().retire_dictionary(id)

    def holds_dictionary(self, id: int) -> bool:
        """Whether use_dictionary would work."""
        receiver = self._receiver
        exchange = receiver.gateway_exchange if isinstance(receiver, GatewayReceiver) else None
        return exchange is not None and exchange.holds(id)

    def held_dictionaries(self) -> list[int]:
        """Ids of those for which holds_dictionary is true."""
        uses = self._wire.uses
        return [id for id in uses.held if self.holds_dictionary(id)] if uses is not None else []

    def classes_in_use(self) -> Mapping[str, Dictionary]:
        """By class name: the dictionary that our bodies are compressed with."""
        uses = self._wire.uses
        return uses.down.classes if uses is not None else EMPTY_BUNDLE.classes

    def count_for(self, witness: int) -> None:
        """Bodies of this connection are told to watchers of dictionaries as this one's; see dictionaries.Watcher."""
        self._wire.witness = witness

    @property
    def witness(self) -> int:
        """As count_for was told."""
        return self._wire.witness

    def push_dictionary(self, biz: str) -> Dictionary | None:
        """What pushes of the biz are compressed with on this connection, for encode_push."""
        uses = self._wire.uses
        return uses.down.for_class(PUSH_KIND, biz) if uses is not None else None

    # --- pushes, server

    def _sender(self) -> PushSender:
        if self._pushes is None:
            raise LocalError("only the server sends pushes")
        return self._pushes

    def push_room(self, size: int) -> bool:
        """There is room in the push window for a body of `size` bytes."""
        return not self._wire.closed and self._sender().room(size, self._wire.peer)

    def introduce_stream(self, alias: int, cursor: StreamCursor, *, history: int = 0) -> None:
        """The next push of `alias` carries the stream's names; its seq counts from cursor.seq + 1. `history`: bytes of
        its bodies that coding 3 may go back to, where the device takes it; see stream_has_history."""
        self.note_stream(cursor, alias, "", history=history)

    def note_stream(self, cursor: StreamCursor, alias: int, note: str, *, history: int = 0) -> None:
        """Introduce the stream with a note, `truncated` or `history_lost`; cursor.seq is its floor."""
        wire = self._wire
        if not wire.closed:
            wire.sends(Sent.PUSH)
            if wire.uses is None or not wire.uses.history:
                history = 0
            wire.out.append(self._sender().announce(alias, cursor, note, history))

    def stream_has_history(self, alias: int) -> bool:
        """Pushes of the alias leave by offer_body and not by offer_push."""
        return self._sender().has_history(alias)

    def send_push(self, alias: int, seq: int, frame: bytes, size: int, token: Any) -> None:
        """Send a push in order whose frame was made by pushes.encode_push; `token` comes back in PushesAcked.
        LocalError for a stream that was not introduced, and when push_room(size) is false."""
        if not self._wire.closed and not self.offer_push(PushFrame(alias, seq, frame, size, token)):
            raise LocalError("push: unacknowledged pushes fill the window")

    def offer_push(self, push: PushFrame) -> bool:
        """As push_room and send_push in one, with a push that many connections share. False, and nothing is sent,
        when the window is full or the connection closed."""
        wire = self._wire
        if wire.closed:
            return False
        wire.sends(Sent.PUSH)
        if not self._sender().offer(push, wire.peer):
            return False
        wire.out.append(push.frame)
        return True

    def offer_body(
        self,
        alias: int,
        seq: int,
        shared: SharedBody,
        token: Any,
        *,
        ttl: float | None = None,
        priority: int = 0,
        collapse: str = "",
        gap: int = 0,
        secret: bool = False,
    ) -> bool:
        """As offer_push, for a stream with history: the body is compressed for this connection (once for all that have
        had the same bodies). A stream with secrets should have none: `secret` is for those that became so. LocalError
        for a stream that was introduced without."""
        wire = self._wire
        if wire.closed:
            return False
        wire.sends(Sent.PUSH)
        frame = self._sender().offer_body(
            alias, seq, shared, wire.peer, wire.uses, zstd=wire.zstd, token=token, ttl=ttl, priority=priority,
            collapse=collapse, gap=gap, secret=secret,
        )  # fmt: skip
        if frame is None:
            return False
        wire.out.append(frame)
        return True

    def acked_alone(self, data: bytes) -> list[Any] | None:
        """The tokens of a read that is one ACK of less than 128 pushes and nothing else, as most are while a group gets
        its pushes: it needs no event. None: it is something else, and nothing has happened; feed it to receive()."""
        if len(data) != 2 or data[0] != ACK_PLAIN or self._pushes is None:
            return None
        wire = self._wire
        if wire.moves[FrameType.ACK] is None or wire.events or not self._receiver.between_frames:
            return None
        return self._pushes.acked_now(data[1])

    # --- pushes, client

    def _acknowledger(self) -> Acknowledger:
        if self._acks is None:
            raise LocalError("only the client acknowledges pushes")
        return self._acks

    def ack(self, count: int = 1) -> None:
        """`count` more pushes, in order of arrival, were processed; sent with the next bytes or by ack timer."""
        if not self._wire.closed:
            self._acknowledger().processed(count, self._wire.now)

    def ack_ranges(self, indexes: Sequence[int]) -> None:
        """Pushes with these PushReceived.index were processed, though not all before them."""
        if not self._wire.closed and indexes:
            self._wire.out.append(self._acknowledger().processed_out_of_order(indexes))
