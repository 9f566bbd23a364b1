"""Trials of dictionaries: counts what each user's bodies became while a canary is tried, in bounded memory."""

from __future__ import annotations

from accessgw.model.dictionaries import Trial, UserFigures

MAX_USERS = 512
"""Users that are kept of a trial."""
_NOTHING = UserFigures(0, 0, 0, False)


class RunningTrial:
    """A Trial while it is counted; the trial of its Dictionary.

    When there are more than MAX_USERS, those with the higher half of the numbers are left out from then on. The numbers
    are hashes, so that those who are left are a fair sample, however many come and in whatever order.
    """

    __slots__ = ("_began", "_canary", "_limit", "_users")

    def __init__(self, trial: Trial) -> None:
        self._canary = trial.canary
        self._began = trial.began
        self._limit = trial.limit
        self._users = dict(trial.users)

    @property
    def key(self) -> tuple[int, float]:
        """Which trial it is: the canary, and when it began."""
        return self._canary, self._began

    def count(self, witness: int, raw: int, packed: int) -> None:
        """See protocols.mmtp.dictionaries.Watcher."""
        if witness <= self._limit:
            had = self._users.get(witness, _NOTHING)
            self._keep(witness, UserFigures(had.messages + 1, had.raw + raw, had.packed + packed, had.failed))

    def fail(self, witness: int) -> None:
        """See protocols.mmtp.dictionaries.Watcher."""
        if witness <= self._limit:
            had = self._users.get(witness, _NOTHING)
            self._keep(witness, UserFigures(had.messages, had.raw, had.packed, True))

    def figures(self) -> Trial:
        """What was counted so far."""
        return Trial(self._canary, self._began, self._limit, dict(self._users))

    def _keep(self, witness: int, figures: UserFigures) -> None:
        self._users[witness] = figures
        while len(self._users) > MAX_USERS:
            self._limit //= 2
            self._users = {number: kept for number, kept in self._users.items() if number <= self._limit}
