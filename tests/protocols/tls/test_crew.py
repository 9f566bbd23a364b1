"""A crew: what comes first, what is told when, what is refused, what is dropped, and that nothing stays behind."""

from __future__ import annotations

import gc
import select
import threading

import pytest

from protocols.errors import RemoteError
from protocols.tls.engine import PlaintextReceived
from protocols.tls.server_context import ClientVerification
from tests.protocols.tls.native_links import HAS_NATIVE, ServedCrew, native_server, without_key
from tests.protocols.tls.tls_links import PSK, Link, client, completed, issuer, localhost

if not HAS_NATIVE:
    pytest.skip("no native engine here", allow_module_level=True)

from protocols._native import tls_engine


@pytest.fixture
def idle():
    """A crew without threads: nothing is done."""
    served = ServedCrew(threads=0)
    yield served
    served.stop()


@pytest.fixture
def served():
    served = ServedCrew()
    yield served
    served.stop()


def hello(**more):
    device = client().engine("localhost", **more)
    device.start()
    return device, device.to_send()


def submit(served, context, begun=False, step=None, data=None):
    engine = context.engine(detachable=True)
    engine.offload(served.crew, hello()[1] if data is None else data, step or engine, begun)
    return engine


def test_many_at_once_on_several_threads_are_all_completed():
    gc.collect()
    before = tls_engine.counts()
    served, context = ServedCrew(threads=4), native_server()
    made = {}
    for _ in range(50):
        device, data = hello()
        engine = submit(served, context, data=data)
        made[engine] = device
    served.crew.wake()
    came = []
    while len(came) < 50:
        came += served.told()
    for engine, state in came:
        engine.resume(state)
        assert completed(Link(made[engine], engine).run_on().gateway_events).alpn == "mmtp/1"
    assert {engine for engine, _ in came} == set(made)
    assert served.stop() == 0
    made.clear()
    came.clear()
    del engine, device
    gc.collect()
    assert tls_engine.counts() == before


def test_those_that_have_begun_go_first():
    gate, entered, order = threading.Event(), threading.Event(), []

    def find(identity):
        order.append(identity)
        if len(order) == 1:
            entered.set()
            gate.wait(30)

    context, served = native_server(find_psk=find), ServedCrew()
    keys = [type(PSK)(bytes([number]) * 17, PSK.key, 0, "mmtp/1") for number in range(3)]
    engines = []
    for number, begun in ((0, False), (1, False), (2, True)):
        _, data = hello(psk=keys[number])
        engines.append(submit(served, context, begun=begun, data=data))
        if number == 0:
            served.crew.wake()
            assert entered.wait(30)
    gate.set()
    came = []
    while len(came) < 3:
        came += served.told()
    assert [one[0] for one in order] == [0, 2, 1]
    assert [engines.index(engine) for engine, _ in came] == [0, 2, 1]
    served.stop()


def test_the_bell_rings_again_for_what_was_not_taken(served):
    context = native_server()
    engines = [submit(served, context) for _ in range(3)]
    served.crew.wake()
    came = served.told(1)
    while len(came) < 3:
        came += served.told(1)
    assert [engine for engine, _ in came] == engines
    assert not served.rings
    assert served.crew.finished(1) == []


def test_an_engine_belongs_to_the_crew_until_it_is_told(idle):
    context = native_server()
    engine = submit(idle, context)
    for use in (lambda: engine.feed(b"x"), engine.to_send, lambda: engine.offload(idle.crew, b"x", engine, True)):
        with pytest.raises(RuntimeError, match="two threads use one connection"):
            use()
    assert idle.crew.stop() == 1
    assert engine.to_send() == b""


def test_a_cancelled_step_does_nothing(served):
    looked = []
    context = native_server(find_psk=looked.append)
    engine = context.engine(detachable=True)
    idle = ServedCrew(threads=0)
    engine.offload(idle.crew, hello(psk=PSK)[1], engine, False)
    engine.cancel()
    thread = threading.Thread(target=idle.crew.serve)
    thread.start()
    idle.crew.wake()
    ((step, state),) = idle.told()
    assert (step, state) == (engine, tls_engine.FAILED)
    assert looked == []
    with pytest.raises(RemoteError, match="hand-shake"):
        engine.resume(state)
    idle.stop()
    thread.join(30)


