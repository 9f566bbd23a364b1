"""Declarations of application tables: what compiles to which table, and what is said about the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from accessgw.config import ConfigError
from accessgw.config.app_tables import load_app_table, load_app_tables
from accessgw.config.load import load
from accessgw.prepared import Prepared
from protocols.mmtp.tables import TableName, ValueType, decode_table

DEMO = Path(__file__).resolve().parents[2] / "etc" / "tables" / "demo.toml"
CONFIG = """
app_tables = ["tables/one.toml"]
[[listeners]]
name = "plain"
transport = "tcp"
protocols = ["mmtp/1"]
"""
GOOD = """
id = 9
version = 4
apps = ["wallet"]
[[headers]]
name = ":op"
type = "enum"
values = ["pay", "query"]
[[headers]]
name = "trace"
type = "hex"
[[headers]]
name = "network"
pairs = ["wifi", "4g"]
"""


def written(directory: Path, text: str, name: str = "table.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_declaration_is_compiled(tmp_path: Path) -> None:
    declared = load_app_table(written(tmp_path, GOOD))
    table = declared.table
    assert declared.apps == ("wallet",)
    assert (table.id, table.version) == (9, 4)
    assert table.names == (
        TableName(":op", ValueType.ENUM, ("pay", "query")),
        TableName("trace", ValueType.HEX),
        TableName("network", ValueType.STRING),
    )
    assert table.pairs == (("network", "wifi"), ("network", "4g"))


def test_the_demo_has_a_table_with_its_operations() -> None:
    declared = load_app_table(DEMO)
    assert decode_table(declared.table.encoded) == declared.table
    assert declared.table.names[0].values[:2] == ("payments.pay", "payments.query")
    assert len(declared.table.encoded) < 1024


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("id = 9", "id = 1", "id: expected an integer in 2..4294967295, got 1"),
        ("version = 4", "", "version: required"),
        ('type = "hex"', 'type = "hexa"', "headers[1].type: expected one of"),
        ('type = "hex"', 'typ = "hex"', 'headers[1].typ: unknown key, did you mean "type"?'),
        ('name = "trace"', 'name = "Trace"', "headers[1].name: expected a header name in lower case"),
        ('name = "trace"', 'name = "network"', 'headers[2].name: "network" is the name of headers[1], too'),
        ('values = ["pay", "query"]', "", "headers[0].values: required for type enum"),
        ('"pay", "query"', '"pay", "pay"', 'headers[0].values[1]: "pay" came before'),
        ('pairs = ["wifi", "4g"]', 'values = ["wifi"]', "headers[2].values: only an enum has values"),
        ('"wifi", "4g"', '"wi\\nfi"', "headers[2].pairs[0]: expected at most 256 bytes without NUL, CR and LF"),
        ('name = "network"', 'name = "x-user-token"', 'headers[2].pairs: "x-user-token" is a credential'),
        ('apps = ["wallet"]', 'apps = ["a", "a"]', "apps[1]: expected names of applications, each once"),
        ("id = 9", "id = ", "table.toml:2: "),
    ],
)
def test_what_is_wrong_is_said_with_its_path(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_app_table(written(tmp_path, GOOD.replace(old, new)))
    assert problem in str(caught.value)
    assert "table.toml" in str(caught.value)


def test_a_table_that_is_too_large_is_refused(tmp_path: Path) -> None:
    headers = "".join(f'[[headers]]\nname = "{"a" * 100}{n}"\n' for n in range(1000))
    with pytest.raises(ConfigError, match="at most 65536 bytes"):
        load_app_table(written(tmp_path, "id = 9\nversion = 1\n" + headers))


def test_several_tables_share_no_id_and_no_application(tmp_path: Path) -> None:
    one = written(tmp_path, GOOD, "one.toml")
    two = written(tmp_path, GOOD.replace("id = 9", "id = 10").replace("wallet", "shop"), "two.toml")
    assert [declared.table.id for declared in load_app_tables([one, two])] == [9, 10]
    with pytest.raises(ConfigError, match="id: 9 in version 4 is that of"):
        load_app_tables([one, one])
    three = written(tmp_path, GOOD.replace("id = 9", "id = 11"), "three.toml")
    with pytest.raises(ConfigError, match=r'apps\[0\]: "wallet" has the table of'):
        load_app_tables([one, three])


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_app_table(tmp_path / "none.toml")


def test_versions_of_one_table_may_be_listed_together(tmp_path: Path) -> None:
    old = written(tmp_path, GOOD, "old.toml")
    new = written(
        tmp_path, GOOD.replace("version = 4", "version = 5").replace('"query"', '"query", "list"'), "new.toml"
    )
    assert [declared.table.version for declared in load_app_tables([old, new])] == [4, 5]


def test_a_configuration_names_tables_relative_to_itself_and_is_refused_with_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    config = written(tmp_path, CONFIG, "accessgw.toml")
    written(tmp_path / "tables", GOOD, "one.toml")
    settings = load(config, {})
    assert settings.app_tables == (str(tmp_path / "tables" / "one.toml"),)
    assert Prepared.of(settings).tables.of("wallet") is not None
    written(tmp_path / "tables", GOOD.replace("id = 9", "id = 0"), "one.toml")
    with pytest.raises(ConfigError, match=r"^id: expected an integer in .*one\.toml"):
        Prepared.of(load(config, {}))
    (tmp_path / "tables" / "one.toml").unlink()
    with pytest.raises(ConfigError, match=r"one\.toml: no such file"):
        Prepared.of(load(config, {}))
