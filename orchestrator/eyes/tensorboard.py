"""Event files for TensorBoard (https://www.tensorflow.org/tensorboard): a folder for each run, a step each round."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.eyes.scalars import scalars
from orchestrator.observers import Observer
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.errors import ConfigError, MissingDependencyError


class EventFiles(Observer):
    """Writes `<tensorboard_dir>/<run>/`.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        ConfigError: the folder can't be written.
    """

    def __init__(self, config: Config, run: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError('tensorboard is not installed: pip install -e ".[tensorboard]"') from None
        self._make, self._folder = SummaryWriter, Path(config.tensorboard_dir) / run
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"tensorboard_dir = {config.tensorboard_dir!r}: can't be written: {error.strerror}; set another folder"
            ) from None
        self._writer: SummaryWriter | None = None

    def began(self, records: Sequence[RoundRecord]) -> None:
        # What an earlier start of the server wrote of rounds that were not finished is not shown.
        self._writer = self._make(str(self._folder), purge_step=len(records) + 1)

    def committed(self, record: RoundRecord) -> None:
        if self._writer is None:
            return
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.round)
        self._writer.flush()  # a server that is killed loses no round

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
