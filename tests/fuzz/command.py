"""The command line of fuzzers: how many, which seed, progress, and what became of them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Outcome = tuple[str, int]
"""What became of a piece, and an error code or 0."""


def run(
    fuzz: Callable[[int, int], Iterator[Outcome]],
    description: str | None,
    *,
    what: str,
    unit: str = "packets",
    code: str = "d",
    counts: Callable[[Outcome], bool] = lambda outcome: True,
) -> int:
    """Fuzz with progress and a summary; the exit status. `fuzz` takes how many (--`unit`) and a seed; `code` formats
    codes; only outcomes that count are one of so many."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{unit}", dest="size", type=int, default=100_000, help=f"how many {unit} to feed")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    options = parser.parse_args()
    outcomes: Counter[Outcome] = Counter()
    columns = (TextColumn(f"fuzzing {what}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=options.size)
        fed = 0
        for outcome in fuzz(options.size, options.seed):
            outcomes[outcome] += 1
            fed += counts(outcome)
            if fed % 1000 == 0 or fed == options.size:
                progress.update(task, completed=fed)
    for (became, number), count in sorted(outcomes.items()):
        print(f"{became}{f' {number:{code}}' if number else ''}: {count}")
    return 0
