"""The model of a run as ONNX, with the scaling inside: raw features in, the probability of an attack out."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from shared.bundle import ModelBundle
from shared.data_sources.scaling import GRID, MAX_SCALED, AnyScaler, Quantiles, Scaler, grid_edges
from shared.errors import BundleError, ConfigError, MissingDependencyError

INPUT, OUTPUT, BATCH = "features", "attack_probability", "records"


class RawScorer(nn.Module):
    """Raw features, float32 (B, F), to attack scores, float64 (B,): the scaler and the model in one graph."""

    def __init__(self, model: nn.Module, scaler: AnyScaler) -> None:
        super().__init__()
        self.model = model
        self.scaler: nn.Module = _Ranks(scaler) if isinstance(scaler, Quantiles) else _Standardised(scaler)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.model(self.scaler(features))  # (B, classes)
        return 1.0 - torch.softmax(logits.double(), dim=1)[:, 0]


class _Standardised(nn.Module):
    """`Scaler.transform`: float32 (B, F) to float32 (B, F)."""

    mean: Tensor  # float64, (F,), as the two below
    deviation: Tensor
    bound: Tensor

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        # Columns that are not scaled get mean 0, deviation 1 and no bounds.
        numeric = scaler.schema.numeric
        mean, deviation = np.zeros(len(numeric)), np.ones(len(numeric))
        bound = np.full(len(numeric), np.finfo(np.float32).max, dtype=np.float64)
        mean[numeric], deviation[numeric], bound[numeric] = scaler.mean, np.sqrt(scaler.variance), MAX_SCALED
        for name, values in (("mean", mean), ("deviation", deviation), ("bound", bound)):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, features: Tensor) -> Tensor:
        scaled = (features.double() - self.mean) / self.deviation  # (B, F)
        return torch.minimum(torch.maximum(scaled, -self.bound), self.bound).float()


class _Ranks(nn.Module):
    """`Quantiles.transform`: float32 (B, F) to float32 (B, F)."""

    edges: Tensor  # float32, (numeric, GRID - 1)
    values: Tensor  # float32, (numeric * GRID,)
    first: Tensor  # int64, (numeric,): where a column's values begin
    numeric: Tensor  # int64, (numeric,): where the columns are
    place: Tensor  # int64, (F,): of each column among the numeric ones and then all

    def __init__(self, scaler: Quantiles) -> None:
        super().__init__()
        numeric = np.flatnonzero(scaler.schema.numeric)
        place = len(numeric) + np.arange(len(scaler.schema))
        place[numeric] = np.arange(len(numeric))
        for name, values in (
            ("edges", grid_edges(scaler.schema)), ("values", scaler.values.ravel()),
            ("first", GRID * np.arange(len(numeric))), ("numeric", numeric), ("place", place),
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, features: Tensor) -> Tensor:
        numbers = features[:, self.numeric]  # (B, numeric)
        bins = (numbers[:, :, None] >= self.edges).sum(dim=2)  # (B, numeric)
        scaled = self.values[bins + self.first]  # (B, numeric)
        return torch.cat([scaled, features], dim=1)[:, self.place]  # (B, F)


def export_onnx(bundle: ModelBundle, path: Path) -> None:
    """Write the file whole or not at all. Its metadata names the run, the feature schema and the threshold,
    if there is one.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        BundleError: the model uses something that ONNX can't express.
    """
    try:
        import onnx  # noqa: F401 (torch's exporter needs both)
        import onnxscript  # noqa: F401 (likewise)
    except ImportError as error:
        raise MissingDependencyError(f'{error.name} is not installed: pip install -e ".[onnx]"') from None
    scorer = RawScorer(bundle.build_detector(), bundle.preprocessing.scaler).eval()
    example = torch.zeros(2, len(bundle.schema))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter uses what torch itself has deprecated
            program = torch.onnx.export(
                scorer,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"features": {0: torch.export.Dim(BATCH)}},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"the model can't be written as ONNX: {reason}") from None
    if program is None:
        raise BundleError("the model can't be written as ONNX: torch gave no reason")
    program.model.metadata_props.update(
        {
            "run": bundle.run,
            "round": str(bundle.round),
            "schema": bundle.schema.to_json(),
            "schema_sha256": bundle.schema.hash(),
        }
    )
    if bundle.threshold.score is not None:
        program.model.metadata_props["threshold"] = repr(bundle.threshold.score)
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # with the mode that an earlier export made it with
        program.save(part, external_data=False)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror}; expected a file that can be written") from None
