"""What an analyst sees: titles, kinds, groups that lose no alert, page, table and layer, and lines of files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import score
from client.alert_groups import Group, groups_of
from client.navigator import Coverage, techniques_of
from client.presenting import Scoring, most_urgent_first, no_ground, render, table
from client.scoring import Summary, score_files
from client.titles import Headline, kind_in_words, short_principal
from shared.bundle import ModelBundle
from shared.config import Config, load_config
from shared.console import console
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.dataset import Dataset
from shared.data_sources.tables import batches, table_of
from shared.data_utils import load_test_data
from shared.errors import BundleError
from shared.findings.folder import load_findings
from shared.kinds import AttackKinds
from shared.preprocessing import FeatureHistogram
from shared.rules.folder import load_rules
from tests.browser import Parsed, find_browser, look_at
from tests.findings import asff, guardduty, ocsf
from tests.processes import ROOT
from tests.source_files import write_json_lines, write_lines
from tests.test_report import ATTACK
from tests.test_rules import rule
from tests.test_rules import write as write_rules
from tests.test_source_cloudtrail import record, settings, some_records, write
from tests.test_source_vpc_flow import flow as vpc
from tests.test_source_vpc_flow import lines_of, some_flows
from tests.test_source_vpc_flow import settings as vpc_settings
from tests.trained import train_bundle

Finding = dict[str, Any]
FLOWS_HEADER = "time,src_ip,dst_ip,dst_port,proto,size,Label"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("cloud")
    config = settings(write(folder / "a.json", some_records()), num_hidden_units=(4,), window_minutes=1)
    return train_bundle(config, folder / "run", epochs=1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A model of flows whose attacks are of two kinds, by their size."""
    folder = tmp_path_factory.mktemp("network")
    kinds = {0: ("dos", 90_000), 1: ("recon", 10)}
    lines = []
    for row in range(1600):
        name, size = kinds.get(row % 8, ("benign", 1000))
        lines.append(network_flow(row, size=size + row % 97, label=name))
    path = write_lines(folder / "flows.csv", [FLOWS_HEADER, *lines])
    config = Config(
        data_source="csv", data_path=str(path), csv_label_column="Label", partition="even", hash_width=4,
        csv_drop_columns=("time", "src_ip", "dst_ip"), num_features=6, num_hidden_units=(8,), alert_fpr=0.05,
        max_broken_share=0.0,
    )  # fmt: skip
    return train_bundle(config, folder / "run", epochs=10)


def network_flow(
    row: int, source: str = "10.1.2.3", target: str = "", port: int = 445, size: int = 90_000, label: str = "x"
) -> str:
    return f"{1714557600 + row},{source},{target or f'10.9.0.{row % 200}'},{port},tcp,{size},{label}"


def scored(bundle: ModelBundle, path: Path, threshold: float | None = 0.0, **more: Any) -> list[Finding]:
    output = path.parent / f"{path.stem}-alerts.jsonl"
    score_files(bundle, [path], output, threshold, **more)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_a_title_says_who_did_what(cloud: ModelBundle, tmp_path: Path) -> None:
    role = {"type": "AssumedRole", "principalId": "AROAADMIN:s", "arn": "arn:aws:sts::1:assumed-role/admin/s"}
    calls = [record(second, name="DeleteTrail", service="cloudtrail", userIdentity=role) for second in range(3)]
    path = write(tmp_path / "a.json", [*calls, record(4, userIdentity=role)])
    (alert,) = scored(cloud, path)
    assert alert["finding_info"]["title"] == (
        "role/admin: DeleteTrail ×3, ListUsers in eu-west-1, like Defense Evasion"
    )
    assert alert["unmapped"]["kind"] == {"name": "defense-evasion", "by": "calls"}
    assert "line" not in alert["finding_info"]["title"]
    rules = write_rules(
        tmp_path / "rules", rule({"selection": {"eventName": "ListUsers"}}, title="Users listed", level="high",
                                 tags=["attack.discovery"])
    )  # fmt: skip
    (alert,) = scored(cloud, path, rules=load_rules(rules, "cloudtrail"))
    assert alert["finding_info"]["title"] == "role/admin: ListUsers, DeleteTrail ×3 in eu-west-1: Users listed"
    assert alert["unmapped"]["kind"] == {"name": "discovery", "by": "rules"}


