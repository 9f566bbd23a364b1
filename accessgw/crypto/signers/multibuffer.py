"""RSA signatures eight at a time, by Intel's libcrypto_mb (extra `mb`) on processors with AVX512-IFMA.

Its interface: the header crypto_mb/rsa.h of the Intel Cryptography Primitives Library.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from accessgw.crypto.signers.backend import Backend, Job, Refused, unfit
from protocols.signing import RSA_BLOCK

if TYPE_CHECKING:
    from accessgw.crypto.signers.rsa_parts import RsaParts

LANES = 8
LINGER = 0.001
"""Seconds that the first request waits for seven others."""
WORTH_IT = 3
"""Of fewer signatures each is cheaper one by one: the eight cost the same, full or not."""
SIZES = (1024, 2048, 3072, 4096)
"""Bits of the moduli that the library has methods for."""

_LIBRARY = "libcrypto_mb.so"
_INTEL = ("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so")
"""Named by the library, not by the dependencies of its package."""
_ALIGNMENT = 64
_FLAG = "avx512ifma"


class MultiBufferUnavailable(Exception):
    """This machine cannot sign in batches; the message says what it lacks."""


class Lanes(Protocol):
    """Private operations on up to LANES blocks at once, on whichever thread calls."""

    def __call__(self, work: Sequence[tuple[RsaParts, bytes]]) -> list[bytes]:
        """Keys of one size, a block for each; the results may be wrong, and are checked."""


class MultiBufferBackend:
    """Batches of RSA where they are worth it; all else, and what came out wrong, by the back end in software."""

    name = "multibuffer"
    batch = LANES
    linger = LINGER

    def __init__(self, software: Backend, keys: dict[str, RsaParts], lanes: Lanes) -> None:
        """`software` has all keys, also those of `keys`."""
        self._software = software
        self._keys = keys
        self._lanes = lanes
        self.faults = 0
        """Signatures that were wrong, and were made again."""

    def keys(self) -> frozenset[str]:
        return self._software.keys()

    def sign(self, jobs: Sequence[Job]) -> list[bytes | Refused]:
        results: dict[int, bytes | Refused] = {}
        by_size: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            parts = self._keys.get(job.key)
            if parts is not None and job.algorithm == RSA_BLOCK and unfit(job, "rsa", parts.bits // 8) is None:
                by_size.setdefault(parts.bits, []).append(index)
        for group in by_size.values():
            for start in range(0, len(group), LANES):
                self._sign_together(jobs, group[start : start + LANES], results)
        rest = [index for index in range(len(jobs)) if index not in results]
        results.update(zip(rest, self._software.sign([jobs[index] for index in rest]), strict=True))
        return [results[index] for index in range(len(jobs))]

    def _sign_together(self, jobs: Sequence[Job], group: list[int], results: dict[int, bytes | Refused]) -> None:
        if len(group) < WORTH_IT:
            return
        work = [(self._keys[jobs[index].key], jobs[index].data) for index in group]
        for index, (parts, block), signature in zip(group, work, self._lanes(work), strict=True):
            # One faulty signature made by the theorem gives the key away (Boneh, DeMillo, Lipton).
            if parts.public.is_signature(signature, block):
                results[index] = signature
            else:
                self.faults += 1


def load_lanes(directory: Path = Path(sys.prefix) / "lib", cpuinfo: Path = Path("/proc/cpuinfo")) -> Lanes:
    """The library, where package and processor are there. Raises MultiBufferUnavailable."""
    try:
        flags = cpuinfo.read_text()
    except OSError as error:
        raise MultiBufferUnavailable(f"nobody says what this processor can: {error}") from error
    if _FLAG not in flags.split():
        raise MultiBufferUnavailable("this processor has no AVX512-IFMA")
    return _CryptoMb(open_library(directory))


def open_library(directory: Path) -> ctypes.CDLL:
    """libcrypto_mb as the packages ipp-crypto and intel-cmplr-lib-rt install it. Raises MultiBufferUnavailable."""
    try:
        for name in _INTEL:
            ctypes.CDLL(str(directory / name), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(directory / _LIBRARY))
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        library.mbx_is_crypto_mb_applicable.argtypes = [ctypes.c_uint64]
        library.mbx_RSA_Method_BufSize.argtypes = [pointer]
        library.mbx_rsa_private_crt_mb8.argtypes = [pointer] * 7 + [integer, pointer, pointer]
        library.mbx_rsa_private_crt_mb8.restype = ctypes.c_uint32
        for bits in SIZES:
            getattr(library, f"mbx_RSA{bits // 1024}K_private_crt_Method").restype = pointer
    except (OSError, AttributeError) as error:
        raise MultiBufferUnavailable(f"the extra mb is not installed, or not complete: {error}") from error
    return library


class _CryptoMb:
    """Lanes by mbx_rsa_private_crt_mb8: blocks and signatures big-endian, parts of keys little-endian."""

    def __init__(self, library: ctypes.CDLL) -> None:
        if not library.mbx_is_crypto_mb_applicable(0):
            raise MultiBufferUnavailable("libcrypto_mb says that it cannot use this processor")
        self._library = library
        self._methods: dict[int, int] = {
            bits: getattr(library, f"mbx_RSA{bits // 1024}K_private_crt_Method")() for bits in SIZES
        }
        self._local = threading.local()

    def __call__(self, work: Sequence[tuple[RsaParts, bytes]]) -> list[bytes]:
        bits = work[0][0].bits
        # Lanes without work repeat the first: a lane costs nothing, and the library needs no special case.
        lanes = [*work, *([work[0]] * (LANES - len(work)))]
        half = bits // 16
        sources = [ctypes.create_string_buffer(block, bits // 8) for _, block in lanes]
        targets = [ctypes.create_string_buffer(bits // 8) for _ in lanes]
        parts = [[_little(getattr(key, name), half) for key, _ in lanes] for name in ("p", "q", "dp", "dq", "inverse")]
        status = self._library.mbx_rsa_private_crt_mb8(
            _pointers(sources),
            _pointers(targets),
            *(_pointers(column) for column in parts),
            bits,
            self._methods[bits],
            self._scratch(bits),
        )
        # Four bits for each lane; a signature that is empty does not pass the check either.
        return [b"" if status >> 4 * lane & 0xF else target.raw for lane, target in enumerate(targets[: len(work)])]

    def _scratch(self, bits: int) -> int:
        """Room that the library asks for, aligned; of each thread its own."""
        rooms: dict[int, Any] = self._local.__dict__.setdefault("rooms", {})
        if bits not in rooms:
            size = self._library.mbx_RSA_Method_BufSize(self._methods[bits])
            rooms[bits] = ctypes.create_string_buffer(size + _ALIGNMENT)
        return -(-ctypes.addressof(rooms[bits]) // _ALIGNMENT) * _ALIGNMENT


def _little(value: int, size: int) -> Any:
    # The library reads whole words of 64 bits, and may look at one more.
    return ctypes.create_string_buffer(value.to_bytes(size, "little"), size + 8)


def _pointers(buffers: Sequence[Any]) -> Any:
    return (ctypes.c_void_p * LANES)(*(ctypes.addressof(each) for each in buffers))
