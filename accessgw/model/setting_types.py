"""Types that settings share, and the base of all settings structs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65535, extra={"expected": "an integer in 1..65535"})]
"""A TCP port. 0, which the message does not offer, lets the kernel choose: for tests."""
Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
SecondsOrZero = Annotated[float, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Secret = Annotated[str, Meta(extra={"secret": True})]
"""Never shown: `config` masks it wherever it prints the configuration."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all settings: unknown keys are errors."""
