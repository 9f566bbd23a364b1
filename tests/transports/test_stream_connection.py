"""One stream connection by hand: real sockets, a clock that stands still, readiness by select()."""

from __future__ import annotations

import gc
import random
import select
import socket

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.stream import StreamConnection
from tests.transports.support import Echo, HandReactor, Journal, make_services


class Setup:
    def __init__(self, binding=Echo, **limits):
        self.reactor = HandReactor()
        self.journal = Journal()
        self.services = make_services(self.reactor, self.journal, **limits)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.peer = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        self.peer.settimeout(5)
        ours.setblocking(False)
        info = ConnectionInfo(id=1, listener="test", transport="tcp", peer="127.0.0.1")
        self.connection = StreamConnection(ours, info, self.services, "")
        self.connection.begin(lambda data: self.connection.bind(lambda c: binding(c, self.journal), data))

    def say(self, data):
        """The peer sends `data`, and it is read."""
        before = self.connection.bytes_in
        self.peer.sendall(data)
        while self.connection.bytes_in < before + len(data):
            select.select([self.connection], [], [], 5)
            self.reactor.turn()

    @property
    def binding(self):
        return self.journal.bindings[0]

    def end_of_peer(self):
        self.peer.close()
        select.select([self.connection], [], [], 5)
        self.reactor.turn()

    def reset(self):
        """The peer's RST is there, and not read yet."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.peer.close()
        assert select.select([self.connection], [], [], 5)[0]

    def read_all(self):
        """What the peer reads until our end, while the reactor turns."""
        got = b""
        self.peer.setblocking(False)
        while True:
            self.reactor.turn()
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                select.select([self.peer], [], [], 0.05)
                continue
            if not data:
                return got
            got += data

    def fill(self, size):
        """Write until `size` bytes are buffered."""
        while self.connection.buffered < size:
            self.connection.write(bytes(10_000))

    def forget(self):
        self.reactor.readers.clear()
        self.reactor.writers.clear()


def test_a_write_goes_out_at_once_and_registers_no_writer():
    setup = Setup()
    setup.say(b"hello")
    assert setup.peer.recv(100) == b"hello"
    assert not setup.reactor.writers and setup.connection.buffered == 0


def test_a_connection_has_slots_only():
    setup = Setup()
    assert not hasattr(setup.connection, "__dict__")
    setup.connection.abort(CloseReason.OPERATOR)


def test_a_slow_reader_is_bounded_and_aborted():
    setup = Setup(write_buffer=100_000)
    setup.say(b"x")
    worst = written = 0
    while not setup.services.counters.closed:
        setup.connection.write(bytes(9_999))
        written += 9_999
        worst = max(worst, setup.connection.buffered)
        assert written < 1 << 26
    assert 90_000 < worst <= 100_000
    assert setup.services.counters.closed == {"slow_reader": 1}
    assert setup.services.counters.write_overflows == 1
    setup.connection.write(b"more")
    assert setup.binding.calls == ["data"]  # told in a later turn
    setup.reactor.turn()
    assert setup.binding.calls == ["data", ("lost", "slow_reader")]
    setup.reactor.turn()
    assert setup.journal.reasons == ["slow_reader"]
    with pytest.raises(ConnectionResetError):
        while setup.peer.recv(1 << 20):
            pass


def test_what_does_not_fit_is_buffered_sent_and_drained_is_told():
    setup = Setup()
    setup.say(b"x")
    setup.fill(50_000)
    sent = setup.connection.bytes_out + setup.connection.buffered
    got = 0
    while setup.connection.buffered:
        got += len(setup.peer.recv(1 << 20))
        setup.reactor.turn()
    assert setup.binding.calls == ["data", "drained"]
    assert not setup.reactor.writers
    while got < sent:
        got += len(setup.peer.recv(1 << 20))
    assert setup.connection.bytes_out == setup.services.counters.bytes_out == sent == got


def test_close_flushes_then_waits_for_the_peers_end():
    setup = Setup()
    setup.say(b"x")
    setup.fill(50_000)
    total = setup.connection.bytes_out + setup.connection.buffered
    setup.connection.close(CloseReason.DRAINING)
    setup.connection.close(CloseReason.OPERATOR)
    setup.connection.write(b"after close")
    assert len(setup.read_all()) == total
    assert setup.binding.calls[-1] != ("lost", "draining")  # the peer may still be sending
    setup.end_of_peer()
    assert setup.binding.calls[-1] == ("lost", "draining")
    assert setup.journal.reasons == ["draining"]


def test_close_with_unread_input_does_not_reset_the_last_bytes():
    setup = Setup()
    setup.say(b"x")
    setup.peer.sendall(bytes(100_000))
    setup.connection.write(b"last words")
    setup.connection.close(CloseReason.FINISHED)
    assert setup.read_all() == b"xlast words"
    setup.end_of_peer()
    assert setup.journal.reasons == ["finished"]


def test_a_peer_that_does_not_read_is_given_up_after_close_timeout():
    setup = Setup(close_timeout=5)
    setup.say(b"x")
    setup.fill(50_000)
    setup.connection.close(CloseReason.DRAINING)
    setup.reactor.wait(4.5)
    assert not setup.journal.closed
    setup.reactor.wait(1)
    assert setup.journal.reasons == ["draining"]


def test_a_peer_that_never_ends_is_given_up_after_close_timeout():
    setup = Setup(close_timeout=5)
    setup.say(b"x")
    setup.connection.close(CloseReason.DRAINING)
    setup.say(b"still talking")
    setup.reactor.wait(5.5)
    assert setup.journal.reasons == ["draining"]
    assert setup.binding.received == b"x"


def test_abort_is_told_once_from_a_later_turn():
    setup = Setup()
    setup.say(b"x")
    setup.connection.abort(CloseReason.OPERATOR, "asked")
    setup.connection.abort(CloseReason.INTERNAL)
    setup.connection.close(CloseReason.INTERNAL)
    assert setup.binding.calls == ["data"]
    assert setup.connection.fileno() == -1 and len(setup.services.table) == 0
    setup.reactor.turn()
    assert setup.binding.calls == ["data", ("lost", "operator")]
    assert setup.journal.closed[0][:4] == (CloseReason.OPERATOR, "asked", 1, 1)
    setup.forget()


def test_the_peers_end_flushes_what_was_written():
    setup = Setup()
    setup.say(b"x")
    setup.fill(50_000)
    total = setup.connection.bytes_out + setup.connection.buffered
    setup.peer.shutdown(socket.SHUT_WR)
    assert len(setup.read_all()) == total
    assert setup.journal.reasons == ["peer_closed"]


def test_hello_timeout_is_absolute():
    setup = Setup(hello_timeout=5)
    for _ in range(4):
        setup.reactor.wait(1)
        setup.peer.sendall(b"")
    setup.reactor.wait(1.5)
    assert setup.journal.reasons == ["hello_timeout"]


def test_a_slowloris_cannot_stretch_the_hello_timeout():
    class Slow(Echo):
        def data_received(self, data):
            self.calls.append("data")

    setup = Setup(Slow, hello_timeout=5)
    for _ in range(5):
        setup.say(b"x")
        setup.reactor.wait(1)
    setup.reactor.wait(0.5)
    assert setup.journal.reasons == ["hello_timeout"]


def test_idle_timeout_counts_from_the_last_read():
    setup = Setup(idle_timeout=60)
    for _ in range(3):
        setup.say(b"x")
        setup.reactor.wait(50)
    assert not setup.journal.closed
    setup.reactor.wait(10.5)
    setup.end_of_peer()
    assert setup.journal.reasons == ["idle"]


def test_set_idle_await_hello_and_never():
    setup = Setup(idle_timeout=60, hello_timeout=5)
    setup.say(b"x")
    setup.connection.set_idle(0)
    setup.reactor.wait(500)
    setup.connection.await_hello()
    setup.reactor.wait(4)
    setup.connection.set_idle(10)
    setup.reactor.wait(9.5)
    assert not setup.journal.closed
    setup.connection.await_hello()
    setup.reactor.wait(5.5)
    assert setup.journal.reasons == ["hello_timeout"]


def test_a_paused_connection_reads_nothing_and_is_not_idle():
    setup = Setup(idle_timeout=10)
    setup.say(b"x")
    setup.connection.pause()
    setup.peer.sendall(b"later")
    setup.reactor.turn()
    setup.reactor.wait(100)
    assert setup.binding.received == b"x" and not setup.journal.closed
    setup.connection.resume()
    select.select([setup.connection], [], [], 5)
    setup.reactor.turn()
    assert setup.binding.received == b"xlater"
    setup.reactor.wait(10.5)
    setup.end_of_peer()
    assert setup.journal.reasons == ["idle"]


def test_age_with_spread_then_a_hard_end():
    setup = Setup(max_age=1000, max_age_spread=0.5, idle_timeout=100_000)
    setup.say(b"x")
    share = random.Random(1).random()
    setup.reactor.wait(1000 * (1 - 0.5 * share) - 1)
    assert "aged" not in setup.binding.calls
    setup.reactor.wait(2)
    assert setup.binding.calls == ["data", "aged"]
    setup.reactor.wait(29)
    setup.say(b"y")
    setup.reactor.wait(2)
    setup.end_of_peer()
    assert setup.journal.reasons == ["max_age"]
    assert setup.binding.calls.count("aged") == 1


@pytest.mark.parametrize("hello", [b"x", b""])
def test_age_without_an_idle_timeout_and_in_the_hello(hello):
    setup = Setup(max_age=100, max_age_spread=0, idle_timeout=0.0, hello_timeout=1000)
    if hello:
        setup.say(hello)
    else:
        setup.connection.bind(lambda connection: Echo(connection, setup.journal))
    setup.reactor.wait(101)
    assert setup.binding.calls[-1] == "aged"
    setup.reactor.wait(28)
    assert not setup.journal.closed
    setup.reactor.wait(2)
    setup.end_of_peer()
    assert setup.journal.reasons == ["max_age"]


def test_idle_ends_a_connection_that_has_aged():
    setup = Setup(max_age=100, max_age_spread=0, idle_timeout=20)
    setup.say(b"x")
    for _ in range(10):
        setup.reactor.wait(10)
        setup.say(b"y")
    setup.reactor.wait(1)
    assert "aged" in setup.binding.calls
    setup.reactor.wait(21)
    setup.end_of_peer()
    assert setup.journal.reasons == ["idle"]


def test_a_close_before_the_age_lasts_its_own_time():
    setup = Setup(max_age=10, max_age_spread=0, close_timeout=8)
    setup.say(b"x")
    setup.reactor.wait(9)
    setup.connection.close(CloseReason.DRAINING)
    setup.reactor.wait(5)
    assert not setup.journal.closed and "aged" not in setup.binding.calls
    setup.end_of_peer()
    assert setup.journal.reasons == ["draining"]


def test_finish_ends_at_once_and_resets_nothing():
    setup = Setup()
    setup.say(b"x")
    setup.connection.finish(CloseReason.PEER_GOAWAY)
    setup.connection.finish(CloseReason.OPERATOR)
    assert setup.connection.fileno() == -1 and not setup.journal.closed  # told from a later turn
    setup.reactor.turn()
    assert setup.journal.reasons == ["peer_goaway"]
    assert setup.peer.recv(10) == b"x" and setup.peer.recv(10) == b""


def test_finish_writes_what_is_left_first():
    setup = Setup()
    setup.say(b"x")
    setup.fill(50_000)
    total = setup.connection.bytes_out + setup.connection.buffered
    setup.connection.finish(CloseReason.PEER_GOAWAY)
    assert len(setup.read_all()) == total
    setup.end_of_peer()
    assert setup.journal.reasons == ["peer_goaway"]


def test_a_hook_that_raises_hides_no_other_end():
    setup = Setup()
    setup.say(b"x")
    setup.services.tell_later(lambda: 1 / 0)
    setup.connection.abort(CloseReason.OPERATOR)
    assert len(setup.reactor.getDelayedCalls()) == 2  # one for all ends, one of the wheel
    setup.reactor.turn()
    assert setup.journal.reasons == ["operator"]


def test_no_age_limit_and_no_timers_left():
    setup = Setup(max_age=0, idle_timeout=0.0)
    setup.say(b"x")
    setup.reactor.wait(1)
    assert not setup.reactor.getDelayedCalls()
    setup.connection.abort(CloseReason.OPERATOR)


@pytest.mark.parametrize("where", ["factory", "data_received", "drained", "aged", "connection_lost"])
def test_a_binding_that_raises_costs_its_connection_only(where):
    class Broken(Echo):
        def __init__(self, connection, journal):
            super().__init__(connection, journal)
            self.fail("factory")

        def fail(self, here):
            if here == where:
                raise ValueError("defect")

        def data_received(self, data):
            super().data_received(data)
            self.fail("data_received")

        def drained(self):
            super().drained()
            self.fail("drained")

        def aged(self):
            super().aged()
            self.fail("aged")

        def connection_lost(self, reason, detail):
            super().connection_lost(reason, detail)
            self.fail("connection_lost")

    seen = []
    globalLogPublisher.addObserver(seen.append)
    try:
        setup = Setup(Broken, max_age=100, max_age_spread=0)
        setup.say(b"x")
        if where not in {"factory", "data_received"}:
            setup.fill(1)
            while setup.connection.buffered:
                setup.peer.recv(1 << 20)
                setup.reactor.turn()
        if where not in {"factory", "data_received", "drained"}:
            setup.reactor.wait(101)
        if where == "connection_lost":
            setup.connection.close(CloseReason.OPERATOR)
        while True:
            if not setup.peer.recv(1 << 20):
                break
        setup.end_of_peer()
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert setup.journal.reasons == ["operator" if where == "connection_lost" else "internal"]
    assert [event["log_failure"].type for event in seen if "log_failure" in event] == [ValueError]
    lost = [call for call in setup.binding.calls if call[0] == "lost"]
    assert len(lost) == (0 if where == "factory" else 1)


def test_a_reset_met_by_a_write_is_told_from_a_later_turn():
    setup = Setup()
    setup.say(b"x")
    setup.reset()
    setup.connection.write(b"anybody there?")
    assert setup.binding.calls == ["data"]
    setup.reactor.turn()
    assert setup.binding.calls == ["data", ("lost", "peer_reset")]


@pytest.mark.parametrize(("failure", "reason"), [(ConnectionDone(), "peer_closed"), (ConnectionLost(), "peer_reset")])
def test_a_hang_up_that_the_reactor_reports(failure, reason):
    setup = Setup()
    setup.say(b"x")
    setup.connection.connectionLost(Failure(failure))
    setup.reactor.turn()
    assert setup.journal.reasons == [reason]
    assert setup.binding.calls[-1] == ("lost", reason)


def test_a_hang_up_tells_the_sockets_error():
    setup = Setup()
    setup.say(b"x")
    setup.reset()
    setup.connection.connectionLost(Failure(ConnectionDone()))
    setup.reactor.turn()
    assert setup.journal.reasons == ["peer_reset"]


def test_the_descriptor_outlives_calls_after_its_end():
    setup = Setup()
    setup.say(b"x")
    setup.connection.abort(CloseReason.OPERATOR)
    setup.connection.doWrite()
    setup.connection.connectionLost(Failure(ConnectionDone()))
    for call in (setup.connection.pause, setup.connection.resume, setup.connection.established):
        call()
    setup.connection.set_idle(5)
    setup.connection.await_hello()
    setup.reactor.turn()
    assert setup.journal.reasons == ["operator"]
    assert not setup.reactor.readers and not setup.reactor.writers


def test_an_ended_connection_is_freed_without_the_collector():
    def life():
        setup = Setup()
        setup.say(b"x")
        setup.connection.close(CloseReason.OPERATOR)
        setup.end_of_peer()
        setup.reactor.turn()
        del setup.connection, setup.journal.bindings[0].connection

    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(thing, StreamConnection) for thing in gc.get_objects())
        life()
        after = sum(isinstance(thing, StreamConnection) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before
