"""Trials of dictionaries: counts what each user's bodies became while a canary is tried, in bounded memory."""

from __future__ import annotations

from accessgw.model.dictionaries import Trial, UserFigures

MAX_USERS = 512
"""Users that are kept of a trial."""


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
        self._users = {number: [int(figure) for figure in (user.messages, user.raw, user.packed, user.failed)]
                       for number, user in trial.users.items()}  # fmt: skip

    @property
    def key(self) -> tuple[int, float]:
        """Which trial it is: the canary, and when it began."""
        return self._canary, self._began

    def count(self, witness: int, raw: int, packed: int) -> None:
        """See protocols.mmtp.dictionaries.Watcher."""
        if witness <= self._limit:
            user = self._users.get(witness) or self._admit(witness)
            user[0] += 1
            user[1] += raw
            user[2] += packed

    def fail(self, witness: int) -> None:
        """See protocols.mmtp.dictionaries.Watcher."""
        if witness <= self._limit:
            user = self._users.get(witness) or self._admit(witness)
            user[3] = 1

    def figures(self) -> Trial:
        """What was counted so far."""
        users = {number: UserFigures(user[0], user[1], user[2], bool(user[3])) for number, user in self._users.items()}
        return Trial(self._canary, self._began, self._limit, users)

    def _admit(self, witness: int) -> list[int]:
        user = self._users[witness] = [0, 0, 0, 0]
        while len(self._users) > MAX_USERS:
            self._limit //= 2
            self._users = {number: kept for number, kept in self._users.items() if number <= self._limit}
        return user
