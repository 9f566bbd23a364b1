"""Writes metric families in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable

from accessgw.core.interfaces.control import MetricFamily

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(families: Iterable[MetricFamily]) -> bytes:
    """The whole page. Families of one name are written once, with the samples of all."""
    merged: dict[str, MetricFamily] = {}
    for family in families:
        known = merged.get(family.name)
        if known is None:
            merged[family.name] = MetricFamily(family.name, family.kind, family.help, list(family.samples))
        else:
            known.samples += family.samples
    lines: list[str] = []
    for family in merged.values():
        lines.append(f"# HELP {family.name} {_escaped_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [
            f"{family.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples
        ]
    return ("\n".join(lines) + "\n").encode()


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, float):
        if value != value:  # noqa: PLR0124  # NaN is the one number that differs from itself
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "+Inf" if value > 0 else "-Inf"
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return repr(value)
