"""What a run leaves of its model: it comes back as it was, and whatever is wrong with it is refused."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from shared.bundle import ModelBundle, save_bundle
from shared.config import Config
from shared.data_sources.scaling import Scaler
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.errors import AlertRateError, BundleError, ConfigError
from shared.metrics import attack_scores, predict_probabilities
from shared.threshold import choose_threshold
from tests.trained import train_bundle

CONFIG = Config(num_features=6, num_hidden_units=(4,), num_samples_per_client=400, alert_fpr=0.05, alert_min_score=0.0)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelBundle]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train_bundle(CONFIG, folder)


def copy_of(original: Path, folder: Path) -> Path:
    for name in ("bundle.json", "model.safetensors"):
        (folder / name).write_bytes((original / name).read_bytes())
    return folder


def test_what_is_loaded_is_what_was_saved(original: tuple[Path, ModelBundle]) -> None:
    folder, saved = original
    loaded = ModelBundle.load(folder)
    assert loaded.schema == saved.schema
    assert (loaded.run, loaded.round, loaded.threshold, loaded.metrics) == ("a-run", 3, saved.threshold, saved.metrics)
    of_both = loaded.preprocessing.arrays(), saved.preprocessing.arrays()
    assert of_both[0].keys() == of_both[1].keys()
    assert all(np.array_equal(array, of_both[1][name]) for name, array in of_both[0].items())
    rows = loaded.preprocessing.apply(load_test_data(CONFIG)).features
    expected = predict_probabilities(saved.build_model(), rows)
    assert np.array_equal(predict_probabilities(loaded.build_model(), rows), expected)
    assert not list(folder.glob("*.part"))


def rewritten(change: Callable[[dict[str, Any]], object], *, new_digest: bool) -> Callable[[Path], None]:
    """A change to the parsed `bundle.json`, with its checksum made anew as a forger would, or left as it was."""

    def spoil(folder: Path) -> None:
        path = folder / "bundle.json"
        values = json.loads(path.read_bytes())
        digest = values.pop("sha256")
        change(values)
        if new_digest:
            canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
            digest = hashlib.sha256(canonical.encode()).hexdigest()
        path.write_text(json.dumps(values | {"sha256": digest}))

    return spoil


def forged(*path: str | int, value: object) -> Callable[[Path], None]:
    def change(values: dict[str, Any]) -> None:
        place: Any = values
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return rewritten(change, new_digest=True)


def other_model(**changes: object) -> Callable[[Path], None]:
    """Another `model.safetensors`, with the SHA-256 that fits it."""

    def spoil(folder: Path) -> None:
        shapes = {"layers.0.weight": (4, 6), "layers.0.bias": 4, "layers.2.weight": (2, 4), "layers.2.bias": 2}
        tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        data = save(tensors | changes)
        (folder / "model.safetensors").write_bytes(data)
        forged("model", "sha256", value=hashlib.sha256(data).hexdigest())(folder)

    return spoil


def pipe_in_place_of(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def bit_flipped(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "bundle.json").unlink(), "No such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No such file"),
        (pipe_in_place_of("bundle.json"), "not a regular file"),
        (pipe_in_place_of("model.safetensors"), "not a regular file"),
        (forged("model", "num_hidden_units", value=[1_000_000, 1_000_000]), "and the settings make"),  # 4 TB
        (cut("bundle.json", 500), "not JSON"),
        (cut("bundle.json", 0), "not JSON"),
        (cut("model.safetensors", 100), "its SHA-256 differs"),
        (bit_flipped, "its SHA-256 differs"),
        (rewritten(lambda v: v["threshold"].update(score=0.9), new_digest=False), "content was changed or damaged"),
        (rewritten(lambda v: v["scaler"]["ranks"].reverse(), new_digest=False), "content was changed or damaged"),
        (rewritten(lambda v: v.pop("metrics"), new_digest=True), "'metrics' is missing"),
        (forged("extra", value=1), "'extra' is missing or unknown"),
        (forged("format", value=1), "this version reads format 6"),
        (forged("schema_sha256", value="0" * 64), "does not have the SHA-256"),
        (forged("schema", "columns", 0, "name", value="other"), "does not have the SHA-256"),
        (forged("schema", value=[]), "feature schema"),
        (forged("scaler", "ranks", 0, 0, value=float("nan")), "finite numbers"),
        (forged("scaler", "ranks", 0, 0, value="1"), "expected numbers of shape"),
        (forged("scaler", "ranks", 0, 0, value=[1.0]), "bundle.json"),
        (forged("scaler", "ranks", value=[1.0]), "expected numbers of shape"),
        (forged("scaler", "ranks", 0, 0, value=0.5), "whole numbers from 0 to 65535"),
        (forged("scaler", "ranks", 0, 98, value=65536), "whole numbers from 0 to 65535"),
        (forged("scaler", "ranks", 0, 0, value=65534), "ranks fall"),
        (forged("scaler", "ranks", 0, 98, value=65535), "end above 65534"),
        (forged("scaler", value={"mean": []}), "scaler: expected exactly mean, variance"),
        (forged("histogram", 0, 0, value=-1), "counts that add up"),
        (forged("histogram", 0, 0, value=0.5), "counts that add up"),
        (forged("histogram", 0, 0, value=10**30), "bundle.json"),
        (forged("histogram", value=[]), "expected numbers of shape"),
        (forged("threshold", "score", value=float("nan")), "expected 0 to 1"),
        (forged("threshold", "score", value=1.5), "expected 0 to 1"),
        (forged("threshold", "score", value=None), "expected 0 to 1"),
        (forged("threshold", "benign_rows", value=-1), "0 rows or more"),
        (forged("threshold", value={}), "threshold: expected exactly"),
        (forged("settings", "hash_width", value=-1), "hash_width = -1"),
        (forged("settings", "data_source", value="csv"), "settings for 'csv'|csv_label_column"),
        (forged("settings", "he_key_file", value="x"), "settings: expected exactly"),
        (forged("model", "num_features", value=7), "a model of 7 features with a schema of 6"),
        (forged("model", "num_hidden_units", value=[5]), "and the settings make"),
        (forged("round", value=0), "a number from 1"),
        (forged("run", value=None), "expected a text"),
        (other_model(**{"layers.0.bias": np.full(4, np.nan, np.float32)}), "finite float32"),
        (other_model(**{"layers.0.bias": np.zeros(4, np.float64)}), "finite float32"),
        (other_model(**{"layers.0.bias": np.zeros(3, np.float32)}), "and the settings make"),
        (other_model(more=np.zeros(3, np.float32)), "and the settings make"),
    ],
)
def test_whatever_is_wrong_is_refused(
    original: tuple[Path, ModelBundle], tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = copy_of(original[0], tmp_path)
    ModelBundle.load(folder)
    spoil(folder)
    with pytest.raises(BundleError, match=message) as refusal:
        ModelBundle.load(folder)
    assert "\n" not in str(refusal.value)


def test_a_forged_model_of_the_right_form_is_taken(original: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    """The checksums show damage. Against a forger they are no protection, and the documents say so."""
    folder = copy_of(original[0], tmp_path)
    other_model()(folder)
    assert not ModelBundle.load(folder).parameters["layers.0.weight"].any()


def test_no_more_benign_rows_exceed_the_threshold_than_may(original: tuple[Path, ModelBundle]) -> None:
    _, bundle = original
    validation = bundle.preprocessing.apply(load_validation_data(CONFIG))
    model = bundle.build_model()
    scores = attack_scores(predict_probabilities(model, validation.features[validation.labels == 0]))
    for rate in (0.004, 0.01, 0.05, 0.3):
        chosen = choose_threshold(CONFIG.replace(alert_fpr=rate), model, validation)
        assert chosen.benign_rows == len(scores)
        assert chosen.measured_rate == (scores > chosen.required()).mean() <= rate
        # The lowest such threshold: one row less would be one too many.
        assert (scores >= chosen.required()).mean() >= rate


def test_no_threshold_is_below_the_least_score_of_an_alert(original: tuple[Path, ModelBundle]) -> None:
    _, bundle = original
    validation = bundle.preprocessing.apply(load_validation_data(CONFIG))
    config = CONFIG.replace(alert_fpr=0.3)
    without = choose_threshold(config, bundle.build_model(), validation)
    chosen = choose_threshold(config.replace(alert_min_score=0.5), bundle.build_model(), validation)
    assert without.required() < 0.5 == chosen.score
    assert chosen.measured_rate is not None
    assert without.measured_rate is not None
    assert 0 < chosen.measured_rate < without.measured_rate
    higher = choose_threshold(CONFIG.replace(alert_fpr=0.004, alert_min_score=0.1), bundle.build_model(), validation)
    assert higher == choose_threshold(CONFIG.replace(alert_fpr=0.004), bundle.build_model(), validation)


def test_the_test_set_has_no_say_in_the_threshold(original: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = original
    validation = bundle.preprocessing.apply(load_validation_data(CONFIG))
    test = bundle.preprocessing.apply(load_test_data(CONFIG))
    assert bundle.threshold == choose_threshold(CONFIG, bundle.build_model(), validation)
    assert bundle.threshold != choose_threshold(CONFIG, bundle.build_model(), test)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (forged("scaler", "mean", 0, value=float("nan")), "finite numbers"),
        (forged("scaler", "mean", 0, value=float("inf")), "finite numbers"),
        (forged("scaler", "mean", 0, value="1"), "expected numbers of shape"),
        (forged("scaler", "mean", 0, value=[1.0]), "bundle.json"),
        (forged("scaler", "mean", value=[1.0]), "expected numbers of shape"),
        (forged("scaler", "variance", 0, value=0.0), "above 0"),
        (forged("scaler", "variance", 0, value=-1.0), "above 0"),
    ],
)
def test_whatever_is_wrong_with_a_mean_or_variance_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    saved = train_bundle(CONFIG.replace(scaling="zscore"), tmp_path)
    loaded = ModelBundle.load(tmp_path)
    assert isinstance(saved.preprocessing.scaler, Scaler)
    assert isinstance(loaded.preprocessing.scaler, Scaler)
    assert np.array_equal(loaded.preprocessing.scaler.mean, saved.preprocessing.scaler.mean)
    assert np.array_equal(loaded.preprocessing.scaler.variance, saved.preprocessing.scaler.variance)
    spoil(tmp_path)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(tmp_path)


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 300), (0.05, 60), (0.3, 10)])
def test_a_rate_that_the_rows_cannot_mean_is_refused_with_the_number_that_it_takes(
    original: tuple[Path, ModelBundle], rate: float, needed: int
) -> None:
    _, bundle = original
    validation = bundle.preprocessing.apply(load_validation_data(CONFIG))
    benign = np.flatnonzero(validation.labels == 0)
    config = CONFIG.replace(alert_fpr=rate)
    few = choose_threshold(config, bundle.build_model(), validation.take(benign[: needed - 1]))
    assert few.score is None
    with pytest.raises(AlertRateError, match=f"takes {needed} benign validation rows .* there are {needed - 1}:"):
        few.required()
    enough = choose_threshold(config, bundle.build_model(), validation.take(benign[:needed]))
    assert 0 <= enough.required() <= 1
    none = choose_threshold(config, bundle.build_model(), validation.take(np.flatnonzero(validation.labels == 1)))
    with pytest.raises(AlertRateError, match="there are 0:"):
        none.required()


def test_a_bundle_without_a_threshold_says_so_once_and_is_read_back(
    original: tuple[Path, ModelBundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, bundle = original
    validation = bundle.preprocessing.apply(load_validation_data(CONFIG))
    few = validation.take(np.flatnonzero(validation.labels == 0)[:99])
    config = CONFIG.replace(alert_fpr=0.01)
    (tmp_path / "model.safetensors").write_bytes(save(bundle.parameters))
    for _ in range(2):
        saved = save_bundle(tmp_path, config, bundle.preprocessing, bundle.parameters, few, {"round": 1}, "r")
    assert [r.levelname for r in caplog.records if "there are 99" in r.message] == ["WARNING"]  # once
    assert ModelBundle.load(tmp_path).threshold == saved.threshold
    # A forger who puts in a threshold that so few rows can't have made is refused.
    rewritten(lambda v: v["threshold"].update(score=0.5, measured_rate=0.0, highest_benign=0.4), new_digest=True)(
        tmp_path
    )
    with pytest.raises(BundleError, match="expected a score where the rows are enough for the rate"):
        ModelBundle.load(tmp_path)


@pytest.mark.parametrize(
    ("alerts", "records", "rate"),
    [
        (0.0, 0.0, 0.01),
        (20.0, 1_000_000.0, 2e-5),
        (1.0, 2.0, 0.5),
        (1.0, 1.0, None),
        (5.0, 0.0, None),
        (0.0, 5.0, None),
    ],
)
def test_alerts_per_day_make_a_rate(alerts: float, records: float, rate: float | None) -> None:
    if rate is None:
        with pytest.raises(ConfigError, match=r"alerts_per_day = .*records_per_day = .*expected 1e-07 to 0.5"):
            Config(alerts_per_day=alerts, records_per_day=records)
    else:
        assert Config(alerts_per_day=alerts, records_per_day=records).alert_rate == pytest.approx(rate)


def test_the_bundle_of_a_source_with_labels_reads_back(tmp_path: Path) -> None:
    lines = [
        "a,b,kind,Label",
        *(f"{i},{i % 7},{'xy'[i % 2]},{'attack' if i % 3 == 0 else 'benign'}" for i in range(300)),
    ]
    path = tmp_path / "flows.csv"
    path.write_text("\n".join(lines) + "\n")
    config = Config(data_source="csv", data_path=str(path), csv_label_column="Label", hash_width=4, num_features=6,
                    num_hidden_units=(3,), partition="even", max_broken_share=0.2)  # fmt: skip
    saved = train_bundle(config, tmp_path)
    loaded = ModelBundle.load(tmp_path)
    assert loaded.schema == saved.schema == load_schema(config)
    assert loaded.config.csv_label_column == "Label"
    assert loaded.config.max_broken_share == 0.2
    assert str(path) not in (tmp_path / "bundle.json").read_text()  # where a tenant's files lie is nobody's business
    assert len(load_client_data(config, 0).train)