def test_principals_are_called_as_people_call_them() -> None:
    assert short_principal("arn:aws:iam::1:user/division/bob") == "user/bob"
    assert short_principal("arn:aws:sts::1:assumed-role/admin/session-7") == "role/admin"
    assert short_principal("arn:aws:iam::1:root") == "root"
    assert short_principal("ec2.amazonaws.com") == "ec2.amazonaws.com"
    assert kind_in_words("credential-access") == "Credential Access"
    assert kind_in_words("command-and-control") == "Command and Control"
    assert kind_in_words("r2l") == "R2L"


def test_an_alert_names_its_kind_where_the_data_has_several(network: ModelBundle, tmp_path: Path) -> None:
    lines = [network_flow(0), network_flow(1, size=12, port=22), network_flow(2, size=1000)]
    dos, recon, _ = scored(network, write_lines(tmp_path / "new.csv", [FLOWS_HEADER, *lines]))
    assert dos["finding_info"]["title"] == "10.1.2.3 → 10.9.0.0:445/tcp, 1 flow, like DOS"
    assert dos["unmapped"]["kind"]["by"] == "model"
    assert dos["unmapped"]["kind"]["probability"] > 0.9
    assert recon["finding_info"]["title"].endswith("→ 10.9.0.1:22/tcp, 1 flow, like Recon")
    assert dos["evidences"][0]["dst_endpoint"] == {"ip": "10.9.0.0", "port": 445}
    assert dos["evidences"][0]["connection_info"] == {"protocol_name": "tcp"}


def test_a_bundle_with_damaged_kinds_is_refused() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (24, 2))
    features = (np.repeat(np.eye(2), 12, axis=0) + noise).astype(np.float32)
    rows = Dataset(features, np.ones(24, dtype=np.int64), np.repeat(["a", "b"], 12))
    kinds = AttackKinds.of(rows)
    assert kinds is not None
    assert [name for name, _ in kinds.nearest(features)] == ["a"] * 12 + ["b"] * 12
    plain = kinds.to_plain()
    again = AttackKinds.from_plain(json.loads(json.dumps(plain)), 2)
    assert again is not None
    assert again.nearest(features) == kinds.nearest(features)
    assert AttackKinds.from_plain(None, 2) is None
    for damaged in (plain | {"names": ["a", "a"]}, plain | {"biases": [0.0]}, plain | {"more": 1}, [1]):
        with pytest.raises(ValueError, match="kinds"):
            AttackKinds.from_plain(damaged, 2)
    assert AttackKinds.of(Dataset(features, rows.labels, np.full(24, "attack"))) is None
    assert AttackKinds.of(rows.unlabelled()) is None
    assert issubclass(BundleError, Exception)


def grouped(findings: list[Finding], path: Path) -> list[Group]:
    groups = groups_of(path)
    ids = [uid for group in groups for uid in group.members]
    assert sorted(ids) == sorted(finding["finding_info"]["uid"] for finding in findings)
    assert sum(group.alerts for group in groups) == len(findings)
    return groups


def test_a_scan_is_one_group_of_its_source_and_a_flood_one_of_its_target(network: ModelBundle, tmp_path: Path) -> None:
    scan = [network_flow(row) for row in range(150)]
    flood = [network_flow(row, source=f"203.0.113.{row}", target="10.9.9.9", port=80) for row in range(90)]
    later = [network_flow(row + 4000) for row in range(2)] + [network_flow(row + 11_000) for row in range(3)]
    path = write_lines(tmp_path / "new.csv", [FLOWS_HEADER, *scan, *flood, *later])
    findings = scored(network, path)
    by_title = {group.title: group for group in grouped(findings, tmp_path / "new-alerts.jsonl")}
    assert {title: group.alerts for title, group in by_title.items()} == {
        "10.1.2.3 → 445/tcp on 150 addresses, 152 flows, like DOS": 152,  # with the next hour
        "90 sources → 10.9.9.9:80/tcp, 90 flows, like DOS": 90,
        "10.1.2.3 → 445/tcp on 3 addresses, 3 flows, like DOS": 3,
    }


def test_windows_of_a_principal_are_one_group_and_add_up(cloud: ModelBundle, tmp_path: Path) -> None:
    calls = [record(second * 60, name="DeleteTrail") for second in range(50)]
    findings = scored(cloud, write(tmp_path / "a.json", [*calls, record(0, user="AIDABOB")]))
    assert len(findings) == 51
    groups = grouped(findings, tmp_path / "a-alerts.jsonl")
    assert sorted((group.alerts, group.title) for group in groups) == [
        (1, "user/AIDABOB: ListUsers in eu-west-1"),
        (50, "user/AIDAALICE: DeleteTrail ×50 in eu-west-1, like Defense Evasion"),
    ]
    (alice,) = (group for group in groups if group.alerts == 50)
    assert (alice.first, alice.last) == (1714557600000, 1714557600000 + 50 * 60_000)


