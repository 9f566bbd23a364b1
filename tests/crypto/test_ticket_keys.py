from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accessgw.core.interfaces.tls import OpenedTicket, Ticket, TicketBinding
from accessgw.crypto.key_store import LEAD, KeyStore
from accessgw.crypto.ticket_keys import AHEAD, IDENTITY_SIZE, EpochTickets, fields

NOW = 1_800_000_030.0
LIFETIME = 36_000.0
DAY = 86_400.0
BINDING = TicketBinding("phone1", "certificate", bytes(range(32)), 1_900_000_000)

bindings = st.builds(
    TicketBinding,
    device=st.text(max_size=64),
    kind=st.sampled_from(["token", "certificate"]),
    fingerprint=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    not_after=st.integers(0, 1 << 40),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("store") / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)


def of(
    store: KeyStore, zone: str = "z", listener: str = "tls", transport: str = "tls", lifetime: float = LIFETIME
) -> EpochTickets:
    return EpochTickets(
        store,
        zone=zone,
        listener=listener,
        transport=transport,
        lifetime=lifetime,
        full_authentication_days=7,
        random_bytes=os.urandom,
    )


@given(bindings, bindings, st.integers(0, 7))
def test_a_ticket_opens_and_matches_whom_it_was_made_for(
    store: KeyStore, binding: TicketBinding, other: TicketBinding, days: int
) -> None:
    tickets = of(store)
    ticket = tickets.mint(NOW, binding, days)
    assert (len(ticket.identity), len(ticket.key)) == (IDENTITY_SIZE, 32)
    opened = tickets.open(ticket.identity, NOW)
    assert opened is not None
    assert (tickets.key(opened), opened.days, opened.issued) == (ticket.key, days, NOW - 30)
    assert tickets.matches(opened, binding)
    assert tickets.matches(opened, other) == (binding == other)


@pytest.mark.parametrize(
    "other",
    [
        replace(BINDING, device="phone2"),
        replace(BINDING, kind="token"),
        replace(BINDING, fingerprint=bytes(32)),
        replace(BINDING, fingerprint=b""),
        replace(BINDING, not_after=BINDING.not_after + 1),
        # the same bytes, divided otherwise
        replace(BINDING, device="phone", kind="1certificate"),
    ],
)
def test_every_part_of_the_binding_counts(store: KeyStore, other: TicketBinding) -> None:
    tickets = of(store)
    opened = tickets.open(tickets.mint(NOW, BINDING, 0).identity, NOW)
    assert opened is not None
    assert not tickets.matches(opened, other)


@given(st.integers(0, IDENTITY_SIZE - 1), st.integers(1, 255))
def test_a_changed_identity_never_gives_the_key(store: KeyStore, place: int, change: int) -> None:
    tickets = of(store)
    ticket = tickets.mint(NOW, BINDING, 0)
    changed = bytearray(ticket.identity)
    changed[place] ^= change
    opened = tickets.open(bytes(changed), NOW)
    if place == 0:
        assert opened is None
    # hardly one of a million foreign blocks looks like a ticket; its key is another, and so is whom it is for
    elif opened is not None:
        assert tickets.key(opened) != ticket.key and not tickets.matches(opened, BINDING)


def test_foreign_identities_are_no_tickets(store: KeyStore) -> None:
    tickets = of(store)
    number = bytes((store.current(NOW).number,))
    taken = sum(tickets.open(number + os.urandom(16), NOW) is not None for _ in range(5000))
    # expected are 0.01
    assert taken < 3


@given(st.binary(max_size=64))
def test_any_bytes_are_opened_without_an_error(store: KeyStore, identity: bytes) -> None:
    opened = of(store).open(identity, NOW)
    assert opened is None or len(identity) == IDENTITY_SIZE


def test_identities_may_hold_any_byte(tmp_path: Path) -> None:
    tickets = of(KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=bytes))
    identities = [tickets.mint(NOW, TicketBinding(str(n)), 0).identity for n in range(200)]
    # the epoch of this store is 1, so a NUL is one of the block
    assert any(0 in identity for identity in identities)
    for identity in identities:
        assert tickets.open(identity, NOW) is not None


def test_two_tickets_of_one_device_differ(store: KeyStore) -> None:
    tickets = of(store)
    minted = [tickets.mint(NOW, BINDING, 0) for _ in range(100)]
    assert len({ticket.identity for ticket in minted}) == len({ticket.key for ticket in minted}) == 100


@pytest.mark.parametrize("other", [{"zone": "y"}, {"listener": "mqtt"}, {"transport": "quic"}])
def test_tickets_of_another_purpose_are_nothing(store: KeyStore, other: dict[str, str]) -> None:
    ticket = of(store).mint(NOW, BINDING, 0)
    tickets = of(store, **other)
    opened = tickets.open(ticket.identity, NOW)
    assert opened is None or tickets.key(opened) != ticket.key


