"""Dictionaries and classes as the control API tells them."""

from __future__ import annotations

from typing import Any

from accessgw.core.dictionaries.sampler import ClassKey, Reservoir
from accessgw.model.dictionaries import SETTLED, DictionaryRecord, DictionaryState
from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.policy.dictionary_life import counted, middle_ratio, shortfall
from protocols.mmtp.digests import digest_of


def dictionary_row(
    record: DictionaryRecord, percent: int | None, settings: DictionarySettings, whole: bool
) -> dict[str, Any]:
    """One dictionary; `percent` of its training, None when there is none; `whole`: everything that is known."""
    figures = record.figures
    row: dict[str, Any] = {
        "id": record.id,
        "app": record.app,
        "classes": list(record.classes),
        "state": record.state.value,
        "percent": 100 if record.state != DictionaryState.TRAINING else percent or 0,
        "share": 1.0 if record.state == DictionaryState.ACTIVE else record.share,
        "size": len(record.content),
        "expected": round(record.expected, 4),
        "bodies": figures.messages,
        "ratio": round(figures.ratio, 4),
        "errors": figures.errors,
        "changed_at": record.changed_at,
        "reason": record.reason,
    }
    if whole:
        row |= {
            "digest": digest_of(record.content).hex() if record.content else "",
            "created_at": record.created_at,
            "forgotten_at": record.changed_at + settings.retention if record.state in SETTLED else None,
            "samples": record.samples,
            "users": record.users,
            "shortest": record.shortest,
            "replaced": record.replaced,
            "raw_bytes": figures.raw,
            "packed_bytes": figures.packed,
        }
        if record.state == DictionaryState.CANARY:
            users = record.trial.users.values() if record.trial is not None else ()
            row["trial"] = {
                "users": len(users),
                "of_users": settings.canary_users,
                "failed": sum(user.failed for user in users),
                "bodies": counted(users, settings),
                "of": settings.canary_messages,
                "ratio": round(middle_ratio(users), 4),
            }
    return row


def class_row(key: ClassKey, reservoir: Reservoir, settings: DictionarySettings) -> dict[str, Any]:
    """What is sampled of one class."""
    app, kind, name = key
    return {
        "app": app,
        "class": kind + name,
        "seen": reservoir.seen,
        "samples": len(reservoir.samples),
        "users": reservoir.users,
        "bytes": reservoir.size,
        "ready": not shortfall(len(reservoir.samples), reservoir.users, reservoir.size, settings),
    }
