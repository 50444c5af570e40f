"""What goes through every source that reads files: what to read, what comes of it, and what a reader is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import Features, FeatureSchema
from shared.findings.finding import FindingSet
from shared.rules.rule import Rules


@dataclass(frozen=True)
class Inputs:
    """The files of one tenant, or those to score.

    Attributes:
        path: a file or a folder.
        label_path: file of labels, if the labels come from one.
        labelled: False for new records: no label is looked for, and the files need none.
        rules: Sigma rules to evaluate on each record, if there are any.
        findings: of other detectors, where labels come from them.
        feedback_path: file of verdicts, if there are any.
    """

    path: Path
    label_path: Path | None = None
    labelled: bool = True
    rules: Rules | None = None
    findings: FindingSet | None = None
    feedback_path: Path | None = None


@dataclass(frozen=True)
class Chunk:
    """Some rows in the order of the data.

    Attributes:
        meta: where each row comes from, for a person; never a feature. Windows have `start`, seconds since 1970.
        features: raw, (rows, features).
        families: "benign" or the attack's family, (rows,); all empty where `Inputs.labelled` is False.
        groups: value of `partition_column`, (rows,); all empty without one.
    """

    meta: pd.DataFrame
    features: Features
    families: NDArray[np.str_]
    groups: NDArray[np.str_]


@dataclass(frozen=True)
class Table:
    """Rows with raw features: what a `Dataset` is before scaling.

    Attributes:
        schema: of the columns.
        features: raw, float32, (rows, features).
        families: (rows,).
        groups: (rows,).
        starts: begin of each row's window, seconds since 1970, (rows,); None where rows are records.
    """

    schema: FeatureSchema
    features: Features
    families: NDArray[np.str_]
    groups: NDArray[np.str_]
    starts: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.families)

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 for benign, 1 for attack, (rows,)."""
        return np.not_equal(self.families, "benign").astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """The rows at these positions, in this order."""
        starts = None if self.starts is None else self.starts[rows]
        return Table(self.schema, self.features[rows], self.families[rows], self.groups[rows], starts)

    @property
    def rows(self) -> Dataset:
        """The same rows, labelled."""
        return Dataset(self.features, self.labels, self.families)


class RecordReader(Protocol):
    """What scoring needs of a source."""

    def schema_like(self, config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
        """The columns that new records would have: `learned`, unless they don't fit it."""

    def stream(
        self, config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None
    ) -> Iterator[Chunk]:
        """All rows, in bounded memory where `inputs.labelled` is False; `broken` counts lines, if the caller asks."""


class Reader(RecordReader, Protocol):
    """What `csv`, `cloudtrail` and `vpc_flow` offer."""

    def schema(self, config: Config, inputs: Inputs) -> FeatureSchema:
        """The columns that these settings make of these files. Reads no more than the first lines."""

    def files(self, path: Path) -> list[Path]:
        """The files that `stream` reads, in that order."""