def test_labels_are_divided_unambiguously(store: KeyStore) -> None:
    ticket = of(store, zone="a", listener="bc").mint(NOW, BINDING, 0)
    tickets = of(store, zone="ab", listener="c")
    opened = tickets.open(ticket.identity, NOW)
    assert opened is None or tickets.key(opened) != ticket.key


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_fields_of_two_lists_are_never_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert (fields(*one) == fields(*other)) == (one == other)


# ------------------------------------------------------------------ time


def test_a_ticket_ends_with_its_lifetime(store: KeyStore) -> None:
    tickets = of(store)
    identity = tickets.mint(NOW, BINDING, 0).identity
    issued = NOW - 30
    opened = tickets.open(identity, issued + LIFETIME)
    assert opened is not None and tickets.is_open(opened, issued + LIFETIME)
    assert tickets.open(identity, issued + LIFETIME + 0.01) is None
    assert not tickets.is_open(opened, issued + LIFETIME + 0.01)


def test_a_ticket_may_be_a_minute_ahead(store: KeyStore) -> None:
    tickets = of(store)
    identity = tickets.mint(NOW, BINDING, 0).identity
    issued = NOW - 30
    assert tickets.open(identity, issued - AHEAD) is not None
    assert tickets.open(identity, issued - AHEAD - 0.01) is None


@pytest.mark.parametrize("minute", [(1 << 24) - 2, 1 << 24, 2 * (1 << 24) - 1, 0])
def test_minutes_wrap_after_32_years(tmp_path: Path, minute: int) -> None:
    now = minute * 60.0 + 59
    tickets = of(KeyStore(tmp_path / "keys", now, rotation=28_800.0, random_bytes=os.urandom))
    identity = tickets.mint(now, BINDING, 0).identity
    for later in (0.0, 300.0):
        opened = tickets.open(identity, now + later)
        assert opened is not None and opened.issued == minute * 60.0
    assert tickets.open(identity, now - 300.0) is None


def test_a_chain_of_young_tickets_ends_after_the_days(tmp_path: Path) -> None:
    now, days, links = NOW, 0, 0
    store = KeyStore(tmp_path / "keys", now, rotation=28_800.0, random_bytes=os.urandom)
    tickets = of(store)
    while days <= 7:
        identity = tickets.mint(now, BINDING, days).identity
        now += 3600
        store.maintain(now)
        opened = tickets.open(identity, now)
        if opened is None:
            break
        days, links = opened.days_at(now), links + 1
    assert 7 * DAY <= now - NOW <= 8 * DAY
    assert links > 160


def test_days_never_go_back(store: KeyStore) -> None:
    midnight = NOW - NOW % DAY
    opened = OpenedTicket(b"", midnight + 60, 2, b"")
    assert [opened.days_at(midnight + after) for after in (-30, 60, DAY - 1, DAY)] == [2, 2, 2, 3]


