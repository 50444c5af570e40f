"""The CloudTrail trial: a tactic that is left out of training really is, and nothing else is."""

from pathlib import Path

from benchmarks.cloudtrail import records_of, tactic_of, train_on, without_tactic


def test_a_left_out_tactic_takes_the_tool_s_calls_away_and_nothing_else(
    tmp_path: Path, invictus_folder: Path, stratus_folder: Path
) -> None:
    files = [path for path in stratus_folder.glob("*.json") if tactic_of(path) == "credential-access"]
    assert len(files) == 5
    calls = {record["eventName"] for path in files for record in records_of(path)}
    folder = without_tactic(invictus_folder, calls, tmp_path / "logs")
    before, after = (
        [record for path in sorted(where.glob("*.json")) for record in records_of(path)]
        for where in (invictus_folder, folder)
    )
    gone = [record for record in before if record not in after]
    assert len(before) - len(gone) == len(after) < len(before) == 2900
    assert all("stratus" in record["userAgent"] and record["eventName"] in calls for record in gone)
    assert any(record["eventName"] in calls for record in after)  # what others did stays


def test_a_detector_ranks_the_attacks_of_its_own_account_first(invictus_folder: Path) -> None:
    trial = train_on(invictus_folder, seed=0)
    assert trial.figures["ROC-AUC"] >= 0.9
    assert trial.figures["benign"] > trial.figures["false positives"]
    assert len(trial.benign) == trial.figures["benign"] + trial.figures["benign validation windows"]
