"""Exceptions in the words of a log line."""

from __future__ import annotations

_OURS = ("accessgw.", "protocols.")


def in_words(error: BaseException | None) -> str:
    """What went wrong, as the end of a sentence. Ours say it by themselves; of others the class says more than the text,
    which may be empty or a mere key."""
    text = str(error).rstrip(".")
    if text and type(error).__module__.startswith(_OURS):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
