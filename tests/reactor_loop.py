"""Runs a coroutine of a test on a real epoll reactor in a child process, with a bound on its time.

Twisted's reactor can run once per process, so each test that needs real sockets gets a process of
its own. `run(function, *args)` imports `function` there by module and name (it must be a module-level
`async def function(reactor, *args)` with picklable arguments and result) and gives back its result,
or fails with the child's traceback.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import traceback
from pathlib import Path
from typing import Any


def run(function: Any, *args: Any, timeout: float = 120.0) -> Any:
    """Result of `await function(reactor, *args)`; AssertionError with the traceback when it failed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_child, args=(theirs, function.__code__.co_filename, function.__name__, args), daemon=True
    )
    child.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            raise AssertionError(f"{function.__name__} did not finish within {timeout} s")
        try:
            ok, value = ours.recv()
        except EOFError:
            raise AssertionError(f"{function.__name__}: the child died") from None
    finally:
        child.join(5)
        if child.is_alive():
            child.kill()
    if not ok:
        raise AssertionError(f"{function.__name__} failed:\n{value}")
    return value


def _child(pipe: Any, path: str, name: str, args: tuple[Any, ...]) -> None:
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    root = str(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location("tests_child_module", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tests_child_module"] = module
    spec.loader.exec_module(module)

    def start() -> None:
        def done(result: Any) -> None:
            if isinstance(result, Failure):
                pipe.send((False, result.getTraceback()))
            else:
                pipe.send((True, result))
            reactor.stop()

        Deferred.fromCoroutine(getattr(module, name)(reactor, *args)).addBoth(done)

    reactor.callWhenRunning(start)
    try:
        reactor.run(installSignalHandlers=False)
    except BaseException:
        pipe.send((False, traceback.format_exc()))
