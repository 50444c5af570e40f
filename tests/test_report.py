"""The report: what it says is what the run's files say, whatever texts clients sent, and it needs nothing else."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.local_vs_federated import compare
from orchestrator.closing import closing
from orchestrator.make_report import main as make_report
from orchestrator.report.charts import number_ticks, ticks
from orchestrator.report.evaluation import CURVE_POINTS, MOST_CONFUSED, ClassFigures, Evaluation, evaluate_final
from orchestrator.report.figures import caveats, headline, losses, tiles, time_parts
from orchestrator.report.page import write_report
from orchestrator.report.privacy import who_could_see_what
from orchestrator.report.run_data import Start, add_start, from_plain, read_run, write_json
from orchestrator.report.words import numbers, share
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.errors import DataError
from shared.metrics import predict_probabilities
from shared.model import build_model
from tests.browser import Parsed, find_browser, look_at
from tests.run_folders import FINGERPRINT, NAME, example_evaluation, example_rounds, example_rows, write_run

ATTACK = "<script>document.title='taken over'</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e"
PHONE, DESKTOP = 375, 1280


def hostile_rounds() -> list[RoundRecord]:
    rounds = example_rounds(3, skipped=[2])
    rounds[0].failed = {"7": ATTACK, ATTACK: "x" * 5000}
    rounds[1].skipped = ATTACK
    return rounds


class _Says(nn.Module):
    """A model that takes each row for the class that stands in its first feature."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, features: Tensor) -> Tensor:
        return 4 * torch.nn.functional.one_hot(features[:, 0].long(), self.classes).float()


def of_classes(classes: int, pairs: Sequence[tuple[int, int]] = (), names: Sequence[str] = ()) -> Evaluation:
    """A model on rows of these (class, class they are taken for); by default two rows of each, one wrong."""
    pairs = pairs or [(label, taken) for label in range(classes) for taken in (label, (label + 1) % classes)]
    labels, taken = np.array(pairs).T
    families = np.array(names or ["benign", *(f"attack-{label}" for label in range(1, classes))])[labels]
    rows = Dataset(taken[:, None].astype(np.float32), labels.astype(np.int64), families)
    return evaluate_final(Config(num_classes=classes), _Says(classes), rows, rows)


def scenario(name: str, parent: Path) -> Path:
    """A run's folder of the kinds that a report has to look right for."""
    config = Config(num_rounds=100)
    match name:
        case "no rounds":
            return write_run(parent, config, [])
        case "one round":
            return write_run(parent, config, example_rounds(1), example_evaluation())
        case "all skipped":
            return write_run(parent, config, example_rounds(4, skipped=[1, 2, 3, 4]), example_evaluation())
        case "100 rounds of 50 clients":
            secure = config.replace(enrolled_clients="enrolled.json", tls_ca="ca.pem", num_clients=50)
            folder = write_run(parent, secure, example_rounds(100, 50, skipped=[30, 31]), example_evaluation())
            comparison = compare(config.replace(num_samples_per_client=20, num_clients=50), epochs=1)
            write_json(RunFolder(folder).comparison, comparison)
            return folder
        case "hostile texts":
            e = example_evaluation()
            return write_run(parent, config, hostile_rounds(), replace(e, families={ATTACK: e.families["dos"]}))
        case "one class":
            plain = config.replace(he_scheme="none")
            return write_run(parent, plain, example_rounds(2), example_evaluation(attacks=False))
        case "12 classes with long names":
            names = [f"attack by a very long name, number {number}" for number in range(12)]
            return write_run(parent, config.replace(num_classes=12), example_rounds(2), of_classes(12, names=names))
        case "60 classes":
            return write_run(parent, config.replace(num_classes=60), example_rounds(2), of_classes(60))
    raise ValueError(name)


SCENARIOS = ("no rounds", "one round", "all skipped", "100 rounds of 50 clients", "hostile texts", "one class",
             "12 classes with long names", "60 classes")  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_report_needs_nothing_but_itself(name: str, tmp_path: Path) -> None:
    page = write_report(scenario(name, tmp_path)).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", page)
    for tag, attributes in Parsed(page).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "href")]
    assert "default-src 'none'" in page
    assert "None" not in re.sub(r"<[^>]+>", "", page)