@pytest.mark.parametrize("days", [-1, 8])
def test_no_ticket_is_made_without_a_full_authentication_in_time(store: KeyStore, days: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 to 7 days since the last full authentication, got {days}"):
        of(store).mint(NOW, BINDING, days)


# ------------------------------------------------------------------ until when


@settings(max_examples=60, deadline=None)
@given(st.floats(60, 28_800), st.floats(0, 4), st.integers(60, 86_400), st.integers(0, 7))
@example(28_800.0, 0.0, 86_400, 0)
@example(28_800.0, 1.0 - LEAD / 28_800, 86_400, 0)
@example(28_800.0, 1.0, 86_400, 0)
@example(28_800.0, 2.99, 86_400, 7)
@example(28_800.0, 0.001, 3600, 7)
@example(60.0, 1.9140625, 146, 0)
def test_a_ticket_opens_until_the_second_that_was_said_and_no_longer(
    tmp_path_factory: pytest.TempPathFactory, rotation: float, rotations: float, lifetime: int, days: int
) -> None:
    """Over rotations on schedule: every process looks once a second."""
    now = NOW
    store = KeyStore(tmp_path_factory.mktemp("ends") / "keys", now, rotation=rotation, random_bytes=os.urandom)
    tickets = of(store, lifetime=lifetime)

    def pass_time(until: float) -> None:
        nonlocal now
        while now < until:
            # what is between two rotations changes nothing
            due = store.epochs(now)[-1].mints_from + rotation - LEAD
            now = min(until, due if due > now else now + 0.5)
            store.maintain(now)

    pass_time(NOW + rotations * rotation)
    ticket = tickets.mint(now, BINDING, days)
    assert ticket.ends <= now + lifetime
    pass_time(ticket.ends - 0.01)
    opened = tickets.open(ticket.identity, now)
    assert opened is not None and tickets.is_open(opened, now)
    pass_time(ticket.ends + 0.01)
    assert tickets.open(ticket.identity, now) is None
    assert not tickets.is_open(opened, now)


def test_rotations_by_hand_end_a_ticket_sooner_and_the_next_ones_know(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys", NOW, rotation=3600.0, random_bytes=os.urandom)
    tickets = of(store, lifetime=DAY)
    first = tickets.mint(NOW, BINDING, 0)
    assert first.ends == NOW + 3 * 3600 - LEAD
    for now in (NOW, NOW + LEAD):
        store.rotate(now)
        # published and not in use yet
        assert tickets.mint(now + LEAD - 1, BINDING, 0).ends == now + 2 * 3600
        assert tickets.mint(now + LEAD, BINDING, 0).ends == now + 3 * 3600
        assert tickets.open(first.identity, now + LEAD) is not None
    store.rotate(NOW + 2 * LEAD)
    assert tickets.open(first.identity, NOW + 2 * LEAD) is None


def test_a_secret_of_a_process_alone_ends_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)
    tickets = of(store, lifetime=DAY)
    late = NOW + 2 * DAY

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ticket = tickets.mint(late, BINDING, 0)
    assert ticket.ends == late - late % 60 + DAY
    assert tickets.open(ticket.identity, ticket.ends - 1) is not None


# ------------------------------------------------------------------ epochs


def test_tickets_survive_a_rotation_and_not_the_loss_of_their_epoch(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)
    tickets = of(store)
    old = tickets.mint(NOW, BINDING, 0)
    store.rotate(NOW)
    new = tickets.mint(NOW + LEAD, BINDING, 0)
    assert new.identity[0] != old.identity[0]
    opened = [tickets.open(ticket.identity, NOW + LEAD) for ticket in (old, new)]
    assert [one and tickets.key(one) for one in opened] == [old.key, new.key]
    store.drop(old.identity[0], NOW + LEAD)
    assert tickets.open(old.identity, NOW + LEAD) is None
    assert opened[0] is not None and not tickets.matches(opened[0], BINDING)
    assert tickets.key(opened[0]) is None and not tickets.is_open(opened[0], NOW + LEAD)
    assert opened[1] is not None and tickets.matches(opened[1], BINDING)
    assert tickets.is_open(opened[1], NOW + LEAD)


def test_a_process_opens_what_another_one_made_through_every_rotation(tmp_path: Path) -> None:
    stores = [KeyStore(tmp_path / "keys", NOW, rotation=600.0, random_bytes=os.urandom) for _ in range(3)]
    processes = [of(store) for store in stores]
    now = NOW
    for turn in range(3000):
        now += 1
        stores[turn % 3].maintain(now)
        if turn % 600 == 500:
            stores[turn % 2].rotate(now)
        ticket = processes[turn % 3].mint(now, BINDING, 0)
        for process in processes:
            opened = process.open(ticket.identity, now)
            assert opened is not None and process.key(opened) == ticket.key


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns fifty times as often: more ways to meet, and who has given the interpreter away gets it back
    sooner."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("short_turns")
def test_threads_open_while_epochs_change(tmp_path: Path) -> None:
    failures: list[object] = []
    for turn in range(20):
        store = KeyStore(tmp_path / f"keys{turn}", NOW, rotation=60.0, random_bytes=os.urandom)
        tickets = of(store)
        minted = [tickets.mint(NOW, BINDING, 0)]
        stop = threading.Event()
        threads = [threading.Thread(target=_opening, args=(tickets, minted, stop, failures)) for _ in range(3)]
        for thread in threads:
            thread.start()
        # three generations: the first ticket is good until the end
        for now in (NOW, NOW + 10):
            store.rotate(now)
            minted += [tickets.mint(now + LEAD, BINDING, 0) for _ in range(20)]
        stop.set()
        for thread in threads:
            thread.join()
    assert failures[:1] == []


def _opening(tickets: EpochTickets, minted: list[Ticket], stop: threading.Event, failures: list[object]) -> None:
    try:
        while not stop.is_set():
            for ticket in (minted[0], minted[-1]):
                opened = tickets.open(ticket.identity, NOW + 15)
                if opened is None or tickets.key(opened) != ticket.key or not tickets.matches(opened, BINDING):
                    failures.append(opened)
    except BaseException as error:
        failures.append(error)


@settings(max_examples=20)
@given(bindings)
def test_keys_are_in_no_representation(store: KeyStore, binding: TicketBinding) -> None:
    tickets = of(store)
    ticket = tickets.mint(NOW, binding, 0)
    opened = tickets.open(ticket.identity, NOW)
    for shown in (repr(ticket), repr(opened), repr(tickets)):
        assert repr(ticket.key) not in shown
