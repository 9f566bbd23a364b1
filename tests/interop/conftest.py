"""The same gateways and upstreams as the system tests, and a gateway with MQTT for a whole module."""

from collections.abc import Iterator

import pytest

from tests.interop.mqtt_place import Place, running
from tests.system.conftest import gateway, make_gateway, upstream

__all__ = ["gateway", "make_gateway", "mqtt_place", "upstream"]


@pytest.fixture(scope="module")
def mqtt_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A gateway with every MQTT door."""
    with running(tmp_path_factory.mktemp("mqtt")) as place:
        yield place
