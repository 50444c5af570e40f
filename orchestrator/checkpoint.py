"""What a killed server needs to go on: the global model and the rounds so far, in one file that is replaced whole.

The file is the commit point of a round. It is a safetensors file, so reading it runs no code, and it holds no key. The
rounds are an array of bytes in it, as a safetensors header ends at 100 MB, which a long run of many clients would pass.
Its header holds a SHA-256 of all the rest, which shows damage: a bit that a disk turned would be a weight that nobody
trained. A forger can make it anew; who may write the run's folder is a matter for its owner.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from orchestrator.run_folder import RoundRecord
from shared.atomic import replace_file
from shared.config import Config, load_config
from shared.errors import ResumeError
from shared.identity import digest_arrays

_RECORDS, _VELOCITY, _BEST, _PREPROCESSING = "server/records", "server/velocity", "best/", "preprocessing/"
# Settings that a resumed run may change: they decide neither what is trained nor who can read it.
_FREE_TO_CHANGE = {
    "server_address", "num_rounds", "client_wait_timeout", "server_wait_timeout", "round_timeout", "stage_timeout",
    "log_dir", "tls_ca", "tls_certificate", "tls_key", "allow_insecure_network", "enrolled_clients", "client_identity",
    "he_key_file", "pinned_key_fingerprint",
}  # fmt: skip


@dataclass
class Checkpoint:
    """The state between two rounds.

    Attributes:
        parameters: the global model, by the names of its tensors.
        records: one per finished round; their `contributor_ids` are the accepted (client, round) pairs.
        velocity: of the server's momentum, float64, (size,); None where there is none.
        best_parameters: the model of the best round under early stopping; None where there is none.
        preprocessing: `Preprocessing.arrays`; None before the clients' statistics are added up.
    """

    parameters: dict[str, NDArray[np.float32]]
    records: list[RoundRecord] = field(default_factory=list)
    velocity: NDArray[np.float64] | None = None
    best_parameters: dict[str, NDArray[np.float32]] | None = None
    preprocessing: dict[str, NDArray[np.generic]] | None = None

    @property
    def accepted(self) -> set[tuple[str, int]]:
        """Every (client, round) whose update is in the model."""
        return {(client, record.round) for record in self.records for client in record.contributor_ids}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all; it is on the disk when this returns."""
    tensors = _tensors(checkpoint)
    replace_file(path, save(tensors, metadata={"sha256": content_sha256(tensors)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ResumeError: the file is missing or damaged, or is none of this version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            claimed = (file.metadata() or {})["sha256"]
        if content_sha256(tensors) != claimed:
            raise ValueError("it is damaged: its SHA-256 differs from that of what was saved")
        raw = json.loads(tensors.pop(_RECORDS).tobytes())
        if not all(np.isfinite(array).all() for array in tensors.values()):
            raise ValueError("it holds values that are not finite")
        preprocessing = {
            name.removeprefix(_PREPROCESSING): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_PREPROCESSING)
        }
        if not all(array.dtype == np.float32 for name, array in tensors.items() if name != _VELOCITY):
            raise ValueError("the model is not of float32 numbers")
        if type(raw) is not list:
            raise ValueError("the records are no list")
        records = [read_record(record, number) for number, record in enumerate(raw, start=1)]
    except FileNotFoundError:
        raise ResumeError(f"{path}: no checkpoint; start the run without --resume") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, RecursionError) as error:
        raise ResumeError(f"{path}: not a checkpoint of this version ({error}); start a run without --resume") from None
    velocity = tensors.pop(_VELOCITY, None)
    best = {name.removeprefix(_BEST): tensors.pop(name) for name in list(tensors) if name.startswith(_BEST)}
    return Checkpoint(tensors, records, velocity, best or None, preprocessing or None)


def content_sha256(tensors: dict[str, NDArray[np.generic]]) -> str:
    """SHA-256 in hex of all arrays with their names, in whatever order they come."""
    named = sorted(tensors.items())
    return digest_arrays(item for name, array in named for item in (np.frombuffer(name.encode(), np.uint8), array))


def _tensors(checkpoint: Checkpoint) -> dict[str, NDArray[np.generic]]:
    """The checkpoint's arrays in one namespace; a model's own names hold no slash."""
    records = json.dumps([asdict(record) for record in checkpoint.records], allow_nan=False).encode()
    tensors: dict[str, NDArray[np.generic]] = {**checkpoint.parameters, _RECORDS: np.frombuffer(records, np.uint8)}
    if checkpoint.velocity is not None:
        tensors[_VELOCITY] = checkpoint.velocity
    tensors |= {_BEST + name: array for name, array in (checkpoint.best_parameters or {}).items()}
    return tensors | {_PREPROCESSING + name: array for name, array in (checkpoint.preprocessing or {}).items()}


_FIGURES_BY_NAME = ("family_recall", "recall_at_fpr", "fpr_at_threshold", "class_recall")


def read_record(raw: object, number: int) -> RoundRecord:
    """The record of round `number` from parsed JSON.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(raw, dict) or raw.get("round") != number or type(raw["round"]) is not int:
        raise ValueError(f"record {number} is not of round {number}")
    record = RoundRecord(**{f.name: raw[f.name] for f in fields(RoundRecord) if f.name in raw})
    texts: list[object] = []
    for name, value in vars(record).items():
        if name == "contributor_ids" and isinstance(value, list):
            texts += value
        elif name == "failed" and isinstance(value, dict):
            texts += value.values()
        elif name == "skipped" and value is not None:
            texts.append(value)
        elif name in _FIGURES_BY_NAME and isinstance(value, dict):
            if not _are_figures(value):
                raise ValueError(f"record {number} says {name} = {value!r:.80}")
        elif name in ("contributor_ids", "failed", *_FIGURES_BY_NAME) or (
            value is not None and type(value) not in (int, float)
        ):
            raise ValueError(f"record {number} says {name} = {value!r:.80}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"record {number} holds something else where it should name clients and reasons")
    return record


def _are_figures(named: dict[object, object]) -> bool:
    return all(type(figure) in (int, float) for figure in named.values())


def check_same_settings(run: Path, config: Config) -> None:
    """Refuse to resume a run with settings that would make another model of it.

    Raises:
        ResumeError: naming the settings that differ.
    """
    before = load_config(run / "config.yaml")
    names = [name for name in Config.model_fields if name not in _FREE_TO_CHANGE]
    names.append("masked")  # follows from settings that are free to change by themselves
    changed = [name for name in names if getattr(before, name) != getattr(config, name)]
    if changed:
        shown = ", ".join(f"{key} was {getattr(before, key)!r}, is {getattr(config, key)!r}" for key in changed)
        raise ResumeError(f"{run}: the run was begun with other settings: {shown}; restore them or start a new run")
