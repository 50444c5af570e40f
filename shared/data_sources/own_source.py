"""A data source of a person's own: a module with the functions of `DataSource`, and a check of all that it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import numpy as np

from shared.config import Config
from shared.data_sources.dataset import Dataset, DataSource
from shared.data_sources.schema import MAX_NUMBER, FeatureSchema
from shared.data_sources.widths import check_width
from shared.errors import ConfigError, DataError, OrchestratorError
from shared.plugins import OWN_FAILURES, failure, import_own

FUNCTIONS = ("schema", "client_rows", "validation_rows", "test_rows")


@dataclass(frozen=True)
class OwnSource:
    """A `DataSource` that passes on what the module gives, once it was found to be what the rest relies on.

    Attributes:
        name: `package.module`, which is the `source` of its schema too.
        module: with the functions.
    """

    name: str
    module: DataSource

    @classmethod
    def load(cls, name: str) -> "OwnSource":
        """Import the module.

        Raises:
            ConfigError: it can't be imported, or lacks a function.
        """
        module = import_own("data_source", name)
        if missing := [function for function in FUNCTIONS if not callable(getattr(module, function, None))]:
            raise ConfigError(
                f"data_source = {name!r}: no function {', '.join(missing)} in it; expected {', '.join(FUNCTIONS)}, as "
                "DataSource in shared/data_sources/dataset.py has them"
            )
        return cls(name, cast(DataSource, module))

    def schema(self, config: Config, client_id: int | None) -> FeatureSchema:
        """The columns.

        Raises:
            DataError: the function fails, or gives no schema, or not one of this source and `num_features` features.
        """
        found = self._call(lambda: self.module.schema(config, client_id), "schema(config, client_id)", "FeatureSchema")
        if not isinstance(found, FeatureSchema):
            raise self._wrong("schema", f"a {type(found).__name__}", "a FeatureSchema")
        if found.source != self.name:
            raise self._wrong("schema", f"source {found.source!r}", f"source {self.name!r}: pass config.data_source")
        check_width(config, found)
        return found

    def client_rows(self, config: Config, client_id: int) -> Dataset:
        """All rows of one client.

        Raises:
            DataError: the function fails, or gives no rows that a model can learn from, see `_checked`.
        """
        rows = self._call(
            lambda: self.module.client_rows(config, client_id), "client_rows(config, client_id)", "Dataset"
        )
        return self._checked(config, "client_rows", rows)

    def test_rows(self, config: Config) -> Dataset:
        """The common test set.

        Raises:
            DataError: as in `client_rows`, or there are none.
        """
        rows = self._call(lambda: self.module.test_rows(config), "test_rows(config)", "Dataset")
        return self._checked(config, "test_rows", rows)

    def validation_rows(self, config: Config) -> Dataset:
        """Rows of the orchestrator's to choose by.

        Raises:
            DataError: as in `client_rows`, or there are none.
        """
        rows = self._call(lambda: self.module.validation_rows(config), "validation_rows(config)", "Dataset")
        return self._checked(config, "validation_rows", rows)

    def _call(self, function: Callable[[], object], called: str, wanted: str) -> object:
        try:
            return function()
        except OrchestratorError:  # its author speaks as this project does
            raise
        except OWN_FAILURES as error:
            raise DataError(
                f"data_source = {self.name!r}: {called} failed ({failure(error, cast(ModuleType, self.module))}); "
                f"expected a {wanted}: mend that function"
            ) from error

    def _checked(self, config: Config, function: str, rows: object) -> Dataset:
        expected = "a Dataset of three NumPy arrays"
        if not isinstance(rows, Dataset):
            raise self._wrong(function, f"a {type(rows).__name__}", expected)
        for name, array in vars(rows).items():
            # Of a masked array the mask would be overlooked, and what it hides would be learned from.
            if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
                raise self._wrong(function, f"a Dataset whose {name} are a {type(array).__name__}", expected)
        features, labels, families = rows.features, rows.labels, rows.families
        if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels):
            raise self._wrong(function, f"labels {labels.dtype} {labels.shape}", "int64 (rows,), of at least one row")
        if features.dtype != np.float32 or features.shape != (len(labels), config.num_features):
            raise self._wrong(
                function,
                f"features {features.dtype} {features.shape}",
                f"float32 {(len(labels), config.num_features)}: (rows, num_features)",
            )
        if families.dtype.kind != "U" or families.shape != labels.shape:
            raise self._wrong(
                function, f"families {families.dtype} {families.shape}", f"texts {labels.shape}, such as 'benign'"
            )
        if not (np.abs(features) <= MAX_NUMBER).all():  # NaN compares False, too
            row, column = np.argwhere(~(np.abs(features) <= MAX_NUMBER))[0]
            raise self._wrong(
                function,
                f"feature {column} of row {row} = {features[row, column]}",
                f"finite numbers of at most {MAX_NUMBER:g}: mend such rows or leave them out",
            )
        if labels.min() < 0 or labels.max() >= config.num_classes:
            raise self._wrong(
                function,
                f"labels from {labels.min()} to {labels.max()}",
                f"0 (benign) to {config.num_classes - 1}: num_classes = {config.num_classes}",
            )
        return rows

    def _wrong(self, function: str, found: str, expected: str) -> DataError:
        return DataError(f"data_source = {self.name!r}: {function} gave {found}; expected {expected}")
