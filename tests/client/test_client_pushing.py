"""Pushes of the client's core: delivered once, stored, acknowledged."""

from __future__ import annotations

from accessgw.client.cursors import Memory
from accessgw.client.model import State
from protocols.mmtp.handshake import StreamCursor
from tests.client.driver import Driver

ORDERS = ("device", "d1", "orders")


def test_a_push_is_acknowledged_once_processed() -> None:
    driver = Driver()
    driver.push(b"1")
    driver.push(b"2")
    assert [push.seq for push in driver.pushes] == [1, 2]
    driver.advance(1.0)
    assert driver.gateway.links[0].acked == []
    driver.process(driver.pushes[0])
    driver.advance(0.3)
    assert driver.gateway.links[0].acked == [(ORDERS, 1)]


def test_streams_are_acknowledged_independently() -> None:
    driver = Driver()
    news = ("topic", "news", "news")
    for n in range(4):
        driver.push(b"o%d" % n)
        driver.push(b"n%d" % n, news)
    for push in [p for p in driver.pushes if p.biz == "news"]:
        driver.process(push)
    driver.advance(0.3)
    assert driver.gateway.cursors == {news: 4}
    for push in [p for p in driver.pushes if p.biz == "orders"]:
        driver.process(push)
    driver.advance(0.3)
    assert driver.gateway.cursors == {news: 4, ORDERS: 4}


def test_processing_out_of_order_holds_the_cursor() -> None:
    driver = Driver("mmtp://gw:7080")
    for n in range(3):
        driver.push(b"%d" % n)
    driver.process(driver.pushes[2])
    driver.process(driver.pushes[1])
    driver.advance(0.3)
    assert driver.gateway.cursors == {}
    driver.process(driver.pushes[0])
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 3}


def test_what_was_delivered_is_not_delivered_again_but_acknowledged_on_the_new_connection() -> None:
    driver = Driver("mmtp://gw:7080")
    for n in range(3):
        driver.push(b"%d" % n)
    driver.process(driver.pushes[0])
    driver.lose()
    driver.advance(1.0)
    assert driver.gateway.hellos[1].cursors == [StreamCursor(*ORDERS, 1, 1)]
    assert [push.seq for push in driver.pushes] == [1, 2, 3]
    driver.process(driver.pushes[1])
    driver.process(driver.pushes[2])
    driver.advance(0.3)
    assert driver.gateway.links[1].acked == [(ORDERS, 2), (ORDERS, 3)]


def test_a_cursor_is_stored_before_its_push_is_acknowledged() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    saves = len(driver.saves)
    driver.process(driver.pushes[0])
    driver.advance(5.0)
    assert driver.saves[saves].cursors == [StreamCursor(*ORDERS, 1, 1)]
    assert driver.gateway.links[0].acked == []
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.links[0].acked == [(ORDERS, 1)]


def test_only_stored_cursors_are_told() -> None:
    driver = Driver("mmtp://gw:7080", persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    driver.process(driver.pushes[0])
    driver.lose()
    driver.advance(1.0)
    assert driver.gateway.hellos[1].cursors == []
    assert len(driver.pushes) == 1
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.links[1].acked == [(ORDERS, 1)]


def test_what_is_processed_during_a_save_goes_into_the_next() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    for n in range(3):
        driver.push(b"%d" % n)
    for push in driver.pushes:
        driver.process(push)
    saves = len(driver.saves)
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 1}
    assert len(driver.saves) == saves + 1
    driver.saved()
    driver.advance(0.3)
    assert driver.gateway.cursors == {ORDERS: 3}


def test_a_full_disk_acknowledges_nothing_until_it_takes_the_cursor() -> None:
    driver = Driver(persistent=True)
    driver.auto_save = False
    driver.push(b"1")
    driver.process(driver.pushes[0])
    driver.unsaved -= 1
    driver.core.save_failed("no space left", driver.now)
    driver.run()
    assert [note.kind for note in driver.notes] == ["save_failed"]
    driver.advance(0.9)
    assert driver.gateway.cursors == {}
    driver.auto_save = True
    driver.advance(0.5)
    assert driver.gateway.cursors == {ORDERS: 1}


def test_boot_grows_and_cursors_last() -> None:
    memory = Memory(boot=5_000_000_000, cursors=[StreamCursor(*ORDERS, 1, 7)])
    driver = Driver(memory=memory, persistent=True)
    hello = driver.gateway.hellos[0]
    assert hello.boot == 5_000_000_001
    assert hello.cursors == [StreamCursor(*ORDERS, 1, 7)]
    assert driver.saves[0].boot == hello.boot


def test_gaps_notes_and_new_epochs_are_told() -> None:
    driver = Driver()
    driver.push(b"1")
    link = driver.gateway.links[0]
    from protocols.mmtp.pushes import encode_push

    link.connection.send_push(1, 4, encode_push(1, b"4", gap=2), 1, ("x", 4))
    driver.from_gateway()
    link.connection.note_stream(StreamCursor(*ORDERS, 1, 9), 1, "truncated")
    driver.from_gateway()
    link.connection.note_stream(StreamCursor(*ORDERS, 2, 0), 1, "history_lost")
    link.connection.send_push(1, 1, encode_push(1, b"new"), 3, ("x", 1))
    driver.from_gateway()
    assert [(note.kind, note.count) for note in driver.notes] == [("gap", 2), ("truncated", 5), ("history_lost", 0)]
    assert [(push.epoch, push.seq) for push in driver.pushes] == [(1, 1), (1, 4), (2, 1)]


def test_an_application_that_takes_nothing_is_bounded() -> None:
    driver = Driver("mmtp://gw:7080", max_held=50)
    for n in range(60):
        driver.push(b"%d" % n)
    assert driver.core.state is State.WAITING
    driver.advance(60.0)
    assert len(driver.connects) == 1
    for push in list(driver.pushes):
        driver.process(push)
    driver.advance(1.0)
    assert len(driver.connects) == 2
    assert [push.seq for push in driver.pushes] == list(range(1, 61))


def test_pushes_ride_on_short_connections_without_repeating() -> None:
    driver = Driver()
    driver.push(b"1")
    driver.black_hole = True
    driver.gateway.log[ORDERS].append(b"2")
    driver.call()
    driver.advance(0.6)
    assert [(push.seq, push.via) for push in driver.pushes] == [(1, "long"), (2, "short")]
