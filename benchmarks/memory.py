"""Peak memory of the client's and the orchestrator's side, each in a process of its own."""

import io
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import psutil

from benchmarks.schemes import delta_like
from orchestrator.aggregator import Aggregator
from shared.config import Config
from shared.he.scheme import PrivateScheme
from shared.he_utils import make_keys, public_scheme
from shared.wire import Header, dump_update, unwrap_tensor, wrap_array

MB = 1e6

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Peak:
    """What one side took, in MB (10^6 bytes), beyond what its process held before (imports, key).

    Attributes:
        side: `client` (delta, encryption, payload) or `orchestrator` (checks, sum, decryption).
        contributors: updates in the sum; 1 for a client.
        update_mb: the bytes of one encrypted vector on the wire.
        add_mb: peak after the last update was added, 0 for a client.
        peak_mb: peak at the end, decryption included.
    """

    side: str
    parameters: int
    contributors: int
    update_mb: float
    before_mb: float
    add_mb: float
    peak_mb: float


def peaks(parameters: int, contributors: Sequence[int]) -> list[Peak]:
    """A client's peak, and the orchestrator's for each number of contributors; 3072 bits, slots for the most of them.

    The orchestrator reads its updates one at a time from a file that the client wrote: the same ciphertexts under
    different ids, which cost as much to check and add as different ones.
    """
    config = Config(num_clients=max(contributors))
    keys = make_keys(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        measured = [_fresh(_client, config, keys.public.public_bytes(), parameters, path)]
        measured += [_fresh(_orchestrator, keys, parameters, count, path) for count in contributors]
    return measured


def _fresh(work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """The result of a call in a new process: spawned, so that it inherits no memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(work, *args, **kwargs).result()


def _client(config: Config, public_key: bytes, parameters: int, path: Path) -> Peak:
    scheme = public_scheme(config, public_key, config.num_clients)
    header = Header(
        scheme=scheme.name, round=1, key=scheme.fingerprint(), size=parameters, encoding=scheme.encoding_name
    )
    before = _resident_mb()
    payload = dump_update(header, *scheme.to_bytes(scheme.encrypt(delta_like(parameters)).ciphertexts))
    peak = _peak_mb() - before
    path.write_bytes(payload)
    return Peak("client", parameters, 1, len(payload) / MB, before, 0.0, peak)


def _orchestrator(keys: PrivateScheme[Any], parameters: int, contributors: int, path: Path) -> Peak:
    aggregator = Aggregator(keys, min_contributors=2, max_contributors=contributors)
    round_sum = aggregator.open_round(1, parameters)
    before = _resident_mb()
    for client in range(contributors):
        round_sum.add(str(client), unwrap_tensor(_as_flower_sends(path.read_bytes())))
    add_peak = _peak_mb() - before
    total = round_sum.decrypt_sum()
    if not (total == contributors * keys.public.quantise(delta_like(parameters))).all():
        raise ArithmeticError("the sum of equal updates is not so many times that update")
    return Peak(
        "orchestrator", parameters, contributors, path.stat().st_size / MB, before, add_peak, _peak_mb() - before
    )


def _as_flower_sends(payload: bytes) -> bytes:
    """The serialised uint8 array that the payload arrives in."""
    buffer = io.BytesIO()
    np.save(buffer, wrap_array(payload))
    return buffer.getvalue()


def _resident_mb() -> float:
    resident: int = psutil.Process().memory_info().rss
    return resident / MB


def _peak_mb() -> float:
    """The most that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