@pytest.mark.parametrize("width", [PHONE, pytest.param(DESKTOP, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", SCENARIOS)
def test_in_a_browser(name: str, width: int, tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    seen = look_at(browser, write_report(scenario(name, tmp_path)), width, tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert seen.measured["inner"] == width
    assert seen.measured["scroll"] <= width, "the page scrolls sideways"
    assert seen.measured["wide"] == []
    assert seen.measured["flat"] == 0
    assert seen.measured["scripts"] == 0
    assert seen.measured["title"] == f"Run {NAME}"
    assert seen.measured["svgs"] >= (0 if name == "no rounds" else 5)


def test_the_browser_would_have_found_it(tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page = tmp_path / "bad.html"
    page.write_text(
        '<meta charset="utf-8"><title>mine</title><div style="width:900px">x</div><img src="http://127.0.0.1:9/x.png">'
        "<script>document.title = 'taken over'; console.error('oh')</script><svg style='width:0'></svg>"
    )
    seen = look_at(browser, page, PHONE, tmp_path)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("oh" in line for line in seen.console)
    assert seen.measured["scroll"] > PHONE
    assert "DIV." in seen.measured["wide"]
    assert (seen.measured["flat"], seen.measured["scripts"], seen.measured["title"]) == (1, 2, "taken over")


def test_texts_of_clients_are_shown_and_do_nothing(tmp_path: Path) -> None:
    page = write_report(scenario("hostile texts", tmp_path)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page, "it would turn round what follows it"
    text = Parsed(page).text
    assert "<script>document.title='taken over'</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert "x" * 301 not in text
    assert "… (cut)" in text


def test_the_figures_are_those_of_the_files(tmp_path: Path) -> None:
    rounds, e = example_rounds(3), example_evaluation()
    folder = write_run(tmp_path, Config(num_rounds=3), rounds, e)
    text = " ".join(Parsed(write_report(folder).read_text(encoding="utf-8")).text.split())
    lines = RunFolder(folder).metrics.read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        row = (line["round"], line["contributors"], line["loss"], line["accuracy"], line["roc_auc"], line["pr_auc"])
        assert "{} {} {:.3f} {:.3f} {:.3f} {:.3f}".format(*row) in text
    assert e.recall is not None
    assert f"{e.true_positives:,} caught" in text
    assert f"{e.false_positives:,} false alarms" in text
    assert f"catches {share(e.recall)} of the attacks, with false alarms on {share(e.fpr)}" in headline(
        read_run(folder)
    )
    for family in e.families.values():
        assert " ".join(share(family.recall).split()) in text
    assert FINGERPRINT in text
    assert "Nobody was lost or refused" in text
    assert "local_vs_federated.py --run" in text


def test_alerts_are_counted_at_a_threshold_from_validation_rows() -> None:
    model = build_model(Config())
    validation, test = example_rows(2000, 5), example_rows(4000, 6)
    e = evaluate_final(Config(alert_fpr=0.05), model, validation, test)
    score = 1 - predict_probabilities(model, test.features)[:, 0]
    known = 1 - predict_probabilities(model, validation.features)[validation.labels == 0, 0]
    assert 0.045 < (known > e.threshold).mean() <= 0.05
    alert, attack = score > e.threshold, test.labels != 0
    assert e.true_positives == (alert & attack).sum()
    assert (e.attacks, e.benign) == (2000, 2000)
    assert e.recall == alert[attack].mean()
    assert e.fpr == alert[~attack].mean()
    assert e.families["dos"].recall == alert[test.families == "dos"].mean()
    assert set(e.families) == {"dos", "probe"}
    assert e.roc_auc == roc_auc_score(attack, score)
    assert set(e.at_rates) == {"0.01"}  # 0.1 % takes 3,000 benign validation rows, and there are 1,000


def test_the_figures_of_each_class_are_those_of_its_definition() -> None:
    pairs = [(0, 0)] * 5 + [(0, 1)] + [(1, 1)] * 3 + [(1, 0)] + [(2, 1)] * 2  # nothing is taken for 2, nothing is of 3
    e = of_classes(4, pairs)
    assert e.confusion == [[5, 1, 0, 0], [1, 3, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]
    benign, first, second, absent = e.classes
    assert (benign.support, benign.precision, benign.recall) == (6, 5 / 6, 5 / 6)
    assert (first.support, first.precision, first.recall) == (4, 3 / 6, 3 / 4)
    assert first.f1 == pytest.approx(0.6)
    assert second == ClassFigures("attack-2", 2, None, 0.0, 0.0)
    assert absent == ClassFigures("class 3", 0, None, None, None)
    for label, figures in enumerate(e.classes):  # by the matrix, too
        column, row = sum(line[label] for line in e.confusion), sum(e.confusion[label])
        assert figures.support == row
        assert figures.precision == (e.confusion[label][label] / column if column else None)
        assert figures.recall == (e.confusion[label][label] / row if row else None)


def test_two_classes_have_their_matrix_and_their_names() -> None:
    e = example_evaluation()
    assert [figures.name for figures in e.classes] == ["benign", "attack"], "whatever families an attack is of"
    assert np.shape(e.confusion) == (2, 2)
    assert (np.trace(e.confusion) / e.test_rows, [sum(row) for row in e.confusion]) == (e.accuracy, [2000, 2000])


def test_the_classes_are_in_the_report_as_in_the_file(tmp_path: Path) -> None:
    e = of_classes(3, [(0, 0)] * 1234 + [(0, 2)] * 17 + [(1, 1)] * 40 + [(2, 0)] * 7 + [(2, 2)] * 3)
    folder = write_run(tmp_path, Config(num_classes=3), example_rounds(1), e)
    assert read_run(folder).evaluation == e
    text = " ".join(Parsed(write_report(folder).read_text(encoding="utf-8")).text.split())
    assert "benign attack-1 attack-2 benign 1,234 0 17 attack-1 0 40 0 attack-2 7 0 3" in text
    assert "2 attack-2 10 15.0 % 30.0 % 0.200" in text


@pytest.mark.parametrize(
    ("classes", "said"), [(60, "of 60 classes is in evaluation.json"), (101, "101 classes is too")]
)
def test_a_matrix_that_no_screen_has_room_for_is_left_out(classes: int, said: str, tmp_path: Path) -> None:
    e = of_classes(classes)
    assert np.shape(e.confusion) == ((classes, classes) if classes <= MOST_CONFUSED else (0,))
    assert len(e.classes) == classes
    text = Parsed(write_report(write_run(tmp_path, Config(), example_rounds(1), e)).read_text(encoding="utf-8")).text
    assert "Which class is taken for which" not in text
    assert said in " ".join(text.split())


def test_a_thinned_curve_keeps_its_ends_and_its_area() -> None:
    e = example_evaluation()
    assert CURVE_POINTS / 2 < len(e.roc_fpr) == len(e.roc_tpr) <= CURVE_POINTS
    assert (e.roc_fpr[0], e.roc_tpr[0], e.roc_fpr[-1], e.roc_tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(e.roc_tpr, e.roc_fpr) == pytest.approx(e.roc_auc, abs=0.003)
    assert len(e.pr_recall) == len(e.pr_precision) <= CURVE_POINTS
    assert (e.pr_recall[0], e.pr_recall[-1]) == (0, 1)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Config(), example_rounds(2), example_evaluation())
    assert read_run(folder).evaluation == example_evaluation()
    assert read_run(folder).rounds == example_rounds(2)
    assert read_run(folder).comparison is None
    assert read_run(folder).starts[0].key_fingerprint == FINGERPRINT


def test_a_simulation_claims_no_privacy(tmp_path: Path) -> None:
    """Its masks hide nothing from whoever runs it, so neither report nor closing lines say that they did."""
    folder = write_run(tmp_path, Config(), example_rounds(1), example_evaluation())
    assert "simulation" not in write_report(folder).read_text(encoding="utf-8")
    add_start(RunFolder(folder), Start.now(FINGERPRINT, [], simulated=True))
    page = write_report(folder).read_text(encoding="utf-8")
    assert "A simulation: one machine saw all clients" in page
    assert "Whoever ran this simulation" in page


def test_half_a_line_at_the_end_is_no_round_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Config(), example_rounds(3))
    metrics = RunFolder(folder).metrics
    metrics.write_bytes(metrics.read_bytes()[:-5])
    assert read_run(folder).rounds == example_rounds(2)


@pytest.mark.parametrize("change", [{"test_rows": "many"}, {"roc_fpr": 3}, {"families": {"dos": 1}}, {"more": 1}])
def test_a_damaged_evaluation_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    folder = write_run(tmp_path, Config(), example_rounds(1))
    RunFolder(folder).evaluation.write_text(json.dumps(asdict(example_evaluation()) | change))
    with pytest.raises(DataError, match=r"evaluation\.json.*make it anew"):
        read_run(folder)


def test_what_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_report(["--run", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "expected the folder of a run, such as logs/latest" in line


def test_a_report_can_be_made_anew(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Config(), example_rounds(2), example_evaluation())
    link = tmp_path / "latest"
    link.symlink_to(folder.name)
    assert make_report(["--run", str(link)]) == 0
    first = RunFolder(folder).report.read_text(encoding="utf-8")
    assert f"<title>Run {NAME}</title>" in first
    assert make_report(["--run", str(link)]) == 0
    assert RunFolder(folder).report.read_text(encoding="utf-8") == first


def test_a_loss_is_told_once_for_all_its_rounds(tmp_path: Path) -> None:
    rounds = example_rounds(6)
    for number in (2, 3, 5):
        rounds[number - 1].failed = {"10": "lost", "2": "update: signature: forged"}
    rounds[5].failed = {"2": "lost"}
    found = losses(read_run(write_run(tmp_path, Config(), rounds)))
    assert [(loss.client, loss.rounds, loss.reason) for loss in found] == [
        ("2", "2–3, 5", "update: signature: forged"), ("10", "2–3, 5", "lost"), ("2", "6", "lost"),
    ]  # fmt: skip


def test_the_time_of_a_round_adds_up() -> None:
    (record,) = example_rounds(1)
    assert time_parts(record) == [1.75 - 0.125, 4.0 - 1.75 - 0.5 - 0.25, 0.125, 0.5, 0.25]
    record.round_seconds = 2.5 + 0.0625  # updates are added as they arrive: next to nothing is left beside the wait
    assert time_parts(record) == [1.625, 0.0625, 0.125, 0.5, 0.25]
    record.fit_seconds = 9.0  # whatever a file says, no time is negative
    assert min(time_parts(record)) == 0
    record.fit_seconds = 0.0
    assert min(time_parts(record)) == 0
    assert time_parts(RoundRecord(round=1)) == [0.0] * 5


def test_caveats_say_what_the_figures_rest_on(tmp_path: Path) -> None:
    rounds = example_rounds(5, skipped=[4])
    rounds[0].saturated = 3
    folder = write_run(tmp_path, Config(num_rounds=9), rounds, example_evaluation())
    said = "\n".join(caveats(read_run(folder)))
    for text in (
        "easy on purpose", "5 of 9 rounds", "1 round of 5 left the model", "3 values of updates",
        "false positives takes 3,000 benign",
    ):  # fmt: skip
        assert text in said
    e = example_evaluation()
    few = replace(e, families={"u2r": replace(e.families["dos"], rows=7)}, at_rates={
        "0.01": replace(e.at_rates["0.01"], fpr=0.2)
    })  # fmt: skip
    write_json(RunFolder(folder).evaluation, few)
    said = "\n".join(caveats(read_run(folder)))
    assert "u2r (7)" in said
    assert "At the threshold made for 1\u00a0% false positives 20.0\u00a0%" in said


@pytest.mark.parametrize(
    ("changes", "says", "says_not"),
    [
        ({}, ["each client's update", "could take part", "127.0.0.1:8080"], ["in the clear"]),
        ({"he_scheme": "none"}, ["each client's update, in the clear", "everything"], ["steals"]),
        (
            {"enrolled_clients": "e.json", "num_clients": 4},
            ["no update by itself", "could have subtracted",
             "sums of at least 3", "is refused", "nothing more than the sums", "but one"],
            ["each client's update"],
        ),
        (
            {"enrolled_clients": "e.json", "secure_aggregation": "none", "tls_ca": "ca.pem", "fraction_evaluate": 0.0},
            ["each client's update", "is refused", "nothing of it (TLS)", "could sign as any client"],
            ["own held-out rows"],
        ),
    ],
)  # fmt: skip
def test_who_could_see_what_follows_the_mode(
    changes: dict[str, object], says: list[str], says_not: list[str], tmp_path: Path
) -> None:
    run = read_run(write_run(tmp_path, Config(**changes), example_rounds(2)))  # type: ignore[arg-type]
    said = "\n".join(f"{who}: {what}" for who, what in who_could_see_what(run) if who != "Sent in the clear")
    clear = dict(who_could_see_what(run))["Sent in the clear"]
    assert all(text in said for text in says), said
    assert not any(text in said + clear for text in says_not), said


def test_a_sum_of_two_is_told(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, Config(), example_rounds(2, clients=2)))
    assert "each could work out the other's update" in dict(who_could_see_what(run))["Each client"]


def test_local_and_pooled_models_are_judged_like_the_federated_one() -> None:
    config = Config(num_samples_per_client=60, num_clients=2, min_available_clients=2)
    comparison = compare(config, epochs=2)
    assert [rival.name for rival in comparison.alone] == ["client 0 alone", "client 1 alone"]
    assert comparison.pooled.rows == sum(rival.rows for rival in comparison.alone)
    assert len({rival.evaluation.test_rows for rival in (comparison.pooled, *comparison.alone)}) == 1
    assert comparison == compare(config, epochs=2), "the same settings give the same figures"
    assert from_plain(type(comparison), json.loads(json.dumps(asdict(comparison)))) == comparison


def test_numbers_as_a_person_reads_them() -> None:
    shares = (0.0, 1.0, 0.5, 0.0012, 0.99999, None)
    expected = ["0 %", "100 %", "50.0 %", "0.12 %", "99.9990 %", "–"]
    assert [share(value).replace("\u00a0", " ") for value in shares] == expected
    assert numbers([1, 3, 4, 5, 9]) == "1, 3–5, 9"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.93, 0.951), (0.0, 1e-6), (3.0, 3.0), (0.0, 12345.0)])
def test_ticks_enclose_what_they_are_for(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert 3 <= len(marks) <= 8
    assert len(number_ticks(100)) <= 10
    assert number_ticks(1) == [1.0]


def test_a_test_set_of_a_few_rows_gives_no_percentages(tmp_path: Path) -> None:
    config = Config(num_rounds=1, alert_fpr=0.05)
    model = build_model(config)
    e = evaluate_final(config, model, example_rows(2000, 5), example_rows(14, 6))
    assert (e.roc_auc, e.pr_auc, e.roc_fpr, e.pr_recall) == (None, None, [], [])
    few = "the test set is too small (attacks: 7, benign records: 7): areas and percentages take at least 100 of each"
    assert e.too_few == few
    rounds = example_rounds(1)
    rounds[0].attack_rows, rounds[0].benign_rows, rounds[0].roc_auc = 7, 7, None
    run = read_run(write_run(tmp_path, config, rounds, e))
    assert headline(run) == f"3 clients trained one detector together in 1 round; {few}"
    assert not any("%" in tile.value for tile in tiles(run))
    assert tiles(run)[0].value == "14"
    assert f"Nothing here says how good the model is: {few}." in caveats(run)
    text = " ".join(Parsed(write_report(tmp_path / NAME).read_text(encoding="utf-8")).text.split())
    assert "Attacks caught, by family" not in text
    assert "No shares of these" in text
    assert few in text
    console = Console(file=(screen := StringIO()), width=300)
    console.print(closing(config, rounds, tmp_path, None, boxed=False))
    assert f"result: a model after 1 round; {few}" in screen.getvalue()
    rounds[0].attack_rows = rounds[0].benign_rows = 100
    rounds[0].roc_auc = 0.95
    console.print(closing(config, rounds, tmp_path, None, boxed=False))
    assert "result: ROC-AUC 0.950, accuracy 0.900" in screen.getvalue()
    assert "CHANCE" not in screen.getvalue()
    rounds[0].attack_rows, rounds[0].benign_rows, rounds[0].roc_auc = 100, 900, 0.51
    console.print(closing(config, rounds, tmp_path, None, boxed=False))
    told = "NO BETTER THAN CHANCE: calling all records benign is right for 0.900 of them"
    assert told in " ".join(screen.getvalue().split())


def test_an_evaluation_of_one_class_has_no_curves() -> None:
    e: Evaluation = example_evaluation(attacks=False)
    assert (e.roc_fpr, e.roc_auc, e.recall, e.families, e.at_rates) == ([], None, None, {}, {})
