"""Put a run together from its settings: folder, keys, data, seats, model, and the coordinator over all of them."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from orchestrator.admission import Admission
from orchestrator.aggregator import Aggregator
from orchestrator.checkpoint import Checkpoint, check_same_settings, load_checkpoint, save_checkpoint
from orchestrator.coordinator import Coordinator
from orchestrator.drawing import Drawing
from orchestrator.eyes import make_observers
from orchestrator.global_model import GlobalModel
from orchestrator.grouped_round import GroupedRounds
from orchestrator.masked_sum import MaskedSum, Masking, NoMasks
from orchestrator.observers import Observers, WatchedRounds
from orchestrator.publishing import Publisher
from orchestrator.report.run_data import Start, add_start, write_json
from orchestrator.run_folder import RunFolder
from orchestrator.run_log import RunLog
from orchestrator.scaling import PrivateScaling
from orchestrator.seats import Seats
from orchestrator.transport import Transport
from shared.config import FOREST, Config
from shared.console import add_log_file, announce_protection, set_log_format
from shared.data_utils import load_schema, load_test_data, load_validation_data
from shared.errors import ConfigError
from shared.forest.plan import ForestPlan
from shared.he.scheme import MaskablePublic, PrivateScheme
from shared.he_utils import make_keys
from shared.model import flatten
from shared.retention import remove_old_runs
from shared.roster import Roster

_log = logging.getLogger("orchestrator")
AnyTransport = TypeVar("AnyTransport", bound=Transport)


@dataclass(frozen=True)
class OpenRun(Generic[AnyTransport]):
    """A run that is ready to go.

    Attributes:
        folder: where its files go.
        transport: reaches the tenants.
        coordinator: runs the rounds.
        longest_message: bytes of the longest honest vector or model and the key beside it, as they travel.
        simulated: whether this machine plays all tenants.
        observers: look on at the run.
    """

    folder: RunFolder
    transport: AnyTransport
    coordinator: Coordinator
    longest_message: int
    simulated: bool = False
    observers: Observers = field(default_factory=Observers)

    def write_report(self) -> Path | None:
        """Measure the model that is kept and write the report; None if that fails, as a run is whole without one."""
        try:
            # Loaded only now: the templates are of no use to a server that is still at work.
            from orchestrator.report.page import write_report

            write_json(self.folder.evaluation, self.coordinator.model.final_evaluation())
            return write_report(self.folder.path)
        except Exception as error:  # whatever it is: model and metrics are written, and a report can be made later
            _log.warning(
                "no report (%s: %s); the run is whole, make it with: python orchestrator/make_report.py --run %s",
                type(error).__name__, error, self.folder.path,
            )  # fmt: skip
            return None

    def close(self) -> None:
        """Let others go on with the run, and nobody look on any more; the end of the process does the same."""
        self.observers.close()
        self.folder.unlock()


def open_run(
    config: Config,
    make_transport: Callable[[Seats], AnyTransport],
    resume: str | None = None,
    *,
    simulated: bool = False,
) -> OpenRun[AnyTransport]:
    """Begin a run, or open one to go on with.

    Args:
        config: the settings.
        make_transport: over seats that are made here.
        resume: the run to go on with from its last checkpoint, by name or as `latest`; None: start one.
        simulated: whether this machine plays all tenants, so that nothing is hidden from it; the report says so.

    Raises:
        OrchestratorError: keys, data or the enrolled list are missing or wrong, or there is nothing to resume.
    """
    # Names this start of the server: what was recorded before it is of another session, and refused.
    set_log_format(config.log_format)
    session = secrets.token_hex(16)
    admission = Admission(Roster.of(config, _log), session) if config.enrolled_clients else None
    folder = RunFolder.create(config) if resume is None else RunFolder.find(config, resume)
    folder.lock()
    try:
        checkpoint = None
        if resume is not None:
            check_same_settings(folder, config)
            checkpoint = load_checkpoint(folder.checkpoint)
        return _assemble(config, make_transport, folder, checkpoint, admission, session, simulated)
    except BaseException:
        folder.unlock()  # another try in this process must hear the true reason
        raise


def _assemble(
    config: Config,
    make_transport: Callable[[Seats], AnyTransport],
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    admission: Admission | None,
    session: str,
    simulated: bool,
) -> OpenRun[AnyTransport]:
    add_log_file(_log, folder.log)
    _log.info("run %s, files in %s", folder.name, folder.path)
    announce_protection(_log, config)
    if simulated:
        _log.warning("SIMULATION: one machine sees the rows of all tenants; nothing is hidden from it")
    records = folder.restore_records(checkpoint.finished) if checkpoint else []
    run_log = RunLog.open(folder, config.log_dir, checkpoint.finished.count if checkpoint else None)
    if admission is None:
        _log.warning("anyone who reaches %s can take part (enrolled_clients is not set)", config.server_address)
    if config.model == FOREST and config.num_rounds < (whole := ForestPlan.of(config).sums):
        _log.warning(
            "num_rounds = %d: the forest stays unfinished, as it takes %d rounds (forest_trees / forest_parallel * "
            "forest_depth)",
            config.num_rounds, whole,
        )  # fmt: skip
    model = GlobalModel(config, load_validation_data(config), load_test_data(config))
    keys = _keys(config)
    enrolled = admission.public_keys() if admission else ()
    start = Start.now(_fingerprint(keys), enrolled, simulated=simulated)
    add_start(folder, start)
    run_log.append_start({**asdict(start), "session": session}, len(records))
    aggregator = Aggregator(keys, config.fewest_contributors, config.num_clients, admission)
    seats = Seats(folder.name, session, admission, aggregator.key_proof())
    observers = Observers()
    rounds = WatchedRounds(config, aggregator, _masking(config, keys, admission), observers)
    groups = GroupedRounds(config, rounds, Drawing(config, admission), model) if config.groups > 1 else None
    schema = load_schema(config)
    scaling = PrivateScaling(config, rounds, seats, schema)
    if checkpoint is None:
        save_checkpoint(folder.checkpoint, model.checkpoint(folder.logged))
    else:
        model.restore(checkpoint, records, schema)
        _log.info("resuming after round %d of %d", len(records), config.num_rounds)
    folder.publish()
    remove_old_runs(folder.path.parent, config.keep_runs, folder.name, _log)
    transport = make_transport(seats)
    size = flatten(model.parameters).size
    sizes = {**model.learner.sizes(schema), **scaling.code.sizes}
    # A proof of the key travels with the greeting, the key with each request.
    key_bytes = len(aggregator.key_proof()) + len(aggregator.public.public_bytes())
    longest = key_bytes + max(4 * size, *(aggregator.update_bytes(length, name) for name, length in sizes.items()))
    publisher = Publisher(folder, seats, config.round_timeout, longest) if config.audit else None
    coordinator = Coordinator(
        config, rounds, transport, model, scaling, folder, run_log, records, observers, publisher, groups
    )
    observers.add(make_observers(config, folder, seats, simulated=simulated))
    coordinator.write_results()  # of a run that was killed between the checkpoint and these files
    return OpenRun(folder, transport, coordinator, longest, simulated, observers)


def _keys(config: Config) -> PrivateScheme[Any]:
    if config.he_scheme == "none":
        return make_keys(config)
    source = config.he_key_file or f"a new {config.he_scheme} pair"
    start = time.perf_counter()
    keys = make_keys(config)
    seconds = time.perf_counter() - start
    _log.info("public key %s…, %s (%.1f s)", keys.public.fingerprint()[:16], source, seconds)
    return keys


def _fingerprint(keys: PrivateScheme[Any]) -> str:
    return "" if keys.public.name == "none" else keys.public.fingerprint()


def _masking(config: Config, keys: PrivateScheme[Any], admission: Admission | None) -> Callable[[], Masking]:
    if not config.masked:
        return NoMasks
    if admission is None or not isinstance(keys.public, MaskablePublic):
        raise ConfigError("secure_aggregation: masked updates need enrolled_clients and he_scheme paillier or kahe")
    return partial(MaskedSum, config, keys.public, admission)
