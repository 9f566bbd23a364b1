"""Drives a ClientCore against a FakeGateway with a fake clock and a network that loses what it is told to lose."""

from __future__ import annotations

from random import Random
from typing import Any

from accessgw.client import commands as c
from accessgw.client.core import ClientCore, make_connection
from accessgw.client.cursors import Memory
from accessgw.client.model import CallFailed, Note, Push, Reply, State
from accessgw.client.settings import ClientSettings, addresses_of
from accessgw.client.wirememory import WireMemory
from protocols.errors import RemoteError
from tests.client.fake_gateway import FakeGateway, FakeLink


class Driver:
    """The world around one core. Latency is one step: bytes arrive in the same instant unless held back."""

    def __init__(
        self,
        url: str | list[str] = "mmtps://gw:7443",
        *,
        gateway: FakeGateway | None = None,
        memory: Memory | None = None,
        wire_memory: WireMemory | None = None,
        seed: int = 1,
        connect: bool = True,
        **settings: Any,
    ) -> None:
        self.now = 100.0
        self.gateway = gateway or FakeGateway()
        long, short = addresses_of([url] if isinstance(url, str) else url)
        fields = {"addresses": long, "short_addresses": short, "device": "d1", "token": "t", **settings}
        self.core = ClientCore(
            ClientSettings(**fields),
            random=Random(seed),
            make_connection=make_connection,
            wall_clock=1_000.0,
            now=self.now,
            memory=memory,
            wire_memory=wire_memory,
        )
        self.links: dict[int, FakeLink] = {}
        self.commands: list[c.Command] = []
        """Everything that was asked for, in order."""
        self.connects: list[c.Connect] = []
        self.outcomes: dict[int, Reply | CallFailed] = {}
        self.pushes: list[Push] = []
        self.notes: list[Note] = []
        self.states: list[State] = []
        self.posts: list[c.Post] = []
        self.saves: list[Memory] = []
        self.token_asked = 0
        self.inspected: list[int] = []
        # how the world behaves
        self.accepting = True
        self.strict = True
        """The client must not break the protocol."""
        self._black_hole = False
        self._held_up: list[tuple[int, bytes]] = []
        self.auto_save = True
        self.auto_post = True
        self.unsaved = 0
        self.auto_keep = True
        self.keeps: list[c.Keep] = []
        self.unkept = 0
        if connect:
            self.core.connect(self.now)
            self.run()

    @property
    def black_hole(self) -> bool:
        """Nothing passes on long connections; like TCP, what was sent meanwhile arrives when the hole ends."""
        return self._black_hole

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        self._black_hole = value
        if not value:
            held, self._held_up = self._held_up, []
            for attempt, data in held:
                self.deliver_up(attempt, data)
            for attempt in list(self.links):
                self.from_gateway(attempt)

    # --- acting

    def call(
        self,
        operation: str = "echo",
        body: bytes = b"x",
        *,
        headers: list[tuple[str, str]] | None = None,
        timeout: float = 30.0,
        **more: Any,
    ) -> int:
        key = self.core.call(operation, headers or [], body, timeout=timeout, idempotent=False, now=self.now, **more)
        self.run()
        return key

    def advance(self, seconds: float) -> None:
        """Let time pass, every timer at its time."""
        end = self.now + seconds
        for _ in range(10_000):
            at = self.core.next_timer()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.core.timer(self.now)
            self.run()
        else:
            raise AssertionError(f"timers do not come to rest: {self.core.next_timer()} at {self.now}")
        self.now = end

    def lose(self, attempt: int | None = None) -> None:
        """The transport breaks."""
        attempt = attempt if attempt is not None else max(self.links)
        del self.links[attempt]
        self.core.lost(attempt, "reset", self.now)
        self.run()

    def from_gateway(self, attempt: int | None = None) -> None:
        """Bring what a link of the gateway has to send."""
        attempt = attempt if attempt is not None else max(self.links)
        if self._black_hole or attempt not in self.links:
            return
        data = self.links[attempt].connection.to_send(self.now)
        if data:
            self.arrive(attempt, data)

    def push(self, body: bytes, stream: tuple[str, str, str] = ("device", "d1", "orders")) -> None:
        self.gateway.push(stream, body)
        for attempt in list(self.links):
            self.from_gateway(attempt)

    def arrive(self, attempt: int, data: bytes) -> None:
        self.core.received(attempt, data, self.now)
        self.run()

    def deliver_up(self, attempt: int, data: bytes) -> None:
        """Bytes of the client reach the gateway."""
        if self._black_hole:
            self._held_up.append((attempt, data))
            return
        link = self.links.get(attempt)
        if link is None:
            return
        try:
            answer = link.receive(data, self.now)
        except RemoteError as error:
            if self.strict:
                raise AssertionError(f"the client broke the protocol: {error}") from error
            self.lose(attempt)
            return
        if answer:
            self.arrive(attempt, answer)

    def process(self, push: Push) -> None:
        self.core.taken(self.now)
        push.acked = True
        self.core.processed(push, self.now)
        self.run()

    def answer_post(self, post: c.Post) -> None:
        status, body = self.gateway.http(dict(post.headers)["host"], post.body)
        self.core.posted(post.post, status, body, self.now)
        self.run()

    # --- carrying out commands

    def run(self) -> None:
        while self.core.commanding or self.core.unsettled:
            if self.core.unsettled:
                self.core.settle(self.now)
            for command in self.core.take_commands():
                self.commands.append(command)
                self.perform(command)

    def perform(self, command: c.Command) -> None:
        core, now = self.core, self.now
        match command:
            case c.Connect():
                self.connects.append(command)
                if self.accepting:
                    self.links[command.attempt] = self.gateway.accept(now)
                    core.connected(command.attempt, now)
            case c.Write():
                self.deliver_up(command.attempt, command.data)
            case c.Close():
                self.links.pop(command.attempt, None)
            case c.Post():
                self.posts.append(command)
                if self.auto_post:
                    self.answer_post(command)
            case c.Finish():
                assert command.call not in self.outcomes, "a call finished twice"
                self.outcomes[command.call] = command.outcome
            case c.Deliver():
                self.pushes.append(command.push)
            case c.Tell():
                self.notes.append(command.note)
            case c.Changed():
                self.states.append(command.state)
            case c.Save():
                self.saves.append(command.memory)
                self.unsaved += 1
                assert self.unsaved == 1, "two saves at once"
                if self.auto_save:
                    self.saved()
            case c.Keep():
                self.keeps.append(command)
                self.unkept += 1
                assert self.unkept == 1, "two keeps at once"
                if self.auto_keep:
                    self.kept()
            case c.AskToken():
                self.token_asked += 1
            case c.Inspect():
                self.inspected.append(command.attempt)
            case c.CancelPost() | c.CallHead() | c.CallChunk() | c.CallRoom():
                pass

    def saved(self) -> None:
        self.unsaved -= 1
        self.core.saved(self.now)
        self.run()

    def kept(self, reason: str = "") -> None:
        """The Keep is done, or has failed for a reason."""
        self.unkept -= 1
        if reason:
            self.core.wire.keep_failed(reason, self.now)
        else:
            self.core.wire.kept(self.now)
        self.run()

    def kinds(self, *types: type) -> list[Any]:
        return [command for command in self.commands if isinstance(command, types)]
