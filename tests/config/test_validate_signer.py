"""Problems of settings about who signs."""

from __future__ import annotations

import pytest

from accessgw.config import ConfigError, loads

LISTENER = '[[listeners]]\nname = "a"\ntransport = "tls"\n'


def problems(lines: str) -> list[str]:
    try:
        loads(f"{LISTENER}[tls]\n{lines}\n")
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("restart_after", ["3", "2.0"])
def test_a_signer_that_hangs_must_be_ended_before_hand_shakes_are(restart_after: str) -> None:
    times = f"signer_timeout = 2\nsigner_restart_after = {restart_after}"
    got = f"{float(restart_after):g}"
    assert problems(f'signer = "process"\n{times}') == [
        "tls.signer_restart_after: expected less than tls.signer_timeout, which is 2, or 0 (never), got " + got
    ]
    # elsewhere it is of no use, or only logged
    assert problems(times) == []
    assert problems(f'signer = "unix:/s"\n{times}') == []


@pytest.mark.parametrize("restart_after", ["0", "1.9"])
def test_never_and_less_are_well(restart_after: str) -> None:
    assert problems(f'signer = "process"\nsigner_timeout = 2\nsigner_restart_after = {restart_after}') == []


@pytest.mark.parametrize("signer", ["proces", "/run/signer.sock", "unix:signer.sock"])
def test_of_a_signer_that_is_none_nothing_else_is_told(signer: str) -> None:
    assert problems(f'signer = "{signer}"\nengine = "pure"\nsigner_restart_after = 3') == [
        f'tls.signer: expected "threads", "process" or "unix:" and a path that begins with /, got "{signer}"'
    ]
