"""What log and status say of endpoints that cannot be connected to, and when that is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher

from accessgw.model.route_settings import HealthCheckSettings, UpstreamTlsSettings
from accessgw.policy.reasons_told import TELL_AGAIN
from accessgw.upstreams.post import Poster
from accessgw.upstreams.tls import LOOK_AFTER
from tests.crypto.authority import Authority
from tests.upstreams.tls_servers import replace_files
from tests.upstreams.tls_wire import OK, Server
from tests.upstreams.upstream_fakes import Net, Sink

REFUSED = "upstream c, 10.0.0.1:80: Connection was refused by other side"
AGAIN = "upstream c, 10.0.0.1:80: connections work again"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the log says of upstreams."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if (line := formatEvent(event)).startswith("upstream "):
            lines.append(line)

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def refused(house: Net) -> None:
    _, sink = house.ask(retries=0)
    house.refuse()
    assert sink.kind == "connect"


def test_a_port_that_refuses_is_logged_once_and_when_it_works_again(told: list[str]) -> None:
    house = Net()
    for _ in range(5):
        refused(house)
    assert told == [REFUSED]
    assert "refused" in house.upstreams.snapshot()[0]["error"]
    house.ask()
    wire = house.accept()
    assert told == [REFUSED, AGAIN]
    assert house.upstreams.snapshot()[0]["error"] == ""
    wire.ok()
    wire.end()
    refused(house)
    house.ask()
    house.accept().end()
    assert told == [REFUSED, AGAIN], "one that comes and goes is told once an hour"
    house.turn(TELL_AGAIN)
    refused(house)
    assert told == [REFUSED, AGAIN, REFUSED]


def test_a_check_that_cannot_connect_is_logged_and_when_it_can_again(told: list[str]) -> None:
    house = Net(health=HealthCheckSettings(path="/health", interval=1.0, timeout=0.5))
    house.upstreams.start()
    for _ in range(2):
        house.turn(1.1)
        house.refuse()
    house.turn(1.1)
    house.accept().ok(status=b"500 Sick")
    assert told == [REFUSED], "what a service answers is no trouble with connections"
    refused(house)
    house.turn(1.1)
    house.accept().ok()
    assert told == [REFUSED, AGAIN]
    assert house.upstreams.snapshot()[0]["error"] == "", "what checks find counts for requests"


def test_the_end_of_the_gateway_is_no_trouble(told: list[str]) -> None:
    house = Net()
    house.ask()
    house.upstreams.stop()
    house.refuse()
    assert told == []


def test_a_post_that_gets_no_connection_says_where() -> None:
    house = Net()
    result: Deferred[int] = Poster(house.upstreams, "c", house.clock)("http://hook/", [], b"", 5.0)
    seen: list[str] = []
    result.addErrback(lambda failure: seen.append(str(failure.value)))
    while house.connecting:
        house.refuse()
        house.turn(1.0)
    assert seen == ["no connection to 10.0.0.1:80: Connection was refused by other side."]


def test_what_was_refused_before_files_were_renewed_is_said_to_be_of_before(tmp_path: Path, told: list[str]) -> None:
    authority = Authority(tmp_path, "ca")
    own, renewed = authority.issue("gateway"), authority.issue("renewed")
    tls = UpstreamTlsSettings(ca=authority.file, certificate=own.chain, key=own.key)
    house = Net("https://10.0.0.1:443", tls=tls)

    def turned_away() -> str:
        _, sink = house.ask("GET", retries=0)
        server = Server(authority, house.accept())
        server.connection.set_verify(SSL.VERIFY_PEER, lambda *_: False)
        server.turn()
        with pytest.raises(SSL.Error):
            server.turn()
        server.flush()
        assert sink.failure is not None
        return sink.failure.message

    def served(answer: bool) -> Sink:
        _, sink = house.ask("GET", retries=0)
        server = Server(authority, house.accept())
        server.turn()
        assert server.turn().startswith(b"GET /p")
        if answer:
            server.say(OK)
        return sink

    def error() -> Any:
        return house.upstreams.snapshot()[0]["error"]

    why = turned_away()
    assert why.startswith("TLS: the server does not accept our certificate: ") and error() == why
    replace_files(own, renewed)
    house.turn(LOOK_AFTER)
    served(answer=False)
    assert error() == f"before the files of TLS were renewed: {why}", "a hand-shake proves nothing over TLS 1.3"
    assert turned_away() == why and error() == why
    assert told == [f"upstream c, 10.0.0.1:443: {why}"] * 2, "of other files"
    assert served(answer=True).complete
    assert error() == "" and told[2:] == ["upstream c, 10.0.0.1:443: connections work again"]
