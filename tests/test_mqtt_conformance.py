from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.mqtt_conformance import INVENTORIES, PAGE, SERVER, TESTS, TITLES, WHO, named_tests, page, statements

EVERYTHING = [one for standard in INVENTORIES for one in statements(standard)]

# Statements by section, so that no row is lost by accident.
SIZES = {
    "MQTT 5.0": "1.5:5 2.1:1 2.2:6 3.1:50 3.2:24 3.3:43 3.4:3 3.5:3 3.6:4 3.7:3 3.8:14 3.9:4 3.10:9 3.11:4 3.12:1 3.14:9 "
    "3.15:4 4.1:2 4.2:1 4.3:19 4.4:2 4.5:2 4.6:6 4.7:8 4.8:6 4.9:3 4.12:9 4.13:2 6.0:4",
    "MQTT 3.1.1": "1.5:3 2.2:2 2.3:7 3.1:42 3.2:7 3.3:18 3.6:1 3.8:11 3.9:2 3.10:9 3.12:1 3.14:4 4.1:2 4.3:5 4.4:1 4.5:2 "
    "4.6:6 4.7:8 4.8:2 6.0:4 7.0:2 7.1:2",
}


@pytest.mark.parametrize("standard", INVENTORIES)
def test_the_inventory_is_whole(standard):
    found = statements(standard)
    assert " ".join(f"{k}:{v}" for k, v in Counter(one.section for one in found).items()) == SIZES[standard]
    prefix = "MQTT3-" if standard == "MQTT 3.1.1" else "MQTT-"
    assert all(one.id.startswith(prefix) and one.who in WHO and one.words for one in found)
    # Within a section numbers go up without a gap; only 2.2.1-1 is not in MQTT 5.
    last: dict[str, int] = {"MQTT-2.2.1": 1}
    for one in found:
        place, _, number = one.id.rpartition("-")
        assert int(number) == last.get(place, 0) + 1, one.id
        last[place] = int(number)
    assert {one.section for one in found} <= set(TITLES)


def test_what_binds_a_server_has_a_test_or_a_reason():
    named = named_tests()
    assert not [one.id for one in EVERYTHING if one.who in SERVER and one.id not in named and not one.reason]
    assert not [one.id for one in EVERYTHING if one.who == "none" and not one.reason]


def test_no_reason_outlives_its_test():
    """Why there is no test is not said where there is one."""
    assert not [one.id for one in EVERYTHING if one.reason and one.id in named_tests()]


def test_tests_name_statements_that_exist():
    known = {one.id for one in EVERYTHING}
    assert not {id: tests for id, tests in named_tests().items() if id not in known}


def test_the_page_is_the_one_that_make_docs_makes():
    assert PAGE.read_text() == page(), "make docs writes it again"


def test_tests_of_the_page_exist():
    for place, name in set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text())):
        assert re.search(rf"^\s*def {name}\(", (TESTS / place).read_text(), re.MULTILINE), (place, name)
