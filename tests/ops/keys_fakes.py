"""A KeyControl that remembers what was asked of it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.control import ControlError

ROW = {"epoch": 8, "state": "next", "made": 1_800_000_000.0, "mints_from": 1_800_000_005.0}


class FakeKeys:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: ControlError | None = None

    def overview(self) -> dict[str, Any]:
        return {"epochs": [ROW | {"epoch": 7, "state": "current"}, ROW], "revoked": {"devices": 2, "certificates": 41}}

    def rotate(self) -> Deferred[dict[str, Any]]:
        new = "rotate" not in self.asked
        return self._answer("rotate", ROW | {"new": new})

    def revoke_epoch(self, number: int) -> Deferred[dict[str, Any]]:
        return self._answer(number, {"epoch": number, "revoked": True})

    def revoke_device(self, device: str) -> Deferred[dict[str, Any]]:
        return self._answer(device, {"device": device, "revoked": True})

    def revoke_certificate(self, fingerprint: bytes) -> Deferred[dict[str, Any]]:
        return self._answer(fingerprint, {"certificate": fingerprint.hex(), "revoked": True})

    def _answer(self, asked: Any, answer: dict[str, Any]) -> Deferred[dict[str, Any]]:
        self.asked.append(asked)
        return succeed(answer) if self.error is None else fail(self.error)
