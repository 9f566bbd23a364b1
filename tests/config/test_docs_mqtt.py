"""The configurations that docs/ops/mqtt.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from accessgw.config import ConfigError, load
from accessgw.model.settings import GatewaySettings
from tests.client import tls_files

PAGE = Path(__file__).resolve().parents[2] / "docs/ops/mqtt.md"
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
(WHOLE,) = [block for block in BLOCKS if "[[clusters]]" in block]
PARTS = [block for block in BLOCKS if block is not WHOLE]
REST = {
    "[[listeners]]": '[[listeners]]\nname = "one"\nport = 1883\n',
    "[[clusters]]": '[[clusters]]\nname = "ingest"\nendpoints = ["http://127.0.0.1:1"]\n',
}
"""What a part needs beside itself."""


def loaded(directory: Path, text: str) -> GatewaySettings:
    """The page's files are in `directory`."""
    made = dict(zip(("ca", "chain.pem", "key.pem"), tls_files.write(directory), strict=True))
    for name in ("chain.pem", "key.pem"):
        text = text.replace(f"/etc/accessgw/{name}", str(made[name]))
    (directory / "passwords").write_text("")
    (directory / "passwords").chmod(0o600)
    text = text.replace("/etc/accessgw/passwords", str(directory / "passwords"))
    file = directory / "accessgw.toml"
    file.write_text(text)
    return load(file, {})


def test_the_whole_one_loads_and_fits_together(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    assert [listener.protocols for listener in settings.listeners] == [("mqtt",), ("mqtt", "http/1.1")]
    clusters = {cluster.name for cluster in settings.clusters}
    assert clusters == {rule.cluster for rule in settings.mqtt.rules} | {route.cluster for route in settings.routes}
    assert settings.store.kind == "sqlite"
    assert settings.mqtt.acl_default == "deny"
    assert settings.authenticators[0].kind == "file"


@pytest.mark.parametrize("part", PARTS)
def test_each_part_loads(tmp_path: Path, part: str) -> None:
    loaded(tmp_path, part + "".join(text for table, text in REST.items() if table not in part))


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown cluster"):
        loaded(tmp_path, WHOLE.replace('name = "ingest"', 'name = "digest"'))
