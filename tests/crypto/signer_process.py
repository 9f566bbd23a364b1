"""An accessgw-signer as a process of a test, and gateways of it without a reactor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from protocols.signing import SigningConnection, SigningEvent


class SignerProcess:
    """`start()` returns once it serves."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self._command = [sys.executable, "-m", "accessgw.crypto.signers.main", "--listen", str(path), *options]
        self.process: subprocess.Popen[str]
        self.lines: list[str] = []

    def start(self, stdin: int | None = subprocess.DEVNULL, **popen) -> SignerProcess:
        self.process = subprocess.Popen(self._command, stdin=stdin, stderr=subprocess.PIPE, text=True, **popen)
        self.expect("serving")
        return self

    def expect(self, word: str) -> str:
        """The next line of its log with that word in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if word in line:
                return line
        raise AssertionError(f"no {word!r} in its log: {self.lines}, exit code {self.process.wait(10)}")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Exit code after SIGTERM, or of its own."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            assert self.process.stderr is not None
            self.process.stderr.close()


class BlockingGateway:
    """One connection to a signer, on plain calls."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.wire = SigningConnection(signer=False)
        self.wire.hello()
        self._events: list[SigningEvent] = []

    def send(self) -> None:
        self.socket.sendall(self.wire.to_send())

    def event(self) -> SigningEvent:
        self.send()
        while not self._events:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the signer has closed")
            self._events += self.wire.receive(data)
        return self._events.pop(0)

    def close(self) -> None:
        self.socket.close()
