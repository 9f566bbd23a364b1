"""The common form of every benchmark's result: a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """One measured value, and its ratio to `against` in the same run."""

    case: str
    who: str
    value: float | None
    unit: str
    against: str = ""
    ratio: float | None = None
    note: str = ""
    limit: float | None = None
    """The most that `limit_of` may be; None: the row is only told."""
    limit_of: str = ""
    """ratio | value"""
    met: bool | None = None
    """None: no limit, or nothing was measured."""


@dataclass
class Report:
    """All rows of one run."""

    title: str
    backends: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, case: str, who: str, value: float | None, unit: str, note: str = "") -> None:
        self.rows.append(Row(case, who, value, unit, note=note))

    def relate(self, against: str) -> None:
        """Fill in the ratio of every row to the row of `against` in the same case."""
        base = {row.case: row.value for row in self.rows if row.who == against}
        for row in self.rows:
            floor = base.get(row.case)
            if row.who != against and row.value is not None and floor:
                row.against, row.ratio = against, row.value / floor

    def judge(self, case: str, who: str, limit: float, limit_of: str = "ratio") -> None:
        """Hold a row to its limit; for a ratio after `relate`."""
        for row in self.rows:
            if (row.case, row.who) == (case, who):
                figure = row.ratio if limit_of == "ratio" else row.value
                row.limit, row.limit_of = limit, limit_of
                row.met = None if figure is None else figure <= limit

    def print(self) -> None:
        table = Table(title=self.title, title_justify="left")
        judged = [row for row in self.rows if row.limit is not None]
        for column in ("case", "who", "value", "unit", "ratio", *(["limit"] if judged else []), "note"):
            table.add_column(column, justify="right" if column in ("value", "ratio") else "left")
        for row in self.rows:
            value = "-" if row.value is None else f"{row.value:,.2f}"
            ratio = f"{row.ratio:.2f} x {row.against}" if row.ratio is not None else ""
            table.add_row(row.case, row.who, value, row.unit, ratio, *([_verdict(row)] if judged else []), row.note)
        # A pipe has no width of its own; a row that is cut off there tells nothing.
        Console(width=None if sys.stdout.isatty() else 140).print(table)
        if judged:
            counts = [sum(row.met is met for row in judged) for met in (True, False, None)]
            print("limits: {} met, {} missed, {} not measured".format(*counts))

    def write(self, path: str) -> None:
        body = {"machine": machine(), "backends": self.backends, "rows": [asdict(row) for row in self.rows]}
        Path(path).write_text(json.dumps(body, indent=2) + "\n")


def _verdict(row: Row) -> str:
    if row.limit is None:
        return ""
    return f"<= {row.limit:,.2f} " + {True: "met", False: "MISSED", None: "not measured"}[row.met]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version,
    }


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; the environment's JSON and SEED are the defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", default=os.environ.get("JSON", ""), metavar="PATH", help="write the rows there too")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")), help="of everything random")
    return parser
