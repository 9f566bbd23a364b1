"""What an operator can set about dictionaries of bodies."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from accessgw.model.setting_types import Amount, Count, Seconds, SecondsOrZero, Settings, Share


class DictionarySettings(Settings, frozen=True, kw_only=True):
    """Dictionaries: what is sampled of live bodies, what a dictionary may hold, and how it comes into use."""

    enabled: bool = False
    """Sample bodies, train dictionaries and use them. Off: none are used, those in the store stay there."""
    secret: tuple[str, ...] = ()
    """Operations and bizs that are never sampled and always travel raw: a name, or a prefix such as `auth.*`. `gw.*`
    is one of them unasked."""
    http: bool = False
    """Use them for ordinary HTTP clients as well (RFC 9842), on path routes with `bodies`. The active dictionaries of
    such routes can then be fetched by everybody who reaches a listener."""
    users: Annotated[int, Meta(ge=2)] = 50
    """Different users from whom every piece of a dictionary must have been seen. Every client can read a dictionary:
    do not lower it but for tests. A user is the one whom a token names, else a device that a token or certificate
    names; bodies of others are not sampled, since who only says a device id can be any number of them."""
    size: Annotated[int, Meta(ge=1024, le=64 * 1024)] = 8 * 1024
    """Largest dictionary."""
    messages: Annotated[int, Meta(ge=100, le=20_000)] = 3000
    """Bodies kept of a class (operation or biz, and direction) for training."""
    messages_per_user: Count = 30
    """Of these from one user at most."""
    least_messages: Annotated[int, Meta(ge=50)] = 1000
    """Bodies that a class needs before it can be trained."""
    sample_bytes: Annotated[int, Meta(ge=64 * 1024, le=64 * 1024 * 1024)] = 2 * 1024 * 1024
    """Bytes kept of a class."""
    max_body: Count = 16 * 1024
    """A larger body is not sampled."""
    max_classes: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Classes sampled at once, of all apps; the memory of samples is at most this times `sample_bytes`."""
    max_dictionaries: Annotated[int, Meta(ge=1, le=4096)] = 256
    """Dictionaries kept at once, retired ones included; past that none are trained."""
    train_interval: SecondsOrZero = 0.0
    """Train every class that can be so often; 0: only when an operator asks. One class at a time, each costs one to
    fifteen seconds of a CPU at idle priority, with large bodies more, and some tens of MB of memory (1 GiB at most)."""
    train_timeout: Seconds = 60.0
    """A training that takes longer is ended, and refused. At idle priority it waits while everything else has the
    CPUs."""
    canary_share: Share = 0.05
    """Share of the devices that get a new dictionary first; 0: it waits as a candidate until an operator acts."""
    canary_messages: Count = 1000
    """Bodies after which a canary's ratio is judged; no more of one user count than of an equal share of
    `canary_users`."""
    canary_users: Count = 10
    """Different users (counted as for `users`; all who have proved nothing are one) without whom a canary is not
    judged: so many must have used it before its ratio counts, and it must have failed for so many before it goes back
    for that. With fewer an operator judges."""
    ratio_margin: Share = 0.05
    """A canary whose ratio (compressed to raw, for the middle half of its users) is worse than the active one's by more
    than this share goes back."""
    error_margin: Share = 0.001
    """The same for the share of its users for whom a body could not be expanded, beyond the active one's."""
    promote: bool = False
    """A canary that is not worse becomes active by itself."""
    promote_after: SecondsOrZero = 3600.0
    """Earliest time for that."""
    retention: Seconds = 30 * 86400.0
    """How long bodies of a dictionary that is no longer used can be expanded; then it is forgotten."""
    flush: Amount = 5
    """Seconds after which the figures of dictionaries are written."""
