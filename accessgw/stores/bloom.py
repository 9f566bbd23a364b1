"""A Bloom filter: tells at once, and without the disk, that something was certainly never stored."""

from __future__ import annotations

PROBES = 4


class BloomFilter:
    """A set that may say yes to what is not in it, and never no to what is.

    `bits` is a power of two: with 16 of them for every member, one question in four hundred is answered wrongly. Lives
    as long as the process: hashes of text differ in the next one.
    """

    __slots__ = ("_bits", "_mask")

    def __init__(self, bits: int = 1 << 24) -> None:
        if bits & (bits - 1):
            raise ValueError(f"expected a power of two, got {bits} bits")
        self._bits = bytearray(bits // 8)
        self._mask = bits - 1

    def add(self, member: tuple[str, str]) -> None:
        bits, mask = self._bits, self._mask
        place = hash(member)
        step = place >> 32 | 1
        for _ in range(PROBES):
            bits[(place & mask) >> 3] |= 1 << (place & 7)
            place += step

    def may_have(self, member: tuple[str, str]) -> bool:
        """Whether it was added; False is certain. As `in`, but that a call by name is quicker."""
        bits, mask = self._bits, self._mask
        place = hash(member)
        step = place >> 32 | 1
        if not bits[(place & mask) >> 3] & 1 << (place & 7):
            return False  # as of nearly all that was never stored
        for _ in range(PROBES - 1):
            place += step
            if not bits[(place & mask) >> 3] & 1 << (place & 7):
                return False
        return True

    __contains__ = may_have
