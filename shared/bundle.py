"""What a run leaves so that its model can be used: `bundle.json`, beside `model.safetensors` in the run's folder.

The model's numbers are in the one, all else that scoring needs is in the other: how raw features become the model's,
what they were in training, how new files are read, and above which score to alert. Both are data that no code runs
from, and whatever is read from them is checked. A model class of a person's own is named in it, and imported only if
whoever loads the bundle names the same.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from shared.atomic import replace_file
from shared.bounded_files import read_bounded
from shared.config import DENSITY, FOREST, MLP, Config, parse_config
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import GRID, AnyScaler, Quantiles, Scaler
from shared.data_sources.schema import FeatureSchema
from shared.density import Density
from shared.errors import AlertRateError, BundleError, ConfigError, DataError
from shared.forest.model import flaw_of
from shared.fusion import Fusion
from shared.fusion_json import density_to_plain, with_density
from shared.json_values import exact, numbers
from shared.kinds import AttackKinds
from shared.model import build_model, set_parameters
from shared.plugins import check_named
from shared.preprocessing import BINS, FeatureHistogram, Preprocessing
from shared.strict_json import parse_strict_json
from shared.threshold import AlertThreshold, choose_threshold

_log = logging.getLogger("bundle")

FORMAT = 6
BUNDLE_FILE, MODEL_FILE = "bundle.json", "model.safetensors"
# What building the model and reading new files go by. A setting that either comes to need belongs here.
_MODEL_SETTINGS = ("model", "num_features", "num_hidden_units", "num_classes")
_FOREST_SETTINGS = ("model", "num_features", "num_classes", "forest_trees", "forest_parallel", "forest_depth")
_READING_SETTINGS = (
    "data_source", "csv_label_column", "csv_benign_values", "csv_family_column", "csv_drop_columns",
    "csv_categorical_columns", "label_path", "label_field", "label_patterns", "labels", "rules_path", "findings_path",
    "window_minutes", "vpc_fields", "hash_width", "max_broken_share",
)  # fmt: skip
_PATHS = ("label_path", "rules_path", "findings_path", "audit_map")
_SETTINGS_OF = {"audit": ("audit_map",), "ocsf": ("ocsf_events",)}  # what one source alone reads by
_ENTRIES = {
    "format", "run", "round", "model", "schema", "schema_sha256", "scaler", "histogram", "settings", "threshold",
    "metrics", "density", "kinds", "sha256",
}  # fmt: skip
_MOST_BYTES = 1 << 30
_NO_PATH = "-"  # never read: the files to score are named when they are
_ADVICE = "take the folder of a finished run, or run the training again"


@dataclass(frozen=True)
class ModelBundle:
    """A model ready for use.

    Attributes:
        run: name of the run.
        round: after which the model was saved.
        config: what the model and new files are read by; every other setting has its default.
        preprocessing: schema, scaler and histogram of the training rows.
        parameters: the model's tensors, by name, float32.
        threshold: records whose attack score is above `threshold.score` alert; without a score they are ranked.
        metrics: the record of that round, as in `metrics.jsonl`.
        model_sha256: of the bytes of `model.safetensors`, 64 hex digits.
        fusion: what the density beside the model is worth; None where there is none.
        kinds: which kind of attack an alert is like; None where the validation rows name no kinds.
    """

    run: str
    round: int
    config: Config
    preprocessing: Preprocessing
    parameters: dict[str, NDArray[np.float32]]
    threshold: AlertThreshold
    metrics: dict[str, Any]
    model_sha256: str
    fusion: Fusion | None = None
    kinds: AttackKinds | None = None

    @property
    def schema(self) -> FeatureSchema:
        """Of the raw features that the model takes."""
        return self.preprocessing.schema

    def build_model(self) -> nn.Module:
        """The trained model, in evaluation mode."""
        model = build_model(self.config)
        set_parameters(model, list(self.parameters.values()))
        return model.eval()

    def build_detector(self) -> nn.Module:
        """What scores records: the model, and the density beside it where its gate is open."""
        model, benign = self.build_model(), self.preprocessing.benign
        if self.fusion is None or benign is None:
            return model
        return self.fusion.detector(model, Density.of(benign))

    def save(self, folder: Path) -> None:
        """Write `bundle.json`, whole or not at all. `model.safetensors` must hold `parameters` already."""
        replace_file(folder / BUNDLE_FILE, self._to_json())

    @classmethod
    def load(cls, path: str | Path, model_class: str = "") -> "ModelBundle":
        """Read both files from the folder of a run, such as `logs/latest`.

        Args:
            path: of the folder.
            model_class: `package.module:Class`, where the model is a class of a person's own. The bundle's word alone
                imports nothing, as it may be somebody else's.

        Raises:
            BundleError: a file is missing or damaged, or the two are not of one moment.
            ConfigError: the bundle's model is of another class than `model_class`, or that can't be imported or used.
        """
        folder = Path(path)
        raw = _read(folder / BUNDLE_FILE)
        try:
            bundle = _parse(raw, _read(folder / MODEL_FILE), model_class)
        except BundleError as error:
            raise BundleError(f"{folder}: {error}; {_ADVICE}") from None
        return bundle

    def _to_json(self) -> bytes:
        arrays = self.preprocessing.arrays()
        histogram = arrays.pop("counts").tolist()
        arrays = {name: array for name, array in arrays.items() if not name.startswith("benign_")}
        settings = {name: getattr(self.config, name) for name in _reading_settings(self.config.data_source)}
        # That labels came from a file is kept, because the schema left out features for it. Where it lay is not.
        settings |= {name: settings[name] and _NO_PATH for name in _PATHS if name in settings}
        names = _model_settings(self.config.model)
        values: dict[str, Any] = {
            "format": FORMAT,
            "run": self.run,
            "round": self.round,
            "model": {name: getattr(self.config, name) for name in names} | {"sha256": self.model_sha256},
            "schema": json.loads(self.schema.to_json()),
            "schema_sha256": self.schema.hash(),
            "scaler": {name: array.tolist() for name, array in arrays.items()},
            "histogram": histogram,
            "settings": settings,
            "threshold": asdict(self.threshold),
            "metrics": self.metrics,
            "density": density_to_plain(self.preprocessing.benign, self.fusion),
            "kinds": self.kinds and self.kinds.to_plain(),
        }
        return json.dumps(values | {"sha256": _digest(values)}, indent=1, allow_nan=False).encode() + b"\n"


def save_bundle(
    folder: Path,
    config: Config,
    preprocessing: Preprocessing,
    parameters: Mapping[str, NDArray[np.float32]],
    validation: Dataset,
    record: Mapping[str, Any],
    run: str,
) -> ModelBundle:
    """Make the bundle of a finished round and write it beside the model.

    To be called after `model.safetensors` was written. A process killed between the two leaves a pair that `load`
    refuses, and that resuming the run, or its next round, puts right.

    Args:
        folder: of the run.
        config: of the run.
        preprocessing: what the run's clients scale by.
        parameters: of the model that was saved, in `state_dict` order.
        validation: the orchestrator's validation rows, scaled, which the threshold is chosen on.
        record: figures of the round, as in `metrics.jsonl`, with `round`.
        run: name of the run.
    """
    model = build_model(config)
    set_parameters(model, list(parameters.values()))
    fusion, detector = None, model
    if preprocessing.benign is not None and not config.density_alone:
        density = Density.of(preprocessing.benign)
        fusion = Fusion.of(model, density, validation, config.alert_rate)
        detector = fusion.detector(model, density)
    bundle = ModelBundle(
        run=run,
        round=int(record["round"]),
        config=config,
        preprocessing=preprocessing,
        parameters=dict(parameters),
        threshold=choose_threshold(config, detector, validation),
        metrics=dict(record),
        model_sha256=hashlib.sha256(save(dict(parameters))).hexdigest(),
        fusion=fusion,
        kinds=AttackKinds.of(validation),
    )
    if not (folder / BUNDLE_FILE).exists():
        try:
            bundle.threshold.required()
        except AlertRateError as error:
            _log.warning("%s", error)
    bundle.save(folder)
    return bundle


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _MOST_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected {path.name} of a finished run: {_ADVICE}") from None


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of the entries as canonical JSON: shows damage and careless edits. A forger can make it anew."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parse(raw: bytes, model_bytes: bytes, model_class: str) -> ModelBundle:
    try:
        values = parse_strict_json(raw)
        _check_form(values)
        config = _config(values)
        preprocessing, fusion = with_density(_preprocessing(values), values["density"])
        run, number, metrics = values["run"], values["round"], values["metrics"]
        if not isinstance(run, str) or type(number) is not int or number < 1 or not isinstance(metrics, dict):
            raise ValueError(f"run = {run!r:.80}, round = {number!r:.80}: expected a text and a number from 1")
        threshold = AlertThreshold.from_json(values["threshold"])
        kinds = AttackKinds.from_plain(values["kinds"], len(preprocessing.schema))
        model_sha256 = hashlib.sha256(model_bytes).hexdigest()
        if model_sha256 != values["model"]["sha256"]:
            raise ValueError(f"{MODEL_FILE} is not the file that {BUNDLE_FILE} was made with: its SHA-256 differs")
    except (ValueError, TypeError, KeyError, OverflowError, ConfigError, DataError) as error:
        raise BundleError(f"{BUNDLE_FILE}: {error}") from None
    if config.num_features != len(preprocessing.schema):
        raise BundleError(
            f"{BUNDLE_FILE}: a model of {config.num_features} features with a schema of {len(preprocessing.schema)}"
        )
    check_named("model", config.model, "--model_class", model_class)
    parameters = _parameters(config, model_bytes)
    return ModelBundle(run, number, config, preprocessing, parameters, threshold, metrics, model_sha256, fusion, kinds)


def _check_form(values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    if type(values.get("format")) is not int or values["format"] != FORMAT:
        raise ValueError(f"format = {values.get('format')!r:.80}, and this version reads format {FORMAT}")
    if difference := set(values) ^ _ENTRIES:
        raise ValueError(f"entry {sorted(difference)[0]!r} is missing or unknown")
    claimed = values.pop("sha256")
    if claimed != _digest(values):
        raise ValueError("its content was changed or damaged: its SHA-256 differs")


def _model_settings(model: object) -> tuple[str, ...]:
    return _FOREST_SETTINGS if model == FOREST else _MODEL_SETTINGS


def _reading_settings(source: object) -> tuple[str, ...]:
    return (*_READING_SETTINGS, *(_SETTINGS_OF.get(source, ()) if isinstance(source, str) else ()))


def _config(values: dict[str, Any]) -> Config:
    source = values["settings"].get("data_source") if isinstance(values["settings"], dict) else None
    settings = exact(values["settings"], _reading_settings(source), "settings")
    named = values["model"].get("model") if isinstance(values["model"], dict) else None
    widths = exact(values["model"], (*_model_settings(named), "sha256"), "model")
    path = "" if settings["data_source"] == "synthetic" else _NO_PATH
    widths = {name: width for name, width in widths.items() if name != "sha256"}
    return parse_config({**settings, **widths, "data_path": path})


def _preprocessing(values: dict[str, Any]) -> Preprocessing:
    schema = FeatureSchema.from_json(json.dumps(values["schema"]))
    if schema.hash() != values["schema_sha256"]:
        raise ValueError("the feature schema does not have the SHA-256 that is given")
    if schema.source != values["settings"]["data_source"]:
        raise ValueError(f"a schema of {schema.source!r} with settings for {values['settings']['data_source']!r}")
    scaler = _scaler(schema, values["scaler"])
    counts = numbers(values["histogram"], (len(schema), BINS), "histogram")
    if (counts < 0).any() or (counts != np.floor(counts)).any() or len(np.unique(counts.sum(axis=1))) != 1:
        raise ValueError("histogram: expected counts that add up to one number of rows for every feature")
    return Preprocessing(scaler, FeatureHistogram(counts.astype(np.int64)))


def _scaler(schema: FeatureSchema, value: Any) -> AnyScaler:
    numeric = int(schema.numeric.sum())
    if isinstance(value, dict) and "ranks" in value:
        ranks = numbers(exact(value, ("ranks",), "scaler")["ranks"], (numeric, GRID), "scaler ranks")
        if not ((ranks == np.floor(ranks)) & (ranks >= 0) & (ranks < 2**16)).all():
            raise ValueError("scaler ranks: expected whole numbers from 0 to 65535")
        return Quantiles.of_ranks(ranks.astype(np.uint16), schema)
    value = exact(value, ("mean", "variance"), "scaler")
    mean, variance = (numbers(value[name], (numeric,), f"scaler {name}") for name in ("mean", "variance"))
    if not (variance > 0).all():
        raise ValueError("scaler variance: expected numbers above 0")
    return Scaler(schema, mean, variance)


def _parameters(config: Config, data: bytes) -> dict[str, NDArray[np.float32]]:
    """The model's tensors in `state_dict` order."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{MODEL_FILE}: not a safetensors file: {error}") from None
    # Shapes without memory: widths in a file of 1 kB may stand for gigabytes. A class of a person's own may compute
    # with values as it is made, and that device has none.
    with torch.device("meta") if config.model in (MLP, FOREST, DENSITY) else nullcontext():
        expected = {name: tuple(tensor.shape) for name, tensor in build_model(config).state_dict().items()}
    shapes = {name: array.shape for name, array in tensors.items()}
    if shapes != expected:
        raise BundleError(f"{MODEL_FILE}: tensors {shapes}, and the settings make {expected}")
    for name, array in tensors.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise BundleError(f"{MODEL_FILE}: tensor {name} is not of finite float32 numbers")
    if config.model == FOREST and (flaw := flaw_of(tensors, config.num_features)):
        raise BundleError(f"{MODEL_FILE}: {flaw}")
    return {name: tensors[name] for name in expected}
