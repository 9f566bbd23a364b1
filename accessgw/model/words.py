"""Words of log lines and messages."""

from __future__ import annotations

_OURS = ("accessgw.", "protocols.")


def counted(number: int, thing: str) -> str:
    """Such as "1 certificate", "2 certificates"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def trouble(error: BaseException) -> str:
    """What went wrong: of the system's errors file and words, without Python's numbers and quotes around them."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else error.strerror
    return str(error) or type(error).__name__


def in_words(error: BaseException | None) -> str:
    """What went wrong, as the end of a sentence. Ours say it by themselves; of others the class says more than the text,
    which may be empty or a mere key."""
    text = str(error).rstrip(".")
    if text and type(error).__module__.startswith(_OURS):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
