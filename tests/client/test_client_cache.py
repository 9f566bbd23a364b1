"""What a client learned of the wire, on disk: it comes back, damage costs bytes only, bounds hold, clients share."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accessgw.client.cache import FOLDER, WireCache
from accessgw.client.wirememory import WireMemory
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.tables import GENERIC, AppTable
from protocols.mmtp.templates import TemplateEncoder
from tests.client.wire_gateway import NEWS, ORDERS, TABLE


def cache(directory: Path, device: str = "d1", app: str = "shop", **more: int) -> WireCache:
    return WireCache(directory, gateway="gw:7443", app=app, device=device, user="u1", **more)


def checkpoint(number: int, table: AppTable) -> Checkpoint:
    encoder = TemplateEncoder(table)
    for trace in range(3):
        encoder.encode([(":op", f"operation{number}"), ("x-shop", "north"), ("x-trace-id", f"{trace:032x}")])
    return Checkpoint(number, encoder.checkpoint())


def memory_of(table: AppTable = TABLE, dictionaries: tuple[Dictionary, ...] = (ORDERS, NEWS)) -> WireMemory:
    headers = HeaderMemory(table, checkpoint(4, table), checkpoint(9, table))
    return WireMemory(frozenset(("template", "dict")), headers, dictionaries)


def plain(memory: WireMemory) -> tuple[object, ...]:
    """Dictionaries are compared by what they are; there is one object of each in a process otherwise."""
    return memory.agreed, memory.headers, [(d.id, d.content, d.classes) for d in memory.dictionaries]


def files(directory: Path) -> list[Path]:
    return sorted((directory / FOLDER).iterdir())


@pytest.mark.parametrize("table", [TABLE, GENERIC])
def test_it_comes_back_as_it_was(tmp_path: Path, table: AppTable) -> None:
    assert plain(cache(tmp_path / "new").load()) == plain(WireMemory())
    memory = memory_of(table)
    cache(tmp_path).store(memory)
    assert plain(cache(tmp_path).load()) == plain(memory)
    assert len(files(tmp_path)) == 3 + (table is TABLE)
    for path in files(tmp_path):
        assert path.stat().st_mode & 0o077 == 0, "headers are nobody else's business"


def test_tables_and_dictionaries_belong_to_the_app_and_states_to_the_device(tmp_path: Path) -> None:
    cache(tmp_path).store(memory_of())
    other = cache(tmp_path, "d2").load()
    assert other.headers == HeaderMemory()
    assert other.agreed == {"dict"}
    assert [d.id for d in other.dictionaries] == [3, 5]
    assert plain(cache(tmp_path, app="bank").load()) == plain(WireMemory())
    cache(tmp_path, "d2").store(WireMemory(other.agreed, HeaderMemory(), (NEWS,)))
    assert [d.id for d in cache(tmp_path, "d2").load().dictionaries] == [5]
    assert [d.id for d in cache(tmp_path).load().dictionaries] == [3, 5]


def test_what_is_retired_goes(tmp_path: Path) -> None:
    cache(tmp_path).store(memory_of())
    cache(tmp_path).store(memory_of(dictionaries=(NEWS,)), [ORDERS.id])
    assert not [path for path in files(tmp_path) if "-3-" in path.name]


def damage(raw: bytes, random: Random) -> bytes:
    place = random.randrange(len(raw))
    return random.choice(
        (
            raw[:place],
            raw + b"\0",
            raw[:place] + bytes((raw[place] ^ 1 << random.randrange(8),)) + raw[place + 1 :],
            b"",
            random.randbytes(place),
            raw * 2000,
        )
    )


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_counts_as_not_there(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    memory = memory_of()
    cache(tmp_path).store(memory)
    path = random.choice(files(tmp_path))
    path.write_bytes(damage(path.read_bytes(), random))
    loaded = cache(tmp_path).load()
    assert {d.id for d in loaded.dictionaries} <= {3, 5}
    assert loaded.headers in (memory.headers, HeaderMemory())
    assert plain(loaded) != plain(memory), path.name
    assert not path.exists(), "so that it is written anew"
    cache(tmp_path).store(memory)
    assert plain(cache(tmp_path).load()) == plain(memory)


def test_a_file_under_the_name_of_another_counts_as_not_there(tmp_path: Path) -> None:
    cache(tmp_path).store(memory_of())
    table, state = (next(p for p in files(tmp_path) if p.name.startswith(kind)) for kind in "ts")
    orders, news = (p for p in files(tmp_path) if p.name.startswith("d"))
    orders.write_bytes(news.read_bytes())
    table.write_bytes(state.read_bytes())
    loaded = cache(tmp_path).load()
    assert loaded.headers == HeaderMemory()
    assert [d.id for d in loaded.dictionaries] == [5]
    state.write_bytes(news.read_bytes())
    assert cache(tmp_path).load().headers == HeaderMemory()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    store = cache(tmp_path, max_files=2)
    store.store(memory_of())
    paths = files(tmp_path)
    folder = tmp_path / FOLDER
    (folder / "notes.txt").write_text("mine")
    (folder / "d-something.bin").write_text("mine, too")
    for path in paths:
        path.unlink()
    paths[0].mkdir()
    os.mkfifo(paths[1])
    assert store.load().headers == HeaderMemory()
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "d-something.bin").exists()
    file = tmp_path / "file"
    file.write_text("where a directory should be")
    assert plain(cache(file).load()) == plain(WireMemory())
    with pytest.raises(OSError, match="file"):
        cache(file).store(memory_of())


def test_the_oldest_go_when_there_are_too_many_or_too_large(tmp_path: Path) -> None:
    for number in range(30):
        cache(tmp_path, f"d{number}", max_files=12).store(memory_of(dictionaries=()))
        for age, path in enumerate(files(tmp_path)):
            if path.stat().st_mtime > 1_000_000_000:
                os.utime(path, (number * 100 + age, number * 100 + age))
    assert len(files(tmp_path)) == 12
    assert cache(tmp_path, "d29").load().headers.up is not None
    assert cache(tmp_path, "d0").load().headers.up is None
    big = tuple(Dictionary(n, Random(n).randbytes(60_000), (f"qop{n}",)) for n in range(1, 9))
    for dictionary in big:
        cache(tmp_path, max_bytes=200_000).store(memory_of(dictionaries=(dictionary,)))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 200_000
    assert [d.id for d in cache(tmp_path).load().dictionaries] == [8]


def test_what_is_read_is_not_old(tmp_path: Path) -> None:
    cache(tmp_path).store(memory_of())
    for path in files(tmp_path):
        os.utime(path, (1000, 1000))
    cache(tmp_path).load()
    assert [path for path in files(tmp_path) if path.stat().st_mtime == 1000] == []


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tmp_path).store(memory_of())
    before = files(tmp_path)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache(tmp_path).store(WireMemory())
    assert files(tmp_path) == before
    assert plain(cache(tmp_path).load()) == plain(memory_of())


def test_a_file_of_a_process_that_was_killed_goes_in_time(tmp_path: Path) -> None:
    cache(tmp_path).store(memory_of())
    handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=tmp_path / FOLDER)
    os.close(handle)
    cache(tmp_path).store(memory_of())
    assert Path(name).exists(), "another process may be writing it"
    os.utime(name, (0, 0))
    cache(tmp_path).store(memory_of())
    assert not Path(name).exists()


def test_clients_that_share_a_directory_do_no_harm(tmp_path: Path) -> None:
    """One device twice, and others, all at once, with bounds that make each remove what the others wrote."""

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(25):
            own = cache(tmp_path, f"d{random.randrange(3)}", max_files=6)
            dictionaries = tuple(random.sample((ORDERS, NEWS), random.randrange(3)))
            loaded = own.load()
            assert loaded.headers.up is None or loaded.headers.up.number == 4
            assert all(d.content in (ORDERS.content, NEWS.content) for d in loaded.dictionaries)
            own.store(memory_of(dictionaries=tuple(sorted(dictionaries, key=lambda d: d.id))), random.choice(([], [3])))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(files(tmp_path)) <= 6 + 4
    assert not [path for path in files(tmp_path) if path.name.startswith(".unfinished")]


WRITER = """
import sys
from pathlib import Path
from tests.client.test_client_cache import cache, memory_of
for _ in range(60):
    cache(Path(sys.argv[1])).store(memory_of())
    loaded = cache(Path(sys.argv[1])).load()
    assert loaded.headers.up.number == 4 and len(loaded.dictionaries) == 2
"""


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert plain(cache(tmp_path).load()) == plain(memory_of())
