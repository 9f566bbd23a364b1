"""What operations may do with the secrets of tickets, and with who was revoked."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred


class KeyControl(Protocol):
    """The control API's side. Errors are ControlError, of Deferreds too."""

    def overview(self) -> dict[str, Any]:
        """`epochs`: a row each, oldest first; `revoked`: how many devices and certificates."""

    def rotate(self) -> Deferred[dict[str, Any]]:
        """Publish a new epoch, or find one that is published and not in use yet; its row, with `new`: whether it was
        published now."""

    def revoke_epoch(self, number: int) -> Deferred[dict[str, Any]]:
        """Make every ticket of an epoch worthless. 404 when there is none with this number."""

    def revoke_device(self, device: str) -> Deferred[dict[str, Any]]:
        """Make every ticket worthless that the device has now."""

    def revoke_certificate(self, fingerprint: bytes) -> Deferred[dict[str, Any]]:
        """Never take a certificate again. `fingerprint`: SHA-256 of its DER."""
