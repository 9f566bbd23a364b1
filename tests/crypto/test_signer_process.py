"""accessgw-signer as a process: who may connect, what it answers, signals, reload, the end of its parent."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accessgw.crypto.signers.backend import SoftwareBackend
from accessgw.crypto.signers.server import SignerServer, SocketTaken, listen
from protocols.signing import ECDSA_DIGEST, UNKNOWN_KEY, KeysOffered, SignatureMade, SignatureRefused
from tests.crypto.signer_process import BlockingGateway, SignerProcess
from tests.crypto.signing_keys import ec_key, rsa_key


@pytest.fixture
def signer(tmp_path):
    path = tmp_path / "signer.sock"
    keys = ["--key", rsa_key().write(tmp_path, "rsa"), "--key", ec_key().write(tmp_path, "ec")]
    process = SignerProcess(path, *keys, "--backend", "software").start()
    yield process
    process.end()


def test_it_signs_for_its_own_user_with_both_kinds_of_keys(signer) -> None:
    assert stat.S_IMODE(os.stat(signer.path).st_mode) == 0o600
    gateway = BlockingGateway(signer.path)
    assert gateway.event() == KeysOffered(frozenset({rsa_key().id, ec_key().id}))
    for number, key in enumerate((rsa_key(), ec_key())):
        gateway.wire.request(number, key.id, key.algorithm, key.data())
    answers = {answer.id: answer for answer in (gateway.event(), gateway.event())}
    for number, key in enumerate((rsa_key(), ec_key())):
        assert isinstance(answers[number], SignatureMade)
        key.verify(answers[number].signature, key.data())
    gateway.wire.request(9, "00" * 32, ECDSA_DIGEST, bytes(32))
    refused = gateway.event()
    assert isinstance(refused, SignatureRefused)
    assert refused.code == UNKNOWN_KEY
    gateway.close()


def test_a_peer_that_speaks_something_else_is_cut_off_and_others_are_not(signer) -> None:
    gateway, stranger = BlockingGateway(signer.path), BlockingGateway(signer.path)
    gateway.event()
    stranger.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    signer.expect("cut off")
    with pytest.raises((EOFError, OSError)):
        while True:
            stranger.event()
    gateway.wire.request(1, ec_key().id, ECDSA_DIGEST, ec_key().data())
    assert isinstance(gateway.event(), SignatureMade)
    gateway.close()


def test_sigterm_answers_what_was_asked_takes_the_socket_away_and_exits_with_0(signer) -> None:
    gateway = BlockingGateway(signer.path)
    gateway.event()
    for number in range(50):
        gateway.wire.request(number, rsa_key().id, rsa_key().algorithm, rsa_key().data(number))
    gateway.send()
    first = gateway.event()  # the frames were sent at once: all of them are with the signer
    signer.send(signal.SIGTERM)
    answered = {first.id, *(gateway.event().id for _ in range(49))}
    assert answered == set(range(50))
    assert signer.end() == 0
    assert not signer.path.exists()


def test_sighup_loads_the_keys_again_and_keeps_them_if_that_fails(signer, tmp_path) -> None:
    gateway = BlockingGateway(signer.path)
    gateway.event()
    (tmp_path / "rsa.pem").write_bytes(b"nothing")
    signer.send(signal.SIGHUP)
    assert "the old ones stay" in signer.expect("not loaded")
    gateway.wire.request(1, rsa_key().id, rsa_key().algorithm, rsa_key().data())
    assert isinstance(gateway.event(), SignatureMade)
    (tmp_path / "rsa.pem").write_bytes(ec_key().pem)
    signer.send(signal.SIGHUP)
    assert gateway.event() == KeysOffered(frozenset({ec_key().id, rsa_key().id}))
    gateway.wire.request(2, rsa_key().id, rsa_key().algorithm, rsa_key().data())
    assert isinstance(gateway.event(), SignatureMade)
    gateway.close()


def test_keys_that_were_replaced_sign_for_as_long_as_it_is_told(tmp_path) -> None:
    path = rsa_key().write(tmp_path, "key")
    signer = SignerProcess(tmp_path / "signer.sock", "--key", path, "--keep", "0.2").start()
    gateway = BlockingGateway(signer.path)
    gateway.event()
    Path(path).write_bytes(ec_key().pem)
    signer.send(signal.SIGHUP)
    assert gateway.event() == KeysOffered(frozenset({ec_key().id, rsa_key().id}))
    assert gateway.event() == KeysOffered(frozenset({ec_key().id}))
    gateway.wire.request(1, rsa_key().id, rsa_key().algorithm, rsa_key().data())
    assert isinstance(gateway.event(), SignatureRefused)
    gateway.close()
    assert signer.end() == 0


def test_it_ends_with_the_process_that_started_it(tmp_path) -> None:
    key = ec_key().write(tmp_path, "ec")
    signer = SignerProcess(tmp_path / "signer.sock", "--key", key, "--until-stdin-ends").start(subprocess.PIPE)
    assert signer.process.stdin is not None
    signer.process.stdin.close()
    assert signer.process.wait(20) == 0
    assert not signer.path.exists()
    signer.end()


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path) -> None:
    path = tmp_path / "signer.sock"
    key = ec_key().write(tmp_path, "ec")
    signer = SignerProcess(path, "--key", key).start()
    with pytest.raises(SocketTaken):
        listen(str(path))
    signer.send(signal.SIGKILL)
    signer.process.wait(20)
    assert path.exists()
    signer.end()
    again = SignerProcess(path, "--key", key).start()
    BlockingGateway(path).close()
    again.end()
    path.write_text("mine")
    with pytest.raises(SocketTaken):
        listen(str(path))
    nowhere = tmp_path / "no" / "signer.sock"
    with pytest.raises(SocketTaken, match=f"{nowhere}: No such file or directory"):
        listen(str(nowhere))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "expected --key"),
        (["--key", "/nonexistent/key.pem"], "/nonexistent/key.pem"),
        (["--provider", "no-such-provider", "--key", "/nonexistent/key.pem"], "no-such-provider"),
        (["--allow-user", "no-such-user-here"], "no-such-user-here"),
        (["--pkcs11-module", "/nonexistent.so", "--pkcs11-token", "x"], "pkcs11"),
        (["--pkcs11-module", "/nonexistent.so", "--pkcs11-pin-file", "/nonexistent/pin"], "pkcs11"),
    ],
)
def test_a_start_that_cannot_be_is_one_line_and_exit_code_1(tmp_path, options, words) -> None:
    signer = SignerProcess(tmp_path / "signer.sock", *options)
    with pytest.raises(AssertionError, match="exit code 1"):
        signer.start()
    assert len(signer.lines) == 1
    assert words in signer.lines[0]
    assert not signer.path.exists()
    signer.end()


def test_what_the_system_refuses_at_a_start_is_told_in_its_words(tmp_path) -> None:
    key = ec_key().write(tmp_path, "ec")
    signer = SignerProcess(Path(key) / "signer.sock", "--key", key)
    with pytest.raises(AssertionError, match="exit code 1"):
        signer.start()
    assert signer.lines == [f"accessgw-signer: {key}/signer.sock: Not a directory\n"]
    signer.end()


def test_multibuffer_that_is_asked_for_by_name_must_be_there(tmp_path) -> None:
    if "avx512ifma" in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor may have it")
    key = ec_key().write(tmp_path, "ec")
    signer = SignerProcess(tmp_path / "signer.sock", "--key", key, "--backend", "multibuffer")
    with pytest.raises(AssertionError, match="AVX512-IFMA"):
        signer.start()
    signer.end()


def test_a_process_of_another_user_is_refused(tmp_path) -> None:
    """The server of the process, told that our own user is not one of those."""
    lines: list[str] = []
    listening = listen(str(tmp_path / "signer.sock"))
    backend = SoftwareBackend()
    users = {os.getuid() + 1}
    server = SignerServer(
        listening, backend, lambda: backend, threads=1, waiting=1, users=users, log=lines.append, keep=0.0
    )
    gateway = BlockingGateway(tmp_path / "signer.sock")
    server._accept()
    assert f"of user {os.getuid()} is refused" in lines[0]
    with pytest.raises((EOFError, OSError)):
        gateway.event()
    listening.close()
    gateway.close()


def test_a_socket_whose_process_takes_no_connections_is_not_waited_for(tmp_path) -> None:
    """It is stopped: connections stand in its queue, and once that is full the next would wait."""
    path = tmp_path / "signer.sock"
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(socket.socket(socket.AF_UNIX))
        stopped.bind(str(path))
        stopped.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with ThreadPoolExecutor(1) as pool:
            tried = pool.submit(listen, str(path))
            try:
                with pytest.raises(SocketTaken, match="another process listens there, and takes no connections"):
                    tried.result(20)
            finally:
                stopped.close()  # whoever waits is let go


def test_no_signal_comes_between_its_handler_and_the_descriptor_that_tells_of_it(tmp_path, monkeypatch) -> None:
    order: list[str] = []

    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: order.append("descriptor"))
    monkeypatch.setattr(signal, "signal", lambda number, _: order.append(signal.Signals(number).name))
    monkeypatch.setattr(selectors, "DefaultSelector", enough)
    listening = listen(str(tmp_path / "signer.sock"))
    backend = SoftwareBackend()
    server = SignerServer(
        listening, backend, lambda: backend, threads=1, waiting=1, users=(), log=order.append, keep=0.0
    )
    with pytest.raises(Enough):
        server.run()
    listening.close()
    assert order == ["descriptor", "SIGTERM", "SIGINT", "SIGHUP"]
