"""All protocols over the same sessions, and the figures of MMTP that are held to limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from statistics import mean, median
from time import process_time

from hpack import Decoder, Encoder

from loadtest.corpus.controls import SESSIONS, SMALL, as_http, controls
from loadtest.corpus.devices import Headers
from loadtest.corpus.sessions import Session, samples, sessions
from loadtest.wire.dictionaries import USERS_SAMPLED, collect, train, train_without_rule
from loadtest.wire.mmtp import APPLICATION, Mmtp, Mode, modes
from loadtest.wire.tally import FRAMING, HEARTBEATS, Dialogue, Tally, speak
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import ANSWER_KIND, PUSH_KIND, REQUEST_KIND
from protocols.mmtp.templates import TemplateDecoder, TemplateEncoder

OURS = "MMTP, "
BEST = OURS + "warm + history"
WARM = OURS + "warm"
COLD = OURS + "cold"
HTTP2 = "HTTP/2 + gzip, SSE"
HTTP2_PLAIN = "HTTP/2 + gzip, plain SSE"
"""Events without a coding, as most servers send them."""
GRPC = "gRPC, gzip"
MQTT5 = "MQTT 5"
WEBSOCKET = "WebSocket, deflate"
WEBSOCKET_ALONE = "WebSocket, no takeover"
"""Each message is compressed alone: what a server with many idle connections runs."""
PEERS = (HTTP2, GRPC, MQTT5, WEBSOCKET, WEBSOCKET_ALONE)
"""Those that a session is held to a limit against."""
ROUNDS = 5
BODY_SESSIONS = 32
"""Sessions whose bodies make the rows of bodies. In 8 there are some 270 small ones of 8 devices, and whether two or
three of these have an app with renamed fields moves the row by .01."""


@dataclass
class Figures:
    """Everything that one run has measured."""

    seed: int
    tallies: dict[str, Tally] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why."""
    rows: dict[str, float] = field(default_factory=dict)
    """Names of LIMITS."""
    control: dict[str, float] = field(default_factory=dict)
    without_rule: dict[str, float] = field(default_factory=dict)
    """Rows of bodies with dictionaries of zstd's own trainer, which keeps no rule of users."""
    header_cpu: dict[str, float] = field(default_factory=dict)
    """Microseconds to encode and decode the headers of one request."""


LIMITS = {
    "heartbeat, B": 1.0,
    "framing of a small request beside its header length, B": 3.0,
    "headers of a later request, resumed, B": 42.0,
    "headers of the first request, resumed, B": 42.0,
    "headers of a later request, cold, B": 42.0,
    "headers of the first request, cold, B": 220.0,
    "bodies, of raw": 0.35,
    "bodies up to 128 B, of raw": 0.49,
    f"session against {HTTP2}": 0.66,
    f"session against {GRPC}": 0.50,
    f"session against {MQTT5}": 0.38,
    f"session against {WEBSOCKET_ALONE}": 0.68,
    f"session against {WEBSOCKET}": 0.80,
    "CPU of header codec, profile D against hpack": 1 / 6,
}
OWN_LIMITS = frozenset((f"session against {WEBSOCKET}",))
"""Those that hold what was reached; the project asked for none (decision record 0085)."""


def measure(seed: int, count: int = SESSIONS) -> Figures:
    """Train, speak all protocols, and take the figures; some 10 seconds, and a minute more where no dictionaries are kept
    from before. The limits hold what the gateway's trainer makes; zstd's own is there to compare with."""
    many = list(sessions(seed, max(count, BODY_SESSIONS)))
    some = many[:count]
    bodies = collect(samples(seed, USERS_SAMPLED))
    without_rule = train_without_rule(bodies)
    bundle = train(bodies)
    figures = Figures(seed, control=controls(some))
    for name, (module, make) in _peers().items():
        if find_spec(module) is None:
            figures.skipped[name] = f"skipped: no package {module}"
        else:
            figures.tallies[name] = speak(make(), some)
    ends: dict[str, list[Mmtp]] = {}
    for mode in modes(bundle).values():
        figures.tallies[OURS + mode.name], ends[OURS + mode.name] = speak_mmtp(mode, some)
    rows = figures.rows
    rows["heartbeat, B"] = figures.tallies[BEST].bytes[HEARTBEATS] / (10 * count)
    rows["framing of a small request beside its header length, B"] = _small_framing(some[0], modes(bundle)["warm"])
    rows["headers of a later request, resumed, B"] = mean(size for end in ends[WARM] for size in end.blocks[1:])
    rows["headers of the first request, resumed, B"] = mean(end.blocks[0] for end in ends[WARM])
    rows["headers of a later request, cold, B"] = mean(size for end in ends[COLD] for size in end.blocks[1:])
    rows["headers of the first request, cold, B"] = mean(end.blocks[0] for end in ends[COLD])
    rows["bodies, of raw"] = _bodies(many, bundle)
    rows["bodies up to 128 B, of raw"] = _bodies(many, bundle, SMALL)
    figures.without_rule = {
        "bodies, of raw": _bodies(many, without_rule),
        "bodies up to 128 B, of raw": _bodies(many, without_rule, SMALL),
    }
    for peer in PEERS:
        if peer in figures.tallies:
            rows[f"session against {peer}"] = figures.tallies[BEST].total / figures.tallies[peer].total
    figures.header_cpu = header_cpu(some)
    rows["CPU of header codec, profile D against hpack"] = figures.header_cpu["profile D"] / figures.header_cpu["hpack"]
    return figures


