"""Pieces of hand-over tests: MMTP that can move, and whole SDK clients that call, stream and take pushes meanwhile."""

from __future__ import annotations

import pickle
import random
from io import BytesIO

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from accessgw.client import Client
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.events import DataReceived, HelloReceived, RequestReceived
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import StreamCursor, Welcome
from protocols.mmtp.hpack_backends import get_backend
from protocols.mmtp.pushes import encode_push
from protocols.mmtp.state import SERVER

LATE = 0.05
"""Seconds that a `late` call takes: long enough for some to be open whenever a connection leaves."""
ALIAS = 1


class _Pickler(pickle.Pickler):
    """The protocol's table of states is looked up by its identity, so the other process has to find its own."""

    def persistent_id(self, thing):
        return "server" if thing is SERVER else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name):
        return {"server": SERVER}[name]


class MovableCalls:
    """Answers each call with its own body, and tells of it by a push.

    All that the protocol object knows goes along as it is: tables of header blocks in the middle of their life, half a
    frame, open calls, credit, unacknowledged pushes. Pickle does for two processes of one test that trust each other
    and run one version.
    """

    def __init__(self, connection, clock, state=None):
        self.connection = connection
        self.left = False
        self._clock = clock
        self._timers = {}
        if state is None:
            # Tables of libnghttp2 are not Python's to write down.
            wire = Connection(Role.SERVER, now=clock.seconds(), hpack=get_backend("hpack"))
            state = wire, {}, 0, 0
        self.wire, self._late, self.count, self._pushed = state
        self._wait()

    def data_received(self, data):
        assert not self.left
        self.connection.established()
        self.wire.receive(data, self._clock.seconds())
        while events := self.wire.events():
            for event in events:
                self._happened(event)
        self._flush()

    def _happened(self, event):
        wire = self.wire
        match event:
            case HelloReceived():
                wire.send_welcome(Welcome(session="s", heartbeat=60.0, time=1000.0), FoundStates())
                wire.introduce_stream(ALIAS, StreamCursor("device", event.hello.device, "answers", 1, 0))
            case RequestReceived():
                assert not event.resent
                wire.consumed(event.call, event.wire_size)
                self.count += 1
                if event.more:
                    self._answer(event.call, event.body, more=True)
                elif event.operation == "late":
                    self._late[event.call] = event.body
                    self._wait()
                else:
                    self._answer(event.call, event.body)
            case DataReceived():
                wire.consumed(event.call, event.wire_size)
                wire.send_data(event.call, event.data, event.more)

    def _answer(self, call, body, more=False):
        told = b"%d" % self.count
        if self.wire.push_room(len(told)):
            self._pushed += 1
            self.wire.send_push(ALIAS, self._pushed, encode_push(ALIAS, told), len(told), self._pushed)
        self.wire.respond(call, 0, [("x-count", str(self.count))], body, more=more)

    def _wait(self):
        for call in self._late:
            if call not in self._timers:
                self._timers[call] = self._clock.callLater(LATE, self._answer_late, call)

    def _answer_late(self, call):
        del self._timers[call]
        self._answer(call, self._late.pop(call))
        self._flush()

    def _flush(self):
        data = self.wire.to_send(self._clock.seconds())
        if data:
            self.connection.write(data)

    def _stop(self):
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def leave(self):
        self.left = True
        self._stop()
        state = BytesIO()
        _Pickler(state).dump((self.wire, self._late, self.count, self._pushed))
        return state.getvalue()

    def stay(self):
        self.left = False
        self._wait()

    def drained(self):
        pass

    def aged(self):
        pass

    late = expired = aged

    def connection_lost(self, reason, detail):
        self._stop()


class MovableCallsFactory:
    """Its factory."""

    def __init__(self, clock):
        self.made = []
        self._clock = clock

    def __call__(self, connection):
        self.made.append(MovableCalls(connection, self._clock))
        return self.made[-1]

    def resume(self, connection, state):
        self.made.append(MovableCalls(connection, self._clock, _Unpickler(BytesIO(state)).load()))
        return self.made[-1]


class SdkLoad:
    """SDK clients that never stop, on the reactor that gives the connections away; each checks every answer and push."""

    CALLS = ("echo", "echo", "late", "late", "late")
    """What each of them does at once, beside a streamed call."""

    def __init__(self, reactor, port, ca_file, size):
        self.states = [[] for _ in range(size)]
        self.notes = []
        self.replies = [0] * size
        self.pushes = [0] * size
        self.streams = [0] * size
        self.failure = None
        self._reactor = reactor
        self._stopped = False
        url = f"mmtps://localhost:{port}"
        self._clients = [
            Client(
                url, f"device-{number}", "token", ca=ca_file, reactor=reactor,
                on_state=lambda state, *why, states=states: states.append(state.name), on_note=self.notes.append,
            )
            for number, states in enumerate(self.states)
        ]  # fmt: skip
        self._takers = [self._begin(self._take_pushes(*one)) for one in enumerate(self._clients)]
        self._callers = [
            self._begin(work)
            for number, client in enumerate(self._clients)
            for work in (*(self._call(number, client, name) for name in self.CALLS), self._stream(number, client))
        ]

    def least(self):
        """Rounds of everything that every client has had."""
        if self.failure is not None:
            raise AssertionError(self.failure)
        return min(*self.replies, *self.pushes, *self.streams)

    async def finish(self):
        """Ask no more, hear the rest; how many calls were answered."""
        self._stopped = True
        await gatherResults(self._callers)
        await gatherResults([client.close() for client in self._clients])
        await gatherResults(self._takers)
        assert self.failure is None, self.failure
        return sum(self.replies) + sum(self.streams)

    def _begin(self, work):
        def failed(failure):
            self.failure = failure.getTraceback()

        return Deferred.fromCoroutine(work).addErrback(failed)

    async def _call(self, number, client, operation):
        seeded = random.Random(number)
        while not self._stopped:
            size = seeded.choice((1, 100, 1000, 20_000))
            body = seeded.randbytes(size) if seeded.random() < 0.5 else b"said again, " * (size // 12)
            reply = await client.call(operation, body, headers={"x-size": str(size)}, timeout=30.0)
            assert (reply.body, reply.via, reply.attempts) == (body, "long", 1)
            self.replies[number] += 1

    async def _stream(self, number, client):
        seeded = random.Random(number)
        while not self._stopped:
            sent = [seeded.randbytes(3000) for _ in range(20)]
            reply = await client.call_stream("streamed", self._slowly(sent), timeout=30.0)
            assert b"".join([chunk async for chunk in reply]) == b"".join(sent)
            self.streams[number] += 1

    async def _slowly(self, chunks):
        """So that they are under way for a while."""
        for chunk in chunks:
            await deferLater(self._reactor, 0.002)
            yield chunk

    async def _take_pushes(self, number, client):
        async for push in client.pushes("answers"):
            assert push.seq == self.pushes[number] + 1
            self.pushes[number] += 1
