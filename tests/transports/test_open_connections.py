"""The table of a worker's connections: who is in it, in which order, and page by page while some come and go."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from accessgw.model.identity import ConnectionInfo
from accessgw.transports.services import PAGE_BITS, OpenConnections

PAGE = 1 << PAGE_BITS


@dataclass(eq=False)
class Connection:
    number: int
    info: ConnectionInfo = field(init=False)

    def __post_init__(self):
        self.info = ConnectionInfo(id=self.number, listener="l", transport="tcp", peer="::1")


def accept(table, count):
    made = [Connection(table.next_id()) for _ in range(count)]
    for one in made:
        table.add(one)
    return made


def test_everyone_once_in_the_order_of_accepting():
    table = OpenConnections()
    made = accept(table, 2 * PAGE + 5)
    assert len(table) == len(made) and table.snapshot() == made
    table.add(made[3])
    assert len(table) == len(made) and table.snapshot() == made
    assert [one for number in table.pages() for one in table.page(number)] == made
    assert max(len(table.page(number)) for number in table.pages()) == PAGE


def test_who_has_ended_is_gone_and_twice_is_once():
    table = OpenConnections()
    made = accept(table, 3 * PAGE)
    random = Random(1)
    gone = random.sample(made, 2 * PAGE)
    for one in gone:
        table.discard(one)
        table.discard(one)
    assert len(table) == PAGE and table.snapshot() == [one for one in made if one not in gone]


def test_pages_that_nobody_is_on_any_more_are_none():
    table = OpenConnections()
    made = accept(table, 3 * PAGE)
    pages = table.pages()
    for one in made[:-1]:
        table.discard(one)
    assert table.pages() == [pages[-1]] and table.page(pages[0]) == []
    table.discard(made[-1])
    assert table.pages() == [] and len(table) == 0 and table.snapshot() == []


def test_a_page_is_as_it_is_now():
    table = OpenConnections()
    made = accept(table, 10)
    (number,) = table.pages()
    page = table.page(number)
    (young,) = accept(table, 1)
    table.discard(made[0])
    assert page == made and table.page(number) == [*made[1:], young]
