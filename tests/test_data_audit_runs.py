"""`data_source: audit` by a person's own table, and from a federation without labels to alerts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from client import score
from client.scoring import score_files
from orchestrator.simulation import simulate
from shared.bundle import ModelBundle
from shared.config import load_config, parse_config
from shared.data_sources.audit_rules import load_rules
from shared.errors import ConfigError, DataError
from tests import audit_events as make
from tests.audit_events import START, Event
from tests.processes import ROOT
from tests.source_files import write_json_lines
from tests.test_data_audit import SAMPLES, features_of, read, settings
from tests.test_data_audit_labels import SIGMA
from tests.trained import train_bundle

GITHUB = [
    {"@timestamp": 1767600000123, "_document_id": "1", "action": "repo.create", "actor": "jane", "actor_id": 7,
     "actor_ip": "198.51.100.7", "actor_location": {"country_code": "DE"}, "org": "example", "repo": "example/one",
     "operation_type": "create"},
    {"@timestamp": 1767600001123, "_document_id": "2", "action": "protected_branch.policy_override", "actor": "joe",
     "actor_id": 8, "actor_ip": "203.0.113.1", "org": "example", "repo": "example/one", "operation_type": "modify"},
    {"@timestamp": 1767600002123, "_document_id": "3", "action": "git.clone", "actor": "deploy", "actor_id": 9,
     "actor_is_bot": True, "org": "example", "repo": "example/one", "operation_type": "access"},
]  # fmt: skip


def documented_table() -> str:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(name: .*?)```", text, re.DOTALL)
    return str(block)


OWN_SIGMA = "sigma: {product: github, service: audit, fields: {who.login: actor}}\n"


def own_rules(folder: Path) -> Path:
    folder = folder / "rules"
    folder.mkdir()
    source, selection = "product: github, service: audit", "action: repo.create, who.login: jane"
    (folder / "a.yml").write_text(SIGMA.format(title="a", source=source, selection=selection, level="high"))
    return folder


def test_a_table_may_say_how_rules_call_its_fields(tmp_path: Path) -> None:
    own = tmp_path / "github.yaml"
    own.write_text(documented_table() + OWN_SIGMA)
    folder = own_rules(tmp_path)
    config = settings(tmp_path, audit_map=str(own), labels="rules", rules_path=str(folder))
    assert [len(load_rules(config, folder).hits(event)) for event in GITHUB] == [1, 0, 0]


def test_the_table_of_the_documentation_reads_a_service_without_code(tmp_path: Path) -> None:
    own = tmp_path / "github.yaml"
    own.write_text(documented_table())
    path = write_json_lines(tmp_path / "a.jsonl", [*GITHUB, make.okta()])
    with pytest.raises(DataError, match="of no service that there is a table for"):
        read(settings(path))
    found = features_of(settings(path, audit_map=str(own))).set_index("principal")
    assert set(found.index) == {"jane", "joe", "deploy", "jane@example.com"}
    assert found.loc["joe", "first_event_id"] == "2"
    assert found.loc["deploy", ["machine_share", "write_share"]].tolist() == [1, 0]
    assert found.loc["joe", ["machine_share", "write_share"]].tolist() == [0, 1]
    assert found.loc["jane", "start"] == START // 300 * 300


def test_a_folder_of_tables_and_one_in_place_of_the_projects_own(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "github.yaml").write_text(documented_table())
    (folder / "okta.yml").write_text(
        "name: okta\nrecords: {uuid: '*'}\ntime: published\nprincipal: actor.id\naction: uuid"
    )
    path = write_json_lines(tmp_path / "a.jsonl", [*GITHUB, make.okta()])
    chunks, _ = read(settings(path, audit_map=str(folder)))
    assert sorted(api for row in chunks[-1].meta["apis"] for api in row)[-1] == "okta:okta-0"


def test_new_records_are_scored_by_the_same_table_named_once_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "private" / "github.yaml"
    own.parent.mkdir()
    own.write_text(documented_table() + OWN_SIGMA)
    events = [
        GITHUB[n % 3] | {"@timestamp": 1000 * (START + 60 * n), "_document_id": str(n), "actor_id": n % 20}
        for n in range(600)
    ]
    path = write_json_lines(tmp_path / "a.jsonl", events)
    config = settings(path, audit_map=str(own), labels="", label_field="actor_id", label_patterns=("7",))
    train_bundle(config.replace(num_features=31), tmp_path / "run", epochs=1)
    assert "private" not in (tmp_path / "run" / "bundle.json").read_text()
    output = tmp_path / "alerts.jsonl"
    arguments = ["--model", str(tmp_path / "run"), "--input", str(path), "--output", str(output), "--threshold", "0"]
    assert score.main(arguments) != 0
    assert "name yours with --audit_map" in "".join(capfd.readouterr())
    assert score.main([*arguments, "--audit_map", str(own)]) == 0
    alerts = [json.loads(line) for line in output.read_text().splitlines()]
    assert {alert["evidences"][0]["actor"]["user"]["name"] for alert in alerts} == {"jane", "joe", "deploy"}
    arguments[-1] = "1"  # no score is above it
    assert score.main([*arguments, "--audit_map", str(own), "--rules_path", str(own_rules(tmp_path))]) == 0
    alerts = [json.loads(line) for line in output.read_text().splitlines()]
    assert {alert["evidences"][0]["actor"]["user"]["name"] for alert in alerts} == {"jane"}
    assert {str(alert["unmapped"]["raised_by"]) for alert in alerts} == {"['rules']"}


GOOD = "name: x\nrecords: {a: '*'}\ntime: t\nprincipal: p\naction: c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table: .*a table has name, records"),
        ("[1, 2]", "the table: .*a table has name, records"),
        ("name: x", "records: Field required"),
        (GOOD + "tyme: x", "tyme: Extra inputs are not permitted; a table has"),
        (GOOD.replace("name: x", "name: X Y"), "name: String should match"),
        (GOOD.replace("time: t", "time: {a: b}"), "time"),
        (GOOD.replace("{a: '*'}", "{}"), "records: Dictionary should have at least 1 item"),
        (GOOD.replace("time: t", "time: []"), "time: .*at least 1 item"),
        (GOOD + "name: y", "key 'name' is given twice"),
        (GOOD + "id: !!python/object:os.system x", "not valid YAML"),
        ("a: &a [x]\nb: *a", "an alias"),
        (GOOD + "failed: {a: [1.5]}", "failed.a"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta()])
    with pytest.raises(ConfigError, match=message) as refusal:
        read(settings(path, audit_map=str(own)))
    assert str(own) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_and_doubled_tables_are_refused(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta()])
    with pytest.raises(ConfigError, match="0 files; expected a table, or a folder"):
        read(settings(path, audit_map=str(tmp_path / "none.yaml")))
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="a second table of the name 'x'"):
        read(settings(path, audit_map=str(tmp_path)))
    with pytest.raises(ConfigError, match="data_source audit alone reads it"):
        settings(path, data_source="cloudtrail", audit_map="x")


def day_of(seed: int, people: int, *, odd: bool = False) -> list[Event]:
    """A day of some services; at the end somebody who never did so deletes much and is refused much."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for second in range(0, 14_400, 40):
        name = f"user-{rng.integers(people)}"
        verb = ("get", "list", "watch")[rng.integers(3)]
        events.append(make.kubernetes(second, auditID=f"k{second}", user={"username": name}, verb=verb))
        events.append(make.okta(second, uuid=f"o{second}", actor__id=name, actor__alternateId=f"{name}@example.com"))
    for second in range(14_400 - 300, 14_400) if odd else ():
        events.append(
            make.kubernetes(
                second, auditID=f"x{second}", user={"username": "mallory"}, verb="delete", sourceIPs=["203.0.113.66"],
                responseStatus__code=(403, 200)[second % 2], objectRef__resource=f"thing{second % 40}",
            )
        )  # fmt: skip
    return events


