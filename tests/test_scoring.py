"""Scoring new records: what an alert says, what is refused, what drift is, and that labels and memory play no part."""

import gzip
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import score
from client.explain import STEPS, Explainer, average_record, log_odds
from client.scoring import TOP, score_files
from client.tactics import TACTIC_OF, tactics_of
from shared.bundle import ModelBundle
from shared.config import Config, load_config
from shared.data_utils import load_client_data, load_test_data
from shared.errors import ConfigError, DataError
from shared.metrics import attack_scores, predict_probabilities
from shared.threshold import AlertThreshold
from tests.flow_tables import HEADER, flow
from tests.processes import ROOT
from tests.source_files import write_lines
from tests.trained import joined, train_bundle


def scored(bundle: ModelBundle, *inputs: Path, threshold: float | None = None) -> list[dict[str, Any]]:
    output = inputs[0].parent / "alerts-of-test.jsonl"
    score_files(bundle, inputs, output, bundle.threshold.score if threshold is None else threshold)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_an_alert_says_who_when_why_and_by_what(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = flows
    alerts = scored(bundle, write_lines(tmp_path / "new.csv", [HEADER, *map(flow, range(3000, 3400))]))
    attacks = [alert for alert in alerts if alert["evidences"][0]["data"]["line"] % 4 == 2]  # row 0 is on line 2
    assert len(attacks) == 100
    assert len(alerts) < 120
    alert = attacks[1]
    for name, value in {
        "class_uid": 2004, "category_uid": 2, "activity_id": 1, "type_uid": 200401, "status_id": 1, "is_alert": True,
    }.items():  # fmt: skip
        assert alert[name] == value
    assert alert["severity_id"] in (3, 4)
    assert alert["metadata"]["version"] == "1.5.0"
    assert alert["metadata"]["product"]["name"]
    info = alert["finding_info"]
    assert info["analytic"]["type_id"] == 4
    assert info["created_time"] == alert["time"] > 1_600_000_000_000
    (evidence,) = alert["evidences"]
    assert evidence["src_endpoint"] == {"ip": f"10.0.0.{3004 % 9}", "port": 1024 + 3004}
    assert evidence["dst_endpoint"] == {"ip": "192.0.2.1"}
    assert evidence["data"]["file"] == "new.csv"
    assert evidence["data"]["line"] == 6
    assert evidence["data"]["No"] == "3004"
    assert "Label" not in evidence["data"]  # whoever looks at an alert must judge for themselves
    told = alert["unmapped"]
    assert told["score"] > told["threshold"] == bundle.threshold.score
    assert told["model"]["schema_sha256"] == bundle.schema.hash()
    drivers = {driver["feature"]: driver for driver in told["drivers"]}
    assert drivers["proto"]["value"] == "icmp"
    assert drivers["bytes"]["value"] == pytest.approx(3004 * 7919 % 1000 + 40_000, rel=1e-4)  # not its logarithm
    assert max(drivers["bytes"]["contribution"], drivers["proto"]["contribution"]) > 0
    assert {o["value"] for o in alert["observables"]} == {f"10.0.0.{3004 % 9}", "192.0.2.1"}
    assert len({a["finding_info"]["uid"] for a in alerts}) == len(alerts)


def test_scoring_twice_finds_the_same(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = flows
    lines = [HEADER, *map(flow, range(300))]
    plain = scored(bundle, write_lines(tmp_path / "a.csv", lines))
    (tmp_path / "again").mkdir()
    packed = tmp_path / "again" / "a.csv"
    packed.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    assert [a["finding_info"]["uid"] for a in plain] == [a["finding_info"]["uid"] for a in scored(bundle, packed)]


def test_the_label_plays_no_part_in_the_score(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    """Neither do the dropped columns. The twin that does read them is a model whose schema has them."""
    _, bundle = flows
    lines = [flow(row).rsplit(",", 1)[0] for row in range(300)]
    true = scored(bundle, write_lines(tmp_path / "a.csv", [HEADER, *map(flow, range(300))]))
    swapped = scored(bundle, write_lines(tmp_path / "a.csv", [HEADER, *(line + ",BENIGN" for line in lines)]))
    assert [a["unmapped"]["score"] for a in true] == [a["unmapped"]["score"] for a in swapped]
    none = scored(bundle, write_lines(tmp_path / "a.csv", [HEADER.rsplit(",", 1)[0], *lines]))
    assert [a["unmapped"] for a in true] == [a["unmapped"] for a in none]


def test_contributions_add_up_to_the_log_odds(flows: tuple[Path, ModelBundle]) -> None:
    _, bundle = flows
    import torch

    model = bundle.build_model()
    rows = bundle.preprocessing.apply(load_test_data(flow_config(flows))).features[:300]
    with torch.no_grad():
        odds = log_odds(model(torch.from_numpy(rows))).numpy()
        base = float(log_odds(model(torch.from_numpy(average_record(bundle.preprocessing)[None])))[0])
    sums = Explainer(model, bundle.preprocessing).contributions(rows).sum(axis=1)
    # The midpoint rule's error: kinks of the ReLUs, each of which falls within one of the steps.
    assert np.abs(sums - (odds - base)).max() < 2 * np.abs(odds - base).max() / STEPS
    assert np.corrcoef(sums, odds)[0, 1] > 0.999


def flow_config(flows: tuple[Path, ModelBundle]) -> Config:
    return flows[1].config.replace(data_path=str(flows[0] / "flows.csv"), partition="even")


def test_the_average_record_is_the_mean_of_the_training_rows(flows: tuple[Path, ModelBundle]) -> None:
    _, bundle = flows
    parts = [load_client_data(flow_config(flows), client).train for client in range(3)]
    scaled = bundle.preprocessing.apply(joined(parts)).features
    assert average_record(bundle.preprocessing) == pytest.approx(scaled.mean(axis=0), abs=3e-5)  # ranks have 16 bits


def run(*arguments: object) -> int:
    return score.main([str(argument) for argument in arguments])


def test_the_script_tells_what_came_of_it(
    flows: tuple[Path, ModelBundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = flows
    lines = [HEADER, *map(flow, range(400))]
    lines.insert(5, "too,few")
    first = write_lines(tmp_path / "one.csv", lines)
    second = write_lines(tmp_path / "two.csv", [HEADER, *map(flow, range(400, 500))])
    output = tmp_path / "alerts.jsonl"
    assert run("--model", folder, "--input", first, second, "--output", output) == 0
    told = capsys.readouterr().out
    assert "chosen on" in told
    assert "502 lines or records read, 1 of them broken and skipped" not in told
    assert "501 lines or records read, 1 of them broken and skipped" in told
    assert "500 records scored" in told
    assert f"{len(output.read_text().splitlines())} alerts" in told
    assert told.strip().splitlines()[-1].endswith("drift: none, no feature's stability index (PSI) is above 0.25")
    everything = tmp_path / "all.jsonl"
    assert run("--model", folder, "--input", second, "--output", everything, "--threshold", 0) == 0
    assert len(everything.read_text().splitlines()) == 100
    assert "100 records are too few to tell" in capsys.readouterr().out


def test_without_a_threshold_records_are_ranked_and_none_alerts(
    flows: tuple[Path, ModelBundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bundle = flows
    few = replace(bundle, threshold=AlertThreshold(None, 0.01, None, 99, None))
    unsure = tmp_path / "run"
    unsure.mkdir()
    (unsure / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    few.save(unsure)
    files = [
        write_lines(tmp_path / f"{part}.csv", [HEADER, *map(flow, range(part * 100, part * 100 + 100))])
        for part in range(3)
    ]
    output, everything = tmp_path / "ranked.jsonl", tmp_path / "all.jsonl"
    assert run("--model", unsure, "--input", *files, "--output", output) == 0
    told = capsys.readouterr().out
    assert "takes 300 benign validation rows to mean anything, and there are 99" in told
    assert "the 20 with the highest scores, no alerts" in told
    ranked = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["is_alert"] for line in ranked] == [False] * TOP
    assert {line["severity"] for line in ranked} == {"Informational"}
    assert "number 1 of 300 by its score, in a ranking" in ranked[0]["message"]
    # The same as all scores, sorted; of equal ones the earlier record first.
    assert run("--model", unsure, "--input", *files, "--output", everything, "--threshold", 0) == 0
    scores = [json.loads(line) for line in everything.read_text().splitlines()]
    assert len(scores) == 300
    highest = sorted(range(300), key=lambda row: (-scores[row]["unmapped"]["score"], row))[:TOP]
    assert [line["finding_info"]["uid"] for line in ranked] == [scores[row]["finding_info"]["uid"] for row in highest]
    assert [line["unmapped"]["drivers"] for line in ranked] == [scores[row]["unmapped"]["drivers"] for row in highest]
    # Of a model that has a threshold a ranking can be asked for.
    assert run("--model", folder, "--input", *files, "--output", output, "--rank", 7) == 0
    assert len(output.read_text().splitlines()) == 7


def test_alerts_are_their_owners_alone_whatever_the_umask(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    folder, _ = flows
    good = write_lines(tmp_path / "good.csv", [HEADER, *map(flow, range(100))])
    bad = write_lines(tmp_path / "bad.csv", [HEADER, *["too,few"] * 100])
    output, part = tmp_path / "alerts.jsonl", tmp_path / "alerts.jsonl.part"
    part.touch(0o666)  # of an earlier scoring, with another umask
    os.umask(0)
    assert run("--model", folder, "--input", good, bad, "--output", output) == 1
    assert part.stat().st_mode & 0o777 == 0o600
    assert run("--model", folder, "--input", good, "--output", output) == 0
    assert output.stat().st_mode & 0o777 == 0o600


def test_drift_is_noted_and_no_drift_is_not(
    flows: tuple[Path, ModelBundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = flows
    shifted = write_lines(tmp_path / "new.csv", [HEADER, *(flow(row, shift=50.0) for row in range(400))])
    assert run("--model", folder, "--input", shifted, "--output", tmp_path / "a.jsonl") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "DRIFT: 1 of 10 features no longer look like the training data" in last
    assert "dur " in last


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--threshold", "1.5"), 2, "--threshold 1.5: expected 0 to 1"),
        (("--threshold", "nan"), 2, "expected 0 to 1"),
        (("--top", "0"), 2, "--top 0: expected 1 to 100000"),
        (("--output", "{folder}/flows.csv"), 2, "is, or is in, what is scored"),
        (("--output", "{folder}/no/such/folder"), 2, "No such file or directory"),
        (("--output", "{folder}"), 2, "is a folder"),
        (("--input", "{folder}/absent.csv"), 1, "no such file or folder to score"),
        (("--model", "{folder}/absent"), 1, "bundle.json: No such file"),
        (("--input", "{folder}/other.csv"), 1, "only here: bytes"),
    ],
)
def test_what_cannot_work_is_one_line_and_a_code(
    flows: tuple[Path, ModelBundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    code: int,
    message: str,
) -> None:
    folder, _ = flows
    write_lines(folder / "other.csv", ["dur,proto", "1,tcp"])
    given = {"--model": folder, "--input": folder / "flows.csv", "--output": tmp_path / "alerts.jsonl"}
    name, value = arguments
    changed = given | {name: value.format(folder=folder)}
    assert run(*(part for pair in changed.items() for part in pair)) == code
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert message in last
    assert not (tmp_path / "alerts.jsonl").exists()


def test_generated_records_have_no_files(tmp_path: Path) -> None:
    bundle = train_bundle(Config(num_features=6, num_hidden_units=(4,)), tmp_path)
    with pytest.raises(DataError, match="its records come in no files that this could read"):
        score_files(bundle, [tmp_path], tmp_path.parent / "a.jsonl", 0.5)


def test_what_does_not_finish_leaves_a_part_and_no_file(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = flows
    good = write_lines(tmp_path / "good.csv", [HEADER, *map(flow, range(100))])
    bad = write_lines(tmp_path / "bad.csv", [HEADER, *["too,few"] * 100])
    output = tmp_path / "alerts.jsonl"
    output.write_text("of yesterday\n")
    with pytest.raises(DataError, match="100 of 100 lines are broken"):
        score_files(bundle, [good, bad], output, 0.5)
    assert output.read_text() == "of yesterday\n"
    assert (tmp_path / "alerts.jsonl.part").read_text()


def test_an_input_inside_the_output_is_refused(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = flows
    with pytest.raises(ConfigError, match="write the alerts elsewhere"):
        score_files(bundle, [tmp_path], tmp_path / "alerts.csv", 0.5)


def test_nsl_kdd_records_with_and_without_labels(nsl_kdd_folder: Path, tmp_path: Path) -> None:
    config = Config(data_source="nsl_kdd", data_path=str(nsl_kdd_folder), num_features=122, num_hidden_units=(16,),
                    partition="even", max_broken_share=0.01)  # fmt: skip
    bundle = train_bundle(config, tmp_path, epochs=1)
    lines = (nsl_kdd_folder / "KDDTest+.txt").read_text().splitlines()[:3000]
    bare = write_lines(tmp_path / "bare.txt", [",".join(line.split(",")[:41]) for line in lines])
    full = write_lines(tmp_path / "full.txt", [*lines[:10], "1,2,3", *lines[10:20], "x" + lines[20], *lines[20:]])
    found = [scored(bundle, path) for path in (bare, full)]
    test = bundle.preprocessing.apply(load_test_data(config).take(np.arange(3000)))
    scores = attack_scores(predict_probabilities(bundle.build_model(), test.features))
    above = np.flatnonzero(scores > bundle.threshold.required())
    assert [alert["evidences"][0]["data"]["line"] for alert in found[0]] == (above + 1).tolist()
    assert [alert["unmapped"]["score"] for alert in found[0]] == pytest.approx(scores[above])
    moved = [row + 1 + (row >= 10) + (row >= 20) for row in above]
    assert [alert["evidences"][0]["data"]["line"] for alert in found[1]] == moved
    drivers = found[0][0]["unmapped"]["drivers"]
    assert len(drivers) == 5
    assert [abs(d["contribution"]) for d in drivers] == sorted((abs(d["contribution"]) for d in drivers), reverse=True)


@pytest.fixture(scope="module")
def cloud(invictus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    config = load_config(ROOT / "config/cloudtrail.yaml")
    folder = tmp_path_factory.mktemp("cloud")
    return train_bundle(config.replace(data_path=str(invictus_folder)), folder, epochs=20)


def test_cloudtrail_alerts_name_principal_calls_and_tactic(
    cloud: ModelBundle, stratus_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "alerts.jsonl"
    with caplog.at_level(logging.INFO):
        summary = score_files(cloud, [stratus_folder], output, 0.0)
    assert "labels" not in caplog.text
    alerts = [json.loads(line) for line in output.read_text().splitlines()]
    assert summary.records == summary.alerts == len(alerts) > 20
    assert sum(alert["evidences"][0]["data"]["events"] for alert in alerts) == 310
    for alert in alerts:
        first, *calls = alert["evidences"]
        assert first["actor"]["user"]["name"].startswith(("arn:", "AWS")) or first["actor"]["user"]["name"]
        assert alert["end_time"] - alert["start_time"] == 60_000
        data = first["data"]
        expected = tactics_of(data["apis"])
        attacks = alert["finding_info"].get("attacks", [])
        assert [(a["tactic"]["uid"], a["tactic"]["name"]) for a in attacks] == list(expected)
        told = [f"{call['api']['service']['name']}:{call['api']['operation']}" for call in calls]
        assert told == [api for apis in expected.values() for api in apis]
        for driver in alert["unmapped"]["drivers"]:
            if "calls" in driver:
                assert set(driver["calls"]) <= set(data["apis"])
                assert bool(driver["calls"]) == (driver["value"] > 0) or len(data["apis"]) == 20
    tactics = {a["tactic"]["uid"] for alert in alerts for a in alert["finding_info"].get("attacks", [])}
    assert {"TA0005", "TA0006"} <= tactics  # Stratus stops trails and reads secrets


def test_the_tools_name_in_the_user_agent_changes_no_score(
    cloud: ModelBundle, stratus_folder: Path, tmp_path: Path
) -> None:
    """The label of the training data came from `userAgent`, so no score may depend on it."""
    for name, agent in (("a", None), ("b", "console"), ("c", "stratus-red-team")):
        (tmp_path / name).mkdir()
        for source in stratus_folder.glob("*.json"):
            (tmp_path / name / source.name).write_text(json.dumps(renamed(json.loads(source.read_text()), agent)))
    first, *others = (
        [alert["unmapped"]["score"] for alert in scored(cloud, tmp_path / name, threshold=0.0)] for name in "abc"
    )
    assert first
    assert others == [first, first]


def renamed(value: Any, agent: str | None) -> Any:
    """The same records with another `userAgent`."""
    if isinstance(value, list):
        return [renamed(item, agent) for item in value]
    if isinstance(value, dict):
        return {key: (agent or item) if key == "userAgent" else renamed(item, agent) for key, item in value.items()}
    return value


def test_every_tactic_is_one_of_the_matrix() -> None:
    assert tactics_of(["cloudtrail.amazonaws.com:StopLogging", "x:Unknown", "iam.amazonaws.com:CreateUser"]) == {
        ("TA0005", "Defense Evasion"): ["cloudtrail.amazonaws.com:StopLogging"],
        ("TA0003", "Persistence"): ["iam.amazonaws.com:CreateUser"],
    }
    assert TACTIC_OF["GetPasswordData"] == ("TA0006", "Credential Access")
    assert len(set(TACTIC_OF.values())) == len({uid for uid, _ in TACTIC_OF.values()})


def test_vpc_flow_alerts_name_the_source_address(scans: tuple[Path, ModelBundle]) -> None:
    folder, bundle = scans
    alerts = scored(bundle, folder / "flows.log")
    of_scan = [alert for alert in alerts if alert["evidences"][0]["src_endpoint"] == {"ip": "10.0.0.66"}]
    assert len(of_scan) == 120  # ten hours of windows of five minutes
    assert len(alerts) - len(of_scan) < 0.1 * 11 * 120
    assert all(len(alert["evidences"][0]["data"]["destinations"]) in range(2, 21) for alert in of_scan)
    assert any(o == {"name": "evidences[0].src_endpoint.ip", "type_id": 2, "type": "IP Address", "value": "10.0.0.66"}
               for o in of_scan[0]["observables"])  # fmt: skip


@pytest.mark.parametrize(
    "name", ["source", "principal", "start", "end", "apis", "addresses", "flows", "events", "account", "self"]
)
def test_a_csv_column_may_have_the_name_of_what_windows_have(
    flows: tuple[Path, ModelBundle], tmp_path: Path, name: str
) -> None:
    """What kind of record it is says the model's schema, and no column's name."""
    _, bundle = flows
    path = write_lines(tmp_path / "new.csv", [f"{HEADER},{name}", *(f"{flow(row)},x{row}" for row in range(8))])
    alerts = scored(bundle, path, threshold=0.0)
    assert [alert["evidences"][0]["data"][name] for alert in alerts] == [f"x{row}" for row in range(8)]
    assert all("actor" not in evidence for alert in alerts for evidence in alert["evidences"])
    assert alerts[0]["finding_info"]["title"].startswith("10.0.0.0 → 192.0.2.1, icmp, 1 flow")
    assert alerts[0]["finding_info"]["types"] == ["Anomaly"]
    assert "start_time" not in alerts[0]


MEMORY = """
import sys
from pathlib import Path
from client import scoring
from shared.bundle import ModelBundle
if sys.argv[4] == "hoards":  # the broken twin: it keeps every part until the end
    stream = scoring.stream_features
    scoring.stream_features = lambda *given: iter(list(stream(*given)))
bundle = ModelBundle.load(sys.argv[1])
for path in sys.argv[2:4]:
    scoring.score_files(bundle, [Path(path)], Path(path).with_suffix(".jsonl"), 1.0)
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.long
@pytest.mark.parametrize(("how", "bounded"), [("streams", True), ("hoards", False)])
def test_memory_does_not_grow_with_the_input(
    flows: tuple[Path, ModelBundle], tmp_path: Path, how: str, bounded: bool
) -> None:
    folder, _ = flows
    lines = list(map(flow, range(60_000)))
    once = write_lines(tmp_path / "once.csv", [HEADER, *lines])
    often = write_lines(tmp_path / "often.csv", [HEADER, *lines * 16])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(once), str(often), how],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = map(int, done.stdout.split())  # KiB
    # All parts are some 150 MiB; what the allocator does not give back of one part after the other is some 50.
    assert ((second - first) / 1024 < 100) == bounded, f"{first} KiB, then {second} KiB"
