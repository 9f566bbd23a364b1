"""Pieces that bodies of calls and of pushes have in common."""

from __future__ import annotations

from loadtest.corpus.devices import Device
from loadtest.corpus.fields import Fields


def spot(device: Device) -> Fields:
    """Where the device is, to some metres."""
    at = device.dice.random
    return Fields(
        (
            ("lat", 1, round(device.latitude + at.gauss(0, 0.04), 5)),
            ("lng", 2, round(device.longitude + at.gauss(0, 0.04), 5)),
            ("acc", 3, device.dice.between("spot/accuracy", 4, 60)),
        )
    )


def day(device: Device, back: int) -> str:
    """A date and a time of the last `back` days."""
    dice = device.dice
    number = dice.random.randrange(back)
    return f"2026-{6 - number // 28 % 6:02d}-{28 - number % 28:02d} {dice.random.randrange(24):02d}:{dice.random.randrange(60):02d}"


def picture(device: Device) -> str:
    """The address of a picture: a name that says nothing."""
    kind = device.dice.deal("picture", ("webp", "webp", "avif", "jpg"))
    name = (
        f"https://p{device.dice.between('picture/host', 1, 4)}.lantern-img.cn/media/prod/{device.dice.base64(12)}.jpg"
    )
    return f"{name}?process=resize,w_{device.dice.deal('picture/width', (240, 480, 480, 720))}/format,{kind}"


def action(device: Device, page: str, key: str, value: str) -> Fields:
    """What a tap on it does, and how that is counted."""
    dice = device.dice
    return Fields(
        (
            ("actionType", 1, "OPEN_PAGE"),
            (
                "targetUrl",
                2,
                f"lantern://platform/open?page={page}&{key}={value}&source={dice.deal('action', ('home', 'push', 'list'))}",
            ),
            ("needLogin", 3, True),
            (
                "trackId",
                4,
                f"a118.b{dice.between('track/b', 100, 119)}.c{dice.between('track/c', 1, 40)}.d{dice.between('track/d', 1, 9)}",
            ),
        )
    )


def style(device: Device) -> Fields:
    """How it is drawn."""
    dice = device.dice
    return Fields(
        (
            ("titleColor", 1, dice.deal("style/title", ("#1A1A1A", "#1A1A1A", "#333333"))),
            ("backgroundColor", 2, dice.deal("style/background", ("#FFFFFF", "#FFFFFF", "#F5F7FA", "#FFF3E0"))),
            ("cornerRadius", 3, 12),
            ("layout", 4, dice.deal("style/layout", ("two_columns", "two_columns", "single", "banner"))),
        )
    )