def test_a_look_up_that_raises_ends_that_hand_shake_alone(served):
    def fails(identity):
        raise KeyError("the store is closed")

    engine = submit(served, native_server(find_psk=fails), data=hello(psk=PSK)[1])
    served.crew.wake()
    ((_, state),) = served.told()
    with pytest.raises(RemoteError, match="the look-up of a pre-shared key failed") as raised:
        engine.resume(state)
    assert isinstance(raised.value.__cause__, KeyError)
    assert engine.to_send() == bytes.fromhex("15030300020250")
    good = submit(served, native_server())
    served.crew.wake()
    ((_, state),) = served.told()
    good.resume(state)
    assert good.to_send()


@pytest.mark.parametrize(
    ("context", "data", "words"),
    [
        (native_server, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "hand-shake"),
        (native_server, b"GET / HTTP/1.1\r\n\r\n", "http request"),
        (lambda: native_server(alpn=["h2"]), None, "h2"),
    ],
)
def test_what_is_refused_on_a_thread_is_raised_by_resume(served, context, data, words):
    engine = submit(served, context(), data=data)
    served.crew.wake()
    ((_, state),) = served.told()
    with pytest.raises(RemoteError, match=words):
        engine.resume(state)
    with pytest.raises(RemoteError, match=words):
        engine.feed(b"more")


def test_a_client_certificate_is_verified_on_a_thread(served):
    context = native_server(clients=ClientVerification("require", issuer().pem), tickets=False)
    device, data = hello()
    engine = submit(served, context, data=data)
    served.crew.wake()
    ((_, state),) = served.told()
    engine.resume(state)
    assert not engine.only_finished_left
    device.feed(engine.to_send())
    engine.offload(served.crew, device.to_send(), engine, True)
    served.crew.wake()
    ((_, state),) = served.told()
    with pytest.raises(RemoteError, match="certificate"):
        engine.resume(state)


def test_what_comes_with_the_finished_is_held_for_the_record_layer(served):
    device, data = hello()
    engine = submit(served, native_server(), data=data)
    served.crew.wake()
    engine.resume(served.told()[0][1])
    device.feed(engine.to_send())
    device.encrypt(b"a call")
    engine.offload(served.crew, device.to_send(), engine, True)
    served.crew.wake()
    engine.resume(served.told()[0][1])
    link = Link(device, engine, moving=("gateway",))
    link.gateway_events += engine.events()
    link.gateway = link._moved("gateway", engine)
    assert [event.data for event in link.gateway.events() if isinstance(event, PlaintextReceived)] == [b"a call"]


def test_keys_that_are_elsewhere_are_not_for_a_crew(idle):
    context = native_server(certificates=[without_key(localhost())])
    assert not context.offloaded
    with pytest.raises(ValueError, match="whose private key is here"):
        submit(idle, context)


def test_a_hand_shake_that_is_over_is_not_for_a_crew(idle):
    context = native_server()
    engine = context.engine(detachable=True)
    device, data = hello()
    engine.feed(data)
    device.feed(engine.to_send())
    engine.feed(device.to_send())
    with pytest.raises(ValueError, match="not over"):
        engine.offload(idle.crew, b"x", engine, True)


def test_what_is_dropped_or_never_told_is_freed():
    gc.collect()
    before = tls_engine.counts()
    served, context = ServedCrew(), native_server()
    told = submit(served, context)
    served.crew.wake()
    assert served.told()
    left = [submit(served, context)]
    served.crew.wake()
    assert select.select([served.bell], [], [], 30)[0]
    served.stop()
    waiting = ServedCrew(threads=0)
    left += [submit(waiting, context) for _ in range(3)]
    assert waiting.stop() == 3
    del told, left, served, waiting, context
    gc.collect()
    assert tls_engine.counts() == before


def test_stop_waits_for_the_step_that_runs_and_nothing_after_it_is_made():
    entered, gate = threading.Event(), threading.Event()

    def find(identity):
        entered.set()
        gate.wait(30)

    context, served = native_server(find_psk=find), ServedCrew()
    submit(served, context, data=hello(psk=PSK)[1])
    served.crew.wake()
    assert entered.wait(30)
    behind = submit(served, context)
    assert served.crew.stop() == 1
    gate.set()
    for thread in served.threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(served.crew.finished(10)) == 1
    assert behind.to_send() == b""


def test_arguments_that_cannot_be(idle):
    engine = native_server().engine()
    with pytest.raises(TypeError):
        idle.crew.submit(engine, b"", None, False, None)
    with pytest.raises(TypeError):
        idle.crew.submit(engine._connection, "text", None, False, None)
    with pytest.raises(TypeError):
        tls_engine.Crew("bell")
