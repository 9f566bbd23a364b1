"""Clients that connect over and over: counted per client id, and refused for a while past a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings

MAX_CLIENTS = 100_000


class Flapping:
    """Counts connects per client id in windows that begin with the first one. At most `max_clients` are counted and
    as many banned: past it the longest known are forgotten."""

    def __init__(
        self,
        settings: MqttSettings,
        now: Callable[[], float],
        counters: MqttCounters,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._settings = settings
        self._now = now
        self._counters = counters
        self._max_clients = max_clients
        # In the order in which windows, and bans, end.
        self._connects: OrderedDict[str, list[float]] = OrderedDict()
        """Client id -> [end of its window, connects in it]."""
        self._bans: OrderedDict[str, float] = OrderedDict()
        """Client id -> end of its ban."""

    def apply(self, settings: MqttSettings) -> None:
        """Other bounds from now on; windows and bans that have begun keep their ends."""
        self._settings = settings

    def connected(self, client_id: str) -> float:
        """Count a CONNECT. 0 when it may go on, else the seconds for which the client id is still banned."""
        settings = self._settings
        if not settings.flapping_connects:
            return 0.0
        now = self._now()
        self._forget(now)
        banned_until = self._bans.get(client_id)
        if banned_until is not None and banned_until > now:
            return banned_until - now
        window = self._connects.get(client_id)
        if window is None or window[0] <= now:
            self._connects.pop(client_id, None)
            if len(self._connects) >= self._max_clients:
                self._connects.popitem(last=False)
            window = self._connects[client_id] = [now + settings.flapping_window, 0]
        window[1] += 1
        if window[1] <= settings.flapping_connects:
            return 0.0
        del self._connects[client_id]
        self._bans.pop(client_id, None)
        if len(self._bans) >= self._max_clients:
            self._bans.popitem(last=False)
        self._bans[client_id] = now + settings.flapping_ban
        self._counters.flapping_bans += 1
        return settings.flapping_ban

    def banned_for(self, client_id: str) -> float:
        """Seconds left of its ban, 0 for none; counts nothing. For a CONNECT of which nobody knows yet whose it is:
        counting those would let anybody ban anybody."""
        if not self._bans:
            return 0.0
        return max(0.0, self._bans.get(client_id, 0.0) - self._now())

    def _forget(self, now: float) -> None:
        """What is over, a few at a time: each CONNECT adds one at most."""
        for _ in range(4):
            client_id = next(iter(self._connects), None)
            if client_id is None or self._connects[client_id][0] > now:
                break
            del self._connects[client_id]
        for _ in range(4):
            client_id = next(iter(self._bans), None)
            if client_id is None or self._bans[client_id] > now:
                break
            del self._bans[client_id]
