"""WireMemory on disk: a directory of small checked files that several clients and processes may share.

Losing any of them costs bytes on the wire and nothing else, so nothing is synced to disk: every file carries the
checksum of its content, and one that does not hold it, or is not ours, counts as not there.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from accessgw.client.wirememory import NOTHING_KNOWN, WireMemory
from protocols.errors import LocalError, RemoteError
from protocols.mmtp.bundles import MAX_DICTIONARIES
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.digests import DIGEST_SIZE
from protocols.mmtp.fields import expect_end, field, read_fields, read_sized, read_string, sized, string_field
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.tables import GENERIC, AppTable, decode_table
from protocols.mmtp.templates import decode_state
from protocols.mmtp.uses import DICT_CAPABILITY
from protocols.mmtp.varint import decode_varint, encode_varint

FOLDER = "wire"
"""Inside the client's state directory."""
MAX_FILE = 96 * 1024
"""Bytes; the largest is a dictionary of 64 KiB with the names of its classes."""
MAX_FILES = 1024
MAX_BYTES = 4 * 1024 * 1024
ABANDONED = 3600.0
"""Seconds after which a file that was never completed is one of a process that has ended."""

_MAGIC = b"accessgw wire 1\n"
_CHECKSUM = 32
_UNFINISHED = ".unfinished-"
_NAME = re.compile(r"[dts]-[0-9a-f]{16}-[0-9a-f-]+\.bin")

_AGREED, _TABLE, _UP, _DOWN, _DICTIONARY = 1, 3, 5, 7, 9
_FIELDS = (_AGREED, _TABLE, _UP, _DOWN, _DICTIONARY)


