from __future__ import annotations

from pathlib import Path

import pytest

from accessgw.config import ConfigError, load

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """
[[listeners]]
name = "plain"
port = 7080
"""


def written(tmp_path: Path, text: str, name: str = "accessgw.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), environ or {})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{caught.value.path}: {caught.value.message}"
    return lines


def test_the_development_configuration_has_the_promised_surface() -> None:
    settings = load(ROOT / "etc/accessgw.toml", {})
    assert [(one.transport, one.address, one.port, one.protocols) for one in settings.listeners] == [
        ("tls", "127.0.0.1", 7443, ("mmtp/1", "mqtt", "http/1.1")),
        ("tls", "127.0.0.1", 8883, ("mqtt",)),
        ("tcp", "127.0.0.1", 1883, ("mqtt",)),
        ("tcp", "127.0.0.1", 7080, ("mmtp/1",)),
    ]
    assert settings.control.port == 7900
    assert {token.token for token in settings.control.tokens} == {"dev-push", "dev-read", "dev-operate"}
    assert all(token.loopback_only for token in settings.control.tokens)
    assert [(t.token, t.loopback_only) for t in settings.authenticators[0].tokens] == [("dev-device", True)]
    assert settings.demo_upstream == "http://127.0.0.1:7800"
    routes = {route.operation or route.path: route for route in settings.routes}
    assert not routes["payments.pay"].idempotent
    assert routes["feed.*"].idempotent
    assert "/api/" in routes


def test_defaults_fill_what_the_file_leaves_out(tmp_path: Path) -> None:
    settings = load(written(tmp_path, MINIMAL), {})
    assert settings.listeners[0].protocols == ("mmtp/1",)
    assert settings.limits.hello_timeout == 5.0


def test_port_zero_is_accepted_for_tests(tmp_path: Path) -> None:
    settings = load(written(tmp_path, MINIMAL.replace("7080", "0")), {})
    assert settings.listeners[0].port == 0


def test_a_wrong_type_names_the_path_what_was_expected_and_what_came(tmp_path: Path) -> None:
    text = MINIMAL + '[[listeners]]\nname = "b"\nport = "x"\n'
    assert problems(tmp_path, text) == ['listeners[1].port: expected an integer in 1..65535, got "x"']


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[pushes]\nretnetion = 3", 'pushes.retnetion: unknown key, did you mean "retention"?'),
        ("[pushes]\nzzz = 3", "pushes.zzz: unknown key"),
        ("[limits]\nmax_connections = true", "limits.max_connections: expected an integer of at least 1, got true"),
        ("[limits]\nidle_timeout = -1", "limits.idle_timeout: expected a number greater than 0, got -1"),
        ("[limits]\nmax_age = nan", "limits.max_age: expected a number of at least 0, got nan"),
        ("[limits]\nmax_age_spread = 1.5", "limits.max_age_spread: expected a number in 0..1, got 1.5"),
        ("[log]\ncalls = 1", "log.calls: expected true or false, got 1"),
        ("[store]\nkind = 'redis'", 'store.kind: expected one of "memory", "sqlite", got "redis"'),
        ("[drain]\nalternate = 5", "drain.alternate: expected a string, got 5"),
        ("[drain]\nrate = 0", "drain.rate: expected a number greater than 0, got 0"),
        ("[[control.tokens]]\nroles = []", "control.tokens[0].token: required, expected a string, got nothing"),
        ("[[control.tokens]]\ntoken = 7\nroles = []", "control.tokens[0].token: expected a string, got a value of type int"),
        ("[log]\naccess = ['a']", "log.access: expected a string, got a list"),
        ("routes = 3", "routes: expected a list, got 3"),
        ("limits = []", "limits: expected a table, got a list"),
    ],
)  # fmt: skip
def test_one_line_per_problem(tmp_path: Path, text: str, line: str) -> None:
    # top-level keys must stand before the first table
    whole = MINIMAL + text if text.startswith("[") else text + "\n" + MINIMAL
    assert problems(tmp_path, whole) == [line]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = MINIMAL + "[limits]\nidle_timeout = 'a'\nhelo_timeout = 3\n[log]\nqueue = 0\n"
    assert problems(tmp_path, text) == [
        'limits.idle_timeout: expected a number greater than 0, got "a"',
        'limits.helo_timeout: unknown key, did you mean "hello_timeout"?',
        "log.queue: expected an integer of at least 1, got 0",
    ]


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, 'state_dir = "var"\nzone = \n')
    assert line.startswith(f"{tmp_path}/accessgw.toml:2: ")
    (line,) = problems(tmp_path, 'zone = "open')
    assert line.startswith(f"{tmp_path}/accessgw.toml:1: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file or directory$"):
        load(tmp_path / "missing.toml", {})
    (tmp_path / "latin.toml").write_bytes(b'zone = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: expected UTF-8, got byte 0xe9"):
        load(tmp_path / "latin.toml", {})


def test_the_routes_file_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    cluster = '[[clusters]]\nname = "a"\nendpoints = ["http://127.0.0.1:1"]\n'
    written(tmp_path, cluster + '[[routes]]\noperation = "*"\ncluster = "a"\n', "r.toml")
    settings = load(written(tmp_path, 'routes_file = "r.toml"\n' + MINIMAL + cluster.replace('"a"', '"b"')), {})
    assert [cluster.name for cluster in settings.clusters] == ["b", "a"]
    assert settings.routes[0].operation == "*"


def test_a_problem_of_the_routes_file_has_its_own_path_and_names_the_file(tmp_path: Path) -> None:
    written(tmp_path, '[[routes]]\noperation = "a"\ncluster = "xyz"\n', "r.toml")
    cluster = '[[clusters]]\nname = "here"\nendpoints = ["unix:/run/x"]\n'
    main = 'routes_file = "r.toml"\n' + MINIMAL + cluster + '[[routes]]\noperation = "b"\ncluster = "here"\n'
    assert problems(tmp_path, main) == [f'routes[0].cluster: unknown cluster "xyz" (in {tmp_path}/r.toml)']
    written(tmp_path, "zone = 'x'", "r.toml")
    (line,) = problems(tmp_path, main)
    assert line.startswith("zone: unknown key, a routes file has only routes and clusters")


def test_the_environment_wins(tmp_path: Path) -> None:
    environ = {
        "ACCESSGW__LISTENERS__0__PORT": "7444",
        "ACCESSGW__LISTENERS__0__PROTOCOLS": '["mmtp/1", "http/1.1"]',
        "ACCESSGW__LISTENERS__1__NAME": "second",
        "ACCESSGW__LOG__CALLS": "false",
        "ACCESSGW__ZONE": "7",
        "ACCESSGW__LIMITS__IDLE_TIMEOUT": "400",
        "ACCESSGW_ACCEL": "pure",
        "HOME": "/root",
    }
    settings = load(written(tmp_path, MINIMAL), environ)
    assert settings.listeners[0].port == 7444
    assert settings.listeners[0].protocols == ("mmtp/1", "http/1.1")
    assert settings.listeners[1].name == "second"
    assert settings.log.calls is False
    assert settings.zone == "7"
    assert settings.limits.idle_timeout == 400


def test_the_environment_names_the_routes_file(tmp_path: Path) -> None:
    written(tmp_path, '[[clusters]]\nname = "a"\nendpoints = ["http://127.0.0.1:1"]\n', "other.toml")
    settings = load(written(tmp_path, MINIMAL), {"ACCESSGW__ROUTES_FILE": "other.toml"})
    assert settings.clusters[0].name == "a"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("LISTENERS__0__PORT", "x", 'listeners[0].port: expected an integer in 1..65535, got "x"'),
        ("LISTENERS__0__PROT", "x", "listeners[0].prot: unknown key"),
        ("LISTNERS__0__PORT", "1", 'listners: unknown key, did you mean "listeners"?'),
    ],
)
def test_a_problem_from_the_environment_names_the_variable(
    tmp_path: Path, variable: str, value: str, line: str
) -> None:
    (found,) = problems(tmp_path, MINIMAL, {f"ACCESSGW__{variable}": value})
    assert found.startswith(line)
    assert found.endswith(f"(from ACCESSGW__{variable})")


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ("LISTENERS__7__PORT", 'expected an index of listeners in 0..1, got "7"'),
        ("LISTENERS__X__PORT", 'expected an index of listeners in 0..1, got "x"'),
        ("ZONE__NAME", "zone has no parts of its own"),
    ],
)
def test_a_variable_that_leads_nowhere(tmp_path: Path, variable: str, complaint: str) -> None:
    assert problems(tmp_path, MINIMAL, {f"ACCESSGW__{variable}": "1"}) == [f"ACCESSGW__{variable}: {complaint}"]


def test_nesting_without_end_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(path)
