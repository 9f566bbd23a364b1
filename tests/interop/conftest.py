"""The same gateways and upstreams as the system tests."""

from tests.system.conftest import gateway, make_gateway, upstream

__all__ = ["gateway", "make_gateway", "upstream"]