def speak_mmtp(mode: Mode, some: Sequence[Session]) -> tuple[Tally, list[Mmtp]]:
    """The tally of a mode, and the dialogues with what they have noted."""
    ends: list[Mmtp] = []

    def make(session: Session, tally: Tally) -> Mmtp:
        ends.append(Mmtp(mode, session, tally))
        return ends[-1]

    return speak(make, some), ends


_Make = Callable[[Session, Tally], Dialogue]


def _peers() -> dict[str, tuple[str, Callable[[], _Make]]]:
    """Each imports its package only when it is spoken."""

    def http2() -> _Make:
        from loadtest.wire.http2 import Http2

        return Http2

    def http2_plain() -> _Make:
        from loadtest.wire.http2 import Http2

        return partial(Http2, plain_events=True)

    def grpc() -> _Make:
        from loadtest.wire.http2 import Grpc

        return Grpc

    def mqtt() -> _Make:
        from loadtest.wire.mqtt5 import Mqtt5

        return Mqtt5

    def websocket() -> _Make:
        from loadtest.wire.websocket import WebSocket

        return WebSocket

    def websocket_alone() -> _Make:
        from loadtest.wire.websocket import WebSocket

        return partial(WebSocket, takeover=False)

    return {
        HTTP2: ("h2", http2),
        HTTP2_PLAIN: ("h2", http2_plain),
        GRPC: ("h2", grpc),
        MQTT5: ("paho", mqtt),
        WEBSOCKET: ("wsproto", websocket),
        WEBSOCKET_ALONE: ("wsproto", websocket_alone),
    }


def _small_framing(session: Session, mode: Mode) -> float:
    """Of one request with ten bytes of body."""
    tally = Tally()
    end = Mmtp(mode, session, tally)
    end.open()
    end.close()
    before = tally.bytes[FRAMING]
    end.request(session.exchanges[0].operation, session.exchanges[0].request_headers, b"x" * 10)
    end.close()
    return tally.bytes[FRAMING] - before - 1


def _bodies(some: Sequence[Session], bundle: Bundle, up_to: int = 2**62) -> float:
    """Bytes on the wire of bodies of at most `up_to` bytes, by their raw size; no history."""
    raw = packed = 0
    for session in some:
        bodies = [(REQUEST_KIND, call.operation, call.request) for call in session.exchanges]
        bodies += [(ANSWER_KIND, call.operation, call.response) for call in session.exchanges]
        bodies += [(PUSH_KIND, push.biz, push.body) for push in session.pushes]
        for kind, name, body in bodies:
            if len(body) <= up_to:
                dictionary = bundle.for_class(kind, name)
                raw += len(body)
                packed += len((dictionary.compress(body) if dictionary is not None else None) or body)
    return packed / raw


def header_cpu(some: Sequence[Session]) -> dict[str, float]:
    """Medians of rounds in turn, so that a busy machine slows both."""
    requests = [[call.request_headers for call in session.exchanges] for session in some]
    count = sum(map(len, requests))
    http = [[as_http(headers) for headers in session] for session in requests]
    found: dict[str, list[float]] = {"profile D": [], "hpack": []}
    for _ in range(ROUNDS):
        for name, codec, lists in (("profile D", _template_codec, requests), ("hpack", _hpack_codec, http)):
            spent = 0.0
            for session in lists:
                spent += codec(session)
            found[name].append(spent / count * 1e6)
    return {name: median(values) for name, values in found.items()}


def _template_codec(requests: Sequence[Headers]) -> float:
    begin = process_time()
    encoder, decoder = TemplateEncoder(APPLICATION), TemplateDecoder(APPLICATION)
    for headers in requests:
        decoder.decode(encoder.encode(headers), 65_536, 64)
    return process_time() - begin


def _hpack_codec(requests: Sequence[Headers]) -> float:
    begin = process_time()
    encoder, decoder = Encoder(), Decoder()
    for headers in requests:
        decoder.decode(encoder.encode(headers))
    return process_time() - begin
