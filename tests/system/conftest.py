"""Gateways and upstreams that tests start, ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.gateway_process import Gateway
from tests.system.handshake_load import Load
from tests.system.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways that are not started yet."""
    made: list[Gateway] = []

    def make(**more: Any) -> Gateway:
        directory = tmp_path / f"gateway-{len(made)}"
        directory.mkdir()
        made.append(Gateway(directory, **more))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    """One that runs, in front of `upstream`."""
    return make_gateway(upstream=upstream.url).start()


@pytest.fixture
def load() -> Iterator[Callable[[int], Load]]:
    made: list[Load] = []

    def make(port: int) -> Load:
        made.append(Load(port))
        return made[-1]

    yield make
    for one in made:
        one.stop()
