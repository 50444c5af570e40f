"""A run's folder as typed data: what a report is made from, and nothing else.

The files are the server's own, but texts in them come from clients: whoever shows one has to escape it.
"""

import json
import typing
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load

from orchestrator.publishing import Verdicts
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.forest import Trees, trees_of
from orchestrator.report.ranking import Ranking
from orchestrator.run_folder import RoundRecord, RunFolder, read_record
from shared.atomic import replace_file
from shared.bounded_files import read_bounded
from shared.bundle import MODEL_FILE
from shared.config import Config, load_config
from shared.errors import DataError
from shared.strict_json import parse_strict_json

_MOST_BYTES = 1 << 30

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """One start of the server; a resumed run has several.

    Attributes:
        time: in UTC, ISO 8601.
        key_fingerprint: of the public key, SHA-256 in hex; empty without encryption.
        enrolled: names of the clients whose updates are taken; empty where anyone may take part.
        simulated: whether one machine played all clients.
    """

    time: str
    key_fingerprint: str
    enrolled: list[str]
    simulated: bool = False

    @classmethod
    def now(cls, key_fingerprint: str, enrolled: typing.Iterable[str], *, simulated: bool = False) -> "Start":
        """A start at this moment."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), key_fingerprint, sorted(enrolled), simulated)


@dataclass(frozen=True)
class Rival:
    """A model to compare the federated one with.

    Attributes:
        name: as the report shows it.
        rows: that it was trained on.
        evaluation: on the same rows as the federated model, with thresholds chosen in the same way.
        ranking: on the same rows, without thresholds; None where they are too few.
    """

    name: str
    rows: int
    evaluation: Evaluation
    ranking: Ranking | None = None


@dataclass(frozen=True)
class Comparison:
    """Models of the same shape, trained with the same settings without a federation; and detectors of other kinds.

    Attributes:
        epochs: passes over its rows of each, as many as the federation made.
        pooled: of all clients' rows in one place.
        alone: one for each client, of its own rows alone.
        federated: the run's own detector, without thresholds; None where the test rows are too few.
        others: detectors of other kinds that a federation can have.
        references: such as need all rows in one place.
    """

    epochs: int
    pooled: Rival
    alone: list[Rival]
    federated: Ranking | None = None
    others: list[Rival] = field(default_factory=list)
    references: list[Rival] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What the files of a run's folder say; `None` for those that are not there."""

    name: str
    config: Config
    rounds: list[RoundRecord]
    starts: list[Start]
    evaluation: Evaluation | None
    comparison: Comparison | None
    model_bytes: int | None  # of the global model's tensors, as it is sent to each client
    verdicts: list[Verdicts] = field(default_factory=list)  # what clients said to the proofs of its sums
    trees: Trees | None = None  # of a forest


def read_run(path: Path) -> Run:
    """Read a run's folder, finished or not.

    Raises:
        DataError: it is no run's folder, or a file of it is damaged.
        ConfigError: its config.yaml can't be used.
    """
    folder = RunFolder(path.resolve())  # `latest` is a link, and the run's name is that of the folder
    if not folder.settings.is_file():
        raise DataError(f"{folder.path}: no config.yaml in it; expected the folder of a run, such as logs/latest")
    config = load_config(folder.settings)
    return Run(
        name=folder.name,
        config=config,
        rounds=_lines(folder.metrics, read_record),
        starts=_lines(folder.starts, lambda raw, _: from_plain(Start, raw)),
        evaluation=_whole(folder.evaluation, Evaluation),
        comparison=_whole(folder.comparison, Comparison),
        model_bytes=_model_bytes(folder.path / MODEL_FILE),
        verdicts=read_verdicts(folder),
        trees=trees_of(folder.path, config),
    )


def read_verdicts(folder: RunFolder) -> list[Verdicts]:
    """What clients said to the proofs of a run's sums; empty where none was shown.

    Raises:
        DataError: the file is damaged.
    """
    return _lines(folder.verdicts, lambda raw, _: from_plain(Verdicts, raw))


def write_json(path: Path, value: Evaluation | Comparison) -> None:
    """Write a file of a run's folder, whole or not at all."""
    replace_file(path, (json.dumps(asdict(value), allow_nan=False, indent=1) + "\n").encode())


def add_start(folder: RunFolder, start: Start) -> None:
    """Note one more start of the server."""
    with folder.starts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(start)) + "\n")


def began(run: Run) -> datetime | None:
    """When the run began: by its first start, else by its name."""
    try:
        if run.starts:
            return datetime.fromisoformat(run.starts[0].time)
        return datetime.strptime(run.name[:15], "%Y%m%d-%H%M%S")  # without a time zone
    except ValueError:
        return None


def from_plain(cls: type[T], raw: object) -> T:
    """Parsed JSON as a value of this type: a dataclass, a list, a dict by text, an optional, or a plain value.

    Raises:
        ValueError: it is something else.
    """
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    result: Any
    if is_dataclass(cls) and isinstance(raw, dict):
        hints = typing.get_type_hints(cls)
        known = {f.name: f.default is MISSING for f in fields(cls)}  # whether a file must have it
        if not {name for name, needed in known.items() if needed} <= set(raw) <= set(known):
            raise ValueError(f"its fields are not those of {cls.__name__}")
        result = cls(**{name: from_plain(hints[name], value) for name, value in raw.items()})
    elif origin is list and isinstance(raw, list):
        result = [from_plain(arguments[0], value) for value in raw]
    elif origin is dict and isinstance(raw, dict):
        result = {str(name): from_plain(arguments[1], value) for name, value in raw.items()}
    elif type(None) in arguments:
        result = None if raw is None else from_plain(arguments[0], raw)
    elif cls is float and type(raw) in (int, float):
        result = float(typing.cast(float, raw))
    elif type(raw) is cls:
        result = raw
    else:
        raise ValueError(f"found {raw!r:.80}, expected {getattr(cls, '__name__', cls)}")
    return typing.cast(T, result)


def _whole(path: Path, cls: type[T]) -> T | None:
    try:
        return from_plain(cls, parse_strict_json(read_bounded(path, _MOST_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}; remove it, or make it anew") from None


def _model_bytes(path: Path) -> int | None:
    # Not from the model that the settings name: that may be a class of somebody's own, and a report runs no such code.
    try:
        return sum(array.nbytes for array in load(read_bounded(path, _MOST_BYTES)).values())
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}; remove it, or make it anew") from None


def _lines(path: Path, read: Callable[[object, int], T]) -> list[T]:
    """The values of a file of lines; one that is only half there is still being written, or its writer was killed."""
    try:
        lines = read_bounded(path, _MOST_BYTES).split(b"\n")[:-1]
        return [read(parse_strict_json(line), number) for number, line in enumerate(lines, start=1)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}; is it of this version?") from None
