"""Dictionary-Compressed Zstandard, content coding `dcz`, and the fields that go with it (RFC 9842)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256

import zstandard

from protocols.errors import LocalError, RemoteError

CODING = "dcz"
MAGIC = bytes.fromhex("5e2a4d1820000000")
"""A skippable zstd frame of 32 bytes, which are the digest (section 5)."""
HEADER_SIZE = len(MAGIC) + 32
VARY = "accept-encoding, available-dictionary"
"""What a response in dcz needs in its Vary field, lest a cache gives it to others (section 6.2)."""

MAX_DICTIONARY = 512 * 1024
MAX_ID = 1024
"""Characters of Dictionary-ID."""
MAX_WINDOW = 8 * 1024 * 1024
"""Every receiver has to take that (section 5); dictionaries that would need more are not taken here."""
RATIO_FREE = 64 * 1024
"""Up to here the ratio does not matter."""

_WINDOW_LOG = 20
"""Dictionary and body together, as a rule: beyond the window the dictionary is out of reach."""
_SLICE = 64
"""decompressobj has no bound on its output: 4 bytes may become a block of 128 KiB, so a slice at most 2 MiB."""

_PARAMETERS = r"(?:;[ ]*[a-z*][-a-z0-9_.*]*(?:=[^,;\s]+)?)*"
_AVAILABLE = re.compile(rf" *:([A-Za-z0-9+/]{{43}})=?:{_PARAMETERS} *", re.ASCII)
_STRING = re.compile(rf' *"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"{_PARAMETERS} *', re.ASCII)
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_ZERO = re.compile(r"0(?:\.0{0,3})?")


def available_dictionary(value: str) -> bytes | None:
    """The SHA-256 in an Available-Dictionary field (a Byte Sequence, RFC 8941 section 3.3.5), None: not usable."""
    match = _AVAILABLE.fullmatch(value)
    return b64decode(match[1] + "=") if match else None


def dictionary_id(value: str) -> str | None:
    """The identifier in a Dictionary-ID field (a String, RFC 8941 section 3.3.3), None: not usable."""
    if len(value) > 3 * MAX_ID:
        return None
    match = _STRING.fullmatch(value)
    if match is None:
        return None
    decoded = re.sub(r"\\(.)", r"\1", match[1])
    return decoded if len(decoded) <= MAX_ID else None


def accepts_dcz(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding field names dcz with a weight above 0. A star does not: it names no dictionary."""
    for item in accept_encoding.split(","):
        coding, *parameters = (part.strip().lower() for part in item.split(";"))
        if coding == CODING:
            weights = [part[2:].strip() for part in parameters if part.startswith("q=")]
            return not (weights and _ZERO.fullmatch(weights[0]))
    return False


def _string(value: str) -> str:
    if not _PRINTABLE.fullmatch(value):
        raise LocalError(f"Use-As-Dictionary: expected printable ASCII, got {value!r}")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def use_as_dictionary(match: str, destinations: Iterable[str] = (), id: str = "") -> str:
    """A Use-As-Dictionary value: the response is a dictionary for URLs like `match` (section 2.1).

    `match` is a URL pattern without regular expressions, `destinations` those of fetch (empty: all).
    Raises LocalError for other than printable ASCII, and above MAX_ID characters of `id`.
    """
    if not match or len(id) > MAX_ID:
        raise LocalError(f"Use-As-Dictionary: expected a match and an id of at most {MAX_ID} characters")
    parts = [f"match={_string(match)}"]
    listed = " ".join(map(_string, destinations))
    if listed:
        parts.append(f"match-dest=({listed})")
    if id:
        parts.append(f"id={_string(id)}")
    return ", ".join(parts)


class DczDictionary:
    """A dictionary of raw content (whatever it begins with: the only type there is), shared and used by one thread."""

    __slots__ = ("_compressor", "_data", "_header", "content", "digest")

    def __init__(self, content: bytes) -> None:
        """Raises LocalError for a size outside 1..MAX_DICTIONARY."""
        if not 0 < len(content) <= MAX_DICTIONARY:
            raise LocalError(f"dictionary: expected 1..{MAX_DICTIONARY} bytes, got {len(content)}")
        self.content = content
        self.digest = sha256(content).digest()
        """All 32 bytes, as in Available-Dictionary."""
        self._header = MAGIC + self.digest
        self._data = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self._compressor: zstandard.ZstdCompressor | None = None

    @property
    def available(self) -> str:
        """The Available-Dictionary value of who has it."""
        return f":{b64encode(self.digest).decode()}:"

    def encode(self, body: bytes) -> bytes | None:
        """`body` in dcz, None when that saves nothing."""
        compressor = self._compressor
        if compressor is None:
            params = zstandard.ZstdCompressionParameters.from_level(
                3, dict_size=len(self.content), window_log=_WINDOW_LOG, write_dict_id=0
            )
            compressor = zstandard.ZstdCompressor(dict_data=self._data, compression_params=params)
            self._compressor = compressor
        packed = self._header + compressor.compress(body)
        return packed if len(packed) < len(body) else None

    def decode(self, body: bytes, max_body: int, max_ratio: int = 200, max_window: int = MAX_WINDOW) -> bytes:
        """A whole body in dcz, expanded: at most `max_body` bytes, above 64 KiB at most `max_ratio` times its size.

        Raises RemoteError: 415 when it needs another dictionary, 413 for a body that is too large, else 400.
        """
        if not body.startswith(MAGIC) or len(body) < HEADER_SIZE:
            raise RemoteError(400, f"dcz: expected its header, got {body[: len(MAGIC)].hex()}")
        if body[len(MAGIC) : HEADER_SIZE] != self.digest:
            raise RemoteError(415, f"dcz: expected dictionary {self.digest.hex()}")
        stream = zstandard.ZstdDecompressor(dict_data=self._data, max_window_size=max_window).decompressobj()
        out: list[bytes] = []
        size = 0
        for start in range(HEADER_SIZE, len(body), _SLICE):
            part = body[start : start + _SLICE]
            if stream.eof:
                raise RemoteError(400, "dcz: bytes after the zstd frame")
            try:
                expanded = stream.decompress(part)
            except zstandard.ZstdError as error:
                raise RemoteError(400, f"dcz: {str(error)[:100]}") from None
            size += len(expanded)
            bound = min(max_body, max(RATIO_FREE, max_ratio * (start + len(part) - HEADER_SIZE)))
            if size > bound:
                raise RemoteError(413, f"dcz: expands to more than {bound} bytes")
            out.append(expanded)
        if not stream.eof:
            raise RemoteError(400, "dcz: zstd frame is cut off")
        if stream.unused_data:
            raise RemoteError(400, "dcz: bytes after the zstd frame")
        return b"".join(out)
