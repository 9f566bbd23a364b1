"""HandshakeThreads whose steps run when a test says so, and a thread that notes who fed engines."""

from __future__ import annotations

import threading
from typing import Any

from accessgw.upstreams.threads import AT_ONCE, Loading
from protocols.tls.pyopenssl_engine import PyOpenSSLEngine


class ByHand:
    """Steps wait until `run`, and are told with `tell`; with `loads` those of files, too."""

    def __init__(self, loads: bool = False) -> None:
        self.loads = loads
        self.waiting: list[Any] = []
        self.ran: list[Any] = []
        self.begun: list[bool] = []

    def lane(self) -> ByHand:
        return self

    def submit(self, step: Any, begun: bool) -> None:
        if isinstance(step, Loading) and not self.loads:
            AT_ONCE.submit(step, begun)
            return
        assert step not in self.waiting and step not in self.ran, "one thread at a time has an engine"
        self.waiting.append(step)
        self.begun.append(begun)

    def run(self) -> None:
        """On a thread, as it would be; not told yet."""
        step = self.waiting.pop(0)
        thread = threading.Thread(target=step.run)
        thread.start()
        thread.join()
        self.ran.append(step)

    def tell(self) -> None:
        self.ran.pop(0).done()

    def all(self) -> None:
        while self.waiting:
            self.run()
            self.tell()


class WhoFeeds:
    """Notes the threads on which client engines are fed before their hand-shake is complete: those sign and verify."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self._real = PyOpenSSLEngine.feed

    def __enter__(self) -> WhoFeeds:
        real, threads = self._real, self.threads

        def feed(engine: PyOpenSSLEngine, data: bytes) -> None:
            if not engine.handshaken:
                threads.append(threading.current_thread().name)
            real(engine, data)

        PyOpenSSLEngine.feed = feed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        PyOpenSSLEngine.feed = self._real  # type: ignore[method-assign]
