"""What a killed server needs to go on: the state between two rounds, in one file that is replaced whole.

The file is the commit point of a round: it says how many rounds are finished. What happened in them is in
`metrics.jsonl`, which only grows, so that neither file is written anew for the rounds before; of that log the
checkpoint holds the SHA-256. It is a safetensors file, so reading it runs no code, and it holds no key. Its header
holds a SHA-256 of all the rest, which shows damage: a bit that a disk turned would be a weight that nobody trained. A
forger can make it anew; who may write the run's folder is a matter for its owner.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from orchestrator.run_folder import LoggedRounds, RunFolder
from shared.atomic import replace_file
from shared.config import Config, load_config
from shared.errors import ResumeError
from shared.identity import digest_arrays

FORMAT: Final = 1  # raised with whatever a version before could not read, or would read as something else
_SERVER = "server/"
_ROUNDS, _LOG_SHA256 = _SERVER + "rounds", _SERVER + "log_sha256"
_BEST, _PREPROCESSING = "best/", "preprocessing/"
# Settings that a resumed run may change: they decide neither what is trained nor who can read it.
_FREE_TO_CHANGE = {
    "server_address", "num_rounds", "client_wait_timeout", "server_wait_timeout", "round_timeout", "stage_timeout",
    "log_dir", "tls_ca", "tls_certificate", "tls_key", "allow_insecure_network", "enrolled_clients", "client_identity",
    "he_key_file", "pinned_key_fingerprint", "roster_signer", "tenant_policy", "metrics_address", "live_address",
    "allow_open_monitoring", "tensorboard_dir", "mlflow_tracking_uri", "tls_client_certificate", "tls_client_key",
    "client_certificates", "max_streams_per_address", "log_format", "keep_runs",
}  # fmt: skip


@dataclass
class Checkpoint:
    """The state between two rounds.

    Attributes:
        parameters: the global model, by the names of its tensors.
        finished: the rounds that this state is the outcome of.
        learner: `Learner.state`, such as the velocity of the server's momentum.
        best_parameters: the model of the best round under early stopping; None where there is none.
        preprocessing: `Preprocessing.arrays`; None before the clients' statistics are added up.
    """

    parameters: dict[str, NDArray[np.float32]]
    finished: LoggedRounds = field(default_factory=LoggedRounds)
    learner: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    best_parameters: dict[str, NDArray[np.float32]] | None = None
    preprocessing: dict[str, NDArray[np.generic]] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all; it is on the disk when this returns."""
    tensors = _tensors(checkpoint)
    replace_file(path, save(tensors, metadata={"sha256": content_sha256(tensors), "format": str(FORMAT)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ResumeError: the file is missing or damaged, or is none of this version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        if "format" not in metadata:
            raise ValueError("an earlier version wrote it, which gave it no number")
        if metadata["format"] != str(FORMAT):
            raise ValueError(f"it is of format {metadata['format'][:10]!r}, this version reads {FORMAT}")
        claimed = metadata["sha256"]
        if content_sha256(tensors) != claimed:
            raise ValueError("it is damaged: its SHA-256 differs from that of what was saved")
        finished = _finished(tensors.pop(_ROUNDS), tensors.pop(_LOG_SHA256))
        if not all(np.isfinite(array).all() for array in tensors.values()):
            raise ValueError("it holds values that are not finite")
        preprocessing = {
            name.removeprefix(_PREPROCESSING): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_PREPROCESSING)
        }
        learner = {name.removeprefix(_SERVER): tensors.pop(name) for name in list(tensors) if name.startswith(_SERVER)}
        if not all(array.dtype == np.float32 for array in tensors.values()):
            raise ValueError("the model is not of float32 numbers")
    except FileNotFoundError:
        raise ResumeError(f"{path}: no checkpoint; start the run without --resume") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise ResumeError(f"{path}: not a checkpoint of this version ({error}); start a run without --resume") from None
    best = {name.removeprefix(_BEST): tensors.pop(name) for name in list(tensors) if name.startswith(_BEST)}
    return Checkpoint(tensors, finished, learner, best or None, preprocessing or None)


def content_sha256(tensors: dict[str, NDArray[np.generic]]) -> str:
    """SHA-256 in hex of all arrays with their names, in whatever order they come."""
    named = sorted(tensors.items())
    return digest_arrays(item for name, array in named for item in (np.frombuffer(name.encode(), np.uint8), array))


def _tensors(checkpoint: Checkpoint) -> dict[str, NDArray[np.generic]]:
    """The checkpoint's arrays in one namespace; a model's own names hold no slash."""
    tensors: dict[str, NDArray[np.generic]] = {
        **checkpoint.parameters,
        _ROUNDS: np.array([checkpoint.finished.count], np.int64),
        _LOG_SHA256: np.frombuffer(checkpoint.finished.sha256, np.uint8),
    }
    tensors |= {_SERVER + name: array for name, array in checkpoint.learner.items()}
    tensors |= {_BEST + name: array for name, array in (checkpoint.best_parameters or {}).items()}
    return tensors | {_PREPROCESSING + name: array for name, array in (checkpoint.preprocessing or {}).items()}


def _finished(count: NDArray[np.generic], sha256: NDArray[np.generic]) -> LoggedRounds:
    """From arrays of int64, (1,), and of uint8, (32,)."""
    well_formed = count.dtype == np.int64 and count.shape == (1,) and sha256.dtype == np.uint8 and sha256.shape == (32,)
    if not well_formed or int(count[0]) < 0:
        raise ValueError("it does not say which rounds are finished")
    return LoggedRounds(int(count[0]), sha256.tobytes())


def check_same_settings(folder: RunFolder, config: Config) -> None:
    """Refuse to resume a run with settings that would make another model of it.

    Raises:
        ResumeError: naming the settings that differ.
    """
    before = load_config(folder.settings)
    names = [name for name in Config.model_fields if name not in _FREE_TO_CHANGE]
    names.append("masked")  # follows from settings that are free to change by themselves
    changed = [name for name in names if getattr(before, name) != getattr(config, name)]
    if changed:
        shown = ", ".join(f"{key} was {getattr(before, key)!r}, is {getattr(config, key)!r}" for key in changed)
        raise ResumeError(
            f"{folder.path}: the run was begun with other settings: {shown}; restore them or start a new run"
        )
