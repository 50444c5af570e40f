"""A client's data and the common validation and test sets, by `data_source`. Swap it for another task.

Every source turns records into the same two arrays: float32 raw features (rows, num_features) and int64 labels (rows,)
in which class 0 is benign; a `FeatureSchema` says what the columns are. A person's own source is a module with the
functions of `DataSource` (`shared/data_sources/dataset.py`), which `data_source` names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shared.config import Config
from shared.config_checks import CLIENT_ID, FILE_SOURCES
from shared.data_sources.dataset import ClientData, Dataset, DataSource
from shared.data_sources.label_checks import tell_classes, tell_constant_columns, tell_telling_columns
from shared.data_sources.streams import Stream, generator
from shared.errors import DataError

if TYPE_CHECKING:  # pandas and pyarrow take a second to load, and not every source needs them
    import pandas as pd

    from shared.data_sources.broken_lines import BrokenLines
    from shared.data_sources.file_source import FileSource
    from shared.data_sources.schema import Features, FeatureSchema
    from shared.data_sources.source_types import RecordReader
    from shared.rules.rule import Rules


def load_client_data(config: Config, client_id: int) -> ClientData:
    """The raw rows of one client, split by `holdout_fraction` into two parts that are never empty.

    Raises:
        ConfigError: there are no rows for a client of this number, see `Config.check_client_id`.
        DataError: the files are missing or malformed, or they can't be shared out among so many clients.
    """
    config.check_client_id(client_id)
    source = find_source(config)
    rows = source.client_rows(config, client_id)
    if len(rows) < 2:
        raise DataError(
            f"client {client_id} has {len(rows)} rows: expected at least 2, to train on one part and evaluate on the "
            "other; give it more data or lower num_clients"
        )
    if CLIENT_ID not in config.data_path:  # else the reader of its own files has said it
        _tell_odd_rows(config, f"client {client_id}", rows)
    shuffled = generator(config.seed, Stream.HOLDOUT, client_id).permutation(len(rows))
    held_out = min(max(round(len(rows) * config.holdout_fraction), 1), len(rows) - 1)
    data = ClientData(
        schema=source.schema(config, client_id),
        train=_as_used(config, rows.take(shuffled[held_out:])),
        holdout=_as_used(config, rows.take(shuffled[:held_out])),
    )
    if config.data_source in FILE_SOURCES:
        what = (
            "name it in csv_drop_columns if it is not known when a record is to be judged"
            if config.data_source == "csv"
            else "look at what the labels were made from"
        )
        tell_telling_columns(f"client {client_id}", data.schema, data.train, what)
        tell_constant_columns(f"client {client_id}", data.train)
    return data


def load_test_data(config: Config) -> Dataset:
    """The common test set, raw: the same rows for whoever asks.

    Raises:
        DataError: the files are missing or malformed.
    """
    rows = find_source(config).test_rows(config)
    _tell_odd_rows(config, "test set", rows)
    if config.data_source in FILE_SOURCES:
        tell_constant_columns("test set", rows)
    return rows


def load_validation_data(config: Config) -> Dataset:
    """What the orchestrator stops by and sets thresholds by, so that the test set decides nothing that it measures.

    Raises:
        DataError: the files are missing or malformed.
    """
    rows = _as_used(config, find_source(config).validation_rows(config))
    _tell_odd_rows(config, "validation rows", rows)
    return rows


def _as_used(config: Config, rows: Dataset) -> Dataset:
    """With `labels: none` all rows count as benign: whatever a source knows of them plays no part."""
    return rows.unlabelled() if config.labels == "none" else rows


def _tell_odd_rows(config: Config, whose: str, rows: Dataset) -> None:
    made_up = config.data_source in ("synthetic", "nsl_kdd")  # whose settings say which classes a client has
    if not made_up and config.labels != "none":
        tell_classes(whose, rows)


def load_schema(config: Config) -> "FeatureSchema":
    """The columns of the test set's raw features, and so of every client's.

    Raises:
        DataError: the files are missing or malformed.
    """
    return find_source(config).schema(config, None)


def feature_count(config: Config) -> int:
    """How many features the settings make of the data: what `num_features` must be.

    Reads the header of the first file for `csv`, and that of a file of labels; no other data.

    Raises:
        DataError: the files are missing or malformed.
    """
    return len(load_schema(config))


def stream_features(
    config: Config,
    path: Path,
    schema: "FeatureSchema",
    broken: "BrokenLines | None" = None,
    rules: "Rules | None" = None,
) -> Iterator[tuple["pd.DataFrame", "Features"]]:
    """New records, a part at a time, for scoring: where each row comes from, and its raw features.

    The files need no labels. What is held in memory is one part of a CSV or Parquet file, or the records of a window
    and `LATENESS` seconds of a log.

    Args:
        config: `data_source` and how to read its files.
        path: a file or a folder.
        schema: of the data that the model learned from; the features are exactly its columns.
        broken: counts lines and broken ones, for whoever wants to know; None: they are counted, and logged, all the
            same.
        rules: to evaluate on each record; their hits are in the table's column `rules`.

    Yields:
        A table for a person, (rows, ...), and the raw features, float32, (rows, len(schema)).

    Raises:
        DataError: the files are missing or malformed, or don't have the columns of `schema`.
    """
    from shared.data_sources.source_types import Inputs

    source = file_source(config)
    reader: RecordReader
    if schema.source != config.data_source:
        raise DataError(f"data_source = {config.data_source!r}: records of {schema.source!r} were learned from")
    if source is not None:
        reader = source.reader
    elif config.data_source == "nsl_kdd":
        from shared.data_sources import nsl_kdd_stream

        reader = nsl_kdd_stream
    else:
        raise DataError(
            f"data_source = {config.data_source!r}: its records come in no files that this could read; expected one of "
            f"nsl_kdd, {', '.join(FILE_SOURCES)}; for others export the model as ONNX (client/export.py)"
        )
    if difference := schema.difference(reader.schema_like(config, path, schema)):
        raise DataError(f"{path}: does not fit the model ('here' is the model, 'there' the file): {difference}")
    for chunk in reader.stream(config, Inputs(path, labelled=False, rules=rules), schema, broken):
        if len(chunk.features):
            yield chunk.meta, chunk.features


def file_source(config: Config) -> "FileSource | None":
    """The source with its raw features and their schema, for those that read a tenant's files; None for the others."""
    # Imported on demand: a source may need libraries that a run on another source should not pay for.
    if config.data_source not in FILE_SOURCES:
        return None
    from shared.data_sources import audit, cloudtrail, csv, ocsf, vpc_flow
    from shared.data_sources.file_source import FileSource

    readers = {"csv": csv, "cloudtrail": cloudtrail, "vpc_flow": vpc_flow, "audit": audit, "ocsf": ocsf}
    return FileSource(readers[config.data_source])


def find_source(config: Config) -> DataSource:
    """The source that the settings name.

    Raises:
        ConfigError: it is a module of the operator's own that can't be imported or lacks a function.
    """
    source = file_source(config)
    if source is not None:
        return source
    match config.data_source:
        case "synthetic":
            from shared.data_sources import synthetic

            return synthetic
        case "nsl_kdd":
            from shared.data_sources import nsl_kdd

            return nsl_kdd
    from shared.data_sources.own_source import OwnSource

    return OwnSource.load(config.data_source)