class WireCache:
    """The part of one device: tables and dictionaries are shared by all of the same gateway and app, header states
    belong to the device and its user."""

    __slots__ = ("_folder", "_key", "_max_bytes", "_max_files", "_state")

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        gateway: str,
        app: str,
        device: str,
        user: str,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
    ) -> None:
        """`gateway` is any text that names it; the bounds hold for everything that clients keep in `directory`."""
        self._folder = Path(directory) / FOLDER
        self._key = _short(gateway, app)
        self._state = self._folder / f"s-{self._key}-{_short(device, user)}.bin"
        self._max_bytes = max_bytes
        self._max_files = max_files

    # --- loading

    def load(self) -> WireMemory:
        """What is there and whole; raises nothing."""
        raw = self._read(self._state)
        if raw is None:
            # another device of this gateway and app may have left dictionaries, and with them that they were agreed
            found = self._dictionaries(self._known_dictionaries())
            return WireMemory(frozenset((DICT_CAPABILITY,)) if found else frozenset(), NOTHING_KNOWN, found)
        try:
            agreed, named, states, ids = _decode(raw)
        except RemoteError:
            _remove(self._state)
            return WireMemory()
        table = self._table(*named)
        headers = NOTHING_KNOWN if table is None else HeaderMemory(table, *(_state(raw, table) for raw in states))
        return WireMemory(agreed, headers, self._dictionaries(ids))

    def _table(self, id: int, digest: bytes) -> AppTable | None:
        if (id, digest) == (GENERIC.id, GENERIC.digest):
            return GENERIC
        path = self._path("t", id, digest)
        raw = self._read(path)
        if raw is None:
            return None
        try:
            table = decode_table(raw)
        except RemoteError:
            table = None
        if table is None or (table.id, table.digest) != (id, digest):
            _remove(path)
            return None
        return table

    def _dictionaries(self, names: Iterable[tuple[int, bytes]]) -> tuple[Dictionary, ...]:
        found: dict[int, Dictionary] = {}
        for id, digest in names:
            if len(found) == MAX_DICTIONARIES:
                break
            path = self._path("d", id, digest)
            raw = self._read(path)
            if raw is None:
                continue
            try:
                dictionary = _decode_dictionary(id, raw)
            except (RemoteError, LocalError):
                _remove(path)
                continue
            if dictionary.digest == digest:
                found[id] = dictionary
        return tuple(found[id] for id in sorted(found))

    def _known_dictionaries(self) -> list[tuple[int, bytes]]:
        """Newest first."""
        prefix = f"d-{self._key}-"
        names = []
        for _, _, path in sorted(self._ours(), reverse=True):
            if path.name.startswith(prefix):
                id, _, digest = path.stem.removeprefix(prefix).partition("-")
                with suppress(ValueError):
                    names.append((int(id), bytes.fromhex(digest)))
        return names

    def _read(self, path: Path) -> bytes | None:
        """The content; a damaged file goes, so that it is written anew."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    return None
                data = file.read(MAX_FILE + 1)
        except OSError:
            return None
        head = len(_MAGIC) + _CHECKSUM
        content = data[head:]
        if len(data) > MAX_FILE or data[:head] != _MAGIC + sha256(content).digest():
            _remove(path)
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    # --- storing

    def store(self, memory: WireMemory, retired: Iterable[int] = ()) -> None:
        """Keep it, let go of the dictionaries that the gateway has retired, and of the oldest files above the bounds.
        OSError when the disk does not take it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for id in retired:
            for path in self._folder.glob(f"d-{self._key}-{id}-*.bin"):
                _remove(path)
        for dictionary in memory.dictionaries:
            self._keep(self._path("d", dictionary.id, dictionary.digest), _encode_dictionary(dictionary))
        table = memory.headers.table
        if table.digest != GENERIC.digest:
            self._keep(self._path("t", table.id, table.digest), table.encoded)
        self._write(self._state, _encode(memory))
        self._bound()

    def _keep(self, path: Path, content: bytes) -> None:
        """A file whose name says what is in it."""
        try:
            os.utime(path)
        except FileNotFoundError:
            self._write(path, content)

    def _write(self, path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + sha256(content).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            _remove(Path(temporary))
            raise

    def _ours(self) -> Iterator[tuple[float, int, Path]]:
        """(time of the last use, bytes, path) of each file of any client."""
        try:
            entries = list(os.scandir(self._folder))
        except OSError:
            return
        for entry in entries:
            unfinished = entry.name.startswith(_UNFINISHED)
            if not unfinished and not _NAME.fullmatch(entry.name):
                continue
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                if unfinished:
                    if time.time() - facts.st_mtime > ABANDONED:
                        _remove(Path(entry.path))
                elif stat.S_ISREG(facts.st_mode):
                    yield facts.st_mtime, facts.st_size, Path(entry.path)

    def _bound(self) -> None:
        files = sorted(self._ours())
        total = sum(size for _, size, _ in files)
        for place, (_, size, path) in enumerate(files):
            if total <= self._max_bytes and len(files) - place <= self._max_files:
                return
            _remove(path)
            total -= size

    def _path(self, kind: str, id: int, digest: bytes) -> Path:
        return self._folder / f"{kind}-{self._key}-{id}-{digest.hex()}.bin"


def _short(*names: str) -> str:
    """What stands for names in a file's name."""
    joined = b"".join(sized(name.encode()) for name in names)
    return sha256(joined).hexdigest()[:16]


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _encode(memory: WireMemory) -> bytes:
    headers = memory.headers
    return b"".join((
        *(string_field(_AGREED, name) for name in sorted(memory.agreed)),
        field(_TABLE, encode_varint(headers.table.id) + headers.table.digest),
        _encode_checkpoint(_UP, headers.up),
        _encode_checkpoint(_DOWN, headers.down),
        *(field(_DICTIONARY, encode_varint(d.id) + d.digest) for d in memory.dictionaries),
    ))  # fmt: skip


def _encode_checkpoint(key: int, checkpoint: Checkpoint | None) -> bytes:
    return b"" if checkpoint is None else field(key, encode_varint(checkpoint.number) + checkpoint.state.encoded)


_Named = tuple[int, bytes]


def _decode(data: bytes) -> tuple[frozenset[str], _Named, list[_Named | None], list[_Named]]:
    """(agreed, table, the checkpoints up and down, dictionaries). Raises RemoteError."""
    agreed: set[str] = set()
    table = (0, b"")
    states: list[_Named | None] = [None, None]
    dictionaries: list[_Named] = []
    for key, start, stop in read_fields(data, 0, len(data), _FIELDS, (_AGREED, _DICTIONARY)):
        if key == _AGREED:
            agreed.add(read_string(data, start, stop))
            continue
        number, pos = decode_varint(data, start, stop)
        value = (number, data[pos:stop])
        if key in (_UP, _DOWN):
            states[key == _DOWN] = value
            continue
        expect_end(pos + DIGEST_SIZE, stop)
        if key == _TABLE:
            table = value
        else:
            dictionaries.append(value)
    return frozenset(agreed), table, states, dictionaries


def _state(raw: _Named | None, table: AppTable) -> Checkpoint | None:
    if raw is None or not raw[0]:
        return None
    try:
        return Checkpoint(raw[0], decode_state(raw[1], table))
    except RemoteError:
        return None


def _encode_dictionary(dictionary: Dictionary) -> bytes:
    classes = b"".join(sized(name.encode()) for name in dictionary.classes)
    return encode_varint(len(dictionary.classes)) + classes + dictionary.content


def _decode_dictionary(id: int, data: bytes) -> Dictionary:
    """Raises RemoteError or LocalError."""
    end = len(data)
    count, pos = decode_varint(data, 0, end)
    classes = []
    for _ in range(min(count, end)):
        name, pos = read_sized(data, pos, end)
        classes.append(name)
    dictionary = Dictionary(id, data[pos:], classes)
    dictionary.check()
    return dictionary
