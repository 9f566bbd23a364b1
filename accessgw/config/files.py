"""Whether files that settings name can be read, and private keys without a password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from accessgw.config.errors import Problem


def readable(path: str, file: str) -> Iterator[Problem]:
    """A problem of the setting at `path` unless `file` can be opened for reading."""
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        yield Problem(path, f'cannot read "{file}": {os.strerror(error.errno or 0)}')
    except ValueError:
        yield Problem(path, "expected the name of a file, got one with a NUL in it")


def no_password() -> str:
    """For whoever loads a private key: an answer instead of a question on the terminal."""
    raise ValueError("the key is encrypted")