def test_more_subjects_than_are_held_share_a_group_and_lose_no_alert(
    network: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.alert_groups.MOST_GROUPS", 3)
    monkeypatch.setattr("client.titles.MOST_NAMED", 5)
    lines = [network_flow(row, source=f"203.0.113.{row % 9}") for row in range(90)]
    findings = scored(network, write_lines(tmp_path / "new.csv", [FLOWS_HEADER, *lines]))
    groups = grouped(findings, tmp_path / "new-alerts.jsonl")
    assert [group.alerts for group in groups] == [10, 10, 10, 60]
    assert groups[-1].title == "alerts of other subjects"
    assert groups[0].title == "203.0.113.0 → 445/tcp on at least 5 addresses, 10 flows, like DOS"


def test_flow_logs_are_grouped_by_their_source(tmp_path: Path) -> None:
    config = vpc_settings(write_lines(tmp_path / "a.log", lines_of(some_flows())), num_hidden_units=(4,))
    bundle = train_bundle(config, tmp_path / "run", epochs=1)
    new = write_lines(tmp_path / "new.log", lines_of([vpc(s, srcaddr="10.0.0.9", dstport=s) for s in range(300)]))
    (group,) = grouped(scored(bundle, new), tmp_path / "new-alerts.jsonl")
    assert group.title == "10.0.0.9 → 10.0.1.1, at least 20 ports, 300 flows"


def test_tables_without_addresses_say_what_they_have(flows: tuple[Path, ModelBundle]) -> None:
    finding = {
        "evidences": [{"data": {"file": "k.txt", "line": 7, "protocol_type": "tcp", "service": "http", "flag": "SF"}}],
        "metadata": {"log_name": "nsl_kdd"},
        "unmapped": {"kind": None},
    }
    one = Headline.of(finding)
    assert one.text == "protocol_type tcp, service http, flag SF, k.txt, line 7"
    two = Headline()
    two += one
    two += Headline.of({**finding, "evidences": [{"data": {"file": "k.txt", "line": 8, "flag": "S0"}}]})
    assert two.text == "k.txt, 2 records"


def scoring_of(findings: list[Finding], path: Path, **more: Any) -> Scoring:
    summary = Summary(FeatureHistogram(np.zeros((1, 9), dtype=np.int64)), records=500, alerts=len(findings), **more)
    return Scoring(summary, most_urgent_first(groups_of(path), rules_lead=False), ["A note."], "run-1", 0.5)


def test_the_page_needs_nothing_but_itself_and_shows_hostile_names_as_text(cloud: ModelBundle, tmp_path: Path) -> None:
    hostile = {"type": "IAMUser", "principalId": "AIDAX", "arn": f"arn:aws:iam::1:user/{ATTACK}"}
    path = write(tmp_path / "a.json", [record(0, name=ATTACK, userIdentity=hostile, awsRegion=ATTACK), record(1)])
    scoring = scoring_of(scored(cloud, path), tmp_path / "a-alerts.jsonl", suppressed=3)
    html = render(scoring, 20)
    page = Parsed(html)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "default-src 'none'" in html
    assert "2 alerts of 500 records, in 2 groups." in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in html
    assert "A note." in page.text
    for group in scoring.groups:
        assert group.uid in page.text
        assert group.members[0] in page.text
    assert "AIDAALICE" not in Parsed(render(scoring, 1)).text or "AIDAX" not in Parsed(render(scoring, 1)).text


def test_the_table_shows_the_most_urgent_first(cloud: ModelBundle, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [record(0, user=f"AIDA{name}") for name in ("ONE", "TWO", "THREE")])
    scoring = scoring_of(scored(cloud, path), tmp_path / "a-alerts.jsonl")
    with console.capture() as shown:
        console.print(table(scoring, 2))
    text = shown.get()
    assert "3 alerts of 500 records, in 3 groups" in text
    assert text.count("user/AIDA") == 2
    scores = [group.score for group in scoring.groups]
    assert scores == sorted(scores, reverse=True)


def test_a_model_with_nothing_to_stand_on_says_so_and_rules_lead(
    cloud: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "learned from" in no_ground(cloud)
    much = replace(
        cloud.preprocessing, histogram=FeatureHistogram(np.full_like(cloud.preprocessing.histogram.counts, 500))
    )
    assert no_ground(replace(cloud, preprocessing=much)) == ""
    folder = tmp_path / "run"
    folder.mkdir()
    config = settings(write(tmp_path / "a.json", some_records()), num_hidden_units=(4,), window_minutes=1)
    train_bundle(config, folder, epochs=1)
    rules = write_rules(
        tmp_path / "rules",
        rule({"selection": {"eventName": "CreateUser"}}, title="Made a user", level="medium",
             tags=["attack.persistence", "attack.t1136.003"]),
    )  # fmt: skip
    new = write(
        tmp_path / "new.json",
        [record(0, name="CreateUser", user="AIDAEVE"), *(record(1, user=f"AIDA{n}") for n in range(5))],
    )
    given = ["--model", folder, "--input", new, "--output", tmp_path / "o.jsonl", "--threshold", 0, "--rule_level",
             "medium", "--rules_path", rules, "--page", tmp_path / "p.html", "--groups", tmp_path / "g.jsonl",
             "--navigator", tmp_path / "layer.json", "--top", 1]  # fmt: skip
    assert score.main([*map(str, given)]) == 0
    told = capsys.readouterr().out
    assert "nothing to stand on. Go by the rules first" in " ".join(told.split())
    groups = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert groups[0]["title"] == "user/AIDAEVE: CreateUser in eu-west-1: Made a user"
    assert "user/AIDAEVE" in told
    assert sum(len(group["members"]) for group in groups) == 6
    assert (tmp_path / "p.html").stat().st_mode & 0o777 == 0o600
    layer = json.loads((tmp_path / "layer.json").read_text())
    assert [technique["techniqueID"] for technique in layer["techniques"]] == ["T1136.003"]


# https://github.com/mitre-attack/attack-navigator/blob/master/layers/spec/v4.5/layerformat.md: its tables.
LAYER = {
    "name": str, "versions": dict, "domain": str, "description": str, "sorting": int, "layout": dict,
    "hideDisabled": bool, "techniques": list, "gradient": dict, "legendItems": list, "metadata": list, "links": list,
}  # fmt: skip
TECHNIQUE = {"techniqueID": str, "score": int, "enabled": bool, "comment": str}


def test_a_layer_is_of_format_4_5(tmp_path: Path) -> None:
    coverage = Coverage()
    attacks = [
        {"tactic": {"name": "Persistence"}},
        {"technique": {"uid": "T1098"}, "sub_technique": {"uid": "T1098.001"}},
        {"technique": {"uid": "no technique"}},
    ]
    coverage.add_alerts([{"finding_info": {"attacks": attacks}}, {"finding_info": {"attacks": attacks}}])
    found = [
        guardduty(), asff(), ocsf(), guardduty(kind="Unheard:IAMUser/Of"),
        guardduty(user="AIDANO", userFeedback="NOT_USEFUL"),
    ]  # fmt: skip
    findings = load_findings(write_json_lines(tmp_path / "f.jsonl", found), 0.0).findings
    assert [techniques_of(finding) for finding in findings] == [
        ("T1562.008",), ("T1562.008",), ("T1562",), (), ("T1562.008",),
    ]  # fmt: skip
    assert coverage.add_findings(findings) == 1
    layer = coverage.layer("Run x")
    assert {key: type(value) for key, value in layer.items()} == LAYER
    assert layer["versions"] == {"attack": "16", "navigator": "5.1.0", "layer": "4.5"}
    assert layer["domain"] == "enterprise-attack"
    assert layer["gradient"]["maxValue"] > layer["gradient"]["minValue"]
    assert len(layer["gradient"]["colors"]) >= 2
    assert all({key: type(value) for key, value in t.items()} == TECHNIQUE for t in layer["techniques"])
    assert {t["techniqueID"]: t["score"] for t in layer["techniques"]} == {"T1098.001": 2, "T1562": 1, "T1562.008": 2}
    empty = Coverage().layer("nothing")["gradient"]
    assert empty["maxValue"] > empty["minValue"]


@pytest.mark.parametrize("option", ["--page", "--groups", "--navigator"])
def test_what_could_not_be_written_is_refused_before_the_work(
    option: str, cloud: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = settings(write(tmp_path / "a.json", some_records()), num_hidden_units=(4,), window_minutes=1)
    train_bundle(config, folder, epochs=1)
    given = ["--model", folder, "--input", tmp_path / "a.json", "--output", tmp_path / "o.jsonl", option,
             tmp_path / "no/such/file"]  # fmt: skip
    assert score.main([*map(str, given)]) == 2
    assert "expected a file of its own, in a folder that is there" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "o.jsonl").exists()


def test_too_large_a_share_of_broken_lines_is_refused_as_asked(
    network: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    path = write_lines(tmp_path / "new.csv", [FLOWS_HEADER, *map(network_flow, range(9)), "broken"])
    with pytest.raises(Exception, match="1 of 10 lines are broken, more than max_broken_share = 0"):
        scored(network, path)
    looser = replace(network, config=network.config.replace(max_broken_share=0.2))
    assert len(scored(looser, path)) == 9
    given = ["--model", str(folder), "--input", str(path), "--output", str(tmp_path / "o"), "--max-broken-share", "2"]
    assert score.main(given) == 2
    assert "--max_broken_share 2.0: expected 0 to 1" in capsys.readouterr().out


def test_a_line_is_that_of_the_file_after_blank_lines_and_cells_of_several_lines(
    network: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [FLOWS_HEADER, network_flow(0), "", "", network_flow(1), "bad", network_flow(2).replace("x", '"a\nb\nc"'),
             network_flow(3)]  # fmt: skip
    path = write_lines(tmp_path / "new.csv", lines)
    looser = replace(network, config=network.config.replace(max_broken_share=0.5))
    assert [alert["evidences"][0]["data"]["line"] for alert in scored(looser, path)] == [2, 5, 7, 10]
    assert "new.csv, line 6: 1 cells, expected 7" in caplog.text


def test_lines_are_known_wherever_a_block_ends(tmp_path: Path) -> None:
    """More than one read of the file, with an odd line here and there."""
    lines, expected = ["name,note"], []
    number = 2
    for row in range(60_000):
        if row % 997 == 0:
            lines.append("")
            number += 1
        expected.append(number)
        note = '"one\n\ntwo"' if row % 1009 == 0 else '"say ""so"""' if row % 3 else "plain"
        lines.append(f"{row},{note}")
        number += 1 + note.count("\n")
    path = write_lines(tmp_path / "a.csv", lines)
    found = table_of(path)
    read = [line for batch in batches(found, list(found.names), BrokenLines(path, 0)) for line in batch.lines.tolist()]
    assert read == expected


@pytest.mark.long
def test_most_alerts_on_attacks_of_nsl_kdd_name_their_kind(nsl_kdd_folder: Path, tmp_path: Path) -> None:
    config = load_config(ROOT / "config/nsl_kdd.yaml").replace(data_path=str(nsl_kdd_folder))
    bundle = train_bundle(config, tmp_path / "run", epochs=3)
    families = load_test_data(config).families
    score_files(bundle, [nsl_kdd_folder / "KDDTest+.txt"], tmp_path / "o.jsonl", bundle.threshold.required())
    findings = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    told = [(str(families[f["evidences"][0]["data"]["line"] - 1]), f["unmapped"]["kind"]) for f in findings]
    of_attacks = [(family, kind["name"] if kind else "") for family, kind in told if family != "benign"]
    right = sum(family == kind for family, kind in of_attacks)
    print(f"{right} of {len(of_attacks)} alerts on attacks name the right kind")
    assert right / len(of_attacks) > 0.9
    assert len(groups_of(tmp_path / "o.jsonl")) < 10


@pytest.mark.skipif(find_browser() is None, reason="no browser on this machine")
@pytest.mark.long
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_a_phone_and_a_desktop(width: int, cloud: ModelBundle, tmp_path: Path) -> None:
    long = {"type": "IAMUser", "principalId": "AIDAX", "arn": f"arn:aws:iam::1:user/{'long' * 60}"}
    records = [record(second * 60, name="DeleteTrail" * 9, userIdentity=long) for second in range(200)]
    scoring = scoring_of(scored(cloud, write(tmp_path / "a.json", records)), tmp_path / "a-alerts.jsonl")
    (tmp_path / "page.html").write_text(render(scoring, 20), encoding="utf-8")
    browser = find_browser()
    assert browser is not None
    seen = look_at(browser, tmp_path / "page.html", width, tmp_path)
    assert seen.measured["scroll"] <= width
    assert seen.measured["wide"] == []
    assert seen.requests == []
    assert not [line for line in seen.console if "Content Security" in line]
