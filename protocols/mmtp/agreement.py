"""SETTINGS of both sides: which hold, and which wait to be acknowledged (specification, section 5)."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.calls import Calls
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import SETTINGS_ACK_FRAME, FrameType, encode_frame
from protocols.mmtp.settings import (
    Limits,
    apply,
    check_settings,
    decode_settings,
    encode_settings,
    larger,
    settings_of,
)
from protocols.mmtp.statuses import Status
from protocols.mmtp.wire import Wire


class Agreement:
    """What each side holds the other to."""

    __slots__ = ("_announced", "_calls", "_wire")

    def __init__(self, wire: Wire, calls: Calls) -> None:
        self._wire = wire
        self._calls = calls
        self._announced: list[Limits] | None = None
        """Ours that the peer has not acknowledged, oldest first."""

    def ours(self, chosen: dict[int, int]) -> dict[int, int]:
        """The settings for HELLO or WELCOME: those of our limits, `chosen` ones instead. Raises LocalError."""
        settings = {**settings_of(self._wire.limits), **chosen}
        check_settings(settings)
        return settings

    def announce(self, limits: Limits) -> None:
        """We said it; the peer may follow what held before until it has acknowledged this."""
        self._wire.enforced = larger(limits, self._wire.enforced)
        self._announced = [*(self._announced or ()), limits]

    def change(self, settings: dict[int, int]) -> None:
        """Send SETTINGS. Raises LocalError for a value that is not allowed."""
        check_settings(settings)
        self._wire.out.append(encode_frame(FrameType.SETTINGS, 0, encode_settings(settings)))
        self.announce(apply(self._announced[-1] if self._announced else self._wire.enforced, settings))

    def came(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """SETTINGS. Raises RemoteError(PROTOCOL)."""
        if not flags:
            self._wire.control_frame()
            self.follow(decode_settings(data, start, stop))
            return
        expect_end(start, stop)
        if not self._announced:
            raise RemoteError(Status.PROTOCOL, "SETTINGS: acknowledges what was not sent")
        enforced, *later = self._announced
        self._announced = later or None
        for limits in later:
            enforced = larger(limits, enforced)
        self._wire.enforced = enforced

    def follow(self, settings: dict[int, int]) -> None:
        """The peer's settings hold from here on."""
        self._wire.peer = apply(self._wire.peer, settings)
        self._wire.out.append(SETTINGS_ACK_FRAME)
        self._calls.flush()
