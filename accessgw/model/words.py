"""Words of log lines and messages."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Such as "1 certificate", "2 certificates"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def trouble(error: BaseException) -> str:
    """What went wrong: of the system's errors file and words, without Python's numbers and quotes around them."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else error.strerror
    return str(error) or type(error).__name__
