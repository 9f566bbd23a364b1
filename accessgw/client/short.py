"""The bodies of short connections: sessions, counters, addresses (specification, section 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from accessgw.client.addresses import Address
from accessgw.client.calls import OpenCall
from accessgw.client.commands import Post
from accessgw.client.model import Headers, Push
from accessgw.client.settings import ClientSettings
from protocols.errors import RemoteError
from protocols.mmtp import short as wire
from protocols.mmtp.events import StreamNoted
from protocols.mmtp.handshake import Hello, StreamCursor, Welcome
from protocols.mmtp.settings import DEFAULT_LIMITS
from protocols.mmtp.statuses import Status

MAX_BODY = 192 * 1024
"""Largest body of a call that fits into one REQUEST frame with its headers."""
MAX_PUSHES = 16
_FROM_HTTP = {413: Status.FRAME_SIZE, 429: Status.RATE_LIMIT, 503: Status.OVERLOAD}


@dataclass(slots=True)
class ShortAnswer:
    """What one short connection brought."""

    status: int
    """Of the whole request."""
    message: str = ""
    retry_after: float = 0.0
    time: float = 0.0
    """Gateway's wall clock, 0 when it did not say."""
    reply: tuple[int, Headers, bytes] | None = None
    """Status, headers and body of the call; None when the gateway did not execute it."""
    pushes: list[Push] = field(default_factory=list)
    notes: list[StreamNoted] = field(default_factory=list)


class ShortConnections:
    """Builds requests and reads answers, one call each.

    With a session (of a long connection's WELCOME, or of a short one's) a request carries its tag, else a
    whole HELLO. Addresses are kept as long as they answer.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._addresses = settings.short_addresses
        self._address = 0
        self._session = ""
        self._mac_key = b""
        self._zstd = False
        self._counter = 0
        self._with_session: dict[int, bool] = {}

    @property
    def available(self) -> bool:
        """There is somewhere to send them."""
        return bool(self._addresses)

    def adopt(self, welcome: Welcome) -> None:
        """A WELCOME came: its session and key serve from now on."""
        if welcome.session and welcome.mac_key:
            self._session = welcome.session
            self._mac_key = welcome.mac_key
            self._zstd = "zstd" in welcome.capabilities

    def request(
        self,
        post: int,
        call: OpenCall,
        call_id: int,
        *,
        hello: Callable[[], Hello],
        cursors: Callable[[], list[StreamCursor]],
        time: float,
        timeout: float,
        age: float,
    ) -> Post:
        """The POST of one call; `time` is the gateway's wall clock. LocalError for headers that cannot be sent."""
        address = self._addresses[self._address % len(self._addresses)]
        request = wire.ShortRequest(
            max_pushes=MAX_PUSHES,
            calls=[
                wire.ShortCall(
                    call_id,
                    call.operation,
                    call.headers,
                    call.body,
                    resent=call.attempts > 0,
                    timeout=timeout,
                    age=age if call.attempts else None,
                    secret=call.secret,
                ),
            ],
        )
        if self._session:
            # it counts from the clock, so that it also grows when the client was started again
            self._counter = self._counter + 1 if self._counter else int(time * 1000)
            request.session = self._session
            request.counter = self._counter
            request.time = time
            request.cursors = cursors()
        else:
            request.hello = hello()
        body = wire.encode_short_request(
            request, mac_key=self._mac_key, listener=address.authority, zstd=self._zstd
        )  # fmt: skip
        self._with_session[post] = request.hello is None
        return Post(post, address, wire.PATH, _headers(address), body, timeout)

    def read(self, post: int, status: int, body: bytes) -> ShortAnswer:
        """The HTTP response to a request."""
        with_session = self._with_session.pop(post, False)
        if status != 200:
            self._address += 1
            mapped = _FROM_HTTP.get(status, Status.INTERNAL if status >= 500 else Status.PROTOCOL)
            return ShortAnswer(mapped, f"HTTP {status}")
        try:
            response = wire.decode_short_response(body, DEFAULT_LIMITS, zstd=True)
        except RemoteError as error:
            self._address += 1
            return ShortAnswer(Status.INTERNAL, str(error))
        if with_session and response.status in (Status.SESSION_UNKNOWN, Status.AUTH):
            self._session = ""
            self._mac_key = b""
            response.status = Status.SESSION_UNKNOWN
        if response.welcome is not None and response.welcome.result == Status.OK:
            self.adopt(response.welcome)
        answer = ShortAnswer(response.status, response.message, response.retry_after, response.time)
        if response.welcome is not None and response.welcome.result != Status.OK:
            answer.status, answer.message = response.welcome.result, response.welcome.message
        for one in response.answers:
            if one.index == 0:
                answer.reply = (one.status, one.headers, one.body)
        answer.pushes = [Push.from_event(event, "short") for event in response.pushes]
        answer.notes = response.notes
        return answer

    def forget(self, post: int) -> None:
        """No response, or nobody waits for it."""
        self._with_session.pop(post, None)

    def failed(self) -> None:
        """An address did not answer: the next one is tried."""
        self._address += 1


def _headers(address: Address) -> Headers:
    return [("host", address.authority), ("content-type", wire.CONTENT_TYPE), ("connection", "close")]
