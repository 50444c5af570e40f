"""What the tests of data sources share: settings of a file to read, files of JSON and lines, all chunks of a source."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.source_types import Chunk, Inputs


def settings_of(source: str, path: Path, **changes: Any) -> Config:
    """Settings that read `path` with this data source and give each tenant as many rows."""
    values: dict[str, Any] = {"data_source": source, "data_path": str(path), "partition": "even"}
    return Config(**(values | changes))


def write_lines(path: Path, lines: Sequence[str], encoding: str = "utf-8") -> Path:
    """A file of these lines, each ended."""
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return path


def write_json_lines(path: Path, events: Sequence[Any]) -> Path:
    """A file with one event a line."""
    path.write_text("\n".join(json.dumps(event) for event in events))
    return path


def read_chunks(source: ModuleType, config: Config, *, labelled: bool = True) -> tuple[list[Chunk], BrokenLines]:
    """All chunks of the settings' `data_path`, and the count of what became no row."""
    inputs = _inputs(config, labelled)
    broken = BrokenLines(inputs.path, config.max_broken_share)
    return list(source.stream(config, inputs, source.schema(config, inputs), broken)), broken


def read_features(source: ModuleType, config: Config, *, labelled: bool = True) -> np.ndarray:
    """Raw features of all chunks, in the order of the data."""
    chunks, _ = read_chunks(source, config, labelled=labelled)
    return np.concatenate([chunk.features for chunk in chunks])


def named_features(source: ModuleType, config: Config, *, labelled: bool = True) -> pd.DataFrame:
    """Raw features under their names, and beside them what `meta` has under other names."""
    names = source.schema(config, _inputs(config, labelled)).names
    chunks, _ = read_chunks(source, config, labelled=labelled)
    meta = pd.concat([chunk.meta for chunk in chunks], ignore_index=True)
    features = pd.DataFrame(np.concatenate([chunk.features for chunk in chunks]), columns=list(names))
    return pd.concat([features, meta.drop(columns=list(set(names) & set(meta)))], axis=1)


def _inputs(config: Config, labelled: bool) -> Inputs:
    return Inputs(Path(config.data_path), Path(config.label_path) if config.label_path else None, labelled)
