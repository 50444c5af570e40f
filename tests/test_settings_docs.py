"""The reference of the settings: what is committed is what the command writes, and it says what the model says."""

import json
import re
from pathlib import Path

import pytest
import yaml

from shared import settings_docs
from shared.config import Config, parse_config
from tests.processes import ROOT

EXAMPLE = (ROOT / "config/config.yaml").read_text(encoding="utf-8")


def test_the_committed_files_are_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("config", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/config.yaml").write_text(EXAMPLE, encoding="utf-8")
    monkeypatch.setattr(settings_docs, "ROOT", tmp_path)
    settings_docs.main()
    for name in ("docs/settings.md", "config/schema.json"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), f"{name} is stale: run `make settings`"


def test_every_setting_is_in_the_table_with_its_default_and_its_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| (.+?) \| (.+) \|$", (ROOT / "docs/settings.md").read_text(), re.M)
    assert [name for name, *_ in rows] == list(Config.model_fields)
    for name, default, allowed, meaning in rows:
        assert parse_config({name: yaml.safe_load(default)}) == Config(), f"the table says {name}: {default}"
        assert allowed
        assert len(meaning) > 3
    by_name = {name: (allowed, meaning) for name, _, allowed, meaning in rows}
    assert by_name["num_rounds"] == ("whole number, 1 to 100000", "rounds of training")
    assert by_name["he_scheme"][0] == "`paillier`, `kahe`, `none`"
    assert by_name["num_hidden_units"][0] == "whole number or list of them, 1 to 1000000"
    assert by_name["test_fraction"][1].endswith("the latest windows for logs")
    assert "docs/schemes.md" not in by_name["he_scheme"][1], "a link in docs/ starts there"


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = json.loads((ROOT / "config/schema.json").read_text())
    assert list(schema["properties"]) == list(Config.model_fields)
    assert schema["additionalProperties"] is False
    assert all(entry["description"] and "default" in entry for entry in schema["properties"].values())
    assert schema["properties"]["he_scheme"]["enum"] == ["paillier", "kahe", "none"]
    assert "required" not in schema


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_names_the_schema(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).samefile(ROOT / "config/schema.json")
