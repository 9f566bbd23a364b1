"""What is wrong with a configuration: problems, each with the path of the setting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong."""

    path: str
    """Such as `listeners[1].port`, or the file (and line) when it cannot be read at all."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used. `path` and `message` are of its first problem.

    Its text has one line `path: message` for each problem.
    """

    def __init__(self, path: str, message: str, further: Iterable[Problem] = ()) -> None:
        self.path = path
        self.message = message
        self.problems = [Problem(path, message), *further]
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def of(cls, problems: list[Problem]) -> ConfigError:
        """The error for a list that is not empty."""
        first, *further = problems
        return cls(first.path, first.message, further)
