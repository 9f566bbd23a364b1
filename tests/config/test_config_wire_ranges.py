"""No configuration may ask for what the wire does not allow: every connection would fail at its WELCOME."""

from __future__ import annotations

import pytest

from accessgw.config.errors import ConfigError
from accessgw.config.load import loads
from protocols.mmtp import settings as wire

LISTENER = '[[listeners]]\nname = "a"\nport = 7000\n'


def problem(name: str, value: int) -> str:
    try:
        loads(f"{LISTENER}[mmtp]\n{name} = {value}\n")
    except ConfigError as error:
        return "".join(str(p) for p in error.problems if p.path == f"mmtp.{name}")
    return ""


@pytest.mark.parametrize("setting", sorted(wire.NAMES))
def test_values_outside_what_the_wire_allows_are_refused(setting: int) -> None:
    name, (low, high) = wire.NAMES[setting], wire.ALLOWED[setting]
    assert problem(name, high + 1)
    assert problem(name, low - 1)
    assert not problem(name, wire.DEFAULTS[setting])


def test_the_push_limit_lies_below_the_write_buffer() -> None:
    with pytest.raises(ConfigError, match=r"pushes.slow_reader_bytes: expected at most half of limits.write_buffer"):
        loads(f"{LISTENER}[pushes]\nslow_reader_bytes = 2000000\n")


def test_the_demo_upstream_is_an_http_address() -> None:
    with pytest.raises(ConfigError, match=r"demo_upstream: expected http://address:port"):
        loads(f'demo_upstream = "unix:/run/demo"\n{LISTENER}')
