"""From settings to listeners: which kind, and what is missing."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from accessgw.model.listener_settings import ListenerSettings
from accessgw.transports.build import build_listener
from accessgw.transports.listener import TcpListener
from accessgw.transports.opening import TrustedNetworks
from accessgw.transports.tls_listener import TlsListener
from accessgw.transports.unix import UnixListener
from tests.transports.support import Journal, echo_factories, make_services


def build(contexts=None, served=("mmtp/1", "http/1.1"), **settings):
    return build_listener(
        ListenerSettings(name="front", **settings), make_services(Clock()), echo_factories(Journal(), served), contexts
    )


def test_the_kind_follows_the_transport():
    assert type(build()) is TcpListener
    assert type(build(transport="unix", path="/nowhere")) is UnixListener
    tls = build(contexts=object(), transport="tls", address="192.0.2.1", port=7443)
    assert type(tls) is TlsListener
    assert (tls.name, tls.host, tls.port, tls.fileno()) == ("front", "192.0.2.1", 7443, -1)
    assert tls.stop().called


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"served": ("mmtp/1",), "protocols": ("mmtp/1", "http/1.1")}, "front: nothing serves http/1.1"),
        ({"protocols": ()}, "front: nothing serves an empty list"),
        ({"transport": "tls"}, "front: tls needs contexts"),
        ({"proxy_protocol_from": ("localhost",)}, "localhost"),
    ],
)
def test_what_is_missing_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_trusted_networks():
    trusted = TrustedNetworks(("10.0.0.0/8", "2001:db8::/32", "192.0.2.7"))
    assert trusted and not TrustedNetworks(())
    believed = [peer for peer in ("10.1.2.3", "11.1.2.3", "2001:db8::9", "192.0.2.7", "unix") if peer in trusted]
    assert believed == ["10.1.2.3", "2001:db8::9", "192.0.2.7"]
    assert "unix" in TrustedNetworks(("unix",))
