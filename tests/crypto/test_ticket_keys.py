from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accessgw.core.interfaces.tls import OpenedTicket, TicketBinding
from accessgw.crypto import key_store, ticket_keys
from accessgw.crypto.key_store import LEAD, NAME, Epoch, KeyStore
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


def test_keys_of_an_epoch_are_kept_no_longer_than_its_secret(tmp_path: Path) -> None:
    """In a process without traffic, too, and when another one drops it."""
    one, other = (KeyStore(tmp_path / "keys", NOW, rotation=600.0, random_bytes=os.urandom) for _ in range(2))
    tickets = of(one)

    def kept() -> set[bytes]:
        return set(tickets._keys)

    now, dropped = NOW, []
    for _ in range(5):
        ticket = tickets.mint(now, BINDING, 0)
        assert tickets.open(ticket.identity, now) is not None
        assert kept() <= {epoch.secret for epoch in one.epochs(now)}
        dropped.append(one.current(now))
        now += 600
        one.maintain(now)
    last = dropped[-1]
    tickets.mint(now, BINDING, 0)
    assert last.secret in kept() and len(kept()) == 2
    other.drop(last.number, now)
    assert not one.is_due(now + 1)
    assert kept() == {one.current(now + 1).secret}
    # who is in the middle of it gets what he asks for, and nothing stays
    assert tickets._of(last).psk is not None and last.secret not in kept()


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


# ------------------------------------------------------------------ threads


class _SignallingLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.awaited = threading.Event()

    def acquire(self, blocking: bool = True) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        self.awaited.set()
        return blocking and self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _HeldReader:
    """A thread that opens a ticket and is stopped where it has read the file of the epochs and not taken over yet what it
    says, until somebody else has done his work or has to wait for the reader."""

    def __init__(
        self, store: KeyStore, tickets: EpochTickets, identity: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.lock = _SignallingLock()
        monkeypatch.setattr(store, "_lock", self.lock)
        self._parsed = key_store._parsed
        monkeypatch.setattr(key_store, "_parsed", self._parse)
        self._ident = 0
        self._has_read = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._open = partial(tickets.open, identity)

    def start(self, now: float) -> None:
        """Returns when the thread has read the file; who has to wait for its lock lets it go on."""
        self._thread = self._pool.submit(self._run, now)
        assert self._has_read.wait(20)

    def _run(self, now: float) -> OpenedTicket | None:
        self._ident = threading.get_ident()
        return self._open(now)

    def _parse(self, path: Path, content: bytes) -> tuple[int, tuple[Epoch, ...]]:
        parsed = self._parsed(path, content)
        if threading.get_ident() == self._ident:
            self.lock.awaited.clear()
            self._has_read.set()
            assert self.lock.awaited.wait(20)
        return parsed

    def finish(self) -> OpenedTicket | None:
        """The ticket of the thread, which goes on at the latest now."""
        self.lock.awaited.set()
        opened = self._thread.result(20)
        self._pool.shutdown()
        return opened


def test_a_thread_that_opens_a_ticket_does_not_bring_back_epochs_that_are_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the file and the taking over of it, another thread of the process publishes an epoch."""
    store = KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)
    tickets = of(store)
    ticket = tickets.mint(NOW, BINDING, 0)
    # as another process would
    os.utime(tmp_path / "keys" / NAME, (1, 1))
    reader = _HeldReader(store, tickets, ticket.identity, monkeypatch)
    reader.start(NOW + 1)
    new = store.rotate(NOW + 1)
    assert reader.finish() is not None
    assert store.current(NOW + 1 + LEAD) == new
    minted = tickets.mint(NOW + 1 + LEAD, BINDING, 0)
    assert tickets.open(minted.identity, NOW + 1 + LEAD) is not None


def test_a_thread_that_reads_while_an_epoch_is_made_does_not_bring_back_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, but it begins to read when the writer has read already, and is about to write."""
    readers: list[_HeldReader] = []

    def random_bytes(size: int) -> bytes:
        for reader in readers:
            os.utime(tmp_path / "keys" / NAME, (1, 1))
            reader.start(NOW + 1)
        return os.urandom(size)

    store = KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=random_bytes)
    tickets = of(store)
    ticket = tickets.mint(NOW, BINDING, 0)
    readers.append(_HeldReader(store, tickets, ticket.identity, monkeypatch))
    new = store.rotate(NOW + 1)
    assert readers.pop().finish() is not None
    assert store.current(NOW + 1 + LEAD) == new


def test_a_thread_that_reads_an_older_file_does_not_undo_what_is_read_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes an epoch between the readings of two threads of this one."""
    store, other = (KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom) for _ in range(2))
    tickets = of(store)
    ticket = tickets.mint(NOW, BINDING, 0)
    os.utime(tmp_path / "keys" / NAME, (1, 1))
    reader = _HeldReader(store, tickets, ticket.identity, monkeypatch)
    reader.start(NOW + 1)
    new = other.rotate(NOW + 1)
    # reads, finds nothing to drop and writes nothing
    assert not store.drop(new.number + 1 & 0xFF, NOW + 1)
    assert reader.finish() is not None
    assert store.current(NOW + 1 + LEAD) == new


def test_each_thread_has_its_own_contexts_of_aes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context is used by the thread that made it and by no other: two of OpenSSL's calls at once on one are undefined."""
    foreign: list[str] = []

    class Context:
        def __init__(self, real: CipherContext) -> None:
            self._real = real
            self._maker = threading.get_ident()

        def update(self, data: bytes) -> bytes:
            if threading.get_ident() != self._maker:
                foreign.append(threading.current_thread().name)
            return self._real.update(data)

    class WatchedCipher(Cipher[ECB]):
        def encryptor(self) -> Context:  # type: ignore[override]  # it has update() only
            return Context(super().encryptor())

        def decryptor(self) -> Context:  # type: ignore[override]  # it has update() only
            return Context(super().decryptor())

    monkeypatch.setattr(ticket_keys, "Cipher", WatchedCipher)
    tickets = of(KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom))
    minted = tickets.mint(NOW, BINDING, 0)

    def elsewhere() -> OpenedTicket | None:
        tickets.mint(NOW, BINDING, 0)
        return tickets.open(minted.identity, NOW)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result(20) == tickets.open(minted.identity, NOW) is not None
    assert foreign == []


@settings(max_examples=20)
@given(bindings)
def test_keys_are_in_no_representation(store: KeyStore, binding: TicketBinding) -> None:
    tickets = of(store)
    ticket = tickets.mint(NOW, binding, 0)
    opened = tickets.open(ticket.identity, NOW)
    for shown in (repr(ticket), repr(opened), repr(tickets)):
        assert repr(ticket.key) not in shown