def test_a_run_without_labels_ends_in_alerts_that_name_principal_and_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for client in range(3):
        write_json_lines(tmp_path / f"audit-{client}.jsonl", day_of(client, 12))
    write_json_lines(tmp_path / "audit-test.jsonl", day_of(7, 12))
    base = load_config(ROOT / "config/audit.yaml")
    config = parse_config(
        base.model_dump() | {
            "data_path": str(tmp_path / "audit-{client_id}.jsonl"), "test_path": str(tmp_path / "audit-test.jsonl"),
            "he_key_length": 512, "allow_insecure_key": True, "window_minutes": 5,
        }
    )  # fmt: skip
    bundle = ModelBundle.load(simulate(config).folder)
    new, output = write_json_lines(tmp_path / "new.jsonl", day_of(9, 12, odd=True)), tmp_path / "ranked.jsonl"
    summary = score_files(bundle, [new], output, None, top=1)
    assert (summary.ranked, summary.broken, summary.lines) == (1, 0, 720 + 300)
    (found,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert found["evidences"][0]["actor"]["user"]["name"] == "mallory"
    assert "kubernetes:delete thing" in found["evidences"][0]["data"]["apis"][0]
    assert found["evidences"][0]["data"]["addresses"] == ["203.0.113.66"]
    assert found["metadata"]["log_name"] == "audit"
    assert "mallory" in found["message"]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no audit events at {SAMPLES}")
@pytest.mark.parametrize(
    ("name", "least"),
    [("kubernetes", 119), ("gcp_audit", 63), ("okta", 31), ("entra_signin", 26), ("azure_activity", 103)],
)
def test_events_that_others_wrote_are_read(tmp_path: Path, name: str, least: int) -> None:
    """Tests of detection rules, some of which have no time, as they are about one field each; they get one here."""
    lines = (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    for number, event in enumerate(events):
        for key in ("timestamp", "published", "time", "stageTimestamp"):
            if re.match(r"\d{4}-", str(event.get(key))) is None:
                event[key] = make.iso(number)
    chunks, broken = read(settings(write_json_lines(tmp_path / "a.jsonl", events), max_broken_share=1.0))
    rows = sum(int(chunk.meta["events"].sum()) for chunk in chunks)
    assert rows + broken.broken + broken.left_out.total() == len(events)
    assert rows + broken.left_out["events that were there already"] >= least
