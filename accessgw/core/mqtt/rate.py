"""How fast one connection may publish: two token buckets that say for how long it is not to be read."""

from __future__ import annotations

from accessgw.model.mqtt_settings import MqttSettings


class _Debt:
    """A token bucket that takes what has come already, into debt, and says when the debt is paid."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._stamp = now

    def take(self, amount: float, now: float) -> float:
        tokens = min(self._burst, self._tokens + max(0.0, now - self._stamp) * self._rate) - amount
        self._tokens = tokens
        self._stamp = now
        return -tokens / self._rate if tokens < 0 else 0.0


class ConnectionRate:
    """The limits of one connection. Make it with `rate_of`."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self, messages: _Debt | None, bytes_: _Debt | None) -> None:
        self._messages = messages
        self._bytes = bytes_

    def take(self, messages: int, size: int, now: float) -> float:
        """So many PUBLISH packets and bytes have come in one read: seconds for which the connection is not to be
        read (0: go on)."""
        pause = 0.0
        if self._messages is not None and messages:
            pause = self._messages.take(messages, now)
        if self._bytes is not None:
            pause = max(pause, self._bytes.take(size, now))
        return pause


def rate_of(settings: MqttSettings, now: float) -> ConnectionRate | None:
    """For a new connection; None, so that it costs nothing, when no limit is set."""
    if not settings.messages_per_second and not settings.bytes_per_second:
        return None
    messages = bytes_ = None
    if settings.messages_per_second:
        messages = _Debt(settings.messages_per_second, float(settings.message_burst), now)
    if settings.bytes_per_second:
        bytes_ = _Debt(settings.bytes_per_second, settings.bytes_per_second, now)
    return ConnectionRate(messages, bytes_)
