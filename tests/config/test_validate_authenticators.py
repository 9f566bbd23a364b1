"""What each kind of authenticator needs, and what it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from accessgw.config import ConfigError, loads

HEAD = '[[listeners]]\nname = "plain"\nport = 7080\n'


def problems(*tables: str) -> list[str]:
    text = HEAD + "".join(f"[[authenticators]]\n{table}\n" for table in tables)
    try:
        loads(text)
    except ConfigError as error:
        return [line.removeprefix("authenticators[0].") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('kind = "file"', "file: required for kind file, expected a file, got nothing"),
        ('kind = "scram"', "file: required for kind scram, expected a file, got nothing"),
        ('kind = "file"\nfile = "/no/such"', 'file: cannot read "/no/such": No such file or directory'),
        ('kind = "http"', 'url: required for kind http, expected an "http://" or "https://" URL, got nothing'),
        ('kind = "http"\nurl = "login"', 'url: expected an "http://" or "https://" URL, got "login"'),
        ('kind = "http"\nurl = "http://h:0/"', 'url: expected an "http://" or "https://" URL, got "http://h:0/"'),
        (
            'kind = "http"\nurl = "https://login/"\ntls = {key = "/etc/hostname"}',
            "tls.certificate: key needs certificate, got nothing",
        ),
        ('kind = "http"\nurl = "http://a:b@login/"', "url: expected no user name or password in the URL"),
        ('kind = "anonymous"\nfile = "x"', "file: only kind file and scram has file, this is anonymous"),
        ('kind = "certificate"\nloopback_only = true', "loopback_only: only kind anonymous has loopback_only, this is certificate"),
        ('kind = "anonymous"\ncache = 5', "cache: only kind file and http has cache, this is anonymous"),
        ('kind = "anonymous"\nurl = "http://h/"', "url: only kind http has url, this is anonymous"),
        ('kind = "anonymous"\nissuer = "x"', "issuer: only kind jwt has issuer, this is anonymous"),
    ],
)  # fmt: skip
def test_problems(table: str, problem: str) -> None:
    assert problems(table) == [problem]


def test_a_time_that_no_device_would_wait_for() -> None:
    (problem,) = problems('kind = "http"\nurl = "http://h/"\ntimeout = 5')
    assert problem.startswith("timeout: expected")


def test_one_scram_only(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    table = f'kind = "scram"\nfile = "{tmp_path}/s"'
    assert problems(table, table) == [
        "authenticators[1].kind: one authenticator may be of kind scram, and authenticators[0] is one already"
    ]


def test_a_chain_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    assert not problems(
        'kind = "certificate"',
        f'kind = "file"\nfile = "{tmp_path}/p"\ncache = 60',
        f'kind = "scram"\nfile = "{tmp_path}/p"',
        'kind = "http"\nurl = "http://login:8080/mqtt?x=1"\ntimeout = 2',
        'kind = "jwt"\nalgorithms = ["HS256"]\nsecret = "0123456789abcdef0123456789abcdef"\nusername_must_match = true',
        'kind = "static"\ntokens = [{token = "t"}]',
        'kind = "anonymous"\nloopback_only = true',
    )
