"""Dictionaries of body classes: content, names of their classes, compression with them (specification, section 8.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import zstandard

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.digests import digest_of
from protocols.mmtp.mini import SMALL, SMALL_WAYS, THOROUGH, Way, expand_mini, pack_mini, parameters, tables_log
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import MAX_VARINT

MIN_CONTENT = 8
MAX_CONTENT = 64 * 1024
"""Bytes of one dictionary."""
MAX_CLASSES = 64
"""Classes of one dictionary."""
MAX_CLASS = 1 + 256 + 1
"""Bytes of a class name: kind, operation or biz, the star of a prefix."""

REQUEST_KIND = "q"
ANSWER_KIND = "a"
PUSH_KIND = "p"
KINDS = (REQUEST_KIND, ANSWER_KIND, PUSH_KIND)

_FORMATTED = b"\x37\xa4\x30\xec"
"""Magic number of a zstd dictionary with entropy tables (RFC 8878 section 5)."""


def check_class(name: str) -> None:
    """Raises LocalError for what is not a class name: kind, then a name or, with a star at its end, a prefix."""
    size = len(name.encode())
    if not 2 <= size <= MAX_CLASS or name[0] not in KINDS or "\0" in name:
        raise LocalError(f"class name: expected one of {''.join(KINDS)} and 1 to {MAX_CLASS - 1} bytes, got {name!r}")


def zstd_dictionary(content: bytes, history: bytes = b"") -> zstandard.ZstdCompressionDict:
    """`content` and what follows it, as zstd takes it.

    The type is said, never guessed by zstd from the joined bytes: without content the first bytes are those of
    an application, which could look like a dictionary with tables.
    """
    formatted = content.startswith(_FORMATTED)
    kind = zstandard.DICT_TYPE_FULLDICT if formatted else zstandard.DICT_TYPE_RAWCONTENT
    return zstandard.ZstdCompressionDict(content + history, dict_type=kind)


class Watcher(Protocol):
    """Looks at what becomes of bodies beside the sums of their dictionary. `witness` stands for whose body it is: 0 for
    nobody in particular, else what Connection.count_for was given."""

    def count(self, witness: int, raw: int, packed: int) -> None:
        """See Dictionary.count."""

    def fail(self, witness: int) -> None:
        """See Dictionary.fail."""


class Dictionary:
    """An immutable dictionary; one object is shared by every bundle and connection of a process.

    The zstd objects are made at the first use in each direction and kept. Measured resident, with 8 and with 64 KiB
    of content: 120 and 100 KiB to compress large bodies, 210 and 1,030 KiB for small ones; to decompress 40 to 95 KiB
    (600 KiB are reserved for its window, but only touched by large bodies).
    They are one per dictionary and not per connection. zstd lets go of the interpreter lock while it works, so an
    object must not be used by two threads at once: one thread (that of the reactor) has it.
    """

    __slots__ = (
        "_compressor", "_decompressor", "_small", "bodies", "classes", "content", "digest", "errors", "id", "packed",
        "raw", "watcher",
    )  # fmt: skip

    def __init__(self, id: int, content: bytes, classes: Iterable[str] = ()) -> None:
        """Raises LocalError for an id, content or class name outside the limits."""
        self.id = id
        self.content = content
        self.classes = tuple(classes)
        if not 0 < id <= MAX_VARINT:
            raise LocalError(f"dictionary id: expected 1..2^64-1, got {id}")
        if not MIN_CONTENT <= len(content) <= MAX_CONTENT:
            raise LocalError(f"dictionary {id}: expected {MIN_CONTENT}..{MAX_CONTENT} bytes, got {len(content)}")
        if len(self.classes) > MAX_CLASSES:
            raise LocalError(f"dictionary {id}: expected at most {MAX_CLASSES} classes, got {len(self.classes)}")
        for name in self.classes:
            check_class(name)
        self.digest = digest_of(content)
        self._compressor: zstandard.ZstdCompressor | None = None
        self._small: list[zstandard.ZstdCompressor] | None = None
        self._decompressor: zstandard.ZstdDecompressor | None = None
        self.bodies = 0
        self.raw = 0
        self.packed = 0
        """What its classes' bodies were on this side: how many, their bytes before, and on the wire."""
        self.errors = 0
        """Bodies that it could not expand, here or there."""
        self.watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"Dictionary({self.id}, {len(self.content)} bytes, {list(self.classes)})"

    def check(self) -> None:
        """Raises RemoteError(COMPRESSION) when zstd cannot work with the content, which came from the peer."""
        try:
            self._to_decompress()
            self._to_compress(THOROUGH).compress(self.content[-256:])
        except zstandard.ZstdError as error:
            raise RemoteError(Status.COMPRESSION, f"dictionary {self.id}: {str(error)[:100]}") from None

    def count(self, raw: int, packed: int, witness: int = 0) -> None:
        """A body of its classes was made or read; both sizes are the same when it went without the dictionary."""
        self.bodies += 1
        self.raw += raw
        self.packed += packed
        if self.watcher is not None:
            self.watcher.count(witness, raw, packed)

    def fail(self, witness: int = 0) -> None:
        """A body could not be expanded, here or at the peer."""
        self.errors += 1
        if self.watcher is not None:
            self.watcher.fail(witness)

    def expand(self, body: bytes, limits: Limits, witness: int = 0) -> bytes:
        """As decompress, and counted. Raises RemoteError(COMPRESSION)."""
        try:
            whole = self.decompress(body, limits)
        except RemoteError:
            self.fail(witness)
            raise
        self.count(len(whole), len(body), witness)
        return whole

    def compress(self, body: bytes) -> bytes | None:
        """`body` as a mini (coding 1), None when raw is better."""
        if len(body) > SMALL:
            if self._compressor is None:
                self._compressor = self._to_compress(THOROUGH)
            return pack_mini(self._compressor, body)
        if self._small is None:
            self._small = [self._to_compress(way) for way in SMALL_WAYS]
        found = [mini for compressor in self._small if (mini := pack_mini(compressor, body)) is not None]
        return min(found, key=len, default=None)

    def decompress(self, body: bytes, limits: Limits) -> bytes:
        """A mini (coding 1), expanded. Raises RemoteError(COMPRESSION)."""
        decompressor = self._decompressor
        if decompressor is None:
            try:
                decompressor = self._to_decompress()
            except zstandard.ZstdError as error:
                raise RemoteError(Status.COMPRESSION, f"dictionary {self.id}: {str(error)[:100]}") from None
        return expand_mini(decompressor, body, limits)

    def _to_compress(self, way: Way) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(
            dict_data=zstd_dictionary(self.content),
            compression_params=parameters(tables_log(len(self.content)), way),
        )

    def _to_decompress(self) -> zstandard.ZstdDecompressor:
        self._decompressor = zstandard.ZstdDecompressor(
            dict_data=zstd_dictionary(self.content), format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
        return self._decompressor
